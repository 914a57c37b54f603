"""The `atoll` command, from outside."""

import hashlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import BUSYBOX_CHANGES


def test_the_guest_runs_a_kernel_of_its_own(atoll: Command) -> None:
    assert atoll.ok("run", "--rm", "busybox", "uname", "-r") != os.uname().release


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("nosuch",), 127),
        (("/etc",), 126),
    ],
)
def test_exit_code_of_the_container_becomes_ours(atoll: Command, command: tuple[str, ...], code: int) -> None:
    assert atoll("run", "--rm", "busybox", *command).code == code
    assert atoll.ok("ps", "-aq") == ""


def test_stdout_and_stderr_are_apart_and_binary_clean(atoll: Command) -> None:
    every_byte = bytes(range(256)) * 10
    done = atoll("run", "--rm", "-i", "busybox", "sh", "-c", "tee /dev/stderr", input=every_byte)
    assert (done.code, done.out, done.err) == (0, every_byte, every_byte)


def test_much_input_arrives_and_its_end_too(atoll: Command) -> None:
    data = os.urandom(1 << 20) * 64
    digest = atoll.ok("run", "--rm", "-i", "busybox", "sha256sum", input=data, timeout_s=300)
    assert digest.split()[0] == hashlib.sha256(data).hexdigest()


def test_run_detached_prints_the_id_and_writes_it_where_asked(atoll: Command, tmp_path: Path) -> None:
    file = tmp_path / "id"
    container = atoll.ok("run", "-d", "--cidfile", file, "busybox", "sleep", "1000")
    assert re.fullmatch("[0-9a-f]{64}", container)
    assert file.read_text() == container
    again = atoll("run", "-d", "--cidfile", file, "busybox", "true")
    assert (again.code, "container ID file found" in again.stderr) == (125, True)


def test_a_container_that_cannot_be_made_leaves_no_id_file(atoll: Command, tmp_path: Path) -> None:
    done = atoll("run", "--cidfile", tmp_path / "id", "--pull", "never", "nosuch:image", "true")
    assert done.code == 125
    assert "o such image: nosuch:image" in done.stderr
    assert not (tmp_path / "id").exists()


