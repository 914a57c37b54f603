"""The engine is killed, or its disk fills up, in the middle of whatever it does with images: nothing is lost by it."""

import gzip
import hashlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.archives import file, tar
from harness.command import Command
from harness.disks import small_disk
from harness.docker_registry import DockerRegistry, GzipLayer, docker_registry
from harness.engine import EngineUnderTest, engine_at

KILLS = 50
LAYERS = 12
SETTINGS = "pool_size = 0\ntemplates = false\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def layer(name: str, content: bytes) -> GzipLayer:
    root = tar([file(f"{name}/{number}", content) for number in range(4)])
    return GzipLayer(gzip.compress(root, 1, mtime=0), f"sha256:{hashlib.sha256(root).hexdigest()}", len(root))


@dataclass(frozen=True)
class Operation:
    """What is interrupted: a command, and one that makes its work undone before."""

    command: Sequence[str]
    prepare: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sea:
    """An engine, the operations that are interrupted on it, and how long each took when it was not, in seconds."""

    engine: EngineUnderTest
    operations: dict[str, Operation]
    durations_s: dict[str, float]

    @property
    def atoll(self) -> Command:
        return self.engine.atoll

    def prepare(self, name: str) -> None:
        for words in self.operations[name].prepare:
            self.atoll.ok(*words)

    def interrupt(self, name: str, moment_s: float) -> bool:
        """Kill the engine so long after the operation began; whether that was before its end."""
        began = time.monotonic()
        with self.atoll.start(*self.operations[name].command, stdin=subprocess.DEVNULL) as interrupted:
            try:
                interrupted.wait(moment_s)
                self.durations_s[name] = time.monotonic() - began
            except subprocess.TimeoutExpired:
                pass
            self.engine.kill()
            interrupted.communicate()
        return interrupted.returncode != 0


@pytest.fixture
def sea(empty_engine: EngineUnderTest, registry: DockerRegistry, tmp_path: Path) -> Sea:
    """The images `reef`, in a registry and in an archive, and `tide`, which shares half of its layers."""
    randomness = random.Random(0)
    layers = [layer(f"layer{number}", randomness.randbytes(60_000)) for number in range(LAYERS)]
    reef = registry.push("reef", "1", layers)
    tide = registry.push("tide", "1", layers[: LAYERS // 2])
    (empty_engine.root / "atoll.toml").write_text(SETTINGS)
    atoll = empty_engine.atoll
    archive, root = str(tmp_path / "reef.tar"), str(tmp_path / "root.tar")
    atoll.ok("pull", tide)
    atoll.ok("pull", reef)
    atoll.ok("save", "-o", archive, reef)
    Path(root).write_bytes(tar([file("content", randomness.randbytes(2_000_000))]))
    without = ("rmi", "-f", reef)
    operations = {
        "pull": Operation(("pull", reef), [without]),
        "load": Operation(("load", "-i", archive), [without]),
        "import": Operation(("import", root, "kelp:1"), [("rmi", "-f", "kelp:1")]),
        "save": Operation(("save", "-o", str(tmp_path / "again.tar"), reef), [("load", "-i", archive)]),
        "rmi": Operation(("rmi", reef), [("load", "-i", archive)]),
    }
    made = Sea(empty_engine, operations, {})
    for name, operation in operations.items():
        made.prepare(name)
        began = time.monotonic()
        atoll.ok(*operation.command)
        made.durations_s[name] = time.monotonic() - began
    return made


@pytest.mark.timeout(900)
def test_the_store_is_whole_after_the_engine_was_killed_at_any_moment(sea: Sea) -> None:
    seed = time.time_ns()
    randomness = random.Random(seed)
    names = list(sea.operations)
    cut_short = 0
    for number in range(KILLS):
        name = names[number % len(names)]
        # The first part of it is the command's own.
        moment_s = randomness.uniform(0.2, 1) * sea.durations_s[name]
        story = f"kill {number} with the seed {seed}: {name} after {moment_s * 1000:.0f} ms"
        sea.prepare(name)
        cut_short += sea.interrupt(name, moment_s)
        checked = sea.atoll("system", "check")
        assert checked.code == 0, f"{story}\n{checked}"
        assert checked.stdout.endswith("no problem found\n"), f"{story}\n{checked}"
        ingest = [path.name for path in (sea.engine.root / "content/ingest").iterdir()]
        assert ingest == [], f"{story}: {ingest} left"
    # Had most of them been through already, this would prove nothing.
    assert cut_short >= KILLS // 5, f"only {cut_short} of {KILLS} were cut short"
    for name, operation in sea.operations.items():
        sea.prepare(name)
        sea.atoll.ok(*operation.command)
    assert sea.atoll("system", "check").code == 0


Content = Callable[[], bytes]


@pytest.mark.parametrize(
    "content",
    # The blob does not fit; the blob does, what it unpacks to does not.
    [lambda: random.Random(1).randbytes(2_000_000), lambda: b"the same again, " * 125_000],
    ids=["download", "conversion"],
)
def test_a_pull_that_fills_the_disk_leaves_nothing_and_succeeds_when_there_is_room(
    registry: DockerRegistry, tmp_path: Path, content: Content
) -> None:
    name = registry.push("whale", "1", [layer("small", b"s"), layer("large", content())])
    with small_disk(tmp_path, 6 << 10) as disk:
        (disk / "atoll.toml").write_text(SETTINGS)
        engine = engine_at(disk)
        atoll = engine.atoll
        try:
            failed = atoll("pull", name)
            assert failed.code == 1
            assert "no space left on the disk" in failed.stderr
            assert atoll.ok("images", "-q") == ""
            assert atoll.ok("system", "check").endswith("no problem found")
            content_files = [path for path in (disk / "content").rglob("*") if path.is_file()]
            assert content_files == []
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            atoll.ok("pull", name)
            assert atoll.ok("system", "check").endswith("no problem found")
        finally:
            atoll("system", "stop")
            for process in engine.processes():
                process.wait()
