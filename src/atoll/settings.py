"""The settings file: one typed table of every setting, its default and what it does.

`docs/settings.md` is this table, printed by `python -m atoll.settings`; a test keeps the two the same.
The client does not import this module but `atoll.paths`.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from atoll.errors import InvalidRequest
from atoll.paths import Paths, paths

__all__ = ["Paths", "Settings", "load_settings", "paths", "reference"]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of an engine; the file may leave out any of them."""

    cpus: Annotated[
        int, Meta(ge=1, description="Virtual CPUs of a container without `--cpus`; never more than the host has.")
    ] = 2
    memory_mib: Annotated[int, Meta(ge=128, description="Memory in MiB of a container's VM without `--memory`.")] = 1024
    disk_mib: Annotated[
        int, Meta(ge=16, description="Size in MiB of a container's writable layer; the file is sparse, so a quota.")
    ] = 10240
    volume_mib: Annotated[
        int, Meta(ge=16, description="Size in MiB of a volume without `--opt size`; the file is sparse, so a quota.")
    ] = 10240
    log_max_mib: Annotated[int, Meta(ge=1, description="Size in MiB at which a container's log file is rotated.")] = 64
    log_max_files: Annotated[
        int, Meta(ge=1, description="Log files kept for each container, the current one included.")
    ] = 3
    stop_timeout_s: Annotated[
        int, Meta(ge=0, description="Seconds from the stop signal to SIGKILL when neither user nor image says.")
    ] = 10
    boot_timeout_s: Annotated[
        float,
        Meta(
            ge=1, description="Seconds a VM may take from its start to its agent's first word, second tries included."
        ),
    ] = 90.0
    accelerator: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description="How QEMU runs guest code: `auto` tries whether KVM works and falls back to `tcg`."),
    ] = "auto"
    templates: Annotated[
        bool,
        Meta(description="Start containers from a template, a guest that has come up before; else boot each cold."),
    ] = True
    pool_size: Annotated[
        int, Meta(ge=0, le=64, description="Clones kept ready, so that a start need not wait for its VM; 0: none.")
    ] = 2
    pool_idle_s: Annotated[
        float, Meta(ge=1, description="Seconds without a start after which the clones that are kept ready are ended.")
    ] = 600.0
    memory_overcommit: Annotated[
        float,
        Meta(
            ge=0.1,
            description="How often the host's memory may be promised to containers that run; more is refused.",
        ),
    ] = 4.0
    memory_reserve_mib: Annotated[
        int,
        Meta(
            ge=0, description="MiB of the host's memory that stay available: a start that would take of it is refused."
        ),
    ] = 512
    starts_at_once: Annotated[
        int, Meta(ge=0, description="Starts that are carried out at the same time, others wait; 0: two for each CPU.")
    ] = 0
    qemu: Annotated[str, Meta(description="The QEMU program: a name on PATH or an absolute path.")] = (
        "qemu-system-x86_64"
    )
    vm_uid_first: Annotated[
        int,
        Meta(ge=1000, description="First of the user ids under which QEMU runs for root, one for each container."),
    ] = 2_000_000_000
    verify_images: Annotated[
        bool,
        Meta(
            description="Verify each block of an image when a guest reads it, as with `--verify`, for every container."
        ),
    ] = False
    max_layer_bytes: Annotated[
        int, Meta(ge=1 << 20, description="Most bytes one layer may unpack to: what stops a decompression bomb.")
    ] = 64 << 30
    network_pools: Annotated[
        tuple[str, ...],
        Meta(
            description="Ranges of IPv4 addresses that new networks get their subnets from, each a /24 that neither"
            " another network nor a route of the host has."
        ),
    ] = ("10.83.0.0/16",)
    insecure_registries: Annotated[
        tuple[str, ...],
        Meta(
            description="Registries (`host` or `host:port`) that are spoken to over plain HTTP when they have no HTTPS;"
            " those on loopback always are."
        ),
    ] = ()
    registry_mirrors: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description="By registry (`host` or `host:port`), where its images are looked for first: `host`,"
            " `host:port`, or an address that begins with `http://` or `https://`."
        ),
    ] = {}
    registry_timeout_s: Annotated[
        float,
        Meta(ge=1, description="Seconds that a registry may be silent in the middle of an exchange, twice at most."),
    ] = 30.0


def load_settings(file: Path) -> Settings:
    """The settings in `file`, defaults where it or a key is missing; raises `InvalidRequest` naming file and key."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), Settings)
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"settings file {file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"settings file {file} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        known = ", ".join(Settings.__struct_fields__)
        raise InvalidRequest(f"settings file {file}: {error} (known settings: {known})") from error


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "array": "a list of strings",
    "boolean": "`true` or `false`",
    "object": "a table of lists of strings",
}


def reference() -> str:
    """The page `docs/settings.md`."""
    schema = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    rows = []
    for name, setting in schema.items():
        kind = " or ".join(f"`{choice}`" for choice in setting.get("enum", [])) or _KINDS[setting["type"]]
        if "minimum" in setting:
            kind += f", at least {setting['minimum']}"
        if "maximum" in setting:
            kind += f", at most {setting['maximum']}"
        default = msgspec.json.encode(setting["default"]).decode()
        rows.append(f"| `{name}` | {kind} | `{default}` | {setting['description']} |")
    return _PAGE.format(rows="\n".join(rows))


_PAGE = """\
# Settings

One TOML file, read when the engine starts: `/etc/atoll/atoll.toml` as root, otherwise
`$XDG_CONFIG_HOME/atoll/atoll.toml` (`~/.config/atoll/atoll.toml`); with `ATOLL_ROOT` set, `$ATOLL_ROOT/atoll.toml`.
A key or value that Atoll does not know keeps the engine from starting, with a message that names it.

| setting | is | default | what it does |
|---|---|---|---|
{rows}

Environment: `ATOLL_ROOT` moves all state, sockets and the settings file under one directory; `ATOLL_SOCKET` is
the path of the engine's socket.
"""


if __name__ == "__main__":
    os.write(1, reference().encode())
