"""Measures `atoll run --rm busybox true` against a raw boot of the same machine (docs/performance.md).

The raw boot is QEMU alone, with the arguments, kernel, initramfs, CPUs and memory that the container's VM has, from
its start to the first byte of the agent's first message. The two alternate, after one of each that is not counted,
on an engine, kernel and image of the bench's own. Exits with 1 when the ratio of the medians is above the limit.
"""

import argparse
import asyncio
import contextlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness.command import Command
from harness.engine import engine_at, engine_root
from harness.images import BUSYBOX_CHANGES, busybox_root
from harness.kernel import UnpackedKernel, unpacked_kernel

from atoll.kernel import KernelStore, agent_path
from atoll.settings import Settings
from atoll.vmm import MachineSpec, QemuMonitor, probe
from atoll.vmm.qemu.command_line import command_line
from atoll.vmm.qemu.handover import open_handover

LIMIT = 1.5
BOOT_S = 120.0


def raw_boot_s(spec: MachineSpec) -> float:
    """Seconds from QEMU's start to the agent's first byte, without anything of ours around it."""
    with ExitStack() as ours, ExitStack() as theirs:
        ends, handover = open_handover(spec, ours, theirs)
        # -S would have it wait for us.
        arguments = [argument for argument in command_line(spec, handover.sockets, handover.files) if argument != "-S"]
        started = time.perf_counter()
        with subprocess.Popen([spec.qemu, *arguments], pass_fds=handover.descriptors) as qemu:
            theirs.close()
            answered, _, _ = select.select([ends.agent], [], [], BOOT_S)
            took_s = time.perf_counter() - started
            qemu.kill()
        if not answered:
            sys.exit(f"bench/boot: the agent said nothing within {BOOT_S:g} s")
        return took_s


def run_s(atoll: Command) -> float:
    """Seconds that `atoll run --rm busybox true` takes."""
    started = time.perf_counter()
    atoll.ok("run", "--rm", "busybox", "true")
    return time.perf_counter() - started


async def machine(kernel: UnpackedKernel, scratch: Path) -> MachineSpec:
    """The VM that the engine makes for a container without limits."""
    store = KernelStore(scratch, agent_path())
    await store.set_binary(kernel.image, kernel.modules)
    current = await store.current()
    settings = Settings()
    spec = MachineSpec(
        kernel=current.image,
        initramfs=current.initramfs,
        cpus=min(settings.cpus, os.cpu_count() or 1),
        memory_mib=settings.memory_mib,
        accelerator="tcg",
    )
    found = await probe(QemuMonitor(), spec, kernel_digest=current.digest, cache=scratch / "accelerator.json")
    return MachineSpec(**{**vars(spec), "accelerator": found.name})


def main() -> None:
    """Measure, print the medians, their spread and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="boots of each kind that count (default: %(default)s)")
    parser.add_argument("--raw", action="store_true", help="measure the raw boot only")
    options = parser.parse_args()
    kernel = unpacked_kernel()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        spec = asyncio.run(machine(kernel, scratch))
        atoll = None if options.raw else _engine(stack, kernel)
        raw, run = [], []
        for round_number in range(options.rounds + 1):
            boot, whole = raw_boot_s(spec), run_s(atoll) if atoll else 0.0
            if round_number > 0:
                raw.append(boot)
                run.append(whole)
    print(f"{spec.accelerator}, {spec.cpus} CPUs, {spec.memory_mib} MiB, kernel {kernel.version}, {len(raw)} rounds")
    _print("raw QEMU to the agent's first message", raw)
    if atoll:
        _print("atoll run --rm busybox true", run)
        ratio = statistics.median(run) / statistics.median(raw)
        print(f"ratio {ratio:.2f} (limit {LIMIT})")
        sys.exit(ratio > LIMIT)


def _engine(stack: ExitStack, kernel: UnpackedKernel) -> Command:
    engine = engine_at(stack.enter_context(engine_root()))
    tar = engine.root / "busybox.tar"
    tar.write_bytes(busybox_root())
    changes = [word for change in BUSYBOX_CHANGES for word in ("--change", change)]
    (engine.root / "atoll.toml").write_text("templates = false\n")
    engine.start()
    stack.callback(engine.stop)
    engine.atoll.ok("system", "kernel", "set", "--binary", kernel.image, "--modules", kernel.modules)
    engine.atoll.ok("image", "import", *changes, tar, "busybox")
    return engine.atoll


def _print(what: str, seconds: list[float]) -> None:
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"{what:40} median {statistics.median(seconds):.2f} s ({spread})")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
