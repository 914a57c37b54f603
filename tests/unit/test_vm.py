"""What a VM's end is said to be, and what is kept of its console."""

import asyncio
import os
import socket

import msgspec
import pytest
from harness.host_guest import HostAgent, HostMachine
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atoll.channel import Connection
from atoll.channel.frames import Kind, encode
from atoll.errors import AgentFailed, BootFailed
from atoll.guest import Agent
from atoll.model.agent import Exited, Hello, Resize
from atoll.runtime.vm import Console, machine_end


async def console_of(printed: bytes) -> Console:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    console = Console(ours)
    with ours:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(console._read())
            await asyncio.to_thread(_print, theirs, printed)
    return console


def _print(sock: socket.socket, data: bytes) -> None:
    with sock:
        sock.sendall(data)


class Complaining(HostMachine):
    @property
    def complaints(self) -> str:
        return "could not allocate memory"


def machine(kind: type[HostMachine] = HostMachine) -> HostMachine:
    ours, theirs = socket.socketpair()
    return kind(HostAgent(theirs), ours, ours)


async def test_a_killed_machine_says_the_signal() -> None:
    assert machine_end(-9, machine(), await console_of(b"x")) == "the virtual machine was killed (signal 9)"


async def test_a_panic_is_found_among_colours_and_carriage_returns() -> None:
    console = await console_of(b"\x1b[1;31m[0.1] Kernel panic - not syncing: VFS: no root\x1b[0m\r\n[0.2] CPU: 0\r\n")
    assert machine_end(0, machine(), console) == "the guest's kernel panicked: VFS: no root"


async def test_other_ends_quote_the_monitor_and_the_last_lines() -> None:
    console = await console_of(b"\r\n".join(b"line %d" % number for number in range(50)))
    reason = machine_end(1, machine(Complaining), console)
    assert reason.startswith("the virtual machine ended by itself (status 1); it said: could not allocate memory; ")
    assert reason.endswith("line 48 | line 49")
    assert "line 40" not in reason


async def test_a_talkative_console_is_kept_within_bounds() -> None:
    console = await console_of(os.urandom(300_000) + b"\nthe end\n")
    assert len(console._tail) <= 65_536
    assert console.quote().endswith("the end")


@given(st.binary(max_size=500))
def test_a_quote_is_printable_whatever_the_guest_prints(printed: bytes) -> None:
    with socket.socket() as unused:
        console = Console(unused)
        console._tail += printed
        assert console.quote().isprintable()
        assert (console.panic or "").isprintable()


async def said_by_an_agent(*events: tuple[str, Resize | Exited]) -> tuple[list[Exited], str]:
    """What the host makes of an agent's events, and why their connection ended."""
    ours, theirs = socket.socketpair()
    server = Connection(theirs, "the host")
    seen: list[Exited] = []

    async def nothing(*_: object) -> None:
        return

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(nothing, HELLO))
        try:
            async with Agent(ours, seen.append) as agent:
                await agent.hello(5)
                for name, event in events:
                    server.send_event(name, event)
                await server.finish(1)
                return seen, await agent.connection.wait_closed()
        finally:
            server.close("the test is over")


HELLO = Hello(protocol=1, agent_version="1", kernel="6.1")


async def test_an_agent_of_another_protocol_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(encode(Kind.HELLO, 0, msgspec.msgpack.encode(replace(HELLO, protocol=99)))))
        async with Agent(ours, lambda _: None) as agent:
            with pytest.raises(BootFailed, match="protocol 99"):
                await agent.hello(5)


async def test_exits_are_told_and_nonsense_breaks_the_channel() -> None:
    good = Exited(id="init", code=255)
    assert await said_by_an_agent(("exited", good)) == ([good], "it closed the channel")
    for event, reason in (
        (("exited", Exited(id="init", code=256)), "exit code 256"),
        (("exited", Exited(id="init", code=-1)), "exit code -1"),
        (("exited", Resize(id="init", rows=1, columns=1)), "cannot be read"),
        (("dance", good), "unknown event 'dance'"),
    ):
        seen, ended = await said_by_an_agent(event, ("exited", good))
        assert reason in ended
        assert seen == []


async def test_a_silent_agent_is_a_failed_boot() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with Agent(ours, lambda _: None) as agent:
            with pytest.raises(BootFailed, match=r"did not come up within 0.01 s"):
                await agent.hello(0.01)


async def test_an_agent_that_ends_is_a_failed_agent() -> None:
    ours, theirs = socket.socketpair()
    async with Agent(ours, lambda _: None) as agent:
        theirs.close()
        with pytest.raises(AgentFailed, match="closed the channel"):
            await agent.hello(5)
