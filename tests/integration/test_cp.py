"""`cp` both ways, `export` and `diff`: containers that run and containers that do not."""

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.archives import directory, file, hard_link, symlink, tar
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest

BIG_BYTES = 64 << 20


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a tree: files, a hard link, a symbolic link, modes and an owner."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "a").write_text("a\n")
    (tree / "a").chmod(0o640)
    (tree / "b").hardlink_to(tree / "a")
    (tree / "link").symlink_to("a")
    (tree / "sub" / "deep").write_bytes(bytes(range(256)))
    os.chown(tree / "sub" / "deep", 1000, 1000)
    os.utime(tree / "a", (86400, 86400))
    return tmp_path


def test_cp_has_dockers_rules_for_what_is_at_the_destination(atoll: Command, container: Container, here: Path) -> None:
    c, cp = container.id, atoll.in_directory(here)
    cp.ok("cp", "tree", f"{c}:/tmp")  # into a directory that is there
    cp.ok("cp", "tree", f"{c}:/tmp/new")  # as one that is not
    cp.ok("cp", "tree/.", f"{c}:/home")  # only what is in it
    cp.ok("cp", "tree/a", f"{c}:/tmp/file")
    cp.ok("cp", "tree/sub/deep", f"{c}:/tmp/file")  # over a file that is there
    cp.ok("cp", "-L", "tree/link", f"{c}:/tmp/followed")
    cp.ok("cp", "tree/link", f"{c}:/tmp/kept")
    listed = container.exec("find", "/tmp", "/home").stdout.split()
    tree = ["", "/a", "/b", "/link", "/sub", "/sub/deep"]
    assert sorted(listed) == sorted(
        ["/tmp", *(f"/tmp/tree{name}" for name in tree), *(f"/tmp/new{name}" for name in tree)]
        + [f"/home{name}" for name in tree]
        + ["/tmp/file", "/tmp/followed", "/tmp/kept"]
    )
    said = container.exec(
        "stat", "-c", "%n %a %u %h %Y", "/tmp/tree/a", "/tmp/tree/sub/deep", "/tmp/followed", "/tmp/file"
    ).stdout.splitlines()
    assert said[0] == "/tmp/tree/a 640 0 2 86400"
    assert said[1].startswith("/tmp/tree/sub/deep 644 1000 1 ")
    assert said[2] == "/tmp/followed 640 0 1 86400"
    assert container.exec("readlink", "/tmp/kept").stdout == "a\n"
    assert container.exec("cat", "/tmp/file").out == bytes(range(256))
    for source, destination, complaint in (
        ("tree", f"{c}:/tmp/file", "cannot copy directory"),
        ("tree/a", f"{c}:/nosuch/", "no such directory"),
        ("tree/a", f"{c}:/nosuch/a", "Could not find the file /nosuch in container"),
        ("nosuch", f"{c}:/tmp", "no such file or directory"),
        (f"{c}:/nosuch", ".", "Could not find the file /nosuch in container"),
        (f"{c}:/tmp/tree", "tree/a", "cannot copy directory"),
        (f"{c}:/tmp/file", "nosuch/dir/file", 'directory "nosuch/dir" does not exist'),
        (f"{c}:/a", f"{c}:/b", "copying between containers is not supported"),
        ("tree/a", "nosuch:/tmp/", "No such container: nosuch"),
        ("a", "b", "must specify at least one container source"),
    ):
        done = cp("cp", source, destination)
        assert (done.code, complaint in done.stderr) == (1, True), str(done)


