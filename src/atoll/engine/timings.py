"""Where the time of a container's last start went, from the request to the first instruction of its process."""

from time import monotonic
from typing import Literal

from msgspec import Struct

from atoll.model.runtime import Phase, StartReport


class TimedPhase(Struct, frozen=True, rename="pascal"):
    """A part of a start, in milliseconds since the engine began with it."""

    name: str
    start_ms: float
    end_ms: float


class StartTimings(Struct, frozen=True, rename="pascal"):
    """`GET /atoll/containers/{id}/timings`; the phase `exec` ends with the first instruction."""

    kind: Literal["cold", "clone", "pool"]
    phases: list[TimedPhase]


class Timings:
    """The engine's own phases, one after the other."""

    def __init__(self) -> None:
        self._begin_s = monotonic()
        self._phases: list[Phase] = []

    def done(self, name: str) -> None:
        """The phase `name` has ended, and the next begins."""
        begin_s = self._phases[-1].end_s if self._phases else self._begin_s
        self._phases.append(Phase(name, begin_s, monotonic()))

    def with_report(self, report: StartReport | None) -> StartTimings | None:
        """All phases, with those of the runtime and the guest."""
        if report is None:
            return None
        phases = [
            TimedPhase(phase.name, _ms(phase.begin_s - self._begin_s), _ms(phase.end_s - self._begin_s))
            for phase in (*self._phases, *report.phases)
        ]
        return StartTimings(report.kind, phases)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
