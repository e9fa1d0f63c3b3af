"""Stopping a training in the middle, and seeing where it goes on."""

from collections.abc import Callable

import pytest

from lib.training import loop


class Interruptions:
    """Runs trainings that a key press ends at a given step, and says which steps a training made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        self.run = loop.run
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def _watched(self, before_step: Callable[[int], None]) -> None:
        def run(advance, *rest, **options):
            def watched(step):
                before_step(step)
                return advance(step)

            return self.run(watched, *rest, **options)

        self.monkeypatch.setattr(loop, "run", run)

    def stop(self, at: int, train: Callable) -> None:
        """Run `train` and end it before step `at`."""

        def press(step):
            if step == at:
                raise KeyboardInterrupt

        self._watched(press)
        with pytest.raises(KeyboardInterrupt):
            train()

    def steps(self, train: Callable) -> tuple[object, list[int]]:
        """What `train` gives, and the steps that it made."""
        made: list[int] = []
        self._watched(made.append)
        return train(), made


@pytest.fixture
def interruptions(monkeypatch) -> Interruptions:
    return Interruptions(monkeypatch)