def test_what_is_copied_out_is_what_is_inside(atoll: Command, container: Container, tmp_path: Path) -> None:
    container.exec(
        "sh", "-c",
        "mkdir -p /data/sub; cd /data; echo a >a; ln a b; ln -s a link; chown 1000:29 a; chmod 4750 a; mkfifo pipe;"
        "echo deep >sub/deep; mknod null c 1 3; ln -s /data/sub dirlink; touch -d @86400 a; truncate -s 64M sparse",
    )  # fmt: skip
    c, cp = container.id, atoll.in_directory(tmp_path)
    done = cp("cp", f"{c}:/data", "out")
    assert (done.code, "skipped data/null" in done.stderr) == (0, True), str(done)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "dirlink", "link", "pipe", "sparse", "sub"]
    status = (out / "a").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_nlink, status.st_mtime) == (0o750, 0, 2, 86400)
    assert (out / "link").readlink() == Path("a")
    assert (out / "sub/deep").read_text() == "deep\n"
    assert ((out / "sparse").stat().st_size, (out / "sparse").stat().st_blocks) == (64 << 20, 0)
    cp.ok("cp", "-q", "-a", f"{c}:/data", "exact")
    status = (tmp_path / "exact/a").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4750, 1000, 29)
    assert (tmp_path / "exact/null").is_char_device()
    cp.ok("cp", f"{c}:/data/.", "content")
    assert (tmp_path / "content/a").read_text() == "a\n"
    cp.ok("cp", f"{c}:/data/dirlink", "as-link")
    assert (tmp_path / "as-link").is_symlink()
    cp.ok("cp", "-L", f"{c}:/data/dirlink", ".")
    assert (tmp_path / "dirlink/deep").read_text() == "deep\n"
    cp.ok("cp", f"{c}:/data/a", "file")
    cp.ok("cp", f"{c}:/data/sub/deep", "file")
    assert (tmp_path / "file").read_text() == "deep\n"


def test_archives_go_through_stdin_and_stdout(atoll: Command, container: Container) -> None:
    members = [directory("x"), file("x/one", b"1"), hard_link("x/two", "x/one"), symlink("x/link", "one")]
    atoll.ok("cp", "-", f"{container.id}:/tmp", input=tar(members))
    with tarfile.open(fileobj=io.BytesIO(atoll("cp", f"{container.id}:/tmp/x", "-").out)) as archive:
        found = [(member.name, member.type, member.linkname) for member in archive]
    assert found == [
        ("x", tarfile.DIRTYPE, ""),
        ("x/link", tarfile.SYMTYPE, "one"),
        ("x/one", tarfile.REGTYPE, ""),
        ("x/two", tarfile.LNKTYPE, "x/one"),
    ]
    done = atoll("cp", "-", f"{container.id}:/tmp", input=tar([file("../../outside", b"x")]))
    assert (done.code, "leads out of where it is extracted to" in done.stderr) == (1, True)
    assert atoll("cp", "-", f"{container.id}:/tmp", input=b"no archive at all" * 100).code == 1
    assert atoll("cp", "-", f"{container.id}:/etc/passwd", input=tar(members)).code == 1


def test_a_big_file_arrives_whole_both_ways(
    atoll: Command, docker: Command, container: Container, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * (BIG_BYTES >> 20)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "big").write_bytes(data)
    atoll.ok("cp", tmp_path / "big", f"{container.id}:/tmp/big")
    assert container.exec("sha256sum", "/tmp/big").stdout.split()[0] == digest
    docker.ok("cp", f"{container.id}:/tmp/big", tmp_path / "back")
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest
    # A reader that goes away early ends the work in the guest.
    with atoll.start("cp", f"{container.id}:/tmp/big", "-") as reading:
        assert reading.stdout is not None
        reading.stdout.read(1 << 16)
        reading.stdout.close()
        reading.wait(60)
    assert container.exec("true").code == 0


