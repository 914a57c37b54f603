"""Commands against an engine that answers what a test wants: templates, timings of a start, the status."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from atoll.cli.program import run

Answer = tuple[int, object]
Run = Callable[..., int]


class Engine:
    """Answers by `METHOD path`; an answer that is bytes is a hijacked connection's output. Notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Any]] = []


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = f"{self.command} {self.path.partition('?')[0]}"
            engine.asked.append((request, json.loads(body) if body else None))
            status, answer = engine.answers.get(request, (404, {"message": f"no such thing: {request}"}))
            if isinstance(answer, bytes):
                self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + answer)
                self.close_connection = True
                return
            content = b"" if answer is None else json.dumps(answer).encode()
            self.wfile.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)

    with ThreadingUnixStreamServer(str(tmp_path / "s"), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield engine
        server.shutdown()
        thread.join()


@pytest.fixture
def atoll(tmp_path: Path) -> Run:
    return lambda *line: run(["-H", f"unix://{tmp_path}/s", *line])


def template(letter: str, **fields: object) -> dict[str, object]:
    return {
        "ID": letter * 64,
        "Kernel": "6.1.0-56-cloud-amd64",
        "Cpus": 2,
        "MemoryMib": 256,
        "Accelerator": "tcg",
        "SizeBytes": 71_300_000,
        "CreatedAt": "2020-01-01T00:00:00.123456789Z",
        "LastUsedAt": None,
        "Current": True,
        "Qemu": "7.2.22",
        **fields,
    }


TIMINGS = {
    "Kind": "clone",
    "Phases": [
        {"Name": "qemu", "StartMs": 1.04, "EndMs": 41.5},
        {"Name": "exec", "StartMs": 130.0, "EndMs": 212.4},
        {"Name": "answer", "StartMs": 212.4, "EndMs": 213.0},
    ],
}
TIMINGS_PAGE = """\
start: clone, 212.4 ms from the request to the first instruction
  qemu         1.0 ms      40.5 ms
  exec       130.0 ms      82.4 ms
  answer     212.4 ms       0.6 ms
"""


def test_templates_are_listed(engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers["GET /atoll/templates"] = (
        200,
        [
            template("a"),
            template("b", Current=False, MemoryMib=2048, Accelerator="kvm"),
        ],
    )
    assert atoll("system", "template", "list") == 0
    header, first, second = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert header == ["TEMPLATE ID", "KERNEL", "CPUS", "MEMORY", "ACCELERATOR", "SIZE", "CREATED", "CURRENT"]
    created = first.pop(6)
    assert created.endswith(" years ago")
    assert first == ["a" * 12, "6.1.0-56-cloud-amd64", "2", "256MiB", "tcg", "71.3MB", "yes"]
    assert second == ["b" * 12, "6.1.0-56-cloud-amd64", "2", "2GiB", "kvm", "71.3MB", created, ""]


def test_template_ids_can_be_had_alone_and_whole(
    engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["GET /atoll/templates"] = 200, [template("a")]
    atoll("system", "template", "ls", "-q")
    atoll("system", "template", "list", "--no-trunc", "--format", "{{.ID}} {{.Qemu}} {{.LastUsedSince}}.")
    assert capsys.readouterr().out == f"{'a' * 12}\n{'a' * 64} 7.2.22 .\n"


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        ([], {"Cpus": None, "Memory": None, "Force": False}),
        (["--cpus", "4", "-m", "512m", "--force"], {"Cpus": 4, "Memory": 512 << 20, "Force": True}),
    ],
)
def test_a_template_that_was_built_is_printed(
    flags: list[str], body: object, engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["POST /atoll/templates"] = 200, template("c")
    assert atoll("system", "template", "build", *flags) == 0
    assert engine.asked == [("POST /atoll/templates", body)]
    assert capsys.readouterr().out == "c" * 64 + "\n"


def test_templates_are_removed_also_after_one_that_is_not_there(
    engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["DELETE /atoll/templates/aa"] = 204, None
    engine.answers["DELETE /atoll/templates/cc"] = 200, {}
    assert atoll("system", "template", "rm", "aa", "b/b", "cc") == 1
    printed = capsys.readouterr()
    assert printed.out == "aa\ncc\n"
    assert printed.err == "Error response from engine: no such thing: DELETE /atoll/templates/b%2Fb\n"


def test_a_template_is_inspected(engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers["GET /atoll/templates/a"] = 200, template("a")
    assert atoll("system", "template", "inspect", "a") == 0
    assert json.loads(capsys.readouterr().out) == [template("a")]
    assert atoll("system", "template", "inspect", "-f", "{{.Cpus}} {{.Accelerator}}", "a", "b") == 1
    printed = capsys.readouterr()
    assert printed.out == "2 tcg\n"
    assert "no such thing" in printed.err


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ({}, []),
        (
            {"Templates": {"Total": 3, "Current": 1}, "Pool": {"Ready": 1, "Size": 2}},
            ["templates:    3 (1 current)", "pool:         1 of 2 ready"],
        ),
    ],
)
def test_the_status_tells_of_templates_where_the_engine_does(
    more: dict[str, object], lines: list[str], engine: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["GET /atoll/status"] = 200, {"Images": 7, **more}
    assert atoll("system", "status") == 0
    _, images, after = capsys.readouterr().out.partition("images:       7\n")
    assert images
    assert after.splitlines() == lines


@pytest.fixture
def startable(engine: Engine) -> Engine:
    """An engine on which a container can be run, which prints `hello` and ends with 3."""
    hello = b"\1\0\0\0\0\0\0\6hello\n"
    engine.answers |= {
        "POST /containers/create": (201, {"Id": "cid", "Warnings": []}),
        "POST /containers/cid/attach": (101, hello),
        "POST /containers/cid/wait": (200, {"StatusCode": 3}),
        "POST /containers/cid/start": (204, None),
        "GET /atoll/containers/cid/timings": (200, TIMINGS),
    }
    return engine


def test_timings_of_a_start_follow_the_output(startable: Engine, atoll: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert atoll("run", "--rm", "--timings", "busybox") == 3
    assert capfd.readouterr() == ("hello\n", TIMINGS_PAGE)
    # Asked for as soon as it has started: with --rm there is nothing to ask about later.
    requests = [request for request, _ in startable.asked]
    assert requests[-2:] == ["POST /containers/cid/start", "GET /atoll/containers/cid/timings"]


def test_timings_of_a_start_in_the_background_are_beside_the_id(
    startable: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert atoll("run", "-d", "--timings", "busybox") == 0
    assert capsys.readouterr() == ("cid\n", TIMINGS_PAGE)


def test_timings_that_are_gone_change_no_exit_code(
    startable: Engine, atoll: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    del startable.answers["GET /atoll/containers/cid/timings"]
    assert atoll("run", "--rm", "--timings", "busybox") == 3
    printed = capfd.readouterr()
    assert printed.out == "hello\n"
    assert printed.err.startswith("the timings of the start are not known: Error response from engine: no such")


def test_timings_are_not_asked_for_without_the_flag(
    startable: Engine, atoll: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert atoll("run", "busybox") == 3
    assert capfd.readouterr() == ("hello\n", "")
    assert not [request for request, _ in startable.asked if "timings" in request]


def test_timings_without_a_first_instruction_say_what_there_is(
    startable: Engine, atoll: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    startable.answers["GET /atoll/containers/cid/timings"] = 200, {"Kind": "cold", "Phases": []}
    atoll("run", "-d", "--timings", "busybox")
    assert capsys.readouterr().err == "start: cold\n"
