"""Host directories and files in a container: what one side writes the other sees, and nothing but that."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.bundled import Container, Guest, bundled_container, make_guest
from harness.checkout import CHECKOUT, program
from harness.engine import EngineUnderTest
from harness.kernel import UnpackedKernel
from harness.runtime import sh
from harness.starts import start_kind, wait_for_pool

from atoll.errors import NotFound, StartFailed
from atoll.model.container import Export
from atoll.runtime.client import RuntimeClient
from atoll.runtime.spawner import Spawner

NewContainer = Callable[..., Awaitable[Container]]
EngineWith = Callable[[str], EngineUnderTest]
SMALL_FILES = 300
BIG_MIB = 24


@pytest.fixture(scope="module")
def guest(kernel: UnpackedKernel, busybox_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return make_guest(kernel, busybox_tar, tmp_path_factory.mktemp("guest"))


@pytest.fixture
async def new_container(guest: Guest, tmp_path: Path) -> AsyncIterator[NewContainer]:
    """Makes containers that run a script and see what is exported."""
    async with AsyncExitStack() as stack:
        spawner = await stack.enter_async_context(Spawner())

        async def new(script: str, *exports: Export, **config: object) -> Container:
            return await stack.enter_async_context(
                bundled_container(guest, spawner, tmp_path, sh(script), None, config, exports)
            )

        yield new


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A directory of the host."""
    directory = tmp_path / "shown"
    directory.mkdir()
    return directory


@pytest.fixture
def data(shown: Path) -> Export:
    """That directory as /data."""
    return Export(path=str(shown), target="/data")


@pytest.fixture
def file_calls(shown: Path) -> str:
    """A program in that directory which makes system calls that a shell has no words for."""
    source = CHECKOUT / "tests" / "harness" / "file_calls.c"
    subprocess.run([program("cc"), "-static", "-O2", "-o", shown / "file_calls", source], check=True)
    return "/data/file_calls"


async def test_both_sides_see_what_the_other_writes(new_container: NewContainer, shown: Path, data: Export) -> None:
    (shown / "word").write_text("one\n")
    script = "cat /data/word; echo seen > /data/reply; while ! [ -e /data/go ]; do :; done; cat /data/word"
    container = await new_container(script, data)
    await container.client.start()
    await until(lambda: (shown / "reply").exists())
    (shown / "word").write_text("another, which is longer\n")
    (shown / "go").touch()
    assert (await container.client.wait()).code == 0
    assert container.logged() == b"one\nanother, which is longer\n"
    assert (shown / "reply").read_text() == "seen\n"


async def test_files_belong_to_whom_they_belong_on_the_host(
    new_container: NewContainer, shown: Path, data: Export
) -> None:
    os.chmod(shown, 0o777)  # noqa: PTH101  # nothing here waits
    (shown / "of-host").touch()
    os.chown(shown / "of-host", 4321, 1234)
    (shown / "secret").touch(mode=0o600)
    script = "stat -c '%u %g' /data/of-host; id -u > /data/made; mkdir /data/dir; cat /data/secret"
    container = await new_container(script, data, user="1000:2000")
    assert (await container.run()).code == 1
    assert container.logged(stderr=False) == b"4321 1234\n"
    assert b"Permission denied" in container.logged(stdout=False)
    for name in ("made", "dir"):
        status = (shown / name).stat()
        assert (status.st_uid, status.st_gid) == (1000, 2000)


async def test_a_file_is_shown_without_its_neighbours(new_container: NewContainer, shown: Path) -> None:
    (shown / "one").write_text("one\n")
    (shown / "other").write_text("other\n")
    exports = [Export(path=str(shown / "one"), target=target) for target in ("/etc/hosts", "/new/place/one")]
    script = "cat /etc/hosts /new/place/one; echo more >> /new/place/one; ls /new/place; ls -d /etc/group"
    container = await new_container(script, *exports)
    assert (await container.run()).code == 0
    assert container.logged() == b"one\none\none\n/etc/group\n"
    assert (shown / "one").read_text() == "one\nmore\n"


async def test_files_that_say_they_are_empty_are_read_all_the_same(new_container: NewContainer) -> None:
    container = await new_container("cat /host/ostype", Export(path="/proc/sys/kernel", target="/host", read_only=True))
    assert (await container.run()).code == 0
    assert container.logged() == b"Linux\n"