def test_links_of_the_container_lead_nowhere_else(atoll: Command, container: Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's")
    container.exec(
        "sh", "-c",
        f"ln -s {tmp_path}/secret /secret; ln -s ../../../../../../../../etc /up; ln -s /loop /loop; "
        f"mkdir /evil; ln -s {tmp_path}/outside /evil/dir",
    )  # fmt: skip
    c = container.id
    assert "Could not find the file" in atoll("cp", f"{c}:/secret/.", tmp_path / "x").stderr
    atoll.ok("cp", f"{c}:/up/passwd", tmp_path / "passwd")
    assert "sailor" in (tmp_path / "passwd").read_text()  # the container's, not the host's
    (tmp_path / "file").write_text("new")
    atoll.ok("cp", tmp_path / "file", f"{c}:/up/made")
    assert container.exec("cat", "/etc/made").stdout == "new"
    assert atoll("cp", tmp_path / "file", f"{c}:/loop/x").code == 1
    (tmp_path / "outside").mkdir()
    atoll.ok("cp", f"{c}:/evil", tmp_path / "here")
    assert (tmp_path / "here/dir").is_symlink()
    assert not any((tmp_path / "outside").iterdir())


def test_a_container_that_does_not_run_is_visited(atoll: Command, docker: Command, tmp_path: Path) -> None:
    name = atoll.ok("create", "--name", "visited", "busybox", "cat", "/tmp/sent")
    (tmp_path / "sent").write_text("sent before the start\n")
    docker.ok("cp", tmp_path / "sent", f"{name}:/tmp")
    assert atoll.ok("ps", "-a", "--format", "{{.Status}}") == "Created"
    assert docker.ok("diff", name).split("\n") == ["C /tmp", "A /tmp/sent"]
    # The visit stays for a moment; a start does not wait for that, and finds what was written.
    assert atoll.ok("start", "-a", name) == "sent before the start"
    assert atoll.ok("ps", "-a", "--format", "{{.Status}}").startswith("Exited (0)")
    atoll.ok("cp", f"{name}:/tmp/sent", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "sent before the start\n"
    assert atoll.ok("logs", name) == "sent before the start"
    assert atoll.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", name) == "exited 0 0"
    # Two at once share the visit.
    with atoll.start("cp", f"{name}:/bin", "-") as one, atoll.start("export", name) as other:
        assert b"bin/busybox" in one.communicate()[0]
        assert b"bin/busybox" in other.communicate()[0]
    assert atoll("pause", name).code == 1
    atoll.ok("rm", name)


def test_volumes_and_host_directories_are_seen_in_a_visit(atoll: Command, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("the host's")
    name = atoll.ok("create", "-v", f"{shared}:/mnt", "-v", "/data", "busybox", "cat", "/data/file")
    assert atoll.ok("cp", f"{name}:/mnt/file", "-").find("the host's") > 0
    atoll.ok("cp", shared / "file", f"{name}:/data")
    atoll.ok("cp", shared / "file", f"{name}:/mnt/new")
    assert (shared / "new").read_text() == "the host's"
    assert atoll.ok("diff", name) == ""  # what is mounted is not the container's
    assert atoll.ok("start", "-a", name) == "the host's"
    atoll.ok("rm", "-v", name)


def test_a_stop_ends_work_on_files(atoll: Command, container: Container) -> None:
    with atoll.start("cp", "-", f"{container.id}:/tmp") as upload:
        assert upload.stdin is not None
        upload.stdin.write(tar([file("f", bytes(1 << 20))])[: 1 << 19])
        upload.stdin.flush()
        container.stop()
        upload.stdin.close()
        assert upload.wait(60) == 1


def test_a_start_waits_for_the_end_of_a_visit(atoll: Command, tmp_path: Path) -> None:
    name = atoll.ok("create", "busybox", "sh", "-c", "wc -c </root/upload")
    part = tar([file("upload", bytes(8 << 20))])
    with atoll.start("cp", "-", f"{name}:/root") as upload:
        assert upload.stdin is not None
        upload.stdin.write(part[: 4 << 20])
        upload.stdin.flush()
        with atoll.start("start", "-a", name) as start:
            time.sleep(1)  # whatever it does, it must not have happened by now
            assert start.poll() is None
            upload.stdin.write(part[4 << 20 :])
            upload.stdin.close()
            assert upload.wait(60) == 0
            assert start.communicate(timeout=60)[0] == b"8388608\n"


def test_a_removal_by_force_ends_a_visit(atoll: Command, engine: EngineUnderTest) -> None:
    name = atoll.ok("create", "busybox")
    with atoll.start("cp", f"{name}:/bin", "-") as reading:
        assert reading.stdout is not None
        reading.stdout.read(1 << 10)
        atoll.ok("rm", "-f", name)
        reading.stdout.close()
        reading.wait(60)
    assert atoll.ok("ps", "-aq") == ""
    assert not (engine.root / "containers" / name).exists()


def test_an_engine_killed_in_a_visit_leaves_nothing_running(private_engine: EngineUnderTest, tmp_path: Path) -> None:
    atoll = private_engine.atoll
    name = atoll.ok("create", "busybox", "cat", "/root/kept")
    (tmp_path / "kept").write_text("confirmed\n")
    atoll.ok("cp", tmp_path / "kept", f"{name}:/root/kept")
    private_engine.kill()  # the visit stays for a moment
    private_engine.start()
    assert atoll.ok("ps", "-a", "--format", "{{.Status}}") == "Created"
    deadline = time.monotonic() + 60
    while any("qemu" in str(process) for process in private_engine.processes()):
        assert time.monotonic() < deadline, "a VM was left behind"
        time.sleep(0.1)
    assert atoll.ok("start", "-a", name) == "confirmed"


def test_a_read_only_container_takes_files_only_where_it_can(atoll: Command, tmp_path: Path) -> None:
    name = atoll.ok("run", "-d", "--read-only", "--tmpfs", "/scratch", "busybox", "sleep", "1000")
    (tmp_path / "file").write_text("x")
    done = atoll("cp", tmp_path / "file", f"{name}:/root")
    assert (done.code, "container rootfs is marked read-only" in done.stderr) == (1, True), str(done)
    atoll.ok("cp", tmp_path / "file", f"{name}:/scratch")
    assert atoll.ok("exec", name, "cat", "/scratch/file") == "x"
    assert atoll.ok("diff", name) == ""
    atoll.ok("pause", name)
    assert "is paused" in atoll("cp", f"{name}:/etc/passwd", "-").stderr


def test_export_is_the_root_without_what_is_mounted_in_it(
    atoll: Command, docker: Command, start_container: Callable[..., Container], tmp_path: Path
) -> None:
    container = start_container("--tmpfs", "/scratch", "busybox", "sleep", "1000")
    container.exec("sh", "-c", "echo new >/root/new; rm /etc/group; echo temporary >/scratch/file")
    with tarfile.open(fileobj=io.BytesIO(docker("export", container.id).out)) as archive:
        found = {member.name: member for member in archive}
    assert {"bin/busybox", "root/new", "proc", "sys", "dev", "scratch", "etc/passwd"} <= set(found)
    assert not {name for name in found if name.startswith(("proc/", "sys/", "dev/", "scratch/"))}
    assert "etc/group" not in found
    assert found["bin/ls"].linkname == "busybox"
    atoll.ok("export", "-o", tmp_path / "root.tar", container.id)
    atoll.ok("import", tmp_path / "root.tar", "exported:latest")
    assert atoll.ok("run", "--rm", "exported", "cat", "/root/new") == "new"
    atoll.ok("rmi", "exported")


def test_diff_tells_what_was_changed_added_and_deleted(atoll: Command, docker: Command, container: Container) -> None:
    assert atoll.ok("diff", container.id) == ""  # what a start makes is no change of the container's
    container.exec(
        "sh", "-c",
        "echo x >>/etc/passwd; rm /etc/group; mkdir /new; echo 1 >/new/file; rm -r /usr; mkdir /usr; chmod 700 /home",
    )  # fmt: skip
    expected = [
        "C /etc", "D /etc/group", "C /etc/passwd", "C /home", "A /new", "A /new/file", "C /usr", "D /usr/bin",
    ]  # fmt: skip
    assert sorted(atoll.ok("diff", container.id).splitlines()) == sorted(expected)
    container.stop()
    assert sorted(docker.ok("diff", container.id).splitlines()) == sorted(expected)
