"""A runtime in this process, whose guests are `host_guest`'s: all of it but the VM is real."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from atoll.errors import (
    AtollError,
)
from atoll.model.agent import Extent
from atoll.model.container import BundleSpec, ContainerConfig, DiskFiles, ExitStatus
from atoll.runtime import server
from atoll.runtime.client import RuntimeClient, Session
from atoll.runtime.logs import LogReader
from harness.host_guest import HostVms


class RuntimeUnderTest:
    """One runtime process's worth of code, in this process."""

    def __init__(self, spec: BundleSpec, vms: HostVms, client: RuntimeClient) -> None:
        self.spec = spec
        self.vms = vms
        self.client = client
        self.bundle = Path(spec.bundle)
        self.run_dir = Path(spec.run_dir)

    @property
    def exit_record(self) -> ExitStatus:
        """What it left in the bundle."""
        return msgspec.json.decode((self.bundle / "exit.json").read_bytes(), type=ExitStatus)

    def logged(self, **options: bool) -> bytes:
        """All output in the log, or that of one stream."""
        with LogReader(self.bundle / "log", **options) as reader:
            return b"".join(piece.data for piece in reader.pieces())

    async def run(self) -> ExitStatus:
        """Start, and wait for the end."""
        await self.client.start()
        return await self.client.wait()


@asynccontextmanager
async def running(
    tmp_path: Path, *command: str, vms: HostVms | None = None, **config: object
) -> AsyncIterator[RuntimeUnderTest]:
    """A runtime for `command`; at the end it must have ended by itself or is killed, and must leave nothing."""
    spec = bundle_spec(tmp_path, *command, **config)
    vms = vms or HostVms()
    listening = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(spec, vms.boot, listening.set))
        await listening.wait()
        runtime = RuntimeUnderTest(spec, vms, await RuntimeClient.connect(Path(spec.run_dir)))
        yield runtime
        await take_down(runtime.client, serving)
    assert not runtime.run_dir.exists()


async def take_down(client: RuntimeClient, serving: "asyncio.Task[None]") -> None:
    """Have a runtime end, if it has not."""
    if not serving.done():
        with suppress(AtollError):
            await client.stop(signal.SIGKILL, 0)
        await client.wait_gone()
    await client.close()


def bundle_spec(tmp_path: Path, *command: str, **config: object) -> BundleSpec:
    """A container's bundle, its directory made."""
    bundle, run_dir = tmp_path / "bundle", tmp_path / "run"
    bundle.mkdir(exist_ok=True)
    return BundleSpec(
        id="c" * 64,
        name="box",
        config=ContainerConfig(image="i", image_id="sha256:0", hostname="box", command=command, **config),  # type: ignore[arg-type]  # each test names real fields
        bundle=str(bundle),
        run_dir=str(run_dir),
        kernel="",
        initramfs="",
        image=DiskFiles(path=""),
        layers=(Extent(0, 4096),),
        writable_disk="/writable",
        accelerator="tcg",
        qemu="",
        cpus=1,
        memory_mib=64,
        boot_timeout_s=5,
        vm_uid=None,
        log_max_bytes=0,
        log_max_files=0,
    )


async def collect(session: Session) -> dict[str, bytes]:
    """All output of a session, by stream."""
    output = {"stdout": b"", "stderr": b""}
    async for stream, data in session.output():
        output[stream] += data
    return output


def sh(script: str) -> tuple[str, str, str]:
    """The command that runs a script."""
    return ("sh", "-c", script)
