"""A runtime on its own, without an engine: a zygote forks it, QEMU boots, the agent runs a container of busybox.

What the engine's tests show through the Docker API is not repeated here: this is about the process, its VM, what
happens when either is killed, and how much of anything a flood of output needs.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from secrets import token_hex

import pytest
from harness.bundled import Container, Guest, bundled_container, make_guest
from harness.kernel import UnpackedKernel
from harness.runtime import collect, sh

from atoll.errors import AtollError, CommandNotExecutable, CommandNotFound, VmFailed
from atoll.kernel import Kernel
from atoll.model.agent import Process
from atoll.runtime.client import RuntimeClient, Session
from atoll.runtime.logs import LogReader
from atoll.runtime.spawner import Spawner

FLOOD_BYTES = 2 << 30
GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module")
def guest(kernel: UnpackedKernel, busybox_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return make_guest(kernel, busybox_tar, tmp_path_factory.mktemp("guest"))


NewContainer = Callable[..., Awaitable[Container]]


@pytest.fixture
async def new_container(guest: Guest, tmp_path: Path) -> AsyncIterator[NewContainer]:
    """Makes containers; whatever is left of them at the end is killed, and no run directory may be left."""
    async with AsyncExitStack() as stack:
        spawner = await stack.enter_async_context(Spawner())

        async def new(*command: str, bundle: Path | None = None, **config: object) -> Container:
            return await stack.enter_async_context(bundled_container(guest, spawner, tmp_path, command, bundle, config))

        yield new


async def test_a_container_runs_under_a_kernel_of_its_own(new_container: NewContainer, guest: Guest) -> None:
    container = await new_container(*sh("uname -r; hostname; echo oops >&2; exit 7"))
    status = await container.run()
    assert container.logged(stderr=False).decode().split() == [guest.kernel.version, "reef"]
    assert guest.kernel.version != os.uname().release
    assert container.logged(stdout=False) == b"oops\n"
    assert (status.code, status.reason) == (7, "")
    assert container.exit_record == status


async def test_a_guest_that_is_ready_waits_for_the_hosts_word(new_container: NewContainer) -> None:
    container = await new_container("true")
    starting = asyncio.ensure_future(container.client.start(waits=True))
    async with asyncio.timeout(60):
        while not (await container.client.state()).pid:
            pass
    assert not starting.done()
    await container.client.proceed()
    report = (await starting).report
    assert report is not None
    assert "wait for the host" in [phase.name for phase in report.phases]
    assert (await container.client.wait()).code == 0


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [(("nosuch",), CommandNotFound, 127), (("/etc",), CommandNotExecutable, 126)],
)
async def test_a_command_that_does_not_start_is_told_and_recorded(
    new_container: NewContainer, command: tuple[str, ...], error: type[AtollError], code: int
) -> None:
    container = await new_container(*command)
    with pytest.raises(error, match=command[0]):
        await container.client.start()
    assert (await container.client.wait()).code == code
    assert container.exit_record.code == code


async def test_a_process_that_a_signal_ended_has_128_more_than_the_signal(new_container: NewContainer) -> None:
    container = await new_container(*sh("sh -c 'kill -9 $$'; exit $?"))
    assert (await container.run()).code == 137


async def test_input_comes_out_unchanged(new_container: NewContainer) -> None:
    data = os.urandom(8 << 20)
    container = await new_container("cat", open_stdin=True)

    async def send(session: Session) -> None:
        assert session.stdin is not None
        await session.stdin.write(data)
        session.stdin.end()

    async with (
        container.client.attach(stdin=True, stdout=True, stderr=True, close_stdin=True) as session,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(send(session))
        await container.client.start()
        assert await collect(session) == {"stdout": data, "stderr": b""}
    assert (await container.client.wait()).code == 0


async def test_an_exec_runs_beside_the_first_process(new_container: NewContainer) -> None:
    container = await new_container("sleep", "1000", environment=("WHERE=reef",))
    await container.client.start()
    process = Process(arguments=sh("cat; echo $WHERE >&2; ps | grep -c sleep; exit 9"))
    async with container.client.exec("e", process, privileged=False, stdin=True, stdout=True) as session:
        assert session.stdin is not None
        await session.stdin.write(b"in and out\n")
        session.stdin.end()
        output = await collect(session)
        assert output["stderr"] == b"reef\n"
        assert output["stdout"].startswith(b"in and out\n")
        assert await container.client.exec_wait("e") == 9
    with pytest.raises(CommandNotFound):
        async with container.client.exec(
            "f", Process(arguments=("nosuch",)), privileged=False, stdin=False, stdout=True
        ):
            pass
    names = [row.command for row in (await container.client.processes()).rows]
    assert names == ["sleep 1000"]
    assert (await container.client.statistics()).pids == 1


async def test_stop_kills_what_does_not_heed_the_signal(new_container: NewContainer) -> None:
    container = await new_container(*sh("trap 'echo heard' TERM; echo up; while :; do sleep 1; done"))
    await container.client.start()
    await container.client.wait_log(0)
    status = await container.client.stop(signal.SIGTERM, 3)
    assert (status.code, status.stopped_by_user) == (137, True)
    assert container.logged() == b"up\nheard\n"


async def test_a_paused_guest_stands_still_and_goes_on(new_container: NewContainer) -> None:
    container = await new_container(*sh("while :; do echo tick; usleep 1000; done"))
    client = container.client
    await client.start()
    await client.wait_log(3)
    await client.pause()
    with LogReader(Path(container.spec.bundle) / "log") as reader:
        for _ in reader.pieces():
            pass
        with suppress(TimeoutError):  # what was under way when the guest stopped still comes
            async with asyncio.timeout(0.5):
                await client.wait_log(1 << 60)
        for _ in reader.pieces():
            pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.wait_log(reader.records)
        await client.resume()
        await client.wait_log(reader.records + 3)
    await client.pause()
    assert (await client.stop(signal.SIGKILL, None)).code == 137


async def test_a_terminal_has_a_size_that_can_change(new_container: NewContainer) -> None:
    container = await new_container(*sh("stty size; read go; stty size"), terminal=True, open_stdin=True)
    async with container.client.attach(stdin=True, stdout=True, stderr=False, close_stdin=False) as session:
        await container.client.start()
        assert session.stdin is not None
        shown = b""
        async for _, data in session.output():
            if b"\n" not in shown and b"\n" in data:
                await container.client.resize("init", 33, 99)
                await session.stdin.write(b"go\n")
            shown += data
    assert shown == b"24 80\r\ngo\r\n33 99\r\n"


async def test_what_is_written_is_there_after_the_next_start(new_container: NewContainer) -> None:
    first = await new_container(*sh("echo kept > /root/file"))
    await first.run()
    second = await new_container("cat", "/root/file", bundle=Path(first.spec.bundle))
    assert (await second.run()).code == 0
    assert second.logged() == b"kept\n"


async def test_a_killed_qemu_is_137_with_the_reason(new_container: NewContainer) -> None:
    container = await new_container(*sh("echo up; sleep 1000"))
    state = await container.client.start()
    await container.client.wait_log(0)
    os.kill(state.pid, signal.SIGKILL)
    status = await container.client.wait()
    assert (status.code, status.reason) == (137, "the virtual machine was killed (signal 9)")
    assert container.exit_record == status
    assert container.logged() == b"up\n"


async def test_a_killed_runtime_takes_its_vm_with_it(new_container: NewContainer) -> None:
    container = await new_container("sleep", "1000")
    qemu = os.pidfd_open((await container.client.start()).pid)
    try:
        container.client.kill()
        with pytest.raises(VmFailed):
            await container.client.wait()
        await readable(qemu)
    finally:
        os.close(qemu)
    assert not (Path(container.spec.bundle) / "exit.json").exists()
    # Nobody tidies up after a killed runtime but the engine, which this test stands for.
    shutil.rmtree(container.spec.run_dir)


async def readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    async with asyncio.timeout(30):
        await ready.wait()
    loop.remove_reader(fd)


async def test_a_panic_of_the_guests_kernel_is_the_reason(new_container: NewContainer) -> None:
    container = await new_container(
        *sh("mount -t proc none /tmp; echo c > /tmp/sysrq-trigger; sleep 1000"), privileged=True
    )
    await container.client.start()
    status = await container.client.wait()
    assert status.code == 137
    assert status.reason == "the guest's kernel panicked: sysrq triggered crash"


async def test_a_guest_that_does_not_boot_says_its_last_words(new_container: NewContainer, guest: Guest) -> None:
    broken = Guest(
        Kernel(version="", image=guest.kernel.image, initramfs=guest.layer, digest=""),
        guest.disk,
        guest.layer,
        guest.cache,
    )
    async with Spawner() as spawner, AsyncExitStack() as stack:
        directory = guest.cache / token_hex(4)
        directory.mkdir()
        container = await stack.enter_async_context(bundled_container(broken, spawner, directory, ("true",), None, {}))
        with pytest.raises(VmFailed, match="the guest did not boot: the guest's kernel panicked"):
            await container.client.start()
        status = await container.client.wait()
        assert status.code == 125
        assert "panic" in status.reason


async def test_runtimes_outlive_the_one_who_had_them_forked(guest: Guest, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with Spawner() as spawner:
            container = await stack.enter_async_context(
                bundled_container(guest, spawner, tmp_path, sh("read line; echo $line"), None, {"open_stdin": True})
            )
            await container.client.start()
            await container.client.close()
        client = await RuntimeClient.connect(Path(container.spec.run_dir))
        async with client.attach(stdin=True, stdout=False, stderr=False, close_stdin=False) as session:
            assert session.stdin is not None
            await session.stdin.write(b"still here\n")
        assert (await client.wait()).code == 0
        await client.wait_gone()
        assert container.logged() == b"still here\n"


async def test_many_runtimes_are_forked_at_once(new_container: NewContainer) -> None:
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(_one(new_container, number)) for number in range(4)]
    assert [await run for run in runs] == [b"0\n", b"1\n", b"2\n", b"3\n"]


async def _one(new_container: NewContainer, number: int) -> bytes:
    container = await new_container("echo", str(number))
    assert (await container.run()).code == 0
    return container.logged()


async def test_a_flood_of_output_is_exact_and_takes_no_memory(new_container: NewContainer) -> None:
    container = await new_container("dd", "if=/dev/zero", "bs=64k", f"count={FLOOD_BYTES >> 16}")
    async with container.client.attach(stdin=False, stdout=True, stderr=False, close_stdin=False) as session:
        await container.client.start()
        before = anonymous_bytes(container.client.pid)
        received, growth = 0, 0
        async for _, data in session.output():
            received += len(data)
            if received % (256 << 20) < len(data):
                growth = max(growth, anonymous_bytes(container.client.pid) - before)
    assert received == FLOOD_BYTES
    assert growth < GROWTH_BYTES
    assert (await container.client.wait()).code == 0


def anonymous_bytes(pid: int) -> int:
    """Private memory that is not a file's: what a process has grown by, whatever it reads and maps."""
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0
