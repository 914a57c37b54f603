"""The life of keeper and segment as processes: what outlives whom, what is counted, who is told what.

VMs are played by the test, which holds the taps' other ends. All of it, and what a segment lets through
(test_segment_filter.py), is done as whoever runs the test, and once more by a user without any privilege.
"""

import asyncio
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from harness.checkout import CHECKOUT
from harness.ethernet import ICMP, IPV4, echo, frame, ipv4
from harness.internet import UNPRIVILEGED_UID, tun_for_everybody
from harness.lan import (
    GATEWAY,
    GATEWAY_MAC,
    NAMES,
    NETWORK_ID,
    A,
    B,
    C,
    Lan,
    engine_directory,
    honest,
    honest6,
    make_lan,
    processes_of,
    spec,
)
from harness.lan_forgeries import forgeries
from harness.process import Process
from msgspec.structs import replace

from atoll.errors import NotFound, Unavailable, VmFailed
from atoll.model.network import Endpoint
from atoll.network.client import start_segment
from atoll.network.keeper_client import start_keeper

AS_NOBODY = ("setpriv", f"--reuid={UNPRIVILEGED_UID}", f"--regid={UNPRIVILEGED_UID}", "--clear-groups", "--")


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """An engine's directory for one test."""
    with engine_directory() as path:
        yield path


async def test_links_outlive_the_segment_and_the_next_one_finds_them(lan: Lan) -> None:
    a, b, c = lan.ports
    await lan.arriving(b, forgeries()["another's IPv4"], by=a)
    segment = Process.of(lan.segment.pid)
    segment.kill(signal.SIGKILL)
    await lan.segment.wait_closed()
    assert await lan.arriving(b, honest(A, B), by=a)

    lan.segment = await start_segment(lan.directory, NETWORK_ID)
    assert lan.segment.pid != segment.pid
    await lan.segment.configure(spec(), lan.endpoints[:2])
    assert await lan.arriving(b, honest(A, B), honest6(A, B), by=a)
    counters = (await lan.segment.counters())["a"]
    assert counters.forged == 1, "what was counted is not lost"
    assert counters.sent_packets > 3
    # The third was removed while nobody was there to hear of it.
    with pytest.raises(OSError, match="Input/output error"):
        c.send(honest(C, B))
    await lan.segment.put(lan.endpoints[2])
    assert await lan.arriving(b, honest(C, B), by=c)


async def test_killed_at_any_moment_the_next_segment_puts_it_right(lan: Lan) -> None:
    a, b, c = lan.ports
    rules = random.Random(9)

    async def come_and_go() -> None:
        with suppress(VmFailed):
            while True:
                for endpoint in lan.endpoints:
                    await lan.segment.remove(endpoint.id)
                    await lan.segment.put(replace(endpoint, tap=""))
                    await lan.segment.plug(endpoint.id, endpoint.tap)

    for _ in range(8):
        moving = asyncio.create_task(come_and_go())
        await asyncio.sleep(rules.uniform(0, 0.12))
        Process.of(lan.segment.pid).kill(signal.SIGKILL)
        await moving
        lan.segment = await start_segment(lan.directory, NETWORK_ID)
        await lan.segment.configure(spec(), lan.endpoints)
        assert await lan.arriving(b, honest(A, B), *forgeries().values(), by=a) == [honest(A, B)]
        assert await lan.arriving(c, honest6(B, C), by=b)


async def test_configuring_again_changes_nothing(lan: Lan) -> None:
    a, b, _ = lan.ports
    for _ in range(3):
        await lan.segment.configure(spec(), lan.endpoints)
    assert await lan.arriving(b, honest(A, B), by=a)
    await lan.segment.configure(spec(mtu=1400, isolated=True), lan.endpoints)
    a.send(honest(A, B))
    b.send(frame(B.mac, GATEWAY_MAC, IPV4, ipv4(B.ipv4, GATEWAY, ICMP, echo(b"answer me"))))
    assert honest(A, B) not in await b.receive_until(lambda data: b"answer me" in data)


async def test_a_container_that_goes_leaves_its_tap_to_the_vm(lan: Lan) -> None:
    a, b, c = lan.ports
    await lan.segment.remove("a")
    assert "a" not in await lan.segment.counters()
    with pytest.raises(OSError, match="Input/output error"):
        a.send(honest(A, B))
    await lan.segment.remove("a")

    other_id = "07e" + NETWORK_ID[3:]
    other = await start_segment(lan.directory, other_id)
    try:
        await other.configure(spec(id=other_id), ())
        await other.put(Endpoint(id="a", mac=A.mac, ipv4=A.ipv4, ipv6=A.ipv6))
        await other.plug("a", a.name)
        a.send(honest(A, B))
        assert honest(A, B) not in (*b.drain(), *c.drain())
        assert (await other.counters())["a"].sent_packets > 0
        await other.remove("a")
    finally:
        await other.stop()
    await lan.segment.put(lan.endpoints[0])
    assert await lan.arriving(b, honest(A, B), by=a)


async def test_a_tap_that_is_not_there_is_said_so(lan: Lan) -> None:
    await lan.segment.put(Endpoint(id="d", mac="02:5e:60:00:00:09", ipv4="203.0.113.9"))
    with pytest.raises(NotFound, match=r"network device at000000\.0 is not there"):
        await lan.segment.plug("d", "at000000.0")
    with pytest.raises(NotFound, match="endpoint nobody is not on this network"):
        await lan.segment.plug("nobody", "at000000.0")
    assert set(await lan.segment.counters()) == set(NAMES)


