"""How QEMU runs guest code: by KVM where that works, else by emulation (TCG).

A `/dev/kvm` that opens and answers is not one that works: inside some virtual machines it cannot run a stock guest.
So the question is put to a guest: does it reach its agent under KVM? The answer is kept until something that could
change it changes: the host's boot, QEMU, the kernel, the user that QEMU runs as.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from atoll.errors import AtollError
from atoll.vmm.monitor import AcceleratorName, MachineSpec, Monitor

_KVM = Path("/dev/kvm")
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A first frame: payload's length, id 0, kind 0 (docs/protocol.md).
_HEADER_BYTES = 9
_HELLO = bytes(5)


@dataclass(frozen=True)
class Accelerator:
    """What runs guest code, and why that was chosen, as a sentence for `atoll system status`."""

    name: AcceleratorName
    reason: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    name: AcceleratorName
    reason: str


async def probe(
    monitor: Monitor, spec: MachineSpec, *, kernel_digest: str, cache: Path, deadline_s: float = 5.0
) -> Accelerator:
    """The accelerator for machines like `spec`, from `cache` (a file) or by a trial boot of at most `deadline_s`.

    Never fails: whatever keeps KVM from running a guest is the reason for TCG.
    """
    key = _key(spec, kernel_digest)
    known = _recall(cache, key)
    if known is not None:
        return known
    obstacle = kvm_obstacle() or await _trial(monitor, replace(spec, accelerator="kvm"), deadline_s)
    if obstacle is None:
        found = Accelerator("kvm", "a guest booted to its agent under KVM")
    else:
        found = Accelerator("tcg", obstacle)
    _remember(cache, key, found)
    return found


def kvm_obstacle(device: Path = _KVM) -> str | None:
    """Why KVM cannot work on this host, as far as that shows without a guest; None when nothing shows."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no {device}: the host has no hardware virtualization, or its kvm module is not loaded"
    except OSError as error:
        hint = f": let this user into the group that owns {device}" if error.errno == errno.EACCES else ""
        return f"{device} cannot be opened ({error.strerror}){hint}"
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} does not answer as KVM does ({error.strerror})"
    finally:
        os.close(descriptor)
    return None if version == _KVM_API_VERSION else f"{device} answers with KVM's API version {version}, not 12"


async def _trial(monitor: Monitor, spec: MachineSpec, deadline_s: float) -> str | None:
    """Why a guest did not reach its agent; None when it did."""
    try:
        async with monitor.create(spec) as machine:
            try:
                async with asyncio.timeout(deadline_s):
                    await machine.start()
                    header = b""
                    while len(header) < _HEADER_BYTES:
                        received = await asyncio.get_running_loop().sock_recv(
                            machine.agent, _HEADER_BYTES - len(header)
                        )
                        if not received:
                            return f"under KVM a guest ended before its agent spoke{_because(machine.complaints)}"
                        header += received
            except TimeoutError:
                complaints = _because(machine.complaints)
                return f"under KVM a guest did not reach its agent within {deadline_s:g} s{complaints}"
            return None if header.endswith(_HELLO) else "under KVM a guest's agent spoke nonsense"
    except AtollError as error:
        return f"KVM does not work here: {error}"


def _recall(cache: Path, key: str) -> Accelerator | None:
    with suppress(OSError, msgspec.DecodeError):
        answer = msgspec.json.decode(cache.read_bytes(), type=_Answer)
        if answer.key == key:
            return Accelerator(answer.name, answer.reason)
    return None


def _remember(cache: Path, key: str, found: Accelerator) -> None:
    # A cache that cannot be written costs the next start a trial.
    with suppress(OSError):
        new = cache.with_name(f"{cache.name}.new")
        new.write_bytes(msgspec.json.encode(_Answer(key=key, name=found.name, reason=found.reason)))
        new.replace(cache)


def _because(complaints: str) -> str:
    return f" ({complaints})" if complaints else ""


def _key(spec: MachineSpec, kernel_digest: str) -> str:
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    program = shutil.which(spec.qemu)
    status = Path(program).stat() if program else None
    qemu = [program, status.st_mtime_ns, status.st_size] if status else []
    parts = [boot_id, *qemu, kernel_digest, spec.initramfs.name, spec.uid is None]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
