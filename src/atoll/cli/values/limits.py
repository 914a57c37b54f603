"""Limits and addresses of a container: `--ulimit`, `--cpus`, `--add-host`, `--sysctl`, `--attach`."""

import re

UNLIMITED = -1
# fmt: off
_ULIMITS = frozenset({
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
})
# fmt: on
NANO = 10**9


def parse_ulimit(text: str) -> dict[str, str | int]:
    """`nofile=1024:2048` as the API has it; -1 is unlimited. Raises `ValueError`."""
    name, separator, value = text.partition("=")
    if not separator or not value:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    numbers = value.split(":")
    if len(numbers) > 2:
        raise ValueError(f"too many limit value arguments - {value}, can only have up to two, `soft[:hard]`")
    try:
        soft, hard = int(numbers[0]), int(numbers[-1])
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Soft": soft, "Hard": hard}


def parse_cpus(text: str) -> int:
    """Billionths of a CPU of `1.5` or `1/2`. Raises `ValueError`."""
    match = re.fullmatch(r"(\d+)(?:/(\d+)|\.(\d*))?|\.(\d+)", text)
    if match is None or (match[2] and int(match[2]) == 0):
        raise ValueError(f"failed to parse {text} as a rational number")
    whole, divisor, fraction = int(match[1] or 0), int(match[2] or 1), match[3] or match[4] or ""
    scale: int = 10 ** len(fraction)
    numerator, denominator = (whole * scale + int(fraction or 0)) * NANO, divisor * scale
    if numerator % denominator:
        raise ValueError("value is too precise")
    return numerator // denominator


def parse_host(text: str) -> str:
    """`name:address` of `--add-host`; `name=address` works as well. Raises `ValueError`."""
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    if not found or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    address = address.removeprefix("[").removesuffix("]")
    if address != "host-gateway" and not is_address(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def parse_dns(text: str) -> str:
    """An address of a DNS server. Raises `ValueError`."""
    if not is_address(text.strip()):
        raise ValueError(f"invalid IP address: {text}")
    return text.strip()


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    # Not `ipaddress`: it costs 6 ms, and the socket module is there.
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False


def parse_sysctl(text: str) -> str:
    """`name=value`. Raises `ValueError`."""
    name, separator, _ = text.partition("=")
    if not separator or "." not in name:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def parse_stream(text: str) -> str:
    """`stdin`, `stdout` or `stderr`, in any case. Raises `ValueError`."""
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def parse_filter(text: str) -> tuple[str, str]:
    """`name=value` of `--filter`. Raises `ValueError`."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def parse_restart(text: str) -> dict[str, str | int]:
    """`no`, `always`, `unless-stopped`, `on-failure[:n]`; the engine knows which names there are."""
    name, separator, count = text.partition(":")
    if not name and separator:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if ":" in count:
        raise ValueError("invalid restart policy format")
    if not separator:
        return {"Name": name, "MaximumRetryCount": 0}
    if not re.fullmatch(r"-?\d+", count):
        raise ValueError("maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count)}


def parse_pull(text: str) -> str:
    """When to pull. Raises `ValueError`."""
    if text not in ("always", "missing", "never"):
        raise ValueError(f'invalid pull option: \'{text}\': must be one of "always", "missing" or "never"')
    return text


def parse_security(text: str) -> str:
    """`name=value`, or a bare `no-new-privileges`. Raises `ValueError`."""
    if not re.search("[=:]", text) and text != "no-new-privileges":
        raise ValueError(f'invalid --security-opt: "{text}"')
    return text
