"""A kernel out of a Debian package: downloaded with apt and unpacked, never installed.

A meta package (`linux-image-cloud-amd64`) only depends on the current kernel, and some distributions keep image and
modules in packages of their own, so whatever the package depends on that belongs to a kernel is unpacked with it.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import InvalidRequest, NotFound, Unavailable

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PART_OF_A_KERNEL = ("linux-image-", "linux-modules-", "linux-binary-")


@dataclass(frozen=True)
class UnpackedKernel:
    """Where a kernel's files are: the image, and the directory of its modules."""

    image: Path
    modules: Path


async def unpack_package(name: str, scratch: Path) -> UnpackedKernel:
    """Download package `name` and unpack it below `scratch`.

    Raises `InvalidRequest` for what cannot be a package's name, `NotFound` for one that apt does not know, and
    `Unavailable` when apt is missing or fails, or the package holds no kernel.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not the name of a package: give one like linux-image-cloud-amd64")
    packages = await _kernel_packages(name)
    # As root, apt would hand the download to a user that cannot write here, and complain.
    sandbox = ("-o", "APT::Sandbox::User=root")
    downloaded = await _run("apt-get", "download", "--quiet=2", *sandbox, *packages, directory=scratch)
    if downloaded.status != 0:
        raise Unavailable(
            f"package {name} could not be downloaded: {downloaded.complaint}; run 'apt-get update' and try again"
        )
    root = scratch / "root"
    for archive in sorted(entry.name for entry in os.scandir(scratch) if entry.name.endswith(".deb")):
        unpacked = await _run("dpkg-deb", "--extract", archive, root.name, directory=scratch)
        if unpacked.status != 0:
            raise Unavailable(f"package {archive} could not be unpacked: {unpacked.complaint}")
    return _find_kernel(name, root)


async def _kernel_packages(name: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    wanted = [name]
    while wanted:
        package = wanted.pop()
        if package in found:
            continue
        shown = await _run("apt-cache", "show", "--no-all-versions", package)
        if shown.status != 0:
            raise NotFound(
                f"package {package} is unknown to apt on this host: check its name with 'apt-cache search linux-image' "
                "or run 'apt-get update' first"
            )
        found[package] = None
        wanted += [other for other in _dependencies(shown.output) if other.startswith(_PART_OF_A_KERNEL)]
    return tuple(found)


def _dependencies(stanza: str) -> list[str]:
    """The names in a control stanza's `Depends`; of alternatives the first."""
    found = re.search(r"^Depends: *(.*)$", stanza, re.MULTILINE)
    return [] if found is None else [entry.split()[0] for entry in found[1].split(",") if entry.strip()]


def _find_kernel(name: str, root: Path) -> UnpackedKernel:
    images = sorted(root.glob("boot/vmlinuz-*"))
    if not images:
        raise Unavailable(f"package {name} holds no kernel: choose one like linux-image-cloud-amd64")
    image = images[-1]
    version = image.name.removeprefix("vmlinuz-")
    for directory in (root / "lib/modules" / version, root / "usr/lib/modules" / version):
        if directory.is_dir():
            return UnpackedKernel(image=image, modules=directory)
    raise Unavailable(f"package {name} holds kernel {version} without its modules: choose another package")


@dataclass(frozen=True)
class _Finished:
    status: int
    output: str
    complaint: str


async def _run(*command: str, directory: Path | None = None) -> _Finished:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"{command[0]} is not on this host, so a package cannot be fetched: give a kernel with --binary"
        ) from error
    try:
        output, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [line.removeprefix("E: ") for line in complaints.decode(errors="replace").splitlines() if line.strip()]
    return _Finished(
        process.returncode or 0, output.decode(errors="replace"), lines[-1] if lines else "it says no reason"
    )
