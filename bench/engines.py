"""Engines of a bench's own: each with its root, its settings, the tests' kernel and the image busybox."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from harness.engine import EngineUnderTest, engine_at, engine_root
from harness.images import BUSYBOX_CHANGES, busybox_root
from harness.kernel import unpacked_kernel

IMAGE = "busybox"
_ANSWER_S = 30.0
_LOOK_S = 0.05

Setting = bool | int | str


class Refused(Exception):
    """The engine answered a request with an error; the message is its own."""


@contextmanager
def bench_engine(settings: Mapping[str, Setting], within: tuple[str, ...] = ()) -> Iterator[EngineUnderTest]:
    """A started engine with `settings`; it, its containers and its root are gone when the context ends.

    Its command lines begin with `within`.
    """
    kernel = unpacked_kernel()
    with ExitStack() as stack:
        engine = engine_at(stack.enter_context(engine_root()), within)
        # JSON's words for these are TOML's as well.
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        (engine.root / "atoll.toml").write_text("".join(lines))
        tar = engine.root / "busybox.tar"
        tar.write_bytes(busybox_root())
        engine.start()
        stack.callback(_end, engine)
        engine.atoll.ok("system", "kernel", "set", "--binary", kernel.image, "--modules", kernel.modules)
        changes = [word for change in BUSYBOX_CHANGES for word in ("--change", change)]
        engine.atoll.ok("image", "import", *changes, tar, IMAGE)
        yield engine


def get(engine: EngineUnderTest, path: str) -> Any:
    """What the engine's socket answers to a GET of `path`; raises `Refused`."""
    return json.loads(_ask(engine, "GET", path))


def post(engine: EngineUnderTest, path: str, body: object = None) -> Any:
    """What it answers to a POST of `body`, if anything; raises `Refused`."""
    return json.loads(_ask(engine, "POST", path, json.dumps(body) if body is not None else None) or "null")


def delete(engine: EngineUnderTest, path: str) -> None:
    """Have the engine carry out a DELETE; raises `Refused`."""
    _ask(engine, "DELETE", path)


def _ask(engine: EngineUnderTest, method: str, path: str, body: str | None = None) -> bytes:
    connection = _UnixConnection(os.fspath(engine.socket))
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise Refused(f"{method} {path}: {response.status} {answer.decode(errors='replace').strip()}")
    return answer


def build_template(engine: EngineUnderTest) -> None:
    """Wait until what clones start from is there."""
    engine.atoll.ok("system", "template", "build", timeout_s=300)
    assert engine.atoll.ok("system", "template", "list", "--format", "{{.ID}}"), (
        "a template was built, but none is listed"
    )


def wait_until_pool_is(engine: EngineUnderTest, size: int, deadline_s: float = 120.0) -> None:
    """Wait until `size` clones stand ready, so that none is made while something is measured."""
    deadline = time.monotonic() + deadline_s
    while (ready := get(engine, "/atoll/status")["Pool"]["Ready"]) != size:
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {ready} clones, not {size}, stand ready after {deadline_s:g} s:\n{engine.log()}")
        time.sleep(_LOOK_S)


def _end(engine: EngineUnderTest) -> None:
    if containers := engine.atoll.ok("ps", "-aq").split():
        engine.atoll.ok("rm", "-f", *containers)
    engine.stop()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
