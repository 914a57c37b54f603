"""Times as Docker words them in `docker ps`."""

from datetime import UTC, datetime

from atoll.engine.record import ContainerRecord
from atoll.model.container import ContainerState

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker shows for what has not happened."""

_HOUR, _DAY = 3600, 24 * 3600
_SCALE = (
    (48 * _HOUR, _HOUR, "hours"),
    (14 * _DAY, _DAY, "days"),
    (60 * _DAY, 7 * _DAY, "weeks"),
    (730 * _DAY, 30 * _DAY, "months"),
)


def duration(seconds: float) -> str:
    """`seconds` as Docker's units.HumanDuration says it."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if whole < 120:
        return "About a minute"
    if whole < 46 * 60:
        return f"{whole // 60} minutes"
    if round(seconds / _HOUR) == 1:
        return "About an hour"
    for limit, unit, name in _SCALE:
        if whole < limit:
            return f"{round(seconds / _HOUR) if unit == _HOUR else whole // unit} {name}"
    return f"{whole // (365 * _DAY)} years"


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
