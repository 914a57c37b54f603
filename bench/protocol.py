"""Measures what the host and the real agent say to each other (docs/adr/0001-agent-protocol.md).

Each round boots a VM of its own and asks in it: a `ping` twice, for the first answer pays for code that the emulator
has not translated yet; one container; two processes in it; then stdio in each direction, from a process or to one.
Kernel and modules are those that the tests use, downloaded once into `build/kernel-cache`.
"""

import argparse
import asyncio
import io
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.guest import Agent
from atoll.image.disk import DiskLayer, compose_disk
from atoll.image.layer import write_layer
from atoll.kernel import KernelStore, agent_path
from atoll.model.agent import Disk, Exec, Exited, Extent, Process, Profile, Root, Start, Stdio
from atoll.runtime.vm import Console
from atoll.vmm import AcceleratorName, DiskSource, MachineSpec, QemuMonitor, slots

CHECKOUT = Path(__file__).resolve().parent.parent
KERNEL_CACHE = Path(os.environ.get("ATOLL_TEST_KERNEL", CHECKOUT / "build/kernel-cache"))
BUSYBOX = "/bin/busybox"
BLOCK = bytes(65_536)
# Large blocks: what a process pays for its own system calls is not the channel's cost.
_DD = ("dd", f"bs={len(BLOCK)}")
MIB = 1 << 20
BOOT_S = 120.0
ANSWER_S = 30.0


