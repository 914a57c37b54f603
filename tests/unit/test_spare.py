"""A spare: a runtime that waits with its VM for whatever container comes."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from doubles.machine import AnsweringAgent, RecordingMachine
from harness.host_guest import HostVms
from harness.runtime import RuntimeUnderTest, bundle_spec, collect, running, sh, take_down
from msgspec.structs import replace

from atoll.errors import (
    AgentFailed,
    BootFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    VmFailed,
)
from atoll.model.agent import Exited
from atoll.model.container import BundleSpec, ContainerState, DiskFiles, SpareSpec, VmSpec
from atoll.runtime import server
from atoll.runtime.bootstrap import own_bundle
from atoll.runtime.client import RuntimeClient
from atoll.runtime.spare import Spare
from atoll.template import Exits
from atoll.vmm import DiskSource, SavedMachine


class Waiting:
    """A spare that waits for a container, and the engine that may make it one's."""

    def __init__(self, tmp_path: Path, spec: SpareSpec, client: RuntimeClient, vms: HostVms) -> None:
        self.tmp_path = tmp_path
        self.spec = spec
        self.client = client
        self.vms = vms
        self.serving: asyncio.Task[None]

    def bundle(self, *command: str, **config: object) -> BundleSpec:
        """As the engine does before a claim: the bundle is written, the run directory gets the container's name."""
        spec = bundle_spec(self.tmp_path, *command, **config)
        (self.tmp_path / "config.json").write_bytes(msgspec.json.encode(spec))
        Path(self.spec.run_dir).rename(spec.run_dir)
        return spec

    async def claim(self, *command: str, **config: object) -> RuntimeUnderTest:
        spec = self.bundle(*command, **config)
        await self.client.claim(self.tmp_path / "config.json")
        return RuntimeUnderTest(spec, self.vms, self.client)


def spare_spec(like: VmSpec, run_dir: Path) -> SpareSpec:
    vm = {name: getattr(like, name) for name in VmSpec.__struct_fields__} | {"run_dir": str(run_dir)}
    return SpareSpec(**vm, name="spare", stage_image="", stage_writable="")


