"""The engine's templates: which one a VM can be a clone of, building what is missing, forgetting what is not used.

A template is never required: whoever finds none boots cold, and the next start finds one.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic

from atoll.engine.services import Tasks
from atoll.engine.stage import Stages
from atoll.errors import AtollError, OutOfSpace, Unavailable
from atoll.kernel import Kernel
from atoll.model.container import VmSpec
from atoll.settings import Settings
from atoll.template import (
    StoredTemplate,
    Template,
    TemplateKey,
    TemplateStore,
    build_template,
    qemu_identity,
    template_key,
    template_spec,
)
from atoll.vmm import MachineSpec, QemuMonitor

log = logging.getLogger("atoll.engine")

_KEPT = 8
_KEPT_FOR = timedelta(days=7)
_LOADED_S = 600.0
# A template whose building failed is tried again after this time, or when somebody asks for it.
_RETRY_S = 60.0


@dataclass
class _Loaded:
    template: Template
    used_s: float = field(default_factory=monotonic)


class Templates:
    """Templates by key; `tasks` owns what is built in the background."""

    def __init__(self, settings: Settings, store: TemplateStore, stages: Stages, tasks: Tasks) -> None:
        self._settings = settings
        self._store = store
        self._stages = stages
        self._tasks = tasks
        self._loaded: dict[TemplateKey, _Loaded] = {}
        self._under_way: dict[TemplateKey, asyncio.Future[Template]] = {}
        self._failed_s: dict[TemplateKey, float] = {}

    async def find(self, kernel: Kernel, vm: VmSpec) -> tuple[TemplateKey, Template] | None:
        """The template that the VM can be a clone of, read from disk if need be; the caller closes it.

        None when there is none yet: it is being built in the background then, for the next start.
        """
        if not self._settings.templates:
            return None
        try:
            spec = template_spec(vm)
            key = template_key(spec, kernel_digest=kernel.digest, kernel_version=kernel.version)
        except OSError as error:
            log.info("no template: %s", error)
            return None
        if (loaded := self._loaded.get(key)) is not None:
            loaded.used_s = monotonic()
            return key, loaded.template.duplicate()
        if key not in self._under_way:
            if monotonic() - self._failed_s.get(key, -_RETRY_S) < _RETRY_S:
                return None
            self._obtain(key, spec, vm.keeper)
        if not self._store.has(key):
            return None
        try:
            return key, (await asyncio.shield(self._under_way[key])).duplicate()
        except (AtollError, OSError):
            return None

    async def build(self, kernel: Kernel, vm: VmSpec, *, force: bool = False) -> StoredTemplate:
        """Build a template and wait for it; `force`: also when there is one.

        Raises `VmFailed`, `Unavailable`, and `OutOfSpace` when it serves this engine but could not be kept.
        """
        if not self._settings.templates:
            raise Unavailable("templates are switched off: the setting 'templates' says so")
        spec = template_spec(vm)
        key = template_key(spec, kernel_digest=kernel.digest, kernel_version=kernel.version)
        if force:
            self.discard(key, "another one was asked for")
        if key not in self._under_way and (key not in self._loaded or not self._store.has(key)):
            self._obtain(key, spec, vm.keeper)
        if key in self._under_way:
            await asyncio.shield(self._under_way[key])
        if not self._store.has(key):
            raise OutOfSpace("the template was built and serves this engine, but could not be written to the disk")
        return self._store.find(key.id)

    def list(self) -> list[StoredTemplate]:
        """Every template that is on disk."""
        return self._store.list()

    def get(self, prefix: str) -> StoredTemplate:
        """One template by the beginning of its id; raises `NotFound`."""
        return self._store.find(prefix)

    def discard(self, key: TemplateKey, why: str) -> None:
        """Forget a template; clones that run go on."""
        log.info("discarding template %s: %s", key.id[:12], why)
        self._store.remove(key.id)
        self._failed_s.pop(key, None)
        if (loaded := self._loaded.pop(key, None)) is not None:
            loaded.template.close()

    def is_current(self, kernel: Kernel, qemu: str, stored: StoredTemplate) -> bool:
        """Whether containers that start now could use it: made with the same kernel, agent and QEMU."""
        key = stored.record.key
        with suppress(OSError):
            is_same_guest = key.kernel == kernel.digest and key.initramfs.startswith(f"{kernel.initramfs.name} ")
            return is_same_guest and key.qemu == qemu_identity(qemu)
        return False

    def close(self) -> None:
        """Give the memory back."""
        for loaded in self._loaded.values():
            loaded.template.close()
        self._loaded.clear()

    def tidy_up(self) -> None:
        """Let go of templates that are not used: from memory after minutes, from the disk after days."""
        now_s = monotonic()
        for key, loaded in list(self._loaded.items()):
            if now_s - loaded.used_s > _LOADED_S and self._store.has(key):
                del self._loaded[key]
                loaded.template.close()
        for number, stored in enumerate(self._store.list()):
            is_old = datetime.now(UTC) - stored.last_used_at > _KEPT_FOR
            if (is_old or number >= _KEPT) and stored.record.key not in self._loaded:
                self.discard(stored.record.key, "it is not used")

    def _obtain(self, key: TemplateKey, spec: MachineSpec, keeper: str) -> None:
        """Have the template read from disk, or else built; starts that come at once wait for one."""
        future = self._tasks.begin(self._load_or_build(key, spec, keeper), f"template {key.id[:12]}")
        self._under_way[key] = future

        def done(finished: "asyncio.Future[Template]") -> None:
            del self._under_way[key]
            if not finished.cancelled() and finished.exception() is not None:
                self._failed_s[key] = monotonic()
                log.warning("there is no template for now: %s", finished.exception())

        future.add_done_callback(done)

    async def _load_or_build(self, key: TemplateKey, spec: MachineSpec, keeper: str) -> Template:
        template = await self._load(key)
        if template is None:
            template = await self._build(key, spec, keeper)
        self._loaded[key] = _Loaded(template)
        self.tidy_up()
        return template

    async def _load(self, key: TemplateKey) -> Template | None:
        if not self._store.has(key):
            return None
        try:
            return await asyncio.to_thread(self._store.load, key)
        except (AtollError, OSError) as error:
            self.discard(key, str(error))
            return None

    async def _build(self, key: TemplateKey, spec: MachineSpec, keeper: str) -> Template:
        try:
            async with self._stages.stage() as stage:
                timeout_s = self._settings.boot_timeout_s
                template = await build_template(QemuMonitor(), spec, stage, timeout_s, keeper)
        except OSError as error:
            raise Unavailable(f"a template cannot be built: {error}") from error
        try:
            await asyncio.to_thread(self._store.keep, key, template)
        except (AtollError, OSError) as error:
            # It serves this engine all the same.
            log.warning("template %s is not kept: %s", key.id[:12], error)
        except BaseException:
            template.close()
            raise
        log.info("template %s is ready (%d CPUs, %d MiB)", key.id[:12], key.cpus, key.memory_mib)
        return template
