"""What a container has mounted, from the five places where Docker's API has it, and back into Docker's words.

`Volumes` (and the image's) and `VolumesFrom` give way to `Binds` and `Mounts` with the same target; of those two no
target may be named twice. Source: Docker Engine API reference, version 1.47, and what dockerd answers.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from msgspec.structs import replace

from atoll.api.schemas import ContainerBody, HostConfig, MountBody
from atoll.engine.volume import VolumeOptions, check_volume_name
from atoll.engine.volumes import Volumes
from atoll.errors import InvalidRequest, Unsupported
from atoll.model.container import ContainerConfig, MountPoint

MountsOf = Callable[[str], Sequence[MountPoint]]
"""The mounts of another container, by its name or id."""

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# Of other mechanisms (SELinux labels, caches of other hosts): nothing to do.
_HARMLESS = ("z", "Z", "cached", "delegated", "consistent")


def mount_points(body: ContainerBody, image_volumes: Iterable[str], mounts_of: MountsOf) -> tuple[MountPoint, ...]:
    """The volumes and bind mounts of a new container, anonymous volumes named.

    Raises `InvalidRequest`, `Unsupported`.
    """
    host = body.host_config or HostConfig()
    if (host.volume_driver or "local") != "local":
        raise Unsupported(f"atoll does not have the volume driver '{host.volume_driver}': it has local")
    chosen: dict[str, MountPoint] = {}
    taken = {_target(target): target for target in host.tmpfs or {}}
    for mount in (*map(_bind, host.binds or ()), *filter(None, map(_mount, host.mounts or ()))):
        if mount.target in chosen or mount.target in taken:
            raise InvalidRequest(f"Duplicate mount point: {mount.target}")
        chosen[mount.target] = mount
    taken |= {_target(mount.target): mount.target for mount in host.mounts or () if mount.type == "tmpfs"}
    for mount in (mount for text in host.volumes_from or () for mount in _volumes_from(text, mounts_of)):
        if mount.target not in taken:
            chosen.setdefault(mount.target, mount)
    for target in map(_target, (*(body.volumes or ()), *image_volumes)):
        if target not in taken:
            chosen.setdefault(target, _anonymous(target))
    return tuple(chosen.values())


def _bind(text: str) -> MountPoint:
    """One entry of `Binds`: `source:target[:options]`, where a source without a slash is a volume's name."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or not parts[0] or not parts[1]:
        raise InvalidRequest(f"invalid volume specification: '{text}'")
    source, target, mode = (*parts, "")[:3]
    is_bind = source.startswith("/")
    read_only = copies = None
    propagation = ""
    for option in filter(None, mode.split(",")):
        if option in ("ro", "rw") and read_only is None:
            read_only = option == "ro"
        elif option == "nocopy" and not is_bind and copies is None:
            copies = False
        elif option in _PROPAGATIONS and is_bind and not propagation:
            propagation = option
        elif option not in _HARMLESS:
            raise InvalidRequest(f"invalid mode: {mode}")
    _check_propagation(propagation)
    mount = MountPoint(type="volume", target=_target(target), read_only=bool(read_only), mode=mode)
    if is_bind:
        return replace(mount, type="bind", source=_clean(source), makes_source=True)
    return replace(mount, name=check_volume_name(source), fills=copies is not False)


