"""Where the time of a container's last start went, from the request to the first instruction of its process."""

from time import monotonic
from typing import Literal

from msgspec import Struct

from atoll.errors import NotFound
from atoll.model.runtime import Phase, StartReport

_REMEMBERED = 256


class TimedPhase(Struct, frozen=True, rename="pascal"):
    """A part of a start, in milliseconds since the engine began with it."""

    name: str
    start_ms: float
    end_ms: float


class StartTimings(Struct, frozen=True, rename="pascal"):
    """`GET /atoll/containers/{id}/timings`; the phase `exec` ends with the first instruction."""

    kind: Literal["cold", "clone", "pool"]
    phases: list[TimedPhase]


class LastTimings:
    """The timings of the last starts, by container id: that of one that was removed at its end may be asked for."""

    def __init__(self) -> None:
        self._by_id: dict[str, StartTimings] = {}

    def note(self, container_id: str, timings: StartTimings) -> None:
        """Keep them, and forget the oldest."""
        self._by_id.pop(container_id, None)
        self._by_id[container_id] = timings
        if len(self._by_id) > _REMEMBERED:
            del self._by_id[next(iter(self._by_id))]

    def get(self, container_id: str) -> StartTimings:
        """Those of a container's last start; raises `NotFound`."""
        if container_id not in self._by_id:
            raise NotFound(f"container {container_id[:12]} has not been started lately by this engine")
        return self._by_id[container_id]


class Timings:
    """The engine's own phases, one after the other."""

    def __init__(self) -> None:
        self._begin_s = monotonic()
        self._phases: list[Phase] = []

    def done(self, name: str) -> None:
        """The phase `name` has ended, and the next begins."""
        begin_s = self._phases[-1].end_s if self._phases else self._begin_s
        self._phases.append(Phase(name, begin_s, monotonic()))

    def with_report(self, report: StartReport) -> StartTimings:
        """All phases, with those of the runtime and the guest."""
        phases = [
            TimedPhase(phase.name, _ms(phase.begin_s - self._begin_s), _ms(phase.end_s - self._begin_s))
            for phase in (*self._phases, *report.phases)
        ]
        return StartTimings(report.kind, phases)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
