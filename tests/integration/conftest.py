"""Fixtures with which a test reads like a story: `atoll`, `docker`, `container`, `terminal`.

One engine serves the whole session, with a kernel and the images `busybox` and `debian:bookworm`;
`private_engine` gives a test one of its own to kill. At the end of either nothing may be left.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest, engine_at, engine_root
from harness.images import BUSYBOX_CHANGES, busybox_root, debian_root
from harness.kernel import UnpackedKernel, unpacked_kernel
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
def engine(kernel: UnpackedKernel, busybox_tar: Path) -> Iterator[EngineUnderTest]:
    """The session's engine, with a kernel and the image `busybox`."""
    with _running_engine(kernel, busybox_tar, settings="") as running:
        yield running


@pytest.fixture(scope="session")
def debian(engine: EngineUnderTest, debian_tar: Path) -> str:
    """The name of the Debian image, which is in the session's engine."""
    engine.atoll.ok("image", "import", "--change", 'CMD ["bash"]', debian_tar, "debian:bookworm")
    return "debian:bookworm"


@pytest.fixture
def private_engine(kernel: UnpackedKernel, busybox_tar: Path) -> Iterator[EngineUnderTest]:
    """An engine for this test alone, with a kernel, the image `busybox` and no pool."""
    with _running_engine(kernel, busybox_tar) as running:
        yield running


@pytest.fixture
def engine_with(kernel: UnpackedKernel, busybox_tar: Path) -> Iterator[EngineWith]:
    """Makes engines with settings: `engine_with('pool_size = 0')`; each has a kernel and the image `busybox`."""
    with ExitStack() as stack:

        def make(settings: str) -> EngineUnderTest:
            return stack.enter_context(_running_engine(kernel, busybox_tar, settings))

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


@contextmanager
def _engine() -> Iterator[EngineUnderTest]:
    """An engine's root; at the end the engine is stopped if it runs, and nothing may be left."""
    with engine_root() as root, ExitStack() as stack:
        engine = engine_at(root)
        stack.callback(_assert_nothing_left, engine)
        stack.callback(_stop, engine)
        yield engine


@contextmanager
def _running_engine(
    kernel: UnpackedKernel, busybox_tar: Path, settings: str = "pool_size = 0\n"
) -> Iterator[EngineUnderTest]:
    with _engine() as engine:
        (engine.root / "atoll.toml").write_text(settings)
        engine.start()
        atoll = engine.atoll
        atoll.ok("system", "kernel", "set", "--binary", kernel.image, "--modules", kernel.modules)
        changes = [flag for change in BUSYBOX_CHANGES for flag in ("--change", change)]
        atoll.ok("image", "import", *changes, busybox_tar, "busybox:latest")
        yield engine


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
