# The commands of this project. `make repro` and `make test` need only Python >= 3.11, git and make.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.9
WEIGHTS := $(wildcard models/sample/*.dvc)
SCALE = $(shell sed -n "s/^scale: //p" params.yaml)
STAGES := $(basename $(notdir $(wildcard notebooks/?_*.ipynb)))
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro verify test test-gpu lint lab bench growth soak seeds dryrun lock

# Results come with the clone, and DVC would skip what they match: the first time every stage computes on this machine.
repro: data/world/world.json  ## run the whole pipeline at the scale that params.yaml names
	@$(BIN)/dvc repro --quiet $(if $(wildcard .dvc/tmp/computed-$(SCALE)),,--force) || \
	  { echo "A stage failed; its last lines stand above, and .venv/bin/dvc repro says more." >&2; exit 1; }
	@touch .dvc/tmp/computed-$(SCALE)
	@echo "The stages named above ran on this machine; what they did not change is as committed (git status), and networks"
	@echo "whose recipe, code and data are as recorded were not trained again (make verify trains them)."
	@echo "Results: results/$(SCALE)/ (tables, figures, metrics). Read, from top to bottom:"
	@ls results/$(SCALE)/*/*.ipynb
	@echo "Redraw a figure with: .venv/bin/companion figures"

verify: data/world/world.json  ## compute everything anew in a temporary folder and compare it with what is committed
	$(BIN)/companion verify

# A worker per core, with one thread (tests/conftest.py). Whole files go to a worker, which builds their fixtures once.
test: data/world/world.json  ## run the tests
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder tests

lint: .venv/installed  ## ruff on code and notebooks; no outputs in the source notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lab: data/world/world.json  ## JupyterLab on the notebooks, which run there cell by cell, by default at the lab scale
	$(if $(wildcard models/mini/*.safetensors),,@echo "No trained networks in models/mini yet: run 'make repro' first.")
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

# The libraries that the attacks and transforms are compared with, beside the installed packages, not among them.
PEERS := torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0 adversarial-robustness-toolbox==1.20.1 kornia==0.9.0 \
	kornia-rs==0.2.0
bench: .venv/installed  ## speed beside other libraries, as ratios measured in one run: docs/performance.md
	test -d .venv/peers || $(BIN)/uv pip install --quiet --no-deps --target .venv/peers $(PEERS)
	PYTHONPATH=.venv/peers $(BIN)/python benchmarks/attacks.py
	PYTHONPATH=.venv/peers $(BIN)/python benchmarks/transforms.py

growth: .venv/installed  ## time and memory against images, side, steps and batch: docs/performance.md, docs/growth.svg
	$(BIN)/python benchmarks/growth.py

test-gpu:  ## the tests that need a GPU; lib and torch are enough, DVC and notebooks are not needed
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest -q -m gpu tests/test_gpu.py tests/training/test_loop.py

seeds: data/world/world.json  ## train every network with two other seeds and judge the claims again: results/mini/seeds.csv
	$(BIN)/python tools/seeds.py 1 2

# A store of its own, so that all of it is computed; noise, which git ignores.
dryrun: .venv/installed  ## every stage of the paper scale on untrained networks and generated images, in minutes
	set -e; export COMPANION_WORKERS=2 COMPANION_STORE=$$(mktemp -d); trap 'rm -rf "$$COMPANION_STORE"' EXIT; \
	rm -rf results/dryrun models/dryrun; $(BIN)/companion train --all --scale dryrun; \
	for stage in $(STAGES); do $(BIN)/companion run $$stage --scale dryrun; done; \
	$(BIN)/companion report --scale dryrun; $(BIN)/companion site --scale dryrun

soak: .venv/installed  ## stages killed, the disk filled, the clock set back: the table of docs/reliability.md (an hour)
	$(BIN)/python benchmarks/soak.py --kills 30

lock:  ## solve pyproject.toml again into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

# The embedded world, the weights trained here on real data and the networks of mini, from the DVC remote inside this
# repository; again whenever what pins them changes. Networks that an edit has made stale are trained instead.
# An archive of the source has no git, without which DVC stops unless it is told so.
data/world/world.json: data.dvc $(WEIGHTS) | .venv/installed
	git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/dvc config --quiet --local core.no_scm true
	$(BIN)/dvc pull --quiet --force data.dvc $(WEIGHTS)
	-$(BIN)/dvc pull --quiet --force train 2>/dev/null
	touch $@

# uv installs the 6 GB of pinned packages in a fraction of pip's time; and the project itself, so that `companion` and
# notebooks find it from any folder.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet $(UV); }
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable . --python $(BIN)/python
	touch $@
