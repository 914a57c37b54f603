"""What is mounted in a container: `-v` and `--mount`, in Docker's grammar."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.cli.values.sizes import parse_size

if TYPE_CHECKING:
    from atoll.client.shapes import Object

_TYPES = ("bind", "tmpfs", "volume")
_YES, _NO = ("", "true", "1"), ("false", "0")


def split_volumes(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """`-v` as the API has it: `Binds`, and the targets of anonymous volumes.

    A source that begins with a dot is a directory of the caller's.
    """
    binds, anonymous = [], []
    for text in texts:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous.append(text)
        elif source in (".", "..") or source.startswith(("./", "../")):
            binds.append(f"{Path(source).resolve()}:{rest}")
        else:
            binds.append(text)
    return binds, anonymous


def parse_mount(text: str) -> "Object":
    """`type=volume,source=data,target=/data,readonly` as the API has it. Raises `ValueError`."""
    # Only here: hardly any command has a mount.
    import csv

    fields = [field for row in csv.reader([text]) for field in row]
    mount: Object = {"Type": "volume"}
    bind: Object = {}
    volume: Object = {}
    tmpfs: Object = {}
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if key in ("readonly", "ro"):
            mount["ReadOnly"] = _truth(field, value)
        elif key == "volume-nocopy":
            volume["NoCopy"] = _truth(field, value)
        elif key == "bind-nonrecursive":
            bind["NonRecursive"] = _truth(field, value)
        elif not equals:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        elif key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key == "consistency":
            mount["Consistency"] = value.lower()
        elif key == "bind-propagation":
            bind["Propagation"] = value.lower()
        elif key == "volume-subpath":
            volume["Subpath"] = value
        elif key == "volume-driver":
            volume["DriverConfig"] = {"Name": value}
        elif key == "volume-label":
            labels.update([value.partition("=")[::2]])
        elif key == "volume-opt":
            options.update([value.partition("=")[::2]])
        elif key == "tmpfs-size":
            tmpfs["SizeBytes"] = parse_size(value)
        elif key == "tmpfs-mode":
            tmpfs["Mode"] = _octal(value)
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    return _checked(mount, text, {"Bind": bind, "Volume": _with(volume, labels, options), "Tmpfs": tmpfs})


def _checked(mount: "Object", text: str, options: "dict[str, Object]") -> "Object":
    """The mount with the options of its type; those of another are an error."""
    kind, source = str(mount["Type"]), str(mount.get("Source", ""))
    if kind not in _TYPES:
        raise ValueError(f"invalid mount type '{kind}': it is {', '.join(_TYPES[:-1])} or {_TYPES[-1]}")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, given in options.items():
        if not given:
            continue
        if name.lower() != kind:
            raise ValueError(f"cannot mix '{name.lower()}-*' options with mount type '{kind}'")
        mount[f"{name}Options"] = given
    if kind == "tmpfs" and source:
        raise ValueError(f"invalid mount '{text}': a tmpfs has no source")
    if (kind == "bind" and source in (".", "..")) or source.startswith(("./", "../")):
        mount["Source"] = str(Path(source).resolve())
    return mount


def _with(volume: "Object", labels: dict[str, str], options: dict[str, str]) -> "Object":
    if labels:
        volume["Labels"] = dict(labels)
    if options:
        driver = volume.get("DriverConfig")
        volume["DriverConfig"] = {**(driver if isinstance(driver, dict) else {}), "Options": dict(options)}
    return volume


def _truth(field: str, value: str) -> bool:
    if value.lower() not in (*_YES, *_NO):
        raise ValueError(f"invalid value for {field.partition('=')[0]}: {value}")
    return value.lower() in _YES


def _octal(value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-mode: {value}") from None
