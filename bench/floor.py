"""Measures the floor: what a clone costs when nothing of Atoll's is in it (docs/performance.md).

The guest's init is bench/floor.c. Once, a VM is booted to its first word and saved as a template (its RAM a memfd,
sealed afterwards; its devices' state a file made with the capability x-ignore-shared). Then, for each round, QEMU is
started with the same devices on a private map of that RAM, is given the state, and goes on: the guest binds the driver
of the image's disk, mounts it below an overlay, and executes `true` from it.
"""

import argparse
import asyncio
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boot
from figures import print_table, wait_until_quiet
from harness.images import busybox_root
from harness.kernel import UnpackedKernel, unpacked_kernel

from atoll.image.disk import DiskLayer, compose_disk
from atoll.image.layer import write_layer
from atoll.kernel.initramfs import write_initramfs
from atoll.kernel.modules import ModuleTree
from atoll.vmm import DiskSource, MachineSpec, SavedMachine
from atoll.vmm.qemu.command_line import command_line
from atoll.vmm.qemu.handover import open_handover

MEMORY_MIB = 256
SOURCE = Path(__file__).with_name("floor.c")
FIRST_INSTRUCTION = "QEMU's start to first instruction of `true`"
_ANSWER_S = 60.0
_CAPABILITY: dict[str, object] = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_GUEST_STEPS = (
    "guest: bind the disk's driver",
    "guest: three mounts",
    "guest: fork, chroot, execve",
    "guest: the rest",
)


class FloorFailed(Exception):
    """The raw QEMU did not do what the floor needs; the message says what."""


