"""QEMU as a process, with programs in its place that fail, speak and last as a test needs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.errors import Unavailable, VmFailed
from atoll.vmm import MachineSpec, QemuMonitor
from atoll.vmm.qemu.process import running, while_we_live


def _spec(program: Path | str, directory: Path) -> MachineSpec:
    for name in ("kernel", "initramfs"):
        (directory / name).touch()
    return MachineSpec(
        kernel=directory / "kernel",
        initramfs=directory / "initramfs",
        cpus=1,
        memory_mib=128,
        accelerator="tcg",
        qemu=str(program),
    )


def _program(directory: Path, script: str) -> Path:
    path = directory / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_missing_qemu_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="qemu-nowhere is not on this host: install the package qemu-system-x86"):
        async with QemuMonitor().create(_spec("qemu-nowhere", tmp_path)):
            pass


async def test_a_missing_setpriv_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="setpriv is not on this host: install the package util-linux"):
        async with QemuMonitor().create(_spec("/bin/true", tmp_path)):
            pass


def test_a_program_whose_maker_has_ended_meanwhile_does_not_start() -> None:
    def said(command: list[str]) -> bytes:
        return subprocess.run([*command, "echo", "alive"], stdout=subprocess.PIPE, check=False).stdout

    *becomes, _ = while_we_live()
    assert said(while_we_live()) == b"alive\n"
    assert said([*becomes, "1"]) == b""


async def test_what_qemu_complains_about_is_in_the_error(tmp_path: Path) -> None:
    program = _program(tmp_path, "echo noise; echo first >&2; echo 'qemu-system-x86_64: -m: too much' >&2; exit 3")
    with pytest.raises(VmFailed, match=r"QEMU did not come up: it ended with status 3 \(first; -m: too much\)"):
        async with QemuMonitor().create(_spec(program, tmp_path)):
            pass


async def test_the_signal_that_ended_qemu_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(VmFailed, match="it was killed by signal 9"):
        async with QemuMonitor().create(_spec(_program(tmp_path, "kill -9 $$"), tmp_path)):
            pass


async def test_only_the_end_of_many_complaints_is_kept(tmp_path: Path) -> None:
    program = _program(tmp_path, "seq 1 100000 >&2")
    async with running(_spec(program, tmp_path), [], ()) as qemu:
        await qemu.process.wait()
        await qemu.complaints.ended()
        assert str(qemu.complaints) == "99997; 99998; 99999; 100000"


async def test_a_process_is_gone_when_its_context_ends(tmp_path: Path) -> None:
    before = _open_descriptors()
    async with running(_spec(_program(tmp_path, "exec sleep 1000"), tmp_path), [], ()) as qemu:
        assert qemu.process.returncode is None
    assert qemu.process.returncode == -signal.SIGKILL
    assert _open_descriptors() == before


_PARENT = """
import asyncio, sys
from pathlib import Path
from atoll.vmm import MachineSpec
from atoll.vmm.qemu.process import running, while_we_live

async def main():
    path = Path("/dev/null")
    spec = MachineSpec(kernel=path, initramfs=path, cpus=1, memory_mib=128, accelerator="tcg", qemu=sys.argv[1])
    async with running(spec, [], (int(sys.argv[2]),)) as qemu:
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_qemu_dies_with_its_parent(tmp_path: Path) -> None:
    # The program writes to the pipe once it runs, when setpriv has done its part; the pipe ends when it is dead.
    reader, writer = os.pipe()
    program = _program(tmp_path, f"echo alive >/proc/self/fd/{writer}; exec sleep 1000")
    with (
        os.fdopen(reader) as pipe,
        subprocess.Popen([sys.executable, "-c", _PARENT, program, str(writer)], pass_fds=(writer,)) as parent,
    ):
        os.close(writer)
        assert pipe.readline() == "alive\n"
        parent.kill()
        assert pipe.read() == ""
