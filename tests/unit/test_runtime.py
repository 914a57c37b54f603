"""The runtime as a whole, reached over its socket by the engine's client; its guest runs on the host.

`harness/host_guest.py` stands for the VM: the channel, the actor, the log and the streams are the real ones.
"""

import asyncio
import signal
import socket
import stat
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from harness.host_guest import HostVms
from harness.runtime import RuntimeUnderTest, collect, running, sh

from atoll.channel import StreamStopped
from atoll.errors import (
    AtollError,
    BootFailed,
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    InvalidRequest,
    NotFound,
    NotModified,
    Unavailable,
    VmFailed,
)
from atoll.model.agent import Process
from atoll.model.container import ContainerState
from atoll.model.runtime import RuntimeState
from atoll.runtime import server
from atoll.runtime.client import RuntimeClient, Session
from atoll.runtime.logs import STDERR, STDOUT, LogReader

WINDOWS = 4 << 20  # generous: all windows, queues and socket buffers between a process and a client


async def test_output_and_exit_code_become_the_containers(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("echo out; echo err >&2; exit 7")) as runtime:
        status = await runtime.run()
        assert (status.code, status.reason, status.stopped_by_user) == (7, "", False)
        assert runtime.exit_record == status
        assert runtime.logged(stderr=False) == b"out\n"
        assert runtime.logged(stdout=False) == b"err\n"
        assert not runtime.run_dir.exists()
        await runtime.client.wait_gone()


async def test_a_process_that_a_signal_ended_has_128_more_than_the_signal(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("kill -9 $$")) as runtime:
        assert (await runtime.run()).code == 137


async def test_a_client_that_attached_before_the_start_misses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    script = "; ".join(f"echo o{number}; read go; echo e{number} >&2; read go" for number in range(5))
    async with (
        running(tmp_path, *sh(script), open_stdin=True) as runtime,
        runtime.client.attach(stdin=True, stdout=True, stderr=True, close_stdin=False) as session,
    ):
        assert session.stdin is not None
        await runtime.client.start()
        pieces = []
        async for piece in session.output():
            pieces.append(piece)
            await session.stdin.write(b"go\n")
        assert pieces == [
            piece for number in range(5) for piece in (("stdout", b"o%d\n" % number), ("stderr", b"e%d\n" % number))
        ]


async def test_input_reaches_the_process_and_its_end_too(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    async with (
        running(tmp_path, "cat", open_stdin=True) as runtime,
        runtime.client.attach(stdin=True, stdout=True, stderr=False, close_stdin=True) as session,
    ):
        assert session.stdin is not None

        async def send(session: Session) -> None:
            assert session.stdin is not None
            await session.stdin.write(data)
            session.stdin.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(session))  # before the start: nothing is lost
            await runtime.client.start()
            assert (await collect(session))["stdout"] == data
        assert (await runtime.client.wait()).code == 0
        assert runtime.logged() == data


async def test_input_of_several_clients_reaches_the_process_and_it_stays_open(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("read a; read b; echo $a $b"), open_stdin=True) as runtime:
        await runtime.client.start()
        for line in (b"one\n", b"two\n"):
            async with runtime.client.attach(stdin=True, stdout=False, stderr=False, close_stdin=False) as session:
                assert session.stdin is not None
                await session.stdin.write(line)
        assert (await runtime.client.wait()).code == 0
        assert runtime.logged() == b"one two\n"


async def test_input_that_nobody_takes_is_refused(tmp_path: Path) -> None:
    async with (
        running(tmp_path, "sleep", "60") as runtime,
        runtime.client.attach(stdin=True, stdout=False, stderr=False, close_stdin=False) as session,
    ):
        await runtime.client.start()
        assert session.stdin is not None
        with pytest.raises(StreamStopped):
            await session.stdin.write(bytes(10 << 20))


@pytest.mark.parametrize(
    ("command", "error", "code"), [("nosuch", CommandNotFound, 127), ("/etc/passwd", CommandNotExecutable, 126)]
)
async def test_a_command_that_does_not_start_is_told_to_whoever_started_it(
    tmp_path: Path, command: str, error: type[AtollError], code: int
) -> None:
    async with (
        running(tmp_path, command) as runtime,
        runtime.client.attach(stdin=False, stdout=True, stderr=True, close_stdin=False) as session,
    ):
        with pytest.raises(error, match=command):
            await runtime.client.start()
        status = await runtime.client.wait()
        assert status.code == code
        assert command in status.reason
        assert status.started_at is None
        assert await collect(session) == {"stdout": b"", "stderr": b""}
    assert runtime.exit_record.code == code


