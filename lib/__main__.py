"""`python -m lib` is `companion`."""

import sys

try:
    from lib.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"companion: {sys.executable} has no {error.name}; first run: make repro, then: source .venv/bin/activate")

sys.exit(main())