async def test_what_is_read_only_stays_so_whatever_root_does(new_container: NewContainer, shown: Path) -> None:
    (shown / "file").write_text("kept\n")
    script = "rm /data/file; mount -o remount,rw,bind /data; rm /data/file; echo x > /data/file; cat /data/file"
    container = await new_container(script, Export(path=str(shown), target="/data", read_only=True), privileged=True)
    assert (await container.run()).code == 0
    assert container.logged(stderr=False) == b"kept\n"
    assert container.logged(stdout=False).count(b"Read-only file system") == 3
    assert (shown / "file").read_text() == "kept\n"


async def test_links_lead_to_the_containers_own_files(
    new_container: NewContainer, shown: Path, data: Export, tmp_path: Path
) -> None:
    (tmp_path / "canary").write_text("secret\n")
    (shown / "absolute").symlink_to(tmp_path / "canary")
    (shown / "relative").symlink_to("../canary")
    script = (
        "cat /data/absolute /data/relative; ln -s /etc/hostname /data/own; cat /data/own; "
        "ln /etc/hostname /data/hard || ls -a /data/.. | grep -c canary"
    )
    container = await new_container(script, data)
    await container.run()
    assert container.logged(stderr=False) == b"reef\n0\n"
    assert not (shown / "hard").exists()