async def test_a_request_that_cannot_be_made_is_told_as_well(tmp_path: Path) -> None:
    async with running(tmp_path, "true", tmpfs={"/x": "nonsense"}) as runtime:
        with pytest.raises(InvalidRequest, match="tmpfs"):
            await runtime.client.start()
        assert (await runtime.client.wait()).code == 128


async def test_a_vm_that_does_not_boot_is_told_to_whoever_starts_the_container(tmp_path: Path) -> None:
    vms = HostVms()
    vms.boot_error = BootFailed("the guest did not come up within 5 s")
    async with running(tmp_path, "true", vms=vms) as runtime:
        with pytest.raises(BootFailed, match="did not come up"):
            await runtime.client.start()
        status = await runtime.client.wait()
        assert (status.code, status.reason) == (125, "the guest did not come up within 5 s")


async def test_a_vm_that_was_killed_is_137_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("echo before; sleep 60")) as runtime:
        await runtime.client.start()
        await runtime.client.wait_log(0)
        runtime.vms.machine.end(-signal.SIGKILL)
        status = await runtime.client.wait()
        assert (status.code, status.reason) == (137, "the virtual machine was killed (signal 9)")
        assert runtime.logged() == b"before\n"


async def test_what_had_arrived_when_the_vm_was_killed_is_logged_and_delivered(tmp_path: Path) -> None:
    async with (
        running(tmp_path, *sh("head -c 700000 /dev/zero; sleep 60")) as runtime,
        runtime.client.attach(stdin=False, stdout=True, stderr=True, close_stdin=False) as session,
    ):
        await runtime.client.start()
        await runtime.vms.machine.guest.sent(700_000)
        assert len(runtime.logged()) < 700_000  # nobody reads: the rest waits in the agent's window
        runtime.vms.machine.end(-signal.SIGKILL)
        assert (await runtime.client.wait()).code == 137
        assert len(runtime.logged()) == 700_000
        assert len((await collect(session))["stdout"]) == 700_000


async def test_execs_that_end_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        for number in range(20):
            process = Process(arguments=("true",))
            async with runtime.client.exec(f"e{number}", process, privileged=False, stdin=True, stdout=True) as session:
                assert await collect(session) == {"stdout": b"", "stderr": b""}
            assert await runtime.client.exec_wait(f"e{number}") == 0


async def test_an_agent_that_breaks_the_protocol_ends_its_vm_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        runtime.vms.machine.guest.connection.send(b"\xff" * 9)
        status = await runtime.client.wait()
        assert status.code == 137
        assert "unknown kind 255" in status.reason


async def test_stop_signals_and_then_kills(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("trap 'echo got it' TERM; echo up; while :; do sleep 0.05; done")) as runtime:
        await runtime.client.start()
        await runtime.client.wait_log(0)
        status = await runtime.client.stop(signal.SIGTERM, 0.5)
        assert (status.code, status.stopped_by_user, status.reason) == (137, True, "")
        assert runtime.logged() == b"up\ngot it\n"


