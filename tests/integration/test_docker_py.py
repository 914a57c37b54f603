"""docker-py, the library behind many tools, against our socket."""

import gzip
import io
import socket
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
from harness.archives import directory, file, tar
from harness.engine import EngineUnderTest


@pytest.fixture
def client(engine: EngineUnderTest) -> Iterator["docker.DockerClient"]:
    with closing(docker.DockerClient(base_url=f"unix://{engine.socket}", version="auto")) as client:
        yield client
        for container in client.containers.list(all=True):
            container.remove(force=True)


def test_run_returns_the_output(client: "docker.DockerClient") -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"


def test_a_failure_has_its_exit_code_and_stderr(client: "docker.DockerClient") -> None:
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], stderr=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"no\n")


def test_an_image_that_is_not_there_is_its_own_error(client: "docker.DockerClient") -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.containers.create("nosuch:image")


def test_a_container_is_started_looked_at_and_stopped(client: "docker.DockerClient") -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, name="reef", labels={"a": "b"})
    container.reload()
    assert (container.status, container.name, container.labels) == ("running", "reef", {"a": "b"})
    assert container.top()["Processes"][0][-1] == "sleep 1000"
    assert container.stats(stream=False)["pids_stats"]["current"] == 1
    container.stop(timeout=0)
    assert container.wait() == {"StatusCode": 137, "Error": None}


def test_exec_gives_exit_code_and_both_streams(client: "docker.DockerClient") -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    assert container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True) == (4, (b"out\n", b"err\n"))


def test_a_socket_to_stdin_can_be_half_closed(client: "docker.DockerClient") -> None:
    container = client.containers.create("busybox", ["cat"], stdin_open=True)
    stream = container.attach_socket(params={"stdin": 1, "stream": 1})
    container.start()
    stream._sock.sendall(b"typed")
    stream._sock.shutdown(socket.SHUT_WR)
    assert container.wait()["StatusCode"] == 0
    assert container.logs() == b"typed"


def test_logs_are_followed_line_by_line(client: "docker.DockerClient") -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo 1; echo 2"], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n"


def test_images_are_imported_and_removed(client: "docker.DockerClient", busybox_tar: Path) -> None:
    client.api.import_image_from_file(str(busybox_tar), repository="reef/py", tag="1")
    assert client.images.get("reef/py:1").attrs["Os"] == "linux"
    client.images.remove("reef/py:1")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("reef/py:1")


def test_files_go_in_and_out_and_become_an_image(client: "docker.DockerClient") -> None:
    container = client.containers.create("busybox", ["sleep", "1000"])
    archive = tar([directory("x"), file("x/file", b"content", mode=0o640, uid=7)])
    assert container.put_archive("/root", gzip.compress(archive))
    chunks, told = container.get_archive("/root/x/file")
    assert (told["name"], told["size"], told["mode"], told["linkTarget"]) == ("file", 7, 0o640, "")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as found:
        (member,) = found
        assert (member.name, member.uid) == ("file", 7)
    assert {"Path": "/root/x/file", "Kind": 1} in container.diff()
    assert b"root/x/file" in b"".join(container.export())
    image = container.commit("reef/py", "2", message="why", conf={"Cmd": ["cat", "/root/x/file"], "Env": ["A=1"]})
    assert image.tags == ["reef/py:2"]
    assert client.containers.run("reef/py:2", remove=True) == b"content"
    client.images.remove("reef/py:2")
    with pytest.raises(docker.errors.NotFound):
        container.get_archive("/nosuch")
