"""What takes room, and making some: `df` and `prune`, ours and those of the real `docker` command."""

import json
from pathlib import Path

import pytest
from harness.archives import file, tar
from harness.command import Command
from harness.engine import EngineUnderTest

SHARED = tar([file("bin/sh", b"shell" * 100_000)])


@pytest.fixture
def atoll(empty_engine: EngineUnderTest, tmp_path: Path) -> Command:
    """The command on an engine with the images `reef`, which a container has, and `tide`, both of one layer."""
    (empty_engine.root / "atoll.toml").write_text("pool_size = 0\ntemplates = false\n")
    atoll = empty_engine.atoll
    (tmp_path / "root.tar").write_bytes(SHARED)
    for name in ("reef", "tide"):
        change = f"LABEL sea={name}"
        atoll.ok("import", "--change", 'CMD ["sh"]', "--change", change, tmp_path / "root.tar", f"{name}:1")
    atoll.ok("create", "--name", "diver", "reef:1")
    return atoll


@pytest.fixture
def docker(empty_engine: EngineUnderTest, atoll: Command) -> Command:
    return empty_engine.docker


@pytest.fixture(params=["atoll", "docker"])
def command(request: pytest.FixtureRequest, atoll: Command, docker: Command) -> Command:
    """Ours and Docker's, which must say the same."""
    return atoll if request.param == "atoll" else docker


def add_image(atoll: Command, tmp_path: Path, name: str, content: bytes, *changes: str) -> str:
    (tmp_path / "new.tar").write_bytes(tar([file("content", content)]))
    words = [word for change in changes for word in ("--change", change)]
    return atoll.ok("import", *words, tmp_path / "new.tar", name)


def test_df_says_what_is_there_and_what_could_go(command: Command) -> None:
    rows = [json.loads(line) for line in command.ok("system", "df", "--format", "json").splitlines()]
    images, containers, volumes, *_ = rows
    assert (images["Type"], images["TotalCount"], images["Active"]) == ("Images", "2", "1")
    assert (containers["Type"], containers["TotalCount"], containers["Active"]) == ("Containers", "1", "0")
    assert (volumes["Type"], volumes["TotalCount"], volumes["Size"]) == ("Local Volumes", "0", "0B")
    assert containers["Reclaimable"].endswith("(100%)")


def test_df_verbose_shows_what_images_share(command: Command) -> None:
    lines = command.ok("system", "df", "-v").splitlines()
    header = next(line for line in lines if "REPOSITORY" in line)
    assert " ".join(header.split()) == "REPOSITORY TAG IMAGE ID CREATED SIZE SHARED SIZE UNIQUE SIZE CONTAINERS"
    reef, tide = (next(line.split() for line in lines if line.startswith(name)) for name in ("reef", "tide"))
    assert (reef[-2:], tide[-2:]) == (["0B", "1"], ["0B", "0"])
    assert any(line.endswith("diver") for line in lines)


def test_an_image_of_its_own_layers_is_unique(atoll: Command, docker: Command, tmp_path: Path) -> None:
    add_image(atoll, tmp_path, "kelp", b"kelp" * 50_000)
    for command in (atoll, docker):
        (kelp,) = (line.split() for line in command.ok("system", "df", "-v").splitlines() if line.startswith("kelp"))
        assert kelp[-3] == "0B"
        assert kelp[-2] != "0B"


def test_image_prune_takes_what_has_no_name_and_no_container(command: Command, atoll: Command, tmp_path: Path) -> None:
    old = add_image(atoll, tmp_path, "kelp", b"kelp" * 50_000)
    add_image(atoll, tmp_path, "kelp", b"new")
    said = command.ok("image", "prune", "-f").splitlines()
    assert said[:2] == ["Deleted Images:", f"deleted: {old}"]
    freed = said[-1].removeprefix("Total reclaimed space: ")
    assert 400 < float(freed.removesuffix("kB")) < 500
    assert sorted(atoll.ok("images", "--format", "{{.Repository}}").split()) == ["kelp", "reef", "tide"]


def test_image_prune_all_spares_what_containers_have(command: Command, atoll: Command) -> None:
    said = command.ok("image", "prune", "-a", "-f")
    assert "untagged: tide:1" in said
    assert atoll.ok("images", "--format", "{{.Repository}}") == "reef"


def test_prune_obeys_its_filters(command: Command, atoll: Command) -> None:
    for spared in ("label=sea=red", "label!=sea=tide", "until=1h"):
        assert command.ok("image", "prune", "-a", "-f", "--filter", spared) == "Total reclaimed space: 0B"
    assert "untagged: tide:1" in command.ok("image", "prune", "-a", "-f", "--filter", "label=sea=tide")


def test_prune_asks_first_and_no_is_no(command: Command, atoll: Command) -> None:
    asked = command("system", "prune", "-a", input=b"n\n")
    assert asked.code == 0
    assert "Are you sure you want to continue? [y/N]" in asked.stdout
    assert atoll.ok("ps", "-aq")
    assert len(atoll.ok("images", "-q").split()) == 2
    said = command("system", "prune", "-a", input=b"y\n").stdout
    assert "Deleted Containers:" in said
    assert "untagged: reef:1" in said
    assert atoll.ok("images", "-q") == ""


def test_system_prune_without_volumes_keeps_named_images(command: Command, atoll: Command) -> None:
    said = command.ok("system", "prune", "-f")
    assert said.splitlines()[0] == "Deleted Containers:"
    assert said.splitlines()[-1].startswith("Total reclaimed space: ")
    assert len(atoll.ok("images", "-q").split()) == 2


def test_a_container_keeps_its_image_from_being_removed(command: Command, atoll: Command) -> None:
    image = atoll.ok("image", "inspect", "--format", "{{.Id}}", "reef:1")
    by_name, by_id = command("rmi", "reef:1"), command("rmi", image)
    assert by_name.code == by_id.code == 1
    assert 'unable to remove repository reference "reef:1" (must force)' in by_name.stderr
    assert "(must be forced) - image is being used by stopped container" in by_id.stderr


@pytest.mark.parametrize("by", ["name", "id"])
def test_force_takes_the_name_and_leaves_the_container_its_image(command: Command, atoll: Command, by: str) -> None:
    image = atoll.ok("image", "inspect", "--format", "{{.Id}}", "reef:1")
    assert command.ok("rmi", "-f", "reef:1" if by == "name" else image) == "Untagged: reef:1"
    assert json.loads(atoll.ok("image", "inspect", image))[0]["RepoTags"] == []
    atoll.ok("image", "prune", "-a", "-f")
    assert json.loads(atoll.ok("image", "inspect", image))[0]["Id"] == image
    atoll.ok("rm", "diver")
    assert f"deleted: {image}" in atoll.ok("image", "prune", "-f")


def test_df_shows_volumes_and_prune_takes_anonymous_ones(command: Command, atoll: Command) -> None:
    atoll.ok("volume", "create", "--opt", "size=16m", "kept")
    atoll.ok("create", "--name", "swimmer", "-v", "/data", "reef:1")
    volumes = json.loads(command.ok("system", "df", "--format", "json").splitlines()[2])
    assert (volumes["TotalCount"], volumes["Active"]) == ("2", "1")
    assert any(line.split()[:2] == ["kept", "0"] for line in command.ok("system", "df", "-v").splitlines())
    atoll.ok("rm", "swimmer")
    assert "Deleted Volumes:" in command.ok("system", "prune", "-f", "--volumes")
    assert atoll.ok("volume", "ls", "-q") == "kept"
