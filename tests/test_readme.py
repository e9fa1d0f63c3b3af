"""The examples of README, run as printed."""

import re

import pytest

from lib.settings import ROOT

EXAMPLES = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("place", range(len(EXAMPLES)))
def test_an_example_runs_as_printed_and_prints_what_it_says(place, capsys):
    names = {}
    exec(EXAMPLES[place], names)
    found = capsys.readouterr().out.split("\n")
    assert [line for line in found if line] == re.findall(r"print\(.+  # (.+)", EXAMPLES[place])
    levels = 255 * (names["x_adv"] - names["x"]).abs()
    assert 1 < levels.max() < 16.01
