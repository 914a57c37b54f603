"""`commit`: images of what containers have written."""

import io
import json
import tarfile
import threading
import time

from harness.archives import file, tar
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest

WRITER = "n=0; cd /data; while :; do n=$((n+1)); echo $n >new; mv new one; echo $n >new; mv new two; done"
"""One file, then another: the second is never ahead, and never more than one behind."""


def test_a_committed_image_has_what_its_container_has(atoll: Command, docker: Command, container: Container) -> None:
    container.exec(
        "sh", "-c",
        "echo changed >>/etc/passwd; rm /etc/group; mkdir -p /data/sub; cd /data; echo 1 >one; ln one two;"
        "ln -s one link; mkfifo pipe; mknod null c 1 3; chmod 4711 sub; chown 70000:70001 sub; touch -d @86400 old;"
        "rm -r /usr; mkdir /usr; echo new >/usr/new",
    )  # fmt: skip
    written = atoll.ok("diff", container.id)
    image = atoll.ok(
        "commit", "-a", "A. Sailor", "-m", "a message", "-c", 'CMD ["cat", "/data/one"]', "-c", "ENV COLOUR=blue",
        container.id, "committed:one",
    )  # fmt: skip
    assert image.startswith("sha256:")
    assert atoll.ok("diff", container.id) == written  # reading changes nothing
    assert container.status == "running"
    assert docker.ok("run", "--rm", "committed:one") == "1"
    script = (
        "tail -1 /etc/passwd; ls /etc/group /usr/bin 2>&1 | grep -c 'No such'; cat /usr/new; echo $COLOUR; cd /data;"
        "stat -c '%h %i' one two | uniq | wc -l; readlink link; stat -c %F pipe null; stat -c '%a %u %g' sub;"
        "stat -c %Y old"
    )
    seen = atoll.ok("run", "--rm", "committed:one", "sh", "-c", script).splitlines()
    assert seen == [
        "changed", "2", "new", "blue", "1", "one", "fifo", "character special file", "4711 70000 70001", "86400",
    ]  # fmt: skip
    told = json.loads(docker.ok("image", "inspect", "committed:one"))[0]
    parent = json.loads(docker.ok("image", "inspect", "busybox"))[0]
    assert told["Author"] == "A. Sailor"
    assert len(told["RootFS"]["Layers"]) == len(parent["RootFS"]["Layers"]) + 1
    assert "a message" in docker.ok("history", "committed:one").splitlines()[1]
    # The layer has no trace of what a start makes: /etc/hosts and the like.
    again = atoll.ok("create", "committed:one")
    assert atoll.ok("diff", again) == ""
    atoll.ok("rm", again)


def test_a_container_that_does_not_run_is_committed_as_well(docker: Command) -> None:
    docker.ok("run", "--name", "worker", "-e", "A=1", "busybox", "sh", "-c", "echo done >/result")
    docker.ok("commit", "-c", "ENTRYPOINT cat", "worker", "worked")
    assert docker.ok("inspect", "-f", "{{json .Config.Entrypoint}} {{.Config.Env}}", "worked").startswith(
        '["/bin/sh","-c","cat"]'
    )
    assert docker.ok("run", "--rm", "--entrypoint", "cat", "worked", "/result") == "done"
    # Nothing written is no layer.
    docker.ok("create", "--name", "idle", "busybox")
    layers = "{{len .RootFS.Layers}}"
    docker.ok("commit", "idle", "same")
    assert docker.ok("image", "inspect", "-f", layers, "same") == docker.ok("image", "inspect", "-f", layers, "busybox")
    assert "is not a valid change command" in docker("commit", "-c", "FROM scratch", "idle").stderr
    docker.ok("rm", "worker", "idle")
    docker.ok("rmi", "worked", "same")


def test_a_commit_shows_one_moment_of_a_container_that_writes(atoll: Command, container: Container) -> None:
    container.exec("mkdir", "/data")
    atoll.ok("exec", "-d", container.id, "sh", "-c", WRITER)
    while container.exec("test", "-s", "/data/two").code:
        time.sleep(0.1)
    atoll.ok("commit", container.id, "moment")
    one, two = map(int, atoll.ok("run", "--rm", "moment", "cat", "/data/one", "/data/two").split())
    assert one - two in (0, 1)
    before = container.exec("cat", "/data/one").stdout
    deadline = time.monotonic() + 60
    while container.exec("cat", "/data/one").stdout == before:  # it goes on
        assert time.monotonic() < deadline
    atoll.ok("rmi", "moment")


def test_capabilities_and_attributes_of_files_stay(atoll: Command, container: Container) -> None:
    # Revision 2, cap_net_raw permitted (<linux/capability.h>).
    xattrs = {"security.capability": "\x01\0\0\x02\0\x20\0\0" + "\0" * 12, "user.colour": "blue"}
    atoll.ok("cp", "-", f"{container.id}:/root", input=tar([file("marked", b"x", xattrs=xattrs)]))
    atoll.ok("commit", container.id, "marked")
    name = atoll.ok("create", "marked")
    with tarfile.open(fileobj=io.BytesIO(atoll("cp", f"{name}:/root/marked", "-").out)) as archive:
        (member,) = archive
    assert {key: member.pax_headers[f"SCHILY.xattr.{key}"] for key in xattrs} == xattrs
    atoll.ok("rm", name)
    atoll.ok("rmi", "marked")


def test_an_engine_killed_in_a_commit_leaves_no_half_image(private_engine: EngineUnderTest) -> None:
    atoll = private_engine.atoll
    name = atoll.ok("run", "-d", "busybox", "sh", "-c", "head -c 32m /dev/urandom >/data; echo ready; sleep 1000")
    while "ready" not in atoll.ok("logs", name):
        time.sleep(0.1)
    images = atoll.ok("images", "-q")
    for delay_s in (0.1, 0.3, 0.5):
        committing = threading.Thread(target=atoll, args=("commit", name, "half"))
        committing.start()
        time.sleep(delay_s)  # somewhere in the middle
        private_engine.kill()
        committing.join()
        private_engine.start()
        found = atoll.ok("images", "-q")
        if found != images:  # it was too late: whole
            assert atoll.ok("run", "--rm", "half", "wc", "-c", "/data").split()[0] == str(32 << 20)
            atoll.ok("rmi", "half")
    content = private_engine.root / "content"
    assert not any((content / "ingest").iterdir())
    # The container was frozen, and runs on.
    assert atoll.ok("exec", name, "echo", "alive") == "alive"
    atoll.ok("commit", name, "whole")
    assert atoll.ok("run", "--rm", "whole", "wc", "-c", "/data").split()[0] == str(32 << 20)
