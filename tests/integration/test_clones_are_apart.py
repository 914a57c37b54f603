"""Clones of one template: what should be one's own is nobody else's, and no memory reaches another or the template."""

import asyncio
import io
import os
import secrets
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from harness.checkout import CHECKOUT, program
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import busybox_root
from harness.kernel import UnpackedKernel
from harness.starts import digest, memory_holds, start_kind, template_memory, wait_for_pool

from atoll.engine.stage import Stages
from atoll.guest import Agent
from atoll.kernel import KernelStore, agent_path
from atoll.template import build_template
from atoll.vmm import MachineSpec, QemuMonitor

CLONES = 50
AT_ONCE = 4


@pytest.fixture
def look(engine: EngineUnderTest, tmp_path: Path) -> str:
    """An image that has what there is to look with: `first_sequence`, which prints a TCP initial sequence number."""
    binary = tmp_path / "first_sequence"
    source = CHECKOUT / "tests" / "harness" / "first_sequence.c"
    subprocess.run([program("cc"), "-static", "-O2", "-o", binary, source], check=True)
    archive = io.BytesIO(busybox_root())
    with tarfile.open(fileobj=archive, mode="a") as tar:
        tar.add(binary, "bin/first_sequence")
    file = tmp_path / "look.tar"
    file.write_bytes(archive.getvalue())
    engine.atoll.ok("image", "import", file, "look:1")
    return "look:1"


def test_no_two_clones_have_the_same_randomness_or_identity(engine: EngineUnderTest, look: str) -> None:
    wait_for_pool(engine)
    command = (
        "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo;"
        "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; first_sequence; hostname"
    )

    def run(_: int) -> list[str]:
        return engine.atoll.ok("run", "--rm", look, "sh", "-c", command).split()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(run, range(CLONES)))
    assert {len(values) for values in found} == {6}
    for name, values in zip(
        ("urandom", "uuid", "boot id", "machine id", "sequence number", "host name"),
        zip(*found, strict=True),
        strict=True,
    ):
        assert len(set(values)) == CLONES, f"{name}: {sorted(values)}"


def test_the_clock_is_right_in_a_clone_that_has_waited(engine: EngineUnderTest) -> None:
    wait_for_pool(engine)
    before = time.time()
    told = int(engine.atoll.ok("run", "--rm", "busybox", "date", "+%s"))
    assert before - 1 <= told <= time.time() + 1


def test_memory_of_one_clone_reaches_neither_another_nor_the_template(private_engine: EngineUnderTest) -> None:
    # So little memory that all of it is the template's.
    sizes = ("-m", "96m")
    atoll = private_engine.atoll
    atoll.ok("system", "template", "build", *sizes)
    assert start_kind(private_engine, *sizes, "busybox", "true") == "clone"
    with template_memory(private_engine) as memory:
        before = digest(memory)
        one, other = (
            Container(atoll.ok("run", "-d", *sizes, "busybox", "sleep", "1000").strip(), private_engine)
            for _ in range(2)
        )
        secret = secrets.token_hex(16)
        # Written by the guest itself, so that no command line holds the whole of it.
        half = len(secret) // 2
        script = (
            f"a={secret[:half]}; b={secret[half:]}; yes $a$b | head -c 20000163 > /dev/shm/secret;"
            "head -n 1 /dev/shm/secret"
        )
        assert one.exec("sh", "-c", script).stdout.strip() == secret
        assert memory_holds(one.vmm, secret.encode())
        assert not memory_holds(other.vmm, secret.encode())
        assert digest(memory) == before
    third = Container(atoll.ok("run", "-d", *sizes, "busybox", "sleep", "1000").strip(), private_engine)
    assert not memory_holds(third.vmm, secret.encode())


async def test_what_a_clone_frees_is_not_taken_from_the_template(kernel: UnpackedKernel, tmp_path: Path) -> None:
    """QEMU discards reported pages by punching holes into the file behind them, which every other clone has as well."""
    store = KernelStore(tmp_path / "kernels", agent_path())
    await store.set_binary(kernel.image, kernel.modules)
    current = await store.current()
    spec = MachineSpec(
        kernel=current.image, initramfs=current.initramfs, cpus=1, memory_mib=192, accelerator="tcg", name="apart"
    )
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(Stages(tmp_path / "stages").stage())
        template = await build_template(QemuMonitor(), spec, stage, 60)
        stack.callback(template.close)
        memory = template.saved.memory
        before = digest(memory), os.fstat(memory).st_blocks
        machine = await stack.enter_async_context(QemuMonitor().create(replace(spec, saved=template.saved)))
        agent = await stack.enter_async_context(Agent(machine.agent, lambda _: None))
        await machine.start()
        await agent.ping(30)
        # The guest reports its free pages by itself, and QEMU complains that it cannot discard them.
        async with asyncio.timeout(90):
            while "Failed to fallocate ram" not in machine.complaints:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.1)
        assert (digest(memory), os.fstat(memory).st_blocks) == before
