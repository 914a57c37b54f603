"""Volumes as a user has them: kept, shared by readers, filled, refused to a second writer, removed."""

import json
import signal
from collections.abc import Iterator

import pytest
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest


@pytest.fixture
def volumes(engine: EngineUnderTest) -> Iterator[Command]:
    """`atoll volume`; the containers and volumes that a test leaves are removed."""
    yield Command((*engine.atoll.program, "volume"), engine.atoll.environment)
    for kind, remove in (("ps", ("rm", "-f", "-v")), ("volume", ("volume", "rm"))):
        listed = engine.atoll.ok(*(("ps", "-aq") if kind == "ps" else ("volume", "ls", "-q"))).split()
        if listed:
            engine.atoll.ok(*remove, *listed)


def test_what_one_container_writes_the_next_one_reads(atoll: Command, volumes: Command) -> None:
    atoll.ok("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file; chown 1000 /data/file")
    assert atoll.ok("run", "--rm", "-v", "data:/other", "busybox", "stat", "-c", "%u", "/other/file") == "1000"
    atoll.ok("run", "--rm", "-v", "owned:/data", "busybox", "chown", "1000", "/data")
    assert atoll.ok("run", "--rm", "-v", "owned:/data", "busybox", "stat", "-c", "%u", "/data") == "1000"
    assert atoll.ok("run", "--rm", "--mount", "source=data,target=/d", "busybox", "cat", "/d/file") == "kept"
    assert volumes.ok("ls", "--format", "{{.Driver}} {{.Name}}") == "local data\nlocal owned"


def test_several_volumes_and_a_tmpfs_are_mounted_one_in_another(atoll: Command, volumes: Command) -> None:
    flags = ("-v", "inner:/a/b", "-v", "outer:/a", "--tmpfs", "/a/b/c", "--mount", "target=/z,volume-opt=size=32m")
    script = "echo 1 > /a/one; echo 2 > /a/b/two; touch /a/b/c/gone; df -m /z | tail -1 | awk '{print ($2 < 33)}'"
    assert atoll.ok("run", "--rm", *flags, "busybox", "sh", "-c", script) == "1"
    found = atoll.ok("run", "--rm", "-v", "inner:/i", "-v", "outer:/o", "busybox", "find", "/i", "/o", "-type", "f")
    assert set(found.split()) == {"/i/two", "/o/one"}
    assert set(volumes.ok("ls", "-q").split()) == {"inner", "outer"}


def test_a_volume_that_is_only_read_cannot_be_written_by_root_of_the_guest(atoll: Command, volumes: Command) -> None:
    atoll.ok("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    attempt = (
        "mount -o remount,rw /data; echo bad > /data/file; disk=$(awk '$2 == \"/data\" {print $1}' /proc/mounts);"
        " dd if=/dev/zero of=${disk%[0-9]*} bs=1M seek=1 count=8; dd if=/dev/zero of=$disk bs=1M count=8; sync; true"
    )
    atoll.ok("run", "--rm", "--privileged", "-v", "data:/data:ro", "busybox", "sh", "-c", attempt)
    assert atoll.ok("run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/file") == "kept"


