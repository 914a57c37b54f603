"""Images go from tool to tool and come back the same: the real Docker, Podman, skopeo, umoci and docker-registry."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.archives import directory, file, symlink, tar
from harness.command import Command
from harness.docker_registry import DockerRegistry, docker_registry
from harness.engine import EngineUnderTest
from harness.peers import docker_images, podman_images

ROOT = tar([directory("bin"), file("bin/sh", b"shell" * 10_000, mode=0o755), symlink("s", "bin/sh"), file("old", b"o")])


@pytest.fixture
def atoll(empty_engine: EngineUnderTest) -> Command:
    """The `atoll` command on an engine of the test's own."""
    (empty_engine.root / "atoll.toml").write_text("pool_size = 0\ntemplates = false\n")
    return empty_engine.atoll


@pytest.fixture
def skopeo() -> Command:
    return Command(("skopeo", "--insecure-policy"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def docker_beside() -> Iterator[Command]:
    """The `docker` command with a dockerd of this module's own."""
    with docker_images() as docker:
        yield docker


@pytest.fixture(scope="module")
def podman() -> Iterator[Command]:
    with podman_images() as command:
        yield command


@pytest.fixture
def reef(atoll: Command, tmp_path: Path) -> str:
    """The id of an image that has no manifest yet, under two names."""
    (tmp_path / "root.tar").write_bytes(ROOT)
    image_id = atoll.ok(
        "import", "--change", 'CMD ["sh"]', "--change", "LABEL sea=red", tmp_path / "root.tar", "reef:1"
    )
    atoll.ok("tag", "reef:1", "reef:2")
    return image_id


def image_id(command: Command, name: str) -> str:
    return command.ok("image", "inspect", "--format", "{{.Id}}", name).removeprefix("sha256:")


def manifest_digest(archive: Path) -> str:
    """The digest of the one manifest that an OCI archive has."""
    with tarfile.open(archive) as members:
        index = members.extractfile("index.json")
        assert index is not None
        (digest,) = {entry["digest"] for entry in json.load(index)["manifests"]}
    return str(digest)


def test_docker_loads_what_we_save_and_we_load_what_it_saves(
    atoll: Command, docker_beside: Command, reef: str, tmp_path: Path
) -> None:
    atoll.ok("save", "-o", tmp_path / "ours.tar", "reef")
    loaded = docker_beside.ok("load", "-i", tmp_path / "ours.tar")
    assert sorted(loaded.splitlines()) == ["Loaded image: reef:1", "Loaded image: reef:2"]
    assert f"sha256:{image_id(docker_beside, 'reef:2')}" == reef
    docker_beside.ok("save", "-o", tmp_path / "theirs.tar", "reef:1", "reef:2")
    atoll.ok("rmi", "reef:1", "reef:2")
    loaded = atoll.ok("load", "-i", tmp_path / "theirs.tar")
    assert sorted(loaded.splitlines()) == ["Loaded image: reef:1", "Loaded image: reef:2"]
    assert f"sha256:{image_id(atoll, 'reef:1')}" == reef


@pytest.mark.parametrize(
    ("form", "name"),
    # Podman takes the short names of a docker-archive for images of its own.
    [("docker-archive", "localhost/reef:1"), ("oci-archive", "docker.io/library/reef:1")],
)
def test_podman_loads_what_we_save_and_we_load_what_it_saves(
    atoll: Command, podman: Command, reef: str, tmp_path: Path, form: str, name: str
) -> None:
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    atoll.ok("save", "-o", ours, "--format", form.removesuffix("-archive"), "reef:1")
    podman.ok("load", "-i", ours)
    assert f"sha256:{image_id(podman, name)}" == reef
    podman.ok("save", "--format", form, "-o", theirs, name)
    podman.ok("rmi", name)
    atoll.ok("rmi", "reef:1", "reef:2")
    assert atoll.ok("load", "-i", theirs) == f"Loaded image: {name.removeprefix('docker.io/library/')}"
    assert f"sha256:{image_id(atoll, name)}" == reef


def test_podman_loads_an_archive_that_is_both_kinds(atoll: Command, podman: Command, reef: str, tmp_path: Path) -> None:
    atoll.ok("save", "-o", tmp_path / "ours.tar", "reef:1")
    podman.ok("load", "-i", tmp_path / "ours.tar")
    assert f"sha256:{image_id(podman, 'docker.io/library/reef:1')}" == reef
    podman.ok("rmi", "docker.io/library/reef:1")


@pytest.mark.parametrize("compression", [[], ["--dest-compress", "--dest-compress-format=zstd"]])
def test_a_manifest_is_the_same_after_a_registry_a_pull_a_save_a_load_and_skopeo(
    atoll: Command, skopeo: Command, registry: DockerRegistry, reef: str, tmp_path: Path, compression: list[str]
) -> None:
    name = f"{registry.address}/reef:{len(compression)}"
    atoll.ok("save", "-o", tmp_path / "first.tar", "reef:1")
    copy = ("copy", "--dest-tls-verify=false", *compression, "--digestfile", tmp_path / "pushed")
    skopeo.ok(*copy, f"oci-archive:{tmp_path}/first.tar", f"docker://{name}")
    pushed = (tmp_path / "pushed").read_text().strip()
    atoll.ok("pull", name)
    assert f"sha256:{image_id(atoll, name)}" == reef
    atoll.ok("rmi", "reef:1", "reef:2", name)
    # Pulled alone, with no other manifest of the same image beside it.
    atoll.ok("pull", name)
    atoll.ok("save", "-o", tmp_path / "second.tar", name)
    assert manifest_digest(tmp_path / "second.tar") == pushed
    atoll.ok("rmi", name)
    assert atoll.ok("load", "-i", tmp_path / "second.tar") == f"Loaded image: {name}"
    atoll.ok("save", "-o", tmp_path / "third.tar", name)
    assert (tmp_path / "third.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
    back = ("copy", "--dest-tls-verify=false", "--preserve-digests", "--digestfile", tmp_path / "again")
    skopeo.ok(*back, f"oci-archive:{tmp_path}/third.tar", f"docker://{registry.address}/again:1")
    assert (tmp_path / "again").read_text().strip() == pushed


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save_and_we_load_what_it_writes(
    atoll: Command, skopeo: Command, reef: str, tmp_path: Path, form: str
) -> None:
    atoll.ok("save", "-o", tmp_path / "ours.tar", "reef:1")
    skopeo.ok("copy", f"{form}:{tmp_path}/ours.tar", f"{form}:{tmp_path}/theirs.tar:reef:3")
    assert atoll.ok("load", "-i", tmp_path / "theirs.tar") == "Loaded image: reef:3"
    assert f"sha256:{image_id(atoll, 'reef:3')}" == reef
    if form == "oci-archive":
        atoll.ok("rmi", "reef:1", "reef:2", "reef:3")
        atoll.ok("load", "-i", tmp_path / "theirs.tar")
        atoll.ok("save", "-o", tmp_path / "again.tar", "reef:3")
        assert manifest_digest(tmp_path / "again.tar") == manifest_digest(tmp_path / "theirs.tar")


def test_umoci_unpacks_what_we_save_and_we_load_what_it_repacks(atoll: Command, reef: str, tmp_path: Path) -> None:
    umoci, layout = Command(("umoci",)), tmp_path / "layout"
    atoll.ok("save", "-o", tmp_path / "ours.tar", "--format", "oci", "reef:1")
    with tarfile.open(tmp_path / "ours.tar") as members:
        members.extractall(layout, filter="data")
    umoci.ok("unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "bin/sh").read_bytes() == b"shell" * 10_000
    assert (root / "s").readlink() == Path("bin/sh")
    (root / "old").unlink()
    umoci.ok("repack", "--image", f"{layout}:changed", tmp_path / "bundle")
    umoci.ok("config", "--image", f"{layout}:changed", "--config.cmd", "changed")
    umoci.ok("remove", "--image", f"{layout}:1")
    with tarfile.open(tmp_path / "theirs.tar", "w") as members:
        members.add(layout, ".")
    # It keeps the annotation with the name, and changes the tag beside it.
    assert atoll.ok("load", "-i", tmp_path / "theirs.tar") == "Loaded image: reef:1"
    shown = json.loads(atoll.ok("image", "inspect", "reef:1"))[0]
    assert shown["Id"] != reef
    assert shown["Config"]["Cmd"] == ["changed"]
    assert shown["Config"]["Labels"] == {"sea": "red"}
    assert len(shown["RootFS"]["Layers"]) == 2


def test_docker_speaks_to_us_as_it_does_to_its_own_daemon(
    empty_engine: EngineUnderTest, atoll: Command, reef: str, tmp_path: Path
) -> None:
    docker = empty_engine.docker
    docker.ok("save", "-o", tmp_path / "ours.tar", "reef")
    docker.ok("rmi", "reef:1", "reef:2")
    loaded = docker.ok("load", "-i", tmp_path / "ours.tar")
    assert sorted(loaded.splitlines()) == ["Loaded image: reef:1", "Loaded image: reef:2"]
    assert f"sha256:{image_id(atoll, 'reef:1')}" == reef
    missing = docker("save", "-o", tmp_path / "none.tar", "nothing")
    assert missing.code == 1
    assert "nothing is not here" in missing.stderr


def test_a_saved_file_is_there_whole_or_not_at_all(atoll: Command, reef: str, tmp_path: Path) -> None:
    target = tmp_path / "out.tar"
    target.write_text("precious")
    failed = atoll("save", "-o", target, "nothing")
    assert (failed.code, target.read_text()) == (1, "precious")
    assert list(tmp_path.glob(".*")) == []
    nowhere = atoll("save", "-o", tmp_path / "no/where.tar", "reef:1")
    assert nowhere.code == 1
    assert f'directory "{tmp_path}/no" does not exist' in nowhere.stderr
    assert atoll("save", "-o", "/dev/null", "reef:1").code == 0
    assert Path("/dev/null").is_char_device()