async def test_stop_ends_with_the_signal_when_the_process_heeds_it(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")) as runtime:
        await runtime.client.start()
        await runtime.client.wait_log(0)
        assert (await runtime.client.stop(signal.SIGTERM, None)).code == 3


async def test_a_signal_reaches_the_process(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done")) as runtime:
        await runtime.client.start()
        await runtime.client.wait_log(0)
        await runtime.client.signal("init", signal.SIGUSR1)
        status = await runtime.client.wait()
        assert (status.code, status.stopped_by_user) == (5, False)


async def test_a_paused_container_is_resumed_to_be_stopped(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        client = runtime.client
        await client.start()
        await client.pause()
        assert (await client.state()).state is ContainerState.PAUSED
        assert runtime.vms.machine.is_paused
        with pytest.raises(Conflict, match="only a running one can be paused"):
            await client.pause()
        with pytest.raises(Conflict, match="paused"):
            await client.processes()
        with pytest.raises(Conflict, match="paused"):
            await client.signal("init", signal.SIGUSR1)
        await client.resume()
        with pytest.raises(Conflict, match="not paused"):
            await client.resume()
        await client.pause()
        assert (await client.stop(signal.SIGTERM, 5)).code == 143
        assert not runtime.vms.machine.is_paused


async def test_a_stop_that_meets_a_pause_wins(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime, asyncio.TaskGroup() as tasks:
        await runtime.client.start()
        tasks.create_task(expect_conflict(runtime.client))
        assert (await runtime.client.stop(signal.SIGTERM, 5)).code == 143
        assert not runtime.vms.machine.is_paused


async def expect_conflict(client: RuntimeClient) -> None:
    with suppress(Conflict):
        await client.pause()


async def test_a_guest_that_does_not_carry_out_sigkill_loses_its_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.runtime.container._AFTER_SIGKILL_S", 0.05)
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        monkeypatch.setattr(runtime.vms.machine.guest, "signal", lambda *_: None)
        status = await runtime.client.stop(signal.SIGTERM, 0.05)
        assert (status.code, status.reason) == (137, "the guest did not carry out SIGKILL, so its VM was ended")


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async with running(tmp_path, "true") as runtime:
        assert stat.S_IMODE((runtime.run_dir / "runtime.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime.run_dir.stat().st_mode) == 0o700


async def test_a_container_starts_once(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        state = await runtime.client.start()
        assert (state.state, state.pid) == (ContainerState.RUNNING, runtime.vms.machine.pid)
        with pytest.raises(NotModified):
            await runtime.client.start()


async def started_waiting(runtime: RuntimeUnderTest) -> "asyncio.Future[RuntimeState]":
    starting = asyncio.ensure_future(runtime.client.start(waits=True))
    while (await runtime.client.state()).state is ContainerState.CREATED:
        pass
    return starting


@pytest.mark.parametrize("is_up", [True, False])
async def test_a_start_that_waits_begins_when_it_may_proceed(tmp_path: Path, is_up: bool) -> None:
    began = tmp_path / "began"
    async with running(tmp_path, "touch", str(began)) as runtime:
        if is_up:
            await runtime.vms.booted.wait()
        starting = await started_waiting(runtime)
        if is_up:
            await runtime.vms.machine.guest.has_start.wait()
        assert not began.exists()
        await runtime.client.proceed()
        await starting
        assert (await runtime.client.wait()).code == 0
        assert began.exists()


async def test_a_start_that_waits_is_stopped_before_it_began(tmp_path: Path) -> None:
    async with running(tmp_path, "true") as runtime:
        await runtime.vms.booted.wait()
        starting = await started_waiting(runtime)
        assert (await runtime.client.stop(signal.SIGTERM, 10)).code == 137
        with pytest.raises(Conflict, match="before it had started"):
            await starting


async def test_what_needs_a_process_is_refused_without_one(tmp_path: Path) -> None:
    async with running(tmp_path, "true") as runtime:
        await runtime.vms.booted.wait()
        for asked in (runtime.client.processes(), runtime.client.signal("init", 15), runtime.client.pause()):
            with pytest.raises(Conflict):
                await asked


async def test_a_stop_before_the_start_ends_the_runtime(tmp_path: Path) -> None:
    async with running(tmp_path, "true") as runtime:
        status = await runtime.client.stop(signal.SIGTERM, 10)
        assert (status.code, status.started_at) == (137, None)


async def test_an_exec_has_streams_and_an_exit_code_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        process = Process(arguments=sh("cat; echo $MORE >&2; exit 9"), environment=("MORE=things",))
        async with runtime.client.exec("e1", process, privileged=False, stdin=True, stdout=True) as session:
            assert session.stdin is not None
            await session.stdin.write(b"hello\n")
            session.stdin.end()
            assert await collect(session) == {"stdout": b"hello\n", "stderr": b"things\n"}
            assert await runtime.client.exec_wait("e1") == 9
        assert runtime.logged() == b""
        with pytest.raises(NotFound):
            await runtime.client.exec_wait("e2")


async def test_an_exec_that_does_not_start_raises_and_leaves_the_container_alone(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        with pytest.raises(CommandNotFound):
            async with runtime.client.exec(
                "e1", Process(arguments=("nosuch",)), privileged=False, stdin=True, stdout=True
            ):
                pass
        assert (await runtime.client.state()).state is ContainerState.RUNNING


async def test_execs_end_with_the_container(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        async with (
            runtime.client.exec("e", Process(arguments=("sleep", "60")), privileged=False, stdin=False, stdout=True),
            asyncio.TaskGroup() as tasks,
        ):
            waiting = tasks.create_task(runtime.client.exec_wait("e"))
            await runtime.client.stop(signal.SIGKILL, 0)
            assert await waiting == 137


async def test_a_slow_client_slows_the_process_and_a_gone_one_does_not(tmp_path: Path) -> None:
    script = "import sys\nfor n in range(1 << 30): print(n * 1000, file=sys.stderr, flush=True); print('x' * 999)"
    async with running(tmp_path, sys.executable, "-c", script, log_max_bytes=0) as runtime:
        await runtime.client.start()
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(
                runtime.client.attach(stdin=False, stdout=True, stderr=False, close_stdin=False)
            )
            output = session.output()
            taken = 0
            while taken < 3_000_000:
                taken += len((await anext(output))[1])
                assert int(runtime.logged(stdout=False)[-40:].split()[-1]) < taken + WINDOWS
            await settled(runtime)
            stalled = len(runtime.logged(stderr=False))
            assert stalled < taken + WINDOWS
        while len(runtime.logged(stderr=False)) < stalled + 2 * WINDOWS:  # it goes on without the client
            await runtime.client.wait_log(0)
            await asyncio.sleep(0)


async def settled(runtime: RuntimeUnderTest) -> None:
    """Until no more output gets through: a slow client has stopped everything."""
    size = -1
    while (now := sum(file.stat().st_size for file in (runtime.bundle / "log").iterdir())) != size:
        size = now
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.Event().wait()


async def test_output_that_a_slow_client_has_not_taken_reaches_it_after_the_exit(tmp_path: Path) -> None:
    async with (
        running(tmp_path, "head", "-c", "300000", "/dev/zero") as runtime,
        runtime.client.attach(stdin=False, stdout=True, stderr=True, close_stdin=False) as session,
    ):
        assert (await runtime.run()).code == 0  # nobody has read yet
        assert len((await collect(session))["stdout"]) == 300_000


async def test_an_engine_that_hangs_up_stops_nothing_and_the_next_one_finds_all(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("read line; echo $line; exit 4"), open_stdin=True) as runtime:
        await runtime.client.start()
        async with runtime.client.attach(stdin=False, stdout=True, stderr=True, close_stdin=False):
            await runtime.client.close()
        successor = await RuntimeClient.connect(runtime.run_dir)
        assert (await successor.state()).state is ContainerState.RUNNING
        async with successor.attach(stdin=True, stdout=False, stderr=False, close_stdin=False) as session:
            assert session.stdin is not None
            await session.stdin.write(b"still here\n")
        assert (await successor.wait()).code == 4
        assert runtime.logged() == b"still here\n"
        await successor.wait_gone()


async def test_a_log_is_followed_to_the_containers_end(tmp_path: Path) -> None:
    script = "for n in 1 2 3; do echo $n; read go; done; echo end >&2"
    async with (
        running(tmp_path, *sh(script), open_stdin=True) as runtime,
        runtime.client.attach(stdin=True, stdout=False, stderr=False, close_stdin=False) as session,
    ):
        assert session.stdin is not None
        await runtime.client.start()
        pieces = []
        with LogReader(runtime.bundle / "log") as reader:
            async for piece in reader.follow(runtime.client.wait_log):
                pieces.append((piece.stream, piece.data))
                if len(pieces) < 4:
                    await session.stdin.write(b"go\n")
        assert pieces == [(STDOUT, b"1\n"), (STDOUT, b"2\n"), (STDOUT, b"3\n"), (STDERR, b"end\n")]


async def test_a_runtime_that_nobody_uses_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNUSED_S", 0.01)
    async with running(tmp_path, "true") as runtime:
        await runtime.client.close()
        while not (runtime.bundle / "exit.json").exists():  # noqa: ASYNC110 - nobody is left who could tell
            await asyncio.sleep(0.01)
        assert runtime.exit_record.reason == "nobody started the container"


async def test_a_start_is_possible_again_as_soon_as_the_exit_is_known(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("echo first")) as first:
        await first.run()
        async with running(tmp_path, *sh("echo second")) as second:
            await second.run()
            assert second.logged() == b"first\nsecond\n"


async def test_nonsense_on_the_socket_harms_only_its_sender(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stranger, f"{runtime.spec.run_dir}/runtime.sock")
            await loop.sock_sendall(stranger, b"GET / HTTP/1.1\r\n\r\n")
            while await loop.sock_recv(stranger, 4096):
                pass
        assert (await runtime.client.start()).state is ContainerState.RUNNING


async def test_no_runtime_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no runtime listens"):
        await RuntimeClient.connect(tmp_path)


async def test_the_disks_are_unmounted_only_if_somebody_will_see_them_again(tmp_path: Path) -> None:
    for auto_remove, reason in ((False, "powered off"), (True, "the machine ended")):
        async with running(tmp_path, "true", auto_remove=auto_remove) as runtime:
            await runtime.run()
            await runtime.client.wait_gone()
            assert reason in await runtime.vms.machine.guest.connection.wait_closed()


async def test_the_end_is_known_to_a_client_when_the_runtime_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, *sh("exit 3")) as runtime:
        await runtime.client.start()
        await runtime.client.wait_gone()
        assert (await runtime.client.wait()).code == 3
        assert (await runtime.client.stop(signal.SIGTERM, 0)).code == 3


async def test_a_lost_runtime_is_a_failed_vm_to_its_client(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        await runtime.client.start()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(expect_vm_failed(runtime.client))
            await asyncio.sleep(0)
            await runtime.client.close()
            await waiting
        successor = await RuntimeClient.connect(runtime.run_dir)
        await successor.stop(signal.SIGKILL, 0)
        await successor.wait_gone()


async def expect_vm_failed(client: RuntimeClient) -> None:
    with pytest.raises(VmFailed):
        await client.wait()
