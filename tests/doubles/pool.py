"""What a pool is made of, without VMs: a spawner whose spares live in memory, templates, stages."""

import asyncio
from pathlib import Path

import msgspec

from atoll.errors import AtollError
from atoll.kernel import Kernel
from atoll.model.container import SpareSpec, VmSpec
from atoll.template import Stage, TemplateKey, template_spec
from atoll.vmm import SavedMachine


class MemorySpare:
    """A spare that waits to be claimed, and the engine's connection to it."""

    def __init__(self, spawner: "MemorySpawner", spec: SpareSpec, template: SavedMachine) -> None:
        self.spec = spec
        self.template = template
        self.is_connected = True
        self.claimed: Path | None = None
        self.is_closed = False
        self._spawner = spawner

    async def claim(self, config: Path) -> None:
        """Be a container's, or fail as the test wants."""
        if self._spawner.claim_errors:
            raise self._spawner.claim_errors.pop(0)
        self.claimed = config

    def kill(self) -> None:
        """The end."""
        self.is_connected = False

    async def wait_gone(self) -> None:
        """Only who was killed goes."""
        assert not self.is_connected, "a spare that nobody has killed does not go"

    async def close(self) -> None:
        """The connection ends."""
        self.is_closed = True


class MemorySpawner:
    """Makes `MemorySpare`s and connects to them; errors are what the test wants to happen."""

    def __init__(self) -> None:
        self.spares: list[MemorySpare] = []
        self.asked = 0
        self.spawn_error: AtollError | OSError | None = None
        self.claim_errors: list[AtollError] = []
        self.is_spawning = asyncio.Event()
        self.may_spawn = asyncio.Event()
        self.may_spawn.set()

    @property
    def alive(self) -> list[MemorySpare]:
        """Those that nobody has killed."""
        return [spare for spare in self.spares if spare.is_connected]

    async def spawn(
        self, config: Path, template: SavedMachine, *, is_spare: bool = False, deadline_s: float = 30.0
    ) -> int:
        """As `Spawner.spawn`."""
        assert is_spare
        self.asked += 1
        spec = _read(config)
        assert Path(spec.stage_image).parent == config.parent
        self.is_spawning.set()
        await self.may_spawn.wait()
        if self.spawn_error is not None:
            raise self.spawn_error
        _listen(Path(spec.run_dir))
        self.spares.append(MemorySpare(self, spec, template))
        return 4242

    async def connect(self, run_dir: Path) -> MemorySpare:
        """As `RuntimeClient.connect`."""
        return next(spare for spare in self.spares if spare.spec.run_dir == str(run_dir))


def _read(config: Path) -> SpareSpec:
    return msgspec.json.decode(config.read_bytes(), type=SpareSpec)


def _listen(run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "runtime.sock").touch()


class MemoryStages:
    """Stages of empty files."""

    async def build(self, directory: Path) -> Stage:
        """As `Stages.build`."""
        for name in ("image", "writable"):
            (directory / name).touch()
        return Stage(directory / "image", directory / "writable")


class MemoryTemplate:
    """A template that must be closed."""

    def __init__(self, templates: "MemoryTemplates", number: int) -> None:
        self.saved = SavedMachine(number, number)
        self._templates = templates
        templates.opened.add(number)

    def close(self) -> None:
        """Once."""
        self._templates.opened.remove(self.saved.memory)


class MemoryTemplates:
    """A template for every VM; `kernel` is part of their key."""

    def __init__(self) -> None:
        self.kernel = "first"
        self.has_any = True
        self.found = 0
        self.opened: set[int] = set()
        self.discarded: list[tuple[TemplateKey, str]] = []

    def key(self, vm: VmSpec) -> TemplateKey:
        """The key of the template that a VM can be a clone of."""
        return TemplateKey(
            kernel=self.kernel, kernel_version="6.1", initramfs="", atoll_version="", qemu="", machine="",
            accelerator="tcg", host="", cpus=vm.cpus, memory_mib=template_spec(vm).memory_mib,
        )  # fmt: skip

    async def find(self, kernel: Kernel, vm: VmSpec) -> tuple[TemplateKey, MemoryTemplate] | None:
        """As `Templates.find`."""
        self.found += 1
        return (self.key(vm), MemoryTemplate(self, self.found)) if self.has_any else None

    def discard(self, key: TemplateKey, why: str) -> None:
        """Remember it."""
        self.discarded.append((key, why))