@asynccontextmanager
async def waiting(tmp_path: Path) -> AsyncIterator[Waiting]:
    """A spare without a container; at the end it is gone, with its run directory under whatever name."""
    spec = spare_spec(bundle_spec(tmp_path), tmp_path / "spare")
    vms, listening = HostVms(), asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve_spare(spec, vms.boot, listening.set))
        await listening.wait()
        client = await RuntimeClient.connect(Path(spec.run_dir))
        spare = Waiting(tmp_path, spec, client, vms)
        spare.serving = serving
        yield spare
        if vms.booted.is_set():
            await take_down(client, serving)
        await client.close()
    assert names(tmp_path) <= {"bundle", "config.json"}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_claimed_spare_runs_the_container_on_the_connection_that_claimed_it(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        runtime = await spare.claim(*sh("echo out; exit 7"))
        assert runtime.run_dir.exists()
        async with spare.client.attach(stdin=False, stdout=True, stderr=True, close_stdin=False) as session:
            assert (await runtime.run()).code == 7
            assert (await collect(session))["stdout"] == b"out\n"
        assert runtime.exit_record.code == 7
        assert runtime.logged() == b"out\n"
        assert not runtime.run_dir.exists()
        await spare.client.wait_gone()


async def test_a_claimed_spare_is_found_under_the_containers_name(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        runtime = await spare.claim("sleep", "60")
        await spare.client.start()
        successor = await RuntimeClient.connect(runtime.run_dir)
        assert (await successor.state()).state is ContainerState.RUNNING
        await successor.close()


async def test_a_spare_is_claimed_once(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        await spare.claim("sleep", "60")
        with pytest.raises(Conflict, match="has its container already"):
            await spare.client.claim(tmp_path / "config.json")
        assert (await spare.client.start()).state is ContainerState.RUNNING


async def test_of_two_claims_at_once_one_is_refused(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        spare.bundle("sleep", "60")
        claims = (spare.client.claim(tmp_path / "config.json") for _ in range(2))
        results = await asyncio.gather(*claims, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), Conflict]
        assert (await spare.client.start()).state is ContainerState.RUNNING


@pytest.mark.parametrize("config", [None, b"", b"{}", b"\xff", b'{"id": 5}', b"[" * 5000])
async def test_a_claim_for_what_is_no_container_is_refused_and_the_next_is_not(
    tmp_path: Path, config: bytes | None
) -> None:
    async with waiting(tmp_path) as spare:
        if config is not None:
            (tmp_path / "config.json").write_bytes(config)
        with pytest.raises(InvalidRequest, match=r"config\.json describes no container"):
            await spare.client.claim(tmp_path / "config.json")
        assert (await (await spare.claim("true")).run()).code == 0


async def test_what_is_asked_before_the_claim_waits_for_it(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare, asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(spare.client.start())
        await spare.claim("sleep", "60")
        assert (await starting).state is ContainerState.RUNNING


async def test_a_spare_ends_when_its_engine_hangs_up_without_a_claim(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        await spare.client.close()
        await spare.serving
        assert names(tmp_path) == {"bundle"}
        assert not spare.vms.booted.is_set()


async def test_a_spare_that_was_claimed_does_not_end_when_its_engine_hangs_up(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        runtime = await spare.claim("sleep", "60")
        await spare.client.start()
        await spare.client.close()
        successor = await RuntimeClient.connect(runtime.run_dir)
        assert (await successor.state()).state is ContainerState.RUNNING
        await successor.stop(signal.SIGKILL, 0)
        await successor.wait_gone()


async def test_a_spare_that_nobody_connects_to_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNCLAIMED_S", 0.01)
    spec = spare_spec(bundle_spec(tmp_path), tmp_path / "spare")
    async with asyncio.timeout(10):
        await server.serve_spare(spec, HostVms().boot, lambda: None)
    assert names(tmp_path) == {"bundle"}


async def test_a_claimed_spare_whose_vm_fails_says_so_as_any_runtime(tmp_path: Path) -> None:
    async with waiting(tmp_path) as spare:
        spare.vms.boot_error = BootFailed("the guest did not come up within 5 s")
        await spare.claim("true")
        with pytest.raises(BootFailed, match="did not come up"):
            await spare.client.start()
        assert (await spare.client.wait()).code == 125
        await spare.client.wait_gone()


@pytest.mark.parametrize(("memory_mib", "grown"), [(64, []), (256, []), (257, [128]), (1024, [768])])
async def test_a_spare_becomes_a_containers_vm_with_its_disks_and_memory(
    tmp_path: Path, memory_mib: int, grown: list[int]
) -> None:
    machine, exits, ended = RecordingMachine(), Exits(), list[Exited]()
    bundle = replace(bundle_spec(tmp_path), memory_mib=memory_mib, image=DiskFiles(path="/image", files={12: "/layer"}))
    async with spare_of(machine, exits, tmp_path).boot(bundle, ended.append) as vm:
        assert machine.asked == [
            ("full priority",),
            *(("grow", mib) for mib in grown),
            ("disks", DiskSource(Path("/image"), "raw", {12: Path("/layer")}), Path("/writable"), None),
        ]
        assert vm.growth_mib == sum(grown)
        assert (vm.report.kind, [phase.name for phase in vm.report.phases]) == ("pool", ["disks"])
        exits(Exited(id="init", code=3))
        assert ended == [Exited(id="init", code=3)]


@pytest.mark.parametrize("part", ["machine", "agent"])
async def test_a_spare_that_cannot_be_used_gives_way_to_a_clone_of_the_same_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    clone = object()

    @asynccontextmanager
    async def boot_vm(
        spec: BundleSpec, _: object, template: SavedMachine, taps: tuple[int, ...]
    ) -> AsyncIterator[object]:
        assert machine.asked[-1] == ("quit",)
        assert (template, taps) == (SavedMachine(3, 4), (5, 6))
        async with own_bundle(spec):  # the spare has let go of it
            yield clone

    monkeypatch.setattr("atoll.runtime.spare.boot_vm", boot_vm)
    machine, agent = RecordingMachine(), AnsweringAgent()
    if part == "machine":
        machine.disk_error = VmFailed("QEMU has ended")
    else:
        agent.error = AgentFailed("the agent did not answer 'ping' within 5 s")
    async with spare_of(machine, Exits(), tmp_path, agent).boot(bundle_spec(tmp_path), lambda _: None) as vm:
        assert vm is clone


async def test_a_missing_disk_is_not_a_spares_fault(tmp_path: Path) -> None:
    machine = RecordingMachine()
    machine.disk_error = NotFound("/image, which the virtual machine needs, is not there")
    with pytest.raises(NotFound, match="/image"):
        async with spare_of(machine, Exits(), tmp_path).boot(bundle_spec(tmp_path), lambda _: None):
            pytest.fail("it has no disk")


def spare_of(machine: RecordingMachine, exits: Exits, tmp_path: Path, agent: AnsweringAgent | None = None) -> Spare:
    spec = spare_spec(bundle_spec(tmp_path), tmp_path / "spare")
    return Spare(spec, SavedMachine(3, 4), (5, 6), machine, agent or AnsweringAgent(), None, exits)  # type: ignore[arg-type]  # doubles


async def test_a_runtime_that_was_made_for_a_container_cannot_be_claimed(tmp_path: Path) -> None:
    async with running(tmp_path, "sleep", "60") as runtime:
        (tmp_path / "config.json").write_bytes(msgspec.json.encode(runtime.spec))
        await runtime.client.start()
        with pytest.raises(Conflict, match="has its container already"):
            await runtime.client.claim(tmp_path / "config.json")
