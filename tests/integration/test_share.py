"""Host directories and files in a container: what one side writes the other sees, and nothing but that."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.bundled import Container, Guest, bundled_container, make_guest
from harness.kernel import UnpackedKernel
from harness.runtime import sh

from atoll.model.container import Export
from atoll.runtime.spawner import Spawner

NewContainer = Callable[..., Awaitable[Container]]


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


async def test_both_sides_see_what_the_other_writes(new_container: NewContainer, shown: Path) -> None:
    (shown / "from-host").write_text("host\n")
    container = await new_container(
        "cat /data/from-host; echo guest > /data/from-guest", Export(path=str(shown), target="/data")
    )
    assert (await container.run()).code == 0
    assert container.logged() == b"host\n"
    assert (shown / "from-guest").read_text() == "guest\n"