def test_many_read_a_volume_and_nobody_writes_it_meanwhile(atoll: Command, volumes: Command) -> None:
    atoll.ok("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    for name in ("first", "second"):
        atoll.ok("run", "-d", "--name", name, "-v", "data:/data:ro", "busybox", "sleep", "1000")
        assert atoll.ok("exec", name, "cat", "/data/file") == "kept"
    refused = atoll("run", "--name", "writer", "-v", "data:/data", "busybox", "true")
    assert refused.code == 125
    assert "volume data is in use: container" in refused.stderr
    assert "--opt shared" in refused.stderr
    atoll.ok("rm", "-f", "first", "second")
    atoll.ok("start", "writer")


def test_a_reader_sees_what_a_writer_that_was_killed_had_synced(
    engine: EngineUnderTest, atoll: Command, volumes: Command
) -> None:
    id = atoll.ok("run", "-d", "-v", "data:/data", "busybox", "sleep", "1000")
    writer = Container(id, engine)
    assert writer.exec("sh", "-c", "echo kept > /data/file; sync").code == 0
    writer.vmm.kill(signal.SIGKILL)
    writer.wait()
    assert atoll.ok("run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/file") == "kept"


def test_a_new_volume_begins_with_what_the_image_has_there(atoll: Command, volumes: Command, debian: str) -> None:
    listing = ("find", "/var", "-printf", "%p %y %m %U:%G %s %l %Tc\\n")
    plain = atoll.ok("run", "--rm", debian, *listing)
    copied = atoll.ok("run", "--rm", "-v", "copy:/var", debian, *listing)
    # Directories have sizes as their file system likes.
    assert {line for line in copied.splitlines() if " d " not in line} == {
        line for line in plain.splitlines() if " d " not in line
    }
    assert len(copied.splitlines()) == len(plain.splitlines())
    assert atoll.ok("run", "--rm", "-v", "empty:/var:nocopy", debian, "find", "/var") == "/var"
    assert atoll.ok("run", "--rm", "-v", "tmp:/tmp", "busybox", "stat", "-c", "%a", "/tmp") == "1777"


def test_anonymous_volumes_go_with_their_container_if_so_asked(atoll: Command, volumes: Command) -> None:
    atoll.ok("run", "--rm", "-v", "/data", "busybox", "touch", "/data/file")
    assert volumes.ok("ls", "-q") == ""
    atoll.ok(
        "run", "--name", "keeper", "-v", "/data", "-v", "named:/n", "busybox", "sh", "-c", "echo kept > /data/file"
    )
    assert len(volumes.ok("ls", "-q").split()) == 2
    assert atoll.ok("run", "--rm", "--volumes-from", "keeper:ro", "busybox", "cat", "/data/file") == "kept"
    atoll.ok("rm", "keeper")
    assert len(volumes.ok("ls", "-q").split()) == 2
    pruned = volumes.ok("prune", "-f")
    assert "Deleted Volumes:" in pruned
    assert volumes.ok("ls", "-q") == "named"
    atoll.ok("create", "--name", "other", "-v", "/data", "busybox")
    atoll.ok("rm", "-v", "other")
    assert volumes.ok("ls", "-q") == "named"


def test_dockers_commands_see_the_same_volumes(docker: Command, volumes: Command) -> None:
    assert docker.ok("volume", "create", "--label", "a=b", "--opt", "size=20m", "data") == "data"
    shown = json.loads(docker.ok("volume", "inspect", "data"))[0]
    assert (shown["Name"], shown["Driver"], shown["Labels"]) == ("data", "local", {"a": "b"})
    assert shown["Options"] == {"size": "20m"}
    docker.ok("create", "--name", "user", "-v", "data:/data:ro", "--mount", "type=tmpfs,target=/t", "busybox")
    mounts = json.loads(docker.ok("inspect", "user"))[0]["Mounts"]
    told = {(mount["Type"], mount["Destination"], mount["RW"]) for mount in mounts}
    assert told == {("volume", "/data", False), ("tmpfs", "/t", True)}
    assert docker.ok("ps", "-aq", "--filter", "volume=data") == docker.ok("ps", "-aq", "--filter", "name=user")
    refused = docker("volume", "rm", "data")
    assert refused.code == 1
    assert "volume is in use" in refused.stderr
    assert docker.ok("volume", "ls", "-q", "--filter", "dangling=true") == ""
    docker.ok("rm", "user")
    assert docker.ok("volume", "ls", "-q", "--filter", "dangling=true") == "data"
    assert "Total reclaimed space" in docker.ok("volume", "prune", "-f", "--all")
    assert docker.ok("volume", "ls", "-q") == ""


def test_a_volume_is_a_quota(atoll: Command, volumes: Command) -> None:
    volumes.ok("create", "--size", "32m", "small")
    full = atoll("run", "--rm", "-v", "small:/s", "busybox", "dd", "if=/dev/zero", "of=/s/file", "bs=1M", "count=64")
    assert full.code == 1
    assert "No space left on device" in full.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-v", "a/b:/c"), "includes invalid characters for a local volume name"),
        (("-v", "data:relative"), "mount path must be absolute"),
        (("-v", "one:/a", "-v", "two:/a"), "Duplicate mount point: /a"),
        (("--mount", "source=data,target=/a,volume-opt=size=none"), "invalid size 'none'"),
    ],
)
def test_bad_input_makes_no_container_and_no_volume(
    atoll: Command, volumes: Command, flags: tuple[str, ...], words: str
) -> None:
    refused = atoll("create", *flags, "busybox")
    assert refused.code in (1, 125)
    assert words in refused.stderr
    assert atoll.ok("ps", "-aq") == ""
    assert volumes.ok("ls", "-q") == ""
