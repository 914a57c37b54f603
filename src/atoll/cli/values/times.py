"""Durations and points in time: Go's `1h30m` in, Docker's `About a minute ago` out, `--since` in between."""

import re
import time
from datetime import datetime

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
# Not compiled here: `atoll ps` only shows durations.
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_FRACTION = r"\.(\d+)"


def parse_duration(text: str) -> int:
    """Nanoseconds of `300ms`, `-1.5h`, `2h45m`. Raises `ValueError`."""
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0
    parts = re.findall(_PART, unsigned)
    if not parts or "".join(number + unit for number, unit in parts) != unsigned:
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(_scaled(number, _UNITS_NS[unit]) for number, unit in parts)
    return -total if text.startswith("-") else total


def parse_moment(text: str, now_ns: int | None = None) -> str:
    """`--since` and `--until` as the API takes them, `seconds.nanoseconds`.

    A duration counts back from now; a date or time without a zone is local; a number is seconds since the
    epoch. Raises `ValueError`.
    """
    if text != "0":
        try:
            return _timestamp((time.time_ns() if now_ns is None else now_ns) - parse_duration(text))
        except ValueError:
            pass
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        return text
    fraction = re.search(_FRACTION, text)
    nanoseconds = int(fraction[1][:9].ljust(9, "0")) if fraction else 0
    whole = re.sub(_FRACTION, "", text, count=1)
    if re.fullmatch(r"\d{4}-\d\d-\d\d(Z|[+-]\d\d:\d\d)", whole):
        whole = f"{whole[:10]}T00{whole[10:]}"
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return _timestamp(int(moment.timestamp()) * 10**9 + nanoseconds)


def seconds_of(timestamp: str) -> float:
    """Seconds since the epoch of a time as the API writes it (RFC 3339 with nanoseconds)."""
    return datetime.fromisoformat(re.sub(_FRACTION, lambda digits: digits[0][:7], timestamp, count=1)).timestamp()


def human_duration(seconds: float) -> str:
    """Docker's rounding: `Less than a second`, `About an hour`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, divisor, unit in ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < limit:
            return f"{hours // divisor} {unit}"
    return f"{int(seconds / 3600) // 8760} years"


def _scaled(number: str, unit_ns: int) -> int:
    """Exactly, also where a float would not be."""
    whole, _, fraction = number.partition(".")
    return int(whole or "0") * unit_ns + (int(fraction) * unit_ns // 10 ** len(fraction) if fraction else 0)


def _timestamp(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
