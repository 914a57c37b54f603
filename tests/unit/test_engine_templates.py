"""The engine's templates: what it says of one that could be built and not be kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atoll.engine.services import Tasks
from atoll.engine.templates import Templates
from atoll.errors import OutOfSpace
from atoll.kernel import Kernel
from atoll.model.container import VmSpec
from atoll.settings import Settings
from atoll.template import TemplateStore
from atoll.template.template import Template, new_template


class Stages:
    @asynccontextmanager
    async def stage(self) -> AsyncIterator[None]:
        yield None


async def test_build_of_a_template_that_is_not_kept_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernel", "initramfs", "qemu"):
        (tmp_path / name).touch()
    vm = VmSpec(
        kernel=str(tmp_path / "kernel"),
        initramfs=str(tmp_path / "initramfs"),
        qemu=str(tmp_path / "qemu"),
        accelerator="tcg",
        cpus=1,
        memory_mib=256,
        boot_timeout_s=5,
        vm_uid=None,
        run_dir="",
    )
    kernel = Kernel("6.1", tmp_path / "kernel", tmp_path / "initramfs", "sha256:1")

    async def build(*_: object) -> Template:
        return new_template(256)

    def full(*_: object) -> None:
        raise OutOfSpace("no space left for a template on the disk")

    monkeypatch.setattr("atoll.engine.templates.build_template", build)
    store = TemplateStore(tmp_path / "templates")
    monkeypatch.setattr(store, "keep", full)
    async with asyncio.TaskGroup() as group:
        templates = Templates(Settings(), store, Stages(), Tasks(group))
        try:
            assert await templates.find(kernel, vm) is None
            with pytest.raises(OutOfSpace, match="serves this engine"):
                await templates.build(kernel, vm)
        finally:
            templates.close()
