"""The choice between KVM and emulation: a guest must reach its agent, and the answer is kept."""

import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from atoll.errors import VmFailed
from atoll.vmm import Accelerator, MachineSpec, probe
from atoll.vmm.accelerator import kvm_obstacle

HELLO = b"\x01\0\0\0" + bytes(5) + b"\x80"
SPEC = MachineSpec(kernel=Path("/k"), initramfs=Path("/i"), cpus=1, memory_mib=128, accelerator="tcg", qemu="sh")


class TrialMachine:
    """A machine whose guest says one thing at its start, on a real socket."""

    pid = 0
    complaints = "kvm run failed"

    def __init__(self, agent: socket.socket, guest: socket.socket, says: bytes | None) -> None:
        self.agent = self.console = agent
        self._guest = guest
        self._says = says

    async def start(self) -> None:
        if self._says is None:
            self._guest.close()
        else:
            self._guest.sendall(self._says)

    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def quit(self, deadline_s: float = 5.0) -> None: ...
    async def wait(self) -> int:
        return 0


class TrialMonitor:
    """Makes machines whose guests say `says` (nothing and goes: None), or refuses with `error`."""

    def __init__(self, says: bytes | None = HELLO, error: VmFailed | None = None) -> None:
        self.made: list[MachineSpec] = []
        self._says = says
        self._error = error

    @asynccontextmanager
    async def create(self, spec: MachineSpec) -> AsyncIterator[TrialMachine]:
        self.made.append(spec)
        if self._error is not None:
            raise self._error
        agent, guest = socket.socketpair()
        agent.setblocking(False)
        with agent, guest:
            yield TrialMachine(agent, guest, self._says)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "accelerator.json"


@pytest.fixture(autouse=True)
def _device_that_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.vmm.accelerator.kvm_obstacle", lambda: None)


async def _probe(monitor: TrialMonitor, cache: Path, digest: str = "one", spec: MachineSpec = SPEC) -> Accelerator:
    return await probe(monitor, spec, kernel_digest=digest, cache=cache, deadline_s=0.05)


async def test_a_guest_that_reaches_its_agent_proves_kvm(cache: Path) -> None:
    monitor = TrialMonitor()
    assert (await _probe(monitor, cache)).name == "kvm"
    assert [spec.accelerator for spec in monitor.made] == ["kvm"]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"", r"did not reach its agent within 0\.05 s \(kvm run failed\)"),
        (HELLO[:5], r"did not reach its agent within 0\.05 s"),
        (None, r"ended before its agent spoke \(kvm run failed\)"),
        (b"login: root", r"spoke nonsense"),
    ],
)
async def test_a_guest_that_does_not_is_the_reason_for_emulation(cache: Path, says: bytes | None, reason: str) -> None:
    found = await _probe(TrialMonitor(says), cache)
    assert found.name == "tcg"
    assert re.search(reason, found.reason)


async def test_a_monitor_that_refuses_is_the_reason_for_emulation(cache: Path) -> None:
    found = await _probe(TrialMonitor(error=VmFailed("QEMU did not come up")), cache)
    assert found == Accelerator("tcg", "KVM does not work here: QEMU did not come up")


async def test_the_answer_is_kept_until_the_kernel_changes(cache: Path) -> None:
    monitor = TrialMonitor()
    first = await _probe(monitor, cache)
    assert await _probe(monitor, cache) == first
    assert len(monitor.made) == 1
    await _probe(monitor, cache, digest="two")
    assert len(monitor.made) == 2


async def test_the_answer_holds_for_one_qemu(cache: Path) -> None:
    monitor = TrialMonitor()
    await _probe(monitor, cache)
    await _probe(monitor, cache, spec=replace(SPEC, qemu="cat"))
    assert len(monitor.made) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"key":1}', b"\xff"])
async def test_a_damaged_cache_costs_a_trial(cache: Path, damage: bytes) -> None:
    cache.write_bytes(damage)  # noqa: ASYNC240
    monitor = TrialMonitor()
    assert (await _probe(monitor, cache)).name == "kvm"
    assert len(monitor.made) == 1


async def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    assert (await _probe(TrialMonitor(), tmp_path / "nowhere/accelerator.json")).name == "kvm"


async def test_without_the_device_nothing_is_tried(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.vmm.accelerator.kvm_obstacle", lambda: "there is no /dev/kvm")
    monitor = TrialMonitor()
    assert await _probe(monitor, cache) == Accelerator("tcg", "there is no /dev/kvm")
    assert monitor.made == []


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    assert str(kvm_obstacle(tmp_path / "kvm")).startswith(f"there is no {tmp_path}/kvm: the host has no hardware")


def test_a_device_that_is_not_kvm_is_found_out() -> None:
    assert kvm_obstacle(Path("/dev/null")) == "/dev/null does not answer as KVM does (Inappropriate ioctl for device)"


@pytest.fixture
def somebody() -> Iterator[None]:
    """A user without rights; root gives them up for the length of the test."""
    user = os.geteuid()
    os.seteuid(user or 65_534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("somebody")
def test_a_device_that_may_not_be_opened_says_what_to_do() -> None:
    with TemporaryDirectory() as directory:
        device = Path(directory, "kvm")
        device.touch(mode=0)
        assert "let this user into the group" in str(kvm_obstacle(device))