async def test_a_guest_that_swaps_directories_and_links_stays_inside(
    new_container: NewContainer, shown: Path, data: Export, tmp_path: Path
) -> None:
    """The container's own kernel follows the links: what it finds there is the container's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("secret\n")
    (shown / "real").mkdir()
    (shown / "real" / "canary").write_text("inside\n")
    (shown / "link").symlink_to(outside)
    script = (
        "cd /data; mv real swap;"
        "(while [ -e running ]; do mv swap real; mv link swap; mv swap link; mv real swap; done)&"
        "for i in $(seq 60); do cat swap/canary; echo made > swap/made; done 2>/dev/null | sort -u; rm running; wait"
    )
    (shown / "running").touch()
    container = await new_container(script, data)
    assert (await container.run()).code == 0
    assert container.logged(stderr=False) == b"inside\n"
    assert [path.name for path in outside.iterdir()] == ["canary"]


async def test_files_do_what_files_do(new_container: NewContainer, data: Export, file_calls: str) -> None:
    container = await new_container(f"mkdir /data/work; {file_calls} /data/work", data)
    status = await container.run()
    lines = container.logged().decode().splitlines()
    assert (status.code, [line for line in lines if not line.startswith("ok ")]) == (0, [])
    assert len(lines) == 11


@pytest.mark.parametrize("end", ["", "; kill -9 $$"])
async def test_what_was_written_through_a_map_is_on_the_host_in_the_end(
    new_container: NewContainer, shown: Path, data: Export, file_calls: str, end: str
) -> None:
    container = await new_container(f"{file_calls} --map /data/mapped all-of-it{end}", data, auto_remove=True)
    await container.run()
    await container.client.wait_gone()
    assert (shown / "mapped").read_text() == "all-of-it"


async def test_large_files_and_many_small_ones_are_exact(
    new_container: NewContainer, shown: Path, data: Export
) -> None:
    content = os.urandom(BIG_MIB << 20)
    (shown / "big").write_bytes(content)
    for number in range(SMALL_FILES):
        (shown / "many" / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (shown / "many" / str(number % 7) / f"file {number}").write_text(f"{number}\n" * number)
    script = "cp /data/big /data/copy; cp -a /data/many /data/copies; cmp /data/big /data/copy; rm -r /data/many"
    container = await new_container(script, data)
    assert (await container.run()).code == 0
    assert (shown / "copy").read_bytes() == content
    assert not (shown / "many").exists()
    for number in range(SMALL_FILES):
        assert (shown / "copies" / str(number % 7) / f"file {number}").read_text() == f"{number}\n" * number


async def test_two_containers_share_a_directory(new_container: NewContainer, shown: Path, data: Export) -> None:
    script = "for i in $(seq 50); do echo $name-$i >> /data/both; done"
    containers = [await new_container(script, data, environment=(f"name={name}",)) for name in ("one", "two")]
    for container in containers:
        await container.client.start()
    for container in containers:
        assert (await container.client.wait()).code == 0
    expected = {f"{name}-{number}" for name in ("one", "two") for number in range(1, 51)}
    lines = (shown / "both").read_text().splitlines()
    assert (len(lines), set(lines)) == (100, expected)


async def test_a_path_that_is_not_there_is_named(new_container: NewContainer, shown: Path) -> None:
    container = await new_container("true", Export(path=str(shown / "nowhere"), target="/data"))
    with pytest.raises(NotFound, match=f"{shown}/nowhere, which the container is to see, is not there"):
        await container.client.start()


async def test_a_kernel_without_fuse_runs_everything_else(
    kernel: UnpackedKernel, busybox_tar: Path, data: Export, tmp_path: Path
) -> None:
    modules = tmp_path / kernel.modules.name
    shutil.copytree(kernel.modules, modules, copy_function=os.symlink, ignore=shutil.ignore_patterns("fuse.ko*"))
    directory = tmp_path / "guest"
    directory.mkdir()
    poorer = UnpackedKernel(kernel.image, modules)
    guest = await asyncio.to_thread(make_guest, poorer, busybox_tar, directory)
    async with Spawner() as spawner:
        async with bundled_container(guest, spawner, tmp_path, ("true",), None, {}) as container:
            assert (await container.run()).code == 0
        async with bundled_container(guest, spawner, tmp_path, ("true",), None, {}, (data,)) as container:
            with pytest.raises(StartFailed, match="the guest's kernel has no module fuse; choose another"):
                await container.client.start()


async def test_a_container_whose_server_is_killed_is_told_so(
    new_container: NewContainer, shown: Path, data: Export
) -> None:
    container = await new_container("while echo x > /data/file; do :; done; cat /data/file; echo lost", data)
    await container.client.start()
    await until(lambda: (shown / "file").exists())
    os.kill(server_of(container.client), signal.SIGKILL)
    assert (await container.client.wait()).code == 0
    assert container.logged(stderr=False) == b"lost\n"
    assert b"not connected" in container.logged(stdout=False).lower()
    log = (Path(container.spec.bundle) / "runtime.log").read_text()
    assert "the container sees its host directories no longer: its server was killed by signal 9" in log


async def test_the_server_ends_with_the_container_and_with_its_runtime(
    new_container: NewContainer, data: Export
) -> None:
    ended = await new_container("true", data)
    killed = await new_container("sleep 1000", data)
    servers = []
    for container in (ended, killed):
        await until(lambda client=container.client: server_of(client) != 0)
        servers.append(os.pidfd_open(server_of(container.client)))
    await ended.run()
    killed.client.kill()
    for server in servers:
        await readable(server)
        os.close(server)
    shutil.rmtree(killed.spec.run_dir)  # nobody tidies up after a killed runtime but the engine


@pytest.mark.parametrize(
    ("kind", "settings"), [("cold", "templates = false"), ("clone", "pool_size = 0"), ("pool", "pool_size = 1")]
)
def test_they_are_there_however_the_container_is_started(
    engine_with: EngineWith, shown: Path, kind: str, settings: str
) -> None:
    engine = engine_with(settings)
    if kind != "cold":
        engine.atoll.ok("system", "template", "build")
    wait_for_pool(engine)
    mount = f"{shown}:/data"
    assert start_kind(engine, "-v", mount, "busybox", "sh", "-c", "hostname > /data/made") == kind
    assert (shown / "made").read_text().strip()
    name = engine.docker.ok("run", "-d", "-v", f"{mount}:ro", "busybox", "sh", "-c", "cat /data/made; touch /data/x")
    assert engine.docker.ok("wait", name) == "1"
    engine.docker.ok("start", name)
    assert engine.docker.ok("wait", name) == "1"
    assert engine.docker.ok("logs", name).split() == [(shown / "made").read_text().strip()] * 2
    engine.docker.ok("rm", name)


def server_of(runtime: RuntimeClient) -> int:
    """The server's process, 0 when there is none yet."""
    children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children").read_text().split()
    return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "atoll-share\n"), 0)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


async def readable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    async with asyncio.timeout(30):
        await ready.wait()
    loop.remove_reader(descriptor)