def test_variables_come_from_flags_files_and_our_own_environment(atoll: Command, tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_text("# colours\nSKY=blue\nSEA=green\n")
    printed = atoll.with_environment(SAND="white").ok(
        "run", "--rm", "--env-file", file, "-e", "SEA=blue", "-e", "SAND", "busybox", "env"
    )
    assert {"SKY=blue", "SEA=blue", "SAND=white"} <= set(printed.splitlines())


def test_exec_has_the_commands_output_and_exit_code(atoll: Command, container: Container) -> None:
    done = container.exec("sh", "-c", "cat; echo trouble >&2; exit 5", input="question")
    assert (done.code, done.stdout, done.stderr) == (5, "question", "trouble\n")
    assert container.exec("nosuch").code == 127
    assert container.exec("/etc").code == 126
    assert atoll("exec", "nosuch", "true").code == 1


def test_start_attached_ends_with_the_containers_exit_code(atoll: Command) -> None:
    container = atoll.ok("create", "-i", "busybox", "sh", "-c", "cat; exit 6")
    done = atoll("start", "-ai", container, input="hello")
    assert (done.code, done.stdout) == (6, "hello")
    assert atoll.ok("wait", container) == "6"
    assert atoll.ok("logs", container) == "hello"


def test_attach_takes_over_where_the_output_is(atoll: Command) -> None:
    container = atoll.ok("run", "-d", "-i", "busybox", "sh", "-c", "read word; echo said $word; exit 8")
    done = atoll("attach", container, input="reef\n")
    assert (done.code, done.stdout) == (8, "said reef\n")
    stopped = atoll("attach", container)
    assert (stopped.code, stopped.stderr) == (1, "cannot attach to a stopped container, start it first\n")


def test_signals_are_passed_on(atoll: Command) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo go; while :; do sleep 0.1; done"
    with atoll.start("run", "--rm", "busybox", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"go\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == b"caught\n"
        assert running.wait() == 9


def test_a_reader_that_goes_away_ends_us_quietly(atoll: Command) -> None:
    line = atoll.shell_line(
        "run", "-d", "--rm", "--name", "speaker", "busybox", "sh", "-c", "while :; do echo x; sleep 1; done"
    )
    logs = atoll.shell_line("logs", "-f", "speaker")
    done = subprocess.run(
        ["bash", "-c", f"{line} >/dev/null && {logs} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        env=dict(atoll.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("x\n141\n", "")


def test_logs_are_apart_with_times_from_the_end(atoll: Command) -> None:
    container = atoll.ok("run", "-d", "busybox", "sh", "-c", "echo one; echo two >&2; sleep 0.5; echo three")
    assert atoll.ok("wait", container) == "0"
    done = atoll("logs", container)
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    assert atoll.ok("logs", "--tail", "1", container) == "three"
    stamp, word = atoll.ok("logs", "-t", "-n", "1", container).split()
    assert word == "three"
    assert atoll.ok("logs", "--since", stamp, container) == "three"
    assert atoll("logs", "--until", "10m", container).stdout == ""


def test_several_containers_are_handled_at_once_and_the_missing_one_is_named(atoll: Command) -> None:
    for name in ("reef", "lagoon"):
        atoll.ok("run", "-d", "--name", name, "busybox", "sleep", "1000")
    done = atoll("stop", "-t", "0", "reef", "nosuch", "lagoon")
    assert (done.code, done.stdout) == (1, "reef\nlagoon\n")
    assert done.stderr == "Error response from engine: No such container: nosuch\n"
    assert atoll.ok("rm", "reef", "lagoon") == "reef\nlagoon"


def test_ps_shows_what_docker_shows(atoll: Command, docker: Command, container: Container) -> None:
    for flags in ((), ("-a",), ("-q",), ("-aq", "--no-trunc"), ("--format", "{{.Names}}:{{.Image}}:{{.State}}")):
        assert _timeless(atoll.ok("ps", *flags)) == _timeless(docker.ok("ps", *flags))
    assert json.loads(atoll.ok("ps", "--format", "json"))["ID"] == container.id[:12]


def _timeless(listing: str) -> list[list[str]]:
    """The words of a listing, whatever the clock has shown between one command and the other."""
    return [re.sub(r"Less than a second|\d+ seconds?", "now", line).split() for line in listing.splitlines()]


def test_images_and_inspect_show_what_docker_shows(atoll: Command, docker: Command, container: Container) -> None:
    for line in (
        ("images",),
        ("images", "-q", "--no-trunc"),
        ("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"),
        ("image", "inspect", "busybox"),
        ("image", "history", "busybox"),
        ("history", "--no-trunc", "-q", "busybox"),
        ("history", "-H=false", "busybox"),
        ("inspect", "-f", "{{.Name}} {{.State.Status}} {{json .Config.Cmd}}", container.id),
        ("inspect", "-f", "{{range .Config.Cmd}}<{{.}}>{{end}}", container.id),
    ):
        assert atoll.ok(*line) == docker.ok(*line)


def test_an_unknown_field_is_named(atoll: Command) -> None:
    done = atoll("ps", "--format", "{{.Nope}}")
    assert (done.code, 'there is no field "Nope"' in done.stderr) == (1, True)


def test_images_are_saved_named_and_removed(atoll: Command, busybox_tar: Path) -> None:
    changes = [flag for change in BUSYBOX_CHANGES for flag in ("--change", change)]
    imported = atoll.ok("image", "import", *changes, "-", "reef:1", input=busybox_tar.read_bytes())
    assert imported.startswith("sha256:")
    atoll.ok("tag", "reef:1", "localhost:5000/reef:2")
    assert atoll.ok("images", "--format", "{{.Repository}}:{{.Tag}}", "reef") == "reef:1"
    assert atoll.ok("run", "--rm", "localhost:5000/reef:2", "echo", "hi") == "hi"
    assert atoll.ok("rmi", "localhost:5000/reef:2") == "Untagged: localhost:5000/reef:2"
    assert "Untagged: reef:1" in atoll.ok("image", "rm", "reef:1")
    missing = atoll("image", "inspect", "reef:1")
    assert (missing.code, missing.stdout) == (1, "[]\n")


@pytest.mark.parametrize("line", [("load", "-i", "/nope"), ("import", "/nope", "x")])
def test_an_archive_that_is_not_there_is_one_clear_error(atoll: Command, line: tuple[str, ...]) -> None:
    done = atoll(*line)
    assert (done.code, done.stderr) == (1, "open /nope: no such file or directory\n")


def test_the_engine_is_asked_where_it_listens(atoll: Command, engine: EngineUnderTest) -> None:
    assert atoll.ok("system", "info", "--format", "{{.Socket}}") == str(engine.socket)
    assert json.loads(atoll.ok("system", "status", "--format", "json"))["Kernel"]["Version"]
    assert atoll.ok("version", "--format", "{{.Server.Version}}")
    assert "yes" in atoll.ok("system", "kernel", "list")


def test_two_commands_at_once_start_one_engine(empty_engine: EngineUnderTest) -> None:
    atoll = empty_engine.atoll
    running = [atoll.start("ps", "-a") for _ in range(4)]
    for command in running:
        with command:
            assert command.wait() == 0
    assert len([process for process in empty_engine.processes() if "atoll.engine" in str(process)]) == 1


def test_the_engine_is_stopped_and_its_absence_told(empty_engine: EngineUnderTest) -> None:
    atoll = empty_engine.atoll
    assert atoll("system", "status").code == 1
    assert "engine started" in atoll.ok("system", "start", "--accel", "tcg")
    assert "engine runs" in atoll.ok("system", "start")
    refused = atoll("system", "start", "--accel", "kvm")
    assert (refused.code, "runs already" in refused.stderr) == (1, True)
    assert "serving" in atoll.ok("system", "logs", "--tail", "10")
    assert atoll.ok("system", "stop") == "engine stopped"
    assert atoll.ok("system", "stop") == "engine does not run"
    assert atoll("system", "status").code == 1


def test_an_engine_that_cannot_start_says_why(empty_engine: EngineUnderTest) -> None:
    (empty_engine.root / "atoll.toml").write_text("nonsense = 1\n")
    done = empty_engine.atoll("ps")
    assert done.code == 1
    assert "the engine did not start" in done.stderr
    assert "nonsense" in done.stderr
    (empty_engine.root / "atoll.toml").unlink()