class Control:
    """A QMP connection that waits for each answer."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        connection.settimeout(_ANSWER_S)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._answer("QMP")
        self.ask("qmp_capabilities")

    def ask(self, command: str, arguments: dict[str, object] | None = None, descriptor: int | None = None) -> Any:
        """Send a command, a descriptor beside it if there is one, and return what it returns."""
        line = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        socket.send_fds(self._connection, [line], [] if descriptor is None else [descriptor])
        return self._answer("return")

    def wait_for(self, event: str) -> None:
        """Read until QEMU reports this event."""
        while self._answer("event") != event:
            pass

    def _answer(self, key: str) -> Any:
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise FloorFailed(f"QEMU refuses: {answer['error']['desc']}")
            if key in answer:
                return answer[key]
        raise FloorFailed("QEMU has ended")


@dataclass(frozen=True)
class RawMachine:
    """A QEMU with the floor's init in it."""

    started: float
    control: socket.socket
    agent: socket.socket

    def expect(self, wanted: bytes) -> float:
        """The moment at which the guest says `wanted`, its next byte."""
        readable, _, _ = select.select([self.agent], [], [], _ANSWER_S)
        moment = time.perf_counter()
        said = self.agent.recv(1) if readable else b""
        if said != wanted:
            raise FloorFailed(
                f"the guest says {(said + self._rest()).decode(errors='replace')!r} instead of {wanted!r}"
            )
        return moment

    def line(self) -> str:
        """The rest of the line that the guest is writing."""
        said = b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([self.agent], [], [], _ANSWER_S)
            said += self.agent.recv(4096) if readable else b"\n"
        return said.decode().strip()

    def _rest(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self.agent.recv(4096)
        return b""


@dataclass(frozen=True)
class Floor:
    """A template that is ready to be cloned: the sealed memfd of its RAM, its devices' state."""

    spec: MachineSpec
    ram: int
    state: Path

    def clone(self) -> dict[str, float]:
        """Run one clone; milliseconds by what took them, `FIRST_INSTRUCTION` among them."""
        with (
            self.state.open("rb") as state,
            _running(replace(self.spec, saved=SavedMachine(self.ram, state.fileno()))) as machine,
        ):
            control = Control(machine.control)
            up = time.perf_counter()
            control.ask("migrate-set-capabilities", _CAPABILITY)
            control.ask("getfd", {"fdname": "state"}, state.fileno())
            control.ask("migrate-incoming", {"uri": "fd:state"})
            while control.ask("query-migrate").get("status") != "completed":
                pass
            loaded = time.perf_counter()
            control.ask("cont")
            machine.agent.send(b"g")
            first = machine.expect(b"X")
            machine.expect(b"E")
            ended = time.perf_counter()
            steps = [int(nanoseconds) / 1e6 for nanoseconds in machine.line().split()]
        woken = (ended - loaded) * 1e3 - sum(steps)
        return {
            FIRST_INSTRUCTION: (first - machine.started) * 1e3,
            "QEMU's start to end of `true`": (ended - machine.started) * 1e3,
            "QEMU up": (up - machine.started) * 1e3,
            "state loaded": (loaded - up) * 1e3,
            "guest goes on (and what the channel takes)": woken,
            **dict(zip(_GUEST_STEPS, steps, strict=True)),
        }


@contextmanager
def floor_template(kernel: UnpackedKernel) -> Iterator[Floor]:
    """Boot the floor's template and keep it until the context ends."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        found = asyncio.run(boot.machine(kernel, scratch))
        spec = replace(
            found,
            initramfs=_initramfs(kernel, scratch),
            image=_image(scratch),
            memory_mib=MEMORY_MIB,
            name="atoll-floor",
        )
        ram = os.memfd_create("atoll-floor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, ram)
        os.truncate(ram, MEMORY_MIB << 20)
        state = scratch / "state"
        # Without the image: a driver that is not bound has not seen the disk.
        with (
            state.open("wb") as file,
            _running(replace(spec, image=None, save_to=SavedMachine(ram, file.fileno()))) as machine,
        ):
            control = Control(machine.control)
            machine.expect(b"R")
            control.ask("stop")
            control.ask("migrate-set-capabilities", _CAPABILITY)
            control.ask("getfd", {"fdname": "state"}, file.fileno())
            control.ask("migrate", {"uri": "fd:state"})
            while (status := control.ask("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled"):
                    raise FloorFailed(f"the template's state is not written: migration {status}")
                time.sleep(0.005)
            control.ask("quit")
        # QEMU would punch holes into the RAM of all clones for one that frees memory (the design page's trap).
        fcntl.fcntl(ram, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        yield Floor(spec, ram, state)


def measure(floor: Floor, rounds: int) -> dict[str, list[float]]:
    """The figures of `rounds` clones, after one that is not counted."""
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        wait_until_quiet()
        for name, took_ms in floor.clone().items():
            if number > 0:
                figures[name].append(took_ms)
    return figures


@contextmanager
def _running(spec: MachineSpec) -> Iterator[RawMachine]:
    with ExitStack() as ours, ExitStack() as theirs:
        ends, handover = open_handover(spec, ours, theirs)
        # -S would have it wait for us.
        arguments = [argument for argument in command_line(spec, handover.sockets, handover.files) if argument != "-S"]
        started = time.perf_counter()
        with subprocess.Popen([spec.qemu, *arguments], pass_fds=handover.descriptors) as qemu:
            theirs.close()
            try:
                yield RawMachine(started, ends.control, ends.agent)
            finally:
                qemu.kill()


def _initramfs(kernel: UnpackedKernel, scratch: Path) -> Path:
    """The product's initramfs with bench/floor.c in the agent's place."""
    program, initramfs = scratch / "floor", scratch / "floor-initramfs"
    compiler = shutil.which("cc")
    if compiler is None:
        raise FloorFailed("a C compiler is missing: scripts/install-packages demo")
    subprocess.run([compiler, "-static", "-O2", "-Wall", "-o", program, SOURCE], check=True)
    with initramfs.open("wb") as file:
        write_initramfs(file, program.read_bytes(), ModuleTree.read(kernel.modules).load())
    return initramfs


def _image(scratch: Path) -> DiskSource:
    """The disk of the busybox image that containers of the other benches run."""
    squashfs = scratch / "layer"
    with io.FileIO(squashfs, "w+") as file:
        layer = write_layer(io.BytesIO(busybox_root()), file)
    disk = compose_disk([DiskLayer(layer.diff_id, squashfs)], scratch / "disk", scratch)
    return DiskSource(disk.path, disk.format, disk.files)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="clones that count (default: %(default)s)")
    options = parser.parse_args()
    try:
        with floor_template(unpacked_kernel()) as floor:
            spec = floor.spec
            print(f"{spec.accelerator}, {spec.cpus} CPUs, {spec.memory_mib} MiB")
            print_table("the floor", measure(floor, options.rounds))
    except FloorFailed as error:
        sys.exit(f"bench/floor: {error}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
