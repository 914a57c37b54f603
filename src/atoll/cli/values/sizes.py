"""Sizes in bytes: `512m` in, `1.95MB` or `512MiB` out (Docker's go-units)."""

from math import isfinite

_BINARY = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_size(text: str) -> int:
    """Bytes of `512m`, `1.5g`, `64 KiB`; units are powers of 1024. Raises `ValueError`."""
    end = next((index for index in range(len(text), 0, -1) if text[index - 1] in "0123456789. "), 0)
    if end == 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = text[:end].removesuffix(" "), text[end:].lower()
    try:
        size = float(number)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax') from None
    if size < 0 or not isfinite(size):
        raise ValueError(f"invalid size: '{text}'")
    unit, rest = suffix[:1] or "b", suffix[1:]
    if unit not in _BINARY or rest not in ("", "b", "ib") or (unit == "b" and rest):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(size * _BINARY[unit])


def parse_swap(text: str) -> int:
    """Like `parse_size`; -1 is unlimited."""
    return -1 if text == "-1" else parse_size(text)


def human_size(size_bytes: float, digits: int = 3) -> str:
    """Units of 1000, as `docker images` shows sizes: `1.95MB`; `digits` are significant ones."""
    return _scaled(size_bytes, 1000.0, _DECIMAL_UNITS, digits)


def human_binary_size(size_bytes: float) -> str:
    """Units of 1024, as `docker info` shows memory: `23.5GiB`."""
    return _scaled(size_bytes, 1024.0, _BINARY_UNITS, 4)


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    # Not `size >= base`: 999.96 kB would be shown as 1e+03kB, which Docker does.
    while float(f"{size:.{digits}g}") >= base and unit < len(units) - 1:
        size /= base
        unit += 1
    return f"{size:.{digits}g}{units[unit]}"
