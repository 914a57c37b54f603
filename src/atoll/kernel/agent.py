"""Where the agent's binary is: package data that the build puts there, or what `ATOLL_AGENT` names."""

import os
from pathlib import Path

from atoll.errors import Unavailable

_PACKAGED = Path(__file__).parent.parent / "_agent" / "atoll-agent"


def agent_path() -> Path:
    """The static agent binary, PID 1 of every VM; it need not exist yet: `read_agent` says when it is missing."""
    named = os.environ.get("ATOLL_AGENT")
    return Path(named) if named else _PACKAGED


def read_agent(path: Path) -> bytes:
    """The agent's bytes; raises `Unavailable` when it is missing or no ELF file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(
            f"the guest's agent is missing: {path} cannot be read ({error.strerror}); build it with 'make demo' "
            "or name it in ATOLL_AGENT"
        ) from error
    if not data.startswith(b"\x7fELF"):
        raise Unavailable(f"the guest's agent {path} is not a program: build it again with 'make demo'")
    return data
