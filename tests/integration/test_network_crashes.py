"""`kill -9` of an engine, a segment or a runtime at any moment: what comes next finds a consistent world."""

import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import build_probe
from harness.internet import Outside
from harness.networking import addresses, make_probe_image, segments

TIMES = 30
SEED = 6
_SETTLE_S = 30.0
_PORT = "8088"


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return build_probe(tmp_path)


@pytest.mark.timeout(900)
def test_kills_at_random_moments_leave_a_consistent_world(
    networked_privately: EngineUnderTest, private_outside: Outside, tmp_path: Path, probe: Path
) -> None:
    engine, chance = networked_privately, random.Random(SEED)
    image = make_probe_image(engine, tmp_path)
    engine.atoll.ok("network", "create", "reef")
    engine.atoll.ok("network", "create", "shore")
    shark = _run(engine, "shark", image, "-p", f"{_PORT}:7", "-p", f"{_PORT}:7/udp", command=("probe", "echo", "7"))
    squid = _run(engine, "squid", image)
    with _coming_and_going(engine, image):
        for turn in range(TIMES):
            time.sleep(chance.uniform(0, 1.5))
            victim = chance.choice(("engine", "segment", "runtime"))
            said = f"turn {turn} (seed {SEED}), {victim} killed"
            if victim == "engine":
                engine.kill()
            elif victim == "segment" and (there := segments(engine)):
                chance.choice(there).kill(signal.SIGKILL)
            elif victim == "runtime":
                chance.choice((shark, squid)).runtime.kill(signal.SIGKILL)
            engine.atoll.ok("system", "start")
            for container in (shark, squid):
                if container.status != "running":
                    container.start()
            _assert_consistent(engine, private_outside, shark, squid, probe, said)
    engine.atoll.ok("rm", "-f", *engine.atoll.ok("ps", "-aq").split())
    engine.atoll.ok("network", "rm", "reef", "shore")


def _run(
    engine: EngineUnderTest, name: str, image: str, *flags: str, command: tuple[str, ...] = ("sleep", "100000")
) -> Container:
    return Container(engine.atoll.ok("run", "-d", "--network", "reef", "--name", name, *flags, image, *command), engine)


@contextlib.contextmanager
def _coming_and_going(engine: EngineUnderTest, image: str) -> Iterator[None]:
    """A container that comes, joins another network, and goes, all the time: no answer of the engine's is asked for."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            for line in (
                ("run", "-d", "--network", "reef", "--name", "crab", image, "sleep", "100000"),
                ("network", "connect", "shore", "crab"),
                ("exec", "crab", "ping", "-c", "1", "-W", "1", "shark"),
                ("network", "disconnect", "shore", "crab"),
                ("rm", "-f", "crab"),
            ):
                engine.atoll(*line)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _assert_consistent(
    engine: EngineUnderTest, outside: Outside, shark: Container, squid: Container, probe: Path, said: str
) -> None:
    """Names, links and ports work, and no two containers have an address in common."""
    ask = outside.on_host(str(probe))
    _eventually(lambda: squid.exec("ping", "-c", "1", "-W", "2", "shark").code == 0, f"{said}: squid reaches shark")
    _eventually(lambda: shark.exec("ping6", "-c", "1", "-W", "2", "squid").code == 0, f"{said}: shark reaches squid")
    _eventually(lambda: ask("ask", "127.0.0.1", _PORT, "ahoy").stdout == "ahoy\n", f"{said}: the port of shark answers")
    taken = [addresses(container, "reef").ipv4 for container in (shark, squid)]
    assert len(set(taken)) == 2, said
    networks = {
        network["Name"]
        for network in map(json.loads, engine.atoll.ok("network", "ls", "--format", "json").splitlines())
    }
    assert networks == {"bridge", "host", "none", "reef", "shore"}, said


def _eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
