"""Fixtures with which a test reads like a story: `atoll`, `docker`, `container`, `terminal`.

One engine serves the whole session, with a kernel and the images `busybox` and `debian:bookworm`;
`private_engine` gives a test one of its own to kill. At the end of either nothing may be left.
Tests of networks have engines on a host of its own, `outside`, connected to a fake internet.
"""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest, engine_at, engine_root
from harness.images import BUSYBOX_CHANGES, busybox_root, debian_root
from harness.internet import UNPRIVILEGED_UID, Outside, tun_for_everybody
from harness.internet import outside as make_outside
from harness.kernel import UnpackedKernel, unpacked_kernel
from harness.lan import Lan, engine_directory, make_lan
from harness.template_cache import TemplateCache
from harness.terminal import Terminal
from harness.terminal import terminal as open_terminal

StartContainer = Callable[..., Container]
EngineWith = Callable[[str], EngineUnderTest]


@pytest.fixture(scope="session")
def kernel() -> UnpackedKernel:
    """Debian's cloud kernel, unpacked on the host."""
    return unpacked_kernel()


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root filesystem of the image `busybox` as a tar file."""
    tar = tmp_path_factory.mktemp("images") / "busybox.tar"
    tar.write_bytes(busybox_root())
    return tar


@pytest.fixture(scope="session")
def debian_tar() -> Path:
    """The root filesystem of the image `debian:bookworm` as a tar file."""
    return debian_root()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> TemplateCache:
    """What engines of this run have built, those of other workers included."""
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "templates"
    directory.mkdir(exist_ok=True)
    return TemplateCache(directory)


@pytest.fixture(scope="session")
def engine(kernel: UnpackedKernel, busybox_tar: Path, templates: TemplateCache) -> Iterator[EngineUnderTest]:
    """The session's engine, with a kernel and the image `busybox`."""
    with _running_engine(kernel, busybox_tar, templates, settings="") as running:
        yield running


@pytest.fixture(scope="session")
def debian(engine: EngineUnderTest, debian_tar: Path) -> str:
    """The name of the Debian image, which is in the session's engine."""
    engine.atoll.ok("image", "import", "--change", 'CMD ["bash"]', debian_tar, "debian:bookworm")
    return "debian:bookworm"


@pytest.fixture
def private_engine(kernel: UnpackedKernel, busybox_tar: Path, templates: TemplateCache) -> Iterator[EngineUnderTest]:
    """An engine for this test alone, with a kernel, the image `busybox` and no pool."""
    with _running_engine(kernel, busybox_tar, templates) as running:
        yield running


@pytest.fixture
def engine_with(kernel: UnpackedKernel, busybox_tar: Path, templates: TemplateCache) -> Iterator[EngineWith]:
    """Makes engines with settings: `engine_with('pool_size = 0')`; each has a kernel and the image `busybox`."""
    with ExitStack() as stack:

        def make(settings: str) -> EngineUnderTest:
            return stack.enter_context(_running_engine(kernel, busybox_tar, templates, settings))

        yield make


@pytest.fixture
def empty_engine() -> Iterator[EngineUnderTest]:
    """A root for this test alone: no engine runs, no kernel is set, no image is there."""
    with _engine() as stopped:
        yield stopped


@pytest.fixture
def atoll(engine: EngineUnderTest) -> Iterator[Command]:
    """The `atoll` command on the session's engine; the containers that a test leaves are removed."""
    yield engine.atoll
    _remove_containers(engine)


@pytest.fixture
def docker(engine: EngineUnderTest) -> Iterator[Command]:
    """The real `docker` command on the session's engine; the containers that a test leaves are removed."""
    yield engine.docker
    _remove_containers(engine)


@pytest.fixture
def start_container(engine: EngineUnderTest) -> Iterator[StartContainer]:
    """Starts a container: `start_container("--hostname", "reef", "busybox", "sleep", "1000")`."""

    def start(*arguments: str) -> Container:
        return Container(engine.atoll.ok("run", "-d", *arguments), engine)

    yield start
    _remove_containers(engine)


@pytest.fixture
def container(start_container: StartContainer) -> Container:
    """A running busybox container that does nothing."""
    return start_container("busybox", "sleep", "100000")


