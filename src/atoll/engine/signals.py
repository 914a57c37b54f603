"""Signals by name or number, as Docker's clients write them."""

import re
import signal

from atoll.errors import InvalidRequest

_REAL_TIME = re.compile(r"RT(MIN|MAX)([+-]\d+)?")


def signal_number(name: str) -> int:
    """The number of `TERM`, `SIGTERM`, `sigterm`, `15` or `RTMIN+3`; raises `InvalidRequest` in Docker's words."""
    bare = name.upper().removeprefix("SIG")
    number = 0
    if bare.isdecimal():
        number = int(bare)
    elif match := _REAL_TIME.fullmatch(bare):
        number = (signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX) + int(match[2] or 0)
        number = number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
    else:
        known = getattr(signal, f"SIG{bare}", None)
        number = int(known) if isinstance(known, signal.Signals) else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidRequest(f"Invalid signal: {name}")
    return number
