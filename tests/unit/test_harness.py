"""The ground that the integration tests stand on carries weight."""

import io
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness.command import Command
from harness.images import busybox_root
from harness.process import Process, processes_that_mention
from harness.terminal import terminal


def test_a_command_gives_its_exit_code_and_both_outputs():
    done = Command(("sh", "-c"))("cat; echo oops >&2; exit 7", input=b"\x00\xff")
    assert (done.code, done.out, done.err) == (7, b"\x00\xff", b"oops\n")


def test_a_command_that_must_succeed_shows_its_output_when_it_does_not():
    with pytest.raises(AssertionError, match="no such thing"):
        Command(("sh", "-c")).ok("echo no such thing >&2; exit 1")


def test_a_process_is_found_by_its_environment_and_waited_for(tmp_path: Path):
    mark = os.fspath(tmp_path)
    with subprocess.Popen(["sleep", "1000"], env={"ATOLL_ROOT": mark}) as child:
        process = Process.of(child.pid)
        assert processes_that_mention(mark) == [process]
        assert process.parent.pid == os.getpid()
        process.kill(signal.SIGKILL)
        assert not process.is_alive
    assert processes_that_mention(mark) == []


def test_a_process_is_found_by_an_open_file(tmp_path: Path):
    file = tmp_path / "disk"
    file.touch()
    with file.open() as opened, subprocess.Popen(["sleep", "1000"], stdin=opened) as child:
        assert processes_that_mention(os.fspath(file)) == [Process.of(child.pid)]
        child.kill()


def test_a_terminal_shows_what_is_typed_and_its_size(tmp_path: Path):
    with terminal(tmp_path, os.environ, columns=90, rows=20) as person:
        person.type("stty size")
        person.expect(r"20 90")
        person.resize(70, 30)
        person.type("stty size")
        person.expect(r"30 70")
        assert "30 70" in person.screen()


def test_the_busybox_root_has_a_shell_and_its_users():
    with tarfile.open(fileobj=io.BytesIO(busybox_root())) as tar:
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.extractfile("etc/passwd").read().startswith(b"root:x:0:0:")  # type: ignore[union-attr]  # a file