@pytest.fixture
def terminal(engine: EngineUnderTest, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal of 80 x 24 with a shell in which `atoll` and `docker` talk to the session's engine."""
    programs = Path(engine.atoll.program[0]).parent
    environment = {**engine.atoll.environment, "PATH": f"{programs}:{engine.atoll.environment['PATH']}"}
    with open_terminal(tmp_path, environment) as opened:
        yield opened
    _remove_containers(engine)


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A host in a network namespace of its own, and the fake internet that it is connected to."""
    with make_outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="session", params=["root", "unprivileged"])
def networked(
    request: pytest.FixtureRequest,
    kernel: UnpackedKernel,
    busybox_tar: Path,
    templates: TemplateCache,
    outside: Outside,
) -> Iterator[EngineUnderTest]:
    """An engine on the host of `outside`, once as root and once as a user without any privilege."""
    uid = UNPRIVILEGED_UID if request.param == "unprivileged" else 0
    with tun_for_everybody(), _running_engine(kernel, busybox_tar, templates, outside=outside, uid=uid) as running:
        yield running


@pytest.fixture
def private_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """As `outside`, for one test alone: no other engine is on its host."""
    with make_outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture
def networked_privately(
    kernel: UnpackedKernel, busybox_tar: Path, templates: TemplateCache, private_outside: Outside
) -> Iterator[EngineUnderTest]:
    """An engine on the host of `private_outside`, as root, without a pool."""
    with _running_engine(kernel, busybox_tar, templates, outside=private_outside) as running:
        yield running


@pytest.fixture(scope="module")
def lan_directory() -> Iterator[Path]:
    """An engine's directory, whose keeper these tests share."""
    with engine_directory() as path:
        yield path


@pytest.fixture
async def lan(lan_directory: Path) -> AsyncIterator[Lan]:
    """Three containers on a network."""
    async with make_lan(lan_directory) as made:
        yield made


@contextmanager
def _engine(outside: Outside | None = None, uid: int = 0) -> Iterator[EngineUnderTest]:
    """An engine's root; at the end the engine is stopped if it runs, and nothing may be left."""
    with engine_root(uid) as root, ExitStack() as stack:
        if outside is None:
            engine = engine_at(root)
        else:
            engine = engine_at(root, outside.within(uid), f"/proc/{outside.holder}/net/unix")
            stack.callback(_assert_nothing_left_outside, outside, outside.traces())
        stack.callback(_assert_nothing_left, engine)
        stack.callback(_stop, engine)
        yield engine


@contextmanager
def _running_engine(
    kernel: UnpackedKernel,
    busybox_tar: Path,
    templates: TemplateCache,
    settings: str = "pool_size = 0\n",
    outside: Outside | None = None,
    uid: int = 0,
) -> Iterator[EngineUnderTest]:
    with _engine(outside, uid) as engine:
        (engine.root / "atoll.toml").write_text(settings)
        if "templates = false" not in settings:
            templates.lend(engine, uid)
        engine.start()
        atoll = engine.atoll
        if uid:
            busybox_tar = _readable(busybox_tar, engine.root)
        atoll.ok("system", "kernel", "set", "--binary", kernel.image, "--modules", kernel.modules)
        changes = [flag for change in BUSYBOX_CHANGES for flag in ("--change", change)]
        atoll.ok("image", "import", *changes, busybox_tar, "busybox:latest")
        yield engine
        templates.keep(engine)


def _readable(file: Path, directory: Path) -> Path:
    """A copy for a user who may not pass through the directories of root."""
    copy = Path(shutil.copy(file, directory))
    copy.chmod(0o644)
    return copy


def _remove_containers(engine: EngineUnderTest) -> None:
    if names := engine.atoll.ok("ps", "-aq").split():
        engine.atoll.ok("rm", "-f", *names)


def _stop(engine: EngineUnderTest) -> None:
    """Stop the engine and its containers; one that a test killed is started again to do so."""
    if any(os.scandir(engine.root)):
        engine.atoll.ok("system", "start")
        _remove_containers(engine)
        engine.stop()


def _assert_nothing_left(engine: EngineUnderTest) -> None:
    for process in engine.processes():
        process.wait()
    left = engine.leftovers()
    assert not left, "left behind by the engine:\n" + "\n".join(left) + "\n" + engine.log()[-4000:]


def _assert_nothing_left_outside(outside: Outside, before: list[str]) -> None:
    left = [line for line in outside.traces() if line not in before]
    assert not left, "left behind on the host:\n" + "\n".join(left)
    gone = [line for line in before if line not in outside.traces()]
    assert not gone, "taken from the host:\n" + "\n".join(gone)
    assert not outside.processes(), f"left behind on the host: {outside.processes()}"
