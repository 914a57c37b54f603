"""Times as Docker words them in `docker ps`."""

from datetime import UTC, datetime

from atoll.engine.record import ContainerRecord
from atoll.model.container import ContainerState

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker shows for what has not happened."""

_SECONDS_AN_HOUR = 3600
_LONG = ((48, 1, "hours"), (14 * 24, 24, "days"), (60 * 24, 7 * 24, "weeks"), (730 * 24, 30 * 24, "months"))
"""Up to so many hours: in units of so many hours."""


def duration(seconds: float) -> str:
    """`seconds` as Docker's units.HumanDuration says it."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if whole < _SECONDS_AN_HOUR:
        return "About a minute" if whole < 120 else f"{whole // 60} minutes"
    hours = int(seconds / _SECONDS_AN_HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, name in _LONG:
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{whole // _SECONDS_AN_HOUR // 24 // 365} years"


def timestamp(moment: datetime | None) -> str:
    """RFC 3339 with nanoseconds, in UTC, as Docker's inspect has it."""
    if moment is None:
        return NEVER
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def state_word(record: ContainerRecord) -> str:
    """Docker's word for the state."""
    if record.restarting:
        return "restarting"
    return {
        ContainerState.CREATED: "created",
        ContainerState.STARTING: "created",
        ContainerState.RUNNING: "running",
        ContainerState.STOPPING: "running",
        ContainerState.PAUSED: "paused",
        ContainerState.EXITED: "exited",
        ContainerState.DEAD: "dead",
    }[record.state]


def status(record: ContainerRecord, now: datetime) -> str:
    """The column STATUS of `docker ps`."""
    word = state_word(record)
    if word == "created":
        return "Created"
    if word in ("running", "paused"):
        up = f"Up {_since(record.started_at, now)}"
        return f"{up} (Paused)" if word == "paused" else up
    if word == "dead":
        return "Dead"
    verb = "Restarting" if word == "restarting" else "Exited"
    return f"{verb} ({record.exit_code}) {_since(record.finished_at, now)} ago"


def _since(moment: datetime | None, now: datetime) -> str:
    return duration((now - moment).total_seconds() if moment is not None else 0)