class Guest:
    """One booted VM and what was measured in it, by the name of the figure."""

    def __init__(self, agent: Agent, figures: dict[str, list[float]], exits: asyncio.Queue[Exited]) -> None:
        self._agent = agent
        self._figures = figures
        self._exits = exits

    async def ping(self, figure: str) -> None:
        """One empty request."""
        begin = time.perf_counter()
        await self._agent.connection.call("ping", None, None, ANSWER_S)
        self._note_ms(figure, begin)

    async def start(self, figure: str) -> None:
        """The container, with a first process that only waits."""
        request = Start(
            hostname="bench",
            entropy=os.urandom(64),
            clock_ns=time.time_ns(),
            root=Root(image=Disk(pci=slots.IMAGE), layers=(Extent(0, 1 << 20),)),
            profile=Profile(shm_bytes=64 << 20),
            process=Process(arguments=(BUSYBOX, "sleep", "3600")),
        )
        begin = time.perf_counter()
        await self._agent.start(request)
        self._note_ms(figure, begin)

    async def exec(self, figure: str) -> None:
        """One more process, until it has ended."""
        begin = time.perf_counter()
        await self._exec(figure, Stdio(), "true")
        await self._ended(figure)
        self._note_ms(figure, begin)

    async def download(self, figure: str, size_bytes: int) -> None:
        """What a process writes to its stdout."""
        stdout = self._agent.connection.open_reader()
        begin = time.perf_counter()
        await self._exec(figure, Stdio(stdout=stdout.stream), *_DD, "if=/dev/zero", f"count={size_bytes // len(BLOCK)}")
        received = 0
        async for data in stdout:
            received += len(data)
        await self._ended(figure)
        self._note_rate(figure, begin, size_bytes)
        assert received == size_bytes, f"{received} of {size_bytes} bytes came"

    async def upload(self, figure: str, size_bytes: int) -> None:
        """What a process reads from its stdin."""
        stdin = self._agent.connection.open_writer()
        begin = time.perf_counter()
        await self._exec(figure, Stdio(stdin=stdin.stream), *_DD, "of=/dev/null")
        for _ in range(size_bytes // len(BLOCK)):
            await stdin.write(BLOCK)
        stdin.end()
        await self._ended(figure)
        self._note_rate(figure, begin, size_bytes)

    async def _exec(self, name: str, stdio: Stdio, *arguments: str) -> None:
        await self._agent.exec(Exec(id=name, process=Process(arguments=(BUSYBOX, *arguments), stdio=stdio)))

    async def _ended(self, name: str) -> None:
        exited = await self._exits.get()
        assert (exited.id, exited.code) == (name, 0), f"{exited} while {name} was waited for"

    def _note_ms(self, figure: str, begin: float) -> None:
        self._figures[f"{figure}, ms"].append((time.perf_counter() - begin) * 1e3)

    def _note_rate(self, figure: str, begin: float, size_bytes: int) -> None:
        self._figures[f"{figure}, MB/s"].append(size_bytes / (time.perf_counter() - begin) / 1e6)


@asynccontextmanager
async def booted(spec: MachineSpec, figures: dict[str, list[float]]) -> AsyncIterator[Guest]:
    """A VM whose agent has said HELLO."""
    exits: asyncio.Queue[Exited] = asyncio.Queue()
    async with (
        QemuMonitor().create(spec) as machine,
        Console(machine.console).reading(),
        Agent(machine.agent, exits.put_nowait) as agent,
    ):
        begin = time.perf_counter()
        await machine.start()
        await agent.hello(BOOT_S)
        figures["boot to HELLO, ms"].append((time.perf_counter() - begin) * 1e3)
        yield Guest(agent, figures, exits)


def busybox_disk(directory: Path) -> DiskSource:
    """The disk of an image that holds nothing but a static busybox."""
    busybox = shutil.which("busybox", path=CHECKOUT / "build/tools") or shutil.which("busybox")
    if busybox is None:
        raise SystemExit("bench/protocol: busybox is missing: apt install busybox-static")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(BUSYBOX[1:])
        data = Path(busybox).read_bytes()
        entry.mode, entry.size = 0o755, len(data)
        tar.addfile(entry, io.BytesIO(data))
    archive.seek(0)
    squashfs = directory / "layer"
    with io.FileIO(squashfs, "w+") as file:
        layer = write_layer(archive, file)
    disk = compose_disk([DiskLayer(layer.diff_id, squashfs)], directory / "disk", directory)
    return DiskSource(disk.descriptor, "vmdk", disk.files)


def unpacked_kernel() -> tuple[Path, Path]:
    """Image and modules of Debian's cloud kernel."""
    if not KERNEL_CACHE.exists():
        subprocess.run([CHECKOUT / "scripts/unpack-kernel", "linux-image-cloud-amd64", KERNEL_CACHE], check=True)
    (image,), (modules,) = KERNEL_CACHE.glob("boot/vmlinuz-*"), KERNEL_CACHE.glob("lib/modules/*")
    return image, modules


async def machine_spec(directory: Path, accelerator: AcceleratorName) -> MachineSpec:
    """The VM to measure in, its files below `directory`."""
    kernels = KernelStore(directory / "kernels", agent_path())
    await kernels.set_binary(*await asyncio.to_thread(unpacked_kernel))
    kernel = await kernels.current()
    return MachineSpec(
        kernel=kernel.image,
        initramfs=kernel.initramfs,
        cpus=1,
        memory_mib=256,
        accelerator=accelerator,
        image=await asyncio.to_thread(busybox_disk, directory),
        name="atoll-bench-protocol",
    )


async def measure(rounds: int, size_bytes: int, accelerator: AcceleratorName) -> dict[str, list[float]]:
    """The figures of `rounds` VMs, one after the other."""
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as directory:
        spec = await machine_spec(Path(directory), accelerator)
        for _ in range(rounds):
            async with booted(spec, figures) as guest:
                await guest.ping("first request")
                await guest.ping("second request")
                await guest.start("container start")
                await guest.exec("first exec")
                await guest.exec("second exec")
                await guest.download("process to host", size_bytes)
                await guest.upload("host to process", size_bytes)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/protocol", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="VMs to boot (default: 10)")
    parser.add_argument("--mib", type=int, default=64, help="MiB to stream in each direction (default: 64)")
    parser.add_argument("--accel", choices=("kvm", "tcg"), default="tcg", help="what runs the guest (default: tcg)")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.rounds, options.mib * MIB, options.accel))
    size_kib = agent_path().stat().st_size // 1024
    print(f"agent of {size_kib} KiB, {options.accel}, {options.rounds} VMs, {options.mib} MiB each way")
    print(f"{'':26}{'median':>10}{'least':>10}{'most':>10}")
    for name, values in figures.items():
        print(f"{name:26}{statistics.median(values):10.1f}{min(values):10.1f}{max(values):10.1f}")


if __name__ == "__main__":
    main()
