"""Directories and files of the host in a container, through `-v` and `--mount`; and volumes that many may write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.command import Command
from harness.engine import EngineUnderTest


@pytest.fixture
def shared_volume(engine: EngineUnderTest) -> Iterator[str]:
    """The name of a volume that many may write."""
    yield engine.atoll.ok("volume", "create", "--opt", "shared", "together")
    engine.atoll.ok("rm", "-f", *(engine.atoll.ok("ps", "-aq").split() or ["none"]))
    engine.atoll.ok("volume", "rm", "together")


def test_a_directory_of_the_host_is_the_containers(atoll: Command, docker: Command, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the host\n")
    script = "cat /work/given; echo from the guest > /work/made; chown 1000:1000 /work/made"
    assert atoll.ok("run", "--rm", "-v", f"{tmp_path}:/work", "busybox", "sh", "-c", script) == "from the host"
    made = tmp_path / "made"
    assert made.read_text() == "from the guest\n"
    if os.geteuid() == 0:
        assert (made.stat().st_uid, made.stat().st_gid) == (1000, 1000)
    flags = ("--mount", f"type=bind,source={tmp_path},target=/new/place,readonly")
    refused = docker("run", "--rm", *flags, "busybox", "sh", "-c", "cat /new/place/made; touch /new/place/x")
    assert refused.stdout == "from the guest\n"
    assert "Read-only file system" in refused.stderr


def test_a_relative_source_is_our_directory_and_a_file_can_be_mounted(atoll: Command, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("one\n")
    here = atoll.in_directory(tmp_path)
    flags = ("-v", "./conf:/etc/conf", "-v", ".:/here:ro")
    assert here.ok("run", "--rm", *flags, "busybox", "sh", "-c", "cat /etc/conf /here/conf; echo two >> /etc/conf") == (
        "one\none"
    )
    assert (tmp_path / "conf").read_text() == "one\ntwo\n"


def test_v_makes_a_missing_directory_and_mount_says_that_it_is_missing(atoll: Command, tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    refused = atoll("create", "--mount", f"type=bind,source={missing},target=/x", "busybox")
    assert refused.code == 125 or refused.code == 1
    assert f"bind source path does not exist: {missing}" in refused.stderr
    assert atoll.ok("ps", "-aq") == ""
    atoll.ok("run", "--rm", "-v", f"{missing}:/x", "busybox", "touch", "/x/file")
    assert (missing / "file").exists()


def test_many_containers_write_a_shared_volume(atoll: Command, shared_volume: str) -> None:
    for name in ("one", "two"):
        atoll.ok("run", "-d", "--name", name, "-v", f"{shared_volume}:/s", "busybox", "sleep", "1000")
        atoll.ok("exec", name, "sh", "-c", f"echo {name} > /s/{name}")
    assert atoll.ok("exec", "one", "cat", "/s/one", "/s/two") == "one\ntwo"
    assert atoll.ok("exec", "two", "sh", "-c", "cat /s/*") == "one\ntwo"


def test_a_shared_volume_begins_with_what_the_image_has_there(atoll: Command, shared_volume: str) -> None:
    listing = "cd /etc && stat -c '%n %a %u' passwd group && cat passwd"
    plain = atoll.ok("run", "--rm", "busybox", "sh", "-c", listing)
    assert atoll.ok("run", "--rm", "-v", f"{shared_volume}:/etc", "busybox", "sh", "-c", listing) == plain