def _mount(mount: MountBody) -> MountPoint | None:
    """One entry of `Mounts`; None for a tmpfs, which is not ours."""
    if mount.type == "tmpfs":
        return None
    target = _target(mount.target, f'invalid mount config for type "{mount.type}": ')
    if mount.type == "bind":
        if not mount.source:
            raise InvalidRequest('invalid mount config for type "bind": field Source must not be empty')
        if not mount.source.startswith("/"):
            raise InvalidRequest(
                'invalid mount config for type "bind": invalid mount path: '
                f"'{mount.source}' mount path must be absolute"
            )
        if mount.volume_options is not None:
            raise InvalidRequest('invalid mount config for type "bind": field VolumeOptions must not be specified')
        options = mount.bind_options
        _check_propagation((options.propagation if options is not None else None) or "")
        makes_source = options is not None and options.create_mountpoint
        source = _clean(mount.source)
        return MountPoint(
            type="bind", target=target, source=source, read_only=mount.read_only, makes_source=makes_source
        )
    if mount.type != "volume":
        raise Unsupported(f"atoll does not have --mount type={mount.type} yet")
    if mount.bind_options is not None:
        raise InvalidRequest('invalid mount config for type "volume": field BindOptions must not be specified')
    given = mount.volume_options
    driver = given.driver_config if given is not None else None
    if driver is not None and (driver.name or "local") != "local":
        raise Unsupported(f"atoll does not have the volume driver '{driver.name}': it has local")
    if given is not None and given.subpath:
        raise Unsupported("atoll does not have a volume's volume-subpath yet")
    options_ = dict((driver.options if driver is not None else None) or {})
    VolumeOptions.parse(options_)
    return MountPoint(
        type="volume",
        target=target,
        name=check_volume_name(mount.source) if mount.source else secrets.token_hex(32),
        is_anonymous=not mount.source,
        read_only=mount.read_only,
        fills=given is None or not given.no_copy,
        options=options_,
        labels=dict((given.labels if given is not None else None) or {}),
    )


def _volumes_from(text: str, mounts_of: MountsOf) -> list[MountPoint]:
    container, _, mode = text.partition(":")
    if not container or mode not in ("", "ro", "rw"):
        raise InvalidRequest(
            f"invalid volumes-from specification: '{text}' (write CONTAINER, CONTAINER:ro or CONTAINER:rw)"
        )
    mounts = mounts_of(container)
    if mode != "ro":
        return list(mounts)
    return [replace(mount, read_only=True) for mount in mounts]


def _anonymous(target: str) -> MountPoint:
    return MountPoint(type="volume", target=target, name=secrets.token_hex(32), is_anonymous=True)


def _target(target: str, prefix: str = "") -> str:
    if not target.startswith("/"):
        raise InvalidRequest(f"{prefix}invalid mount path: '{target}' mount path must be absolute")
    cleaned = _clean(target)
    if cleaned == "/":
        raise InvalidRequest(f"{prefix}invalid specification: destination can't be '/'")
    return cleaned


def _clean(path: str) -> str:
    """As Go's path.Clean: without `.`, `..` and double slashes."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts[1:]:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return "/" + "/".join(parts)


def _check_propagation(propagation: str) -> None:
    if propagation not in ("", "private", "rprivate"):
        raise Unsupported(
            f"atoll does not have the bind propagation {propagation}: "
            "mounts that the host makes later do not get into a VM"
        )


def mounts_json(config: ContainerConfig, volumes: Volumes) -> list[dict[str, str | bool]]:
    """`Mounts` of `GET /containers/{id}/json` and of a row of the list."""
    rows: list[dict[str, str | bool]] = []
    for mount in config.mounts:
        common: dict[str, str | bool] = {
            "Destination": mount.target,
            "Mode": mount.mode,
            "RW": not mount.read_only,
        }
        if mount.type == "bind":
            rows.append({"Type": "bind", "Source": mount.source, **common, "Propagation": "rprivate"})
        else:
            source = str(_place(mount.name, volumes))
            volume = {"Type": "volume", "Name": mount.name, "Source": source, "Driver": "local"}
            rows.append({**volume, **common, "Propagation": ""})
    for target, options in config.tmpfs.items():
        row: dict[str, str | bool] = {"Type": "tmpfs", "Source": "", "Destination": target, "Mode": options}
        rows.append({**row, "RW": "ro" not in options.split(","), "Propagation": ""})
    return rows


def binds_json(config: ContainerConfig) -> list[str] | None:
    """`HostConfig.Binds`: what was named with `-v`, and what can be said like it."""
    binds = []
    for mount in config.mounts:
        if not mount.is_anonymous:
            mode = mount.mode or ("ro" if mount.read_only else "")
            binds.append(":".join(filter(None, (mount.source or mount.name, mount.target, mode))))
    return binds or None


def _place(name: str, volumes: Volumes) -> Path:
    return next((volumes.directory(volume) for volume in volumes if volume.name == name), Path())