async def test_counters_are_the_containers(lan: Lan) -> None:
    a, b, _ = lan.ports
    before = await lan.segment.counters()
    data = honest(A, B, bytes(1000))
    for _ in range(10):
        await lan.arriving(b, data, by=a)
    after = await lan.segment.counters()
    assert after["a"].sent_bytes - before["a"].sent_bytes >= 10 * len(data)
    assert after["a"].sent_packets - before["a"].sent_packets == 20
    assert after["b"].received_bytes - before["b"].received_bytes >= 10 * len(data)


async def test_a_trace_is_a_pcap_of_what_goes_over_the_bridge(lan: Lan) -> None:
    a, b, _ = lan.ports
    written = b""
    async with aclosing(lan.segment.trace()) as trace:
        written += await anext(trace)
        assert struct.unpack_from("=IHH", written) == (0xA1B23C4D, 2, 4)
        await lan.arriving(b, honest(A, B, b"traced"), forgeries()["another's MAC"], by=a)
        async with asyncio.timeout(5):
            async for piece in trace:
                written += piece
                if b"marker" in written:
                    break
    assert honest(A, B, b"traced") in written
    assert forgeries()["another's MAC"] not in written
    assert await lan.arriving(b, honest(A, B), by=a)


async def test_a_segment_ends_with_the_last_vm_when_there_is_no_engine(own_directory: Path) -> None:
    keeper = await start_keeper(own_directory)
    segment = await start_segment(own_directory, NETWORK_ID)
    (tap,) = await keeper.taps(1)
    await segment.configure(spec(), ())
    await segment.put(Endpoint(id="a", mac=A.mac, ipv4=A.ipv4, ipv6=A.ipv6))
    await segment.plug("a", tap.name)
    process = Process.of(segment.pid)
    await segment.close()
    await keeper.close()
    await asyncio.sleep(6)
    assert process.is_alive, "it is there for the VM's sake"
    os.close(tap.fd)
    await asyncio.to_thread(process.wait)


async def test_vms_keep_their_network_when_the_keeper_is_killed(own_directory: Path) -> None:
    async with make_lan(own_directory) as lan:
        a, b, c = lan.ports
        Process.of(lan.keeper.pid).kill(signal.SIGKILL)
        assert await lan.arriving(b, honest(A, B), by=a)
        await asyncio.sleep(0.2)
        with pytest.raises(Unavailable, match="keeper of networks was killed"):
            await lan.segment.plug("a", "at000000.0")
        assert await lan.arriving(c, honest(A, C), by=a)
        # With the last VM the segment goes, and the next one has all that it needs.
        for endpoint in lan.endpoints:
            await lan.segment.remove(endpoint.id)
        async with asyncio.timeout(10):
            await lan.segment.wait_closed()
        lan.segment = await start_segment(own_directory, NETWORK_ID)


async def test_many_ask_for_keeper_and_segment_at_once_and_get_the_same(own_directory: Path) -> None:
    segments = await asyncio.gather(*(start_segment(own_directory, NETWORK_ID) for _ in range(5)))
    keepers = await asyncio.gather(*(start_keeper(own_directory) for _ in range(5)))
    assert len({segment.pid for segment in segments}) == 1
    assert len({keeper.pid for keeper in keepers}) == 1
    await segments[0].stop()
    await asyncio.gather(*(keeper.close() for keeper in keepers))


async def test_a_keeper_ends_with_whoever_takes_leave_unless_somebody_needs_it(own_directory: Path) -> None:
    async with make_lan(own_directory) as lan:
        a, b, _ = lan.ports
        process = Process.of(lan.keeper.pid)
        await lan.keeper.leave()
        await lan.keeper.close()
        assert await lan.arriving(b, honest(A, B), by=a)
        async with await start_keeper(own_directory) as again:
            assert again.pid == process.pid
    keeper = await start_keeper(own_directory)
    process = Process.of(keeper.pid)
    await keeper.leave()
    await keeper.close()
    process.wait(timeout_s=4)  # it would stay for 5 seconds otherwise


async def test_a_segment_whose_start_is_called_off_ends(own_directory: Path) -> None:
    async with await start_keeper(own_directory):
        starting = asyncio.ensure_future(start_segment(own_directory, NETWORK_ID))
        async with asyncio.timeout(20):
            found: list[Process] = []
            while not found:
                await asyncio.sleep(0)
                found = [process for process in processes_of(own_directory) if "network.segment" in str(process)]
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        for process in found:
            process.wait(timeout_s=4)  # it would serve for 5 seconds otherwise


async def test_who_waits_for_a_keeper_that_dies_is_told(own_directory: Path) -> None:
    keeper = await start_keeper(own_directory)
    Process.of(keeper.pid).kill(signal.SIGKILL)
    with pytest.raises(Unavailable, match="does not answer"):
        await keeper.taps(1)
    async with await start_keeper(own_directory) as another:
        (tap,) = await another.taps(1)
        os.close(tap.fd)


def test_all_of_it_holds_without_root() -> None:
    with tun_for_everybody():
        run = subprocess.run(
            [
                *AS_NOBODY, *python_for_everybody(),
                "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", CHECKOUT,
                # What takes long holds for both.
                "-k", "not without_root and not at_random and not any_moment and not flood",
                Path(__file__), Path(__file__).with_name("test_segment_filter.py"),
            ],
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )  # fmt: skip
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def python_for_everybody() -> list[str]:
    """An interpreter of our version that other users may run: ours may lie in root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/python{version}"):
        # By way of a shell: setpriv itself still has root's privileges when it executes a program.
        if (
            subprocess.run([*AS_NOBODY, "sh", "-c", f"exec {path} -c ''"], capture_output=True, check=False).returncode
            == 0
        ):
            return [path]
    pytest.fail(f"no Python {version} may be run by everybody: install Debian's python3")
