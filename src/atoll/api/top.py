"""The table of `docker top`, shaped like the output of ps(1) for the options that people use."""

import re
import shlex
import time
from collections.abc import Callable, Sequence

from atoll.errors import InvalidRequest, Unsupported
from atoll.model.agent import ProcessRow

Column = Callable[[ProcessRow], str]

_FULL = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_BSD = ("USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND")
_SHORT = ("PID", "TTY", "TIME", "CMD")


def process_table(processes: Sequence[ProcessRow], ps_options: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for `ps_options`: `-ef`, `aux`, `-o LIST` and the like; raises `Unsupported` for others."""
    titles = _titles(ps_options)
    return titles, [[_COLUMNS[title](process) for title in titles] for process in processes]


def _titles(ps_options: str) -> list[str]:
    words = shlex.split(ps_options)
    chosen: list[str] = []
    while words:
        word = words.pop(0)
        bare = word.removeprefix("-")
        if bare.startswith("o") or bare in ("eo", "axo", "Ao", "format") or bare.endswith("o"):
            listed = bare[bare.index("o") + 1 :] or (words.pop(0) if words else "")
            chosen += [_by_keyword(keyword) for keyword in re.split(r"[,\s]+", listed) if keyword]
        elif set(bare) <= set("eAfFwx") and word.startswith("-"):
            chosen = chosen or list(_FULL if "f" in bare.lower() else _SHORT)
        elif set(bare) <= set("auxwf"):
            chosen = chosen or list(_BSD if "u" in bare else _SHORT)
        else:
            raise Unsupported(f"ps option '{word}' is not known to atoll: -ef, aux and -o are")
    return chosen or list(_FULL)


def _by_keyword(keyword: str) -> str:
    name = keyword.partition("=")[0].lower()
    try:
        return _KEYWORDS[name]
    except KeyError:
        raise InvalidRequest(f"error: unknown user-defined format specifier '{keyword}'") from None


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _started(process: ProcessRow) -> str:
    """The time of today, or the day."""
    moment, now = time.localtime(process.started_s), time.localtime()
    return time.strftime("%H:%M" if moment[:3] == now[:3] else "%b%d", moment)


def _used_percent(process: ProcessRow) -> float:
    lived = max(time.time() - process.started_s, 0.01)
    return min(100 * process.cpu_s / lived, 100.0)


def _kilobytes(count: int) -> str:
    return str(count // 1024)


_COLUMNS: dict[str, Column] = {
    "UID": lambda process: process.user,
    "USER": lambda process: process.user,
    "PID": lambda process: str(process.pid),
    "PPID": lambda process: str(process.parent_pid),
    "C": lambda process: str(int(_used_percent(process))),
    "%CPU": lambda process: f"{_used_percent(process):.1f}",
    "%MEM": lambda process: "0.0",
    "VSZ": lambda process: _kilobytes(process.virtual_bytes),
    "RSS": lambda process: _kilobytes(process.resident_bytes),
    "TTY": lambda process: process.terminal or "?",
    "TT": lambda process: process.terminal or "?",
    "STAT": lambda process: process.state,
    "S": lambda process: process.state[:1],
    "STIME": _started,
    "START": _started,
    "ELAPSED": lambda process: str(int(time.time() - process.started_s)),
    "TIME": lambda process: _clock(process.cpu_s),
    "CMD": lambda process: process.command,
    "COMMAND": lambda process: process.command,
    "COMM": lambda process: process.name,
}

_KEYWORDS = {
    "uid": "UID", "user": "USER", "euser": "USER", "uname": "USER", "pid": "PID", "ppid": "PPID", "c": "C",
    "pcpu": "%CPU", "%cpu": "%CPU", "pmem": "%MEM", "%mem": "%MEM", "vsz": "VSZ", "rss": "RSS", "tty": "TTY",
    "tt": "TT", "stat": "STAT", "state": "S", "s": "S", "stime": "STIME", "start": "START", "etimes": "ELAPSED",
    "time": "TIME", "cputime": "TIME", "cmd": "CMD", "args": "COMMAND", "command": "COMMAND", "comm": "COMM",
}  # fmt: skip
