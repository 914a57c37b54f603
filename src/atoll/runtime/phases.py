"""Where the time of a start goes: phases by the host's monotonic clock, which all processes share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from atoll.model.agent import Started
from atoll.model.runtime import Phase


class Phases:
    """The phases of one start, in the order in which they ended."""

    def __init__(self) -> None:
        self.all: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block."""
        begin_s = time.monotonic()
        yield
        self.all.append(Phase(name, begin_s, time.monotonic()))


def guest_phases(started: Started, asked_s: float, answered_s: float) -> list[Phase]:
    """The agent's part: its own steps, laid back from its answer, after the way of the request."""
    if not started.steps:
        return []
    begin_s = max(asked_s, answered_s - started.steps[-1].done_us / 1e6)
    phases = [Phase("request", asked_s, begin_s)]
    for step in started.steps:
        phases.append(Phase(step.name, phases[-1].end_s, max(phases[-1].end_s, begin_s + step.done_us / 1e6)))
    return phases
