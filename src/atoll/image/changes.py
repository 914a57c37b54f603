"""The Dockerfile instructions that `import --change` takes, applied to an image's configuration.

The same set as Docker's: https://docs.docker.com/reference/cli/docker/image/import/ and, for what each line means,
https://docs.docker.com/reference/dockerfile/.
"""

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec.structs import replace

from atoll.errors import InvalidRequest
from atoll.image.oci import Empty, Execution, Healthcheck

_SHELL = ("/bin/sh", "-c")
_NANOSECONDS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def apply_changes(execution: Execution, changes: Iterable[str]) -> Execution:
    """`execution` after each of `changes`; raises `InvalidRequest` naming the one that is wrong."""
    for change in changes:
        for line in _lines(change):
            word, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(word.upper())
            if instruction is None:
                known = ", ".join(sorted(_INSTRUCTIONS))
                raise InvalidRequest(f"{word} is not a valid change command: use one of {known}")
            if not rest.strip():
                raise InvalidRequest(f"change {line!r} is wrong: {word.upper()} requires at least one argument")
            try:
                execution = instruction(execution, rest.strip())
            except ValueError as error:
                raise InvalidRequest(f"change {line!r} is wrong: {error}") from error
    return execution


def _lines(change: str) -> Iterator[str]:
    """The instructions in `change`: lines, joined where one ends in a backslash, without comments."""
    for line in re.sub(r"\\[ \t]*\n", " ", change.replace("\t", " ")).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def _command(text: str) -> tuple[str, ...]:
    """The JSON form as it is, anything else for a shell to read."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=tuple[str, ...])
        except msgspec.MsgspecError:
            pass  # as Docker does: what is no list of strings is a line for the shell
    return (*_SHELL, text)


def _words(text: str) -> list[str]:
    """Words with quotes and backslashes taken off; spaces inside quotes stay."""
    words = []
    for match in re.finditer(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", text):
        words.append(_unquoted(match.group()))
    if re.sub(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+|\s+""", "", text):
        raise ValueError("a quote is not closed")
    return words


def _unquoted(word: str) -> str:
    def plain(match: re.Match[str]) -> str:
        part = match.group()
        if part.startswith("'"):
            return part[1:-1]
        if part.startswith('"'):
            return re.sub(r'\\(["\\$])', r"\1", part[1:-1])
        return part[1:] if part.startswith("\\") else part

    return re.sub(r"""\\.|"(?:[^"\\]|\\.)*"|'[^']*'|[^"'\\]+""", plain, word)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`key=value key2="value 2"`, or the old form `key the whole rest`."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise ValueError("it must have two arguments, or the form name=value")
        return [(_unquoted(first[0]), first[1])]
    pairs = []
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is not of the form name=value")
        pairs.append((name, value))
    return pairs


def _list(text: str) -> list[str]:
    """Words, or a JSON list of them."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.MsgspecError:
            pass
    return _words(text)


def _env(execution: Execution, text: str) -> Execution:
    environment = dict(entry.partition("=")[::2] for entry in execution.env or ())
    environment.update(_pairs(text))
    return replace(execution, env=tuple(f"{name}={value}" for name, value in environment.items()))


def _label(execution: Execution, text: str) -> Execution:
    return replace(execution, labels={**(execution.labels or {}), **dict(_pairs(text))})


def _expose(execution: Execution, text: str) -> Execution:
    ports = dict(execution.exposed_ports or {})
    for word in _words(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", word.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last < 65536:
            raise ValueError(f"{word!r} is not a port: write for example 80, 53/udp or 7000-7010")
        for port in range(first, last + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = Empty()
    return replace(execution, exposed_ports=ports)


def _volume(execution: Execution, text: str) -> Execution:
    paths = _list(text)
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    return replace(execution, volumes={**(execution.volumes or {}), **{path: Empty() for path in paths}})


def _working_dir(execution: Execution, text: str) -> Execution:
    path = _unquoted(text)
    if not path.startswith("/"):
        path = f"{execution.working_dir or ''}/{path}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return replace(execution, working_dir="/" + "/".join(parts))


def _one_word(text: str, what: str) -> str:
    words = _words(text)
    if len(words) != 1:
        raise ValueError(f"{what} requires exactly one argument")
    return words[0]


def _user(execution: Execution, text: str) -> Execution:
    return replace(execution, user=_one_word(text, "USER"))


def _stop_signal(execution: Execution, text: str) -> Execution:
    return replace(execution, stop_signal=_one_word(text, "STOPSIGNAL"))


def _on_build(execution: Execution, text: str) -> Execution:
    if text.split()[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise ValueError(f"{text.split()[0].upper()} isn't allowed as an ONBUILD trigger")
    return replace(execution, on_build=(*(execution.on_build or ()), text))


def _health_check(execution: Execution, text: str) -> Execution:
    if text.upper() == "NONE":
        return replace(execution, healthcheck=Healthcheck(test=("NONE",)))
    values: dict[str, int] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        name, value, text = match[1], match[2], text[match.end() :]
        if name in ("interval", "timeout", "start-period", "start-interval"):
            values[name.replace("-", "_")] = _duration(value)
        elif name == "retries" and value.isdigit():
            values["retries"] = int(value)
        else:
            raise ValueError(f"unknown flag --{name}={value}")
    word, _, command = text.partition(" ")
    if word.upper() != "CMD" or not command.strip():
        raise ValueError("HEALTHCHECK requires CMD and a command, or NONE")
    given = _command(command.strip())
    test = ("CMD-SHELL", given[2]) if given[:2] == _SHELL else ("CMD", *given)
    return replace(execution, healthcheck=Healthcheck(test=test, **values))


def _duration(text: str) -> int:
    """Nanoseconds of a duration as Go writes it: `1m30s`."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise ValueError(f"{text!r} is not a duration: write for example 30s or 1m30s")
    return round(sum(float(number) * _NANOSECONDS[unit] for number, unit in pieces))


_INSTRUCTIONS: dict[str, Callable[[Execution, str], Execution]] = {
    "CMD": lambda execution, text: replace(execution, cmd=_command(text)),
    "ENTRYPOINT": lambda execution, text: replace(execution, entrypoint=_command(text)),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _working_dir,
}
