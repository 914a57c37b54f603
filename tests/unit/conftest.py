"""Fixtures of tests that pull and push: `registry` on the address `host`, and a `store` that is impatient with it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.rude_registry import RudeRegistry, open_store, serve

from atoll.image import ContentStore


@pytest.fixture
def registry() -> RudeRegistry:
    """A registry whose answers may be replaced."""
    return RudeRegistry()


@pytest.fixture
async def host(registry: RudeRegistry) -> AsyncIterator[str]:
    """Where it is served."""
    async with AsyncExitStack() as stack:
        yield await serve(registry.answer, stack)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    """A content store of this test's own."""
    return open_store(tmp_path)
