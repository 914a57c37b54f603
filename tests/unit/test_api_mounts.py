"""What is mounted in a container, from Docker's five places for it."""

import json
from collections.abc import Sequence

import pytest

from atoll.api.mounts import binds_json, mount_points
from atoll.api.schemas import ContainerBody, decode
from atoll.errors import InvalidRequest, Unsupported
from atoll.model.container import ContainerConfig, MountPoint

OTHER = (
    MountPoint(type="volume", name="data", target="/data"),
    MountPoint(type="bind", source="/host", target="/host"),
)


def mounts(
    *, image: Sequence[str] = (), volumes: dict[str, object] | None = None, **host: object
) -> dict[str, MountPoint]:
    body = decode(json.dumps({"Volumes": volumes, "HostConfig": host}).encode(), ContainerBody)
    points = mount_points(body, image, {"other": OTHER}.__getitem__)
    assert len({point.target for point in points}) == len(points)
    return {point.target: point for point in points}


def test_a_bind_is_a_host_directory_or_a_volume_by_its_first_character() -> None:
    found = mounts(Binds=["/srv//x/../y:/a/", "data:/b:ro,nocopy", "/srv:/c:rw,Z", "logs:/d"])
    assert found["/a"] == MountPoint(type="bind", source="/srv/y", target="/a", makes_source=True)
    assert (found["/b"].name, found["/b"].read_only, found["/b"].fills) == ("data", True, False)
    assert (found["/c"].type, found["/c"].read_only) == ("bind", False)
    assert (found["/d"].name, found["/d"].fills, found["/d"].is_anonymous) == ("logs", True, False)


def test_a_mount_says_more_than_a_bind() -> None:
    options = {"NoCopy": True, "Labels": {"a": "b"}, "DriverConfig": {"Options": {"size": "1g"}}}
    found = mounts(
        Mounts=[
            {"Type": "volume", "Source": "data", "Target": "/a", "VolumeOptions": options},
            {"Type": "volume", "Target": "/b", "ReadOnly": True},
            {"Type": "bind", "Source": "/srv", "Target": "/c"},
            {"Type": "tmpfs", "Target": "/d"},
        ]
    )
    assert (found["/a"].options, found["/a"].labels, found["/a"].fills) == ({"size": "1g"}, {"a": "b"}, False)
    assert found["/b"].is_anonymous
    assert found["/b"].read_only
    assert (found["/c"].source, found["/c"].makes_source) == ("/srv", False)
    assert "/d" not in found


def test_what_the_user_names_wins_over_what_others_have() -> None:
    found = mounts(
        image=["/data", "/image", "/mem"],
        volumes={"/asked": {}, "/image": {}},
        VolumesFrom=["other:ro"],
        Binds=["mine:/host"],
        Tmpfs={"/mem": ""},
    )
    assert found.keys() == {"/host", "/data", "/asked", "/image"}
    assert found["/host"].name == "mine"
    assert (found["/data"].name, found["/data"].read_only) == ("data", True)
    assert found["/asked"].is_anonymous
    assert found["/image"].name != found["/asked"].name


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Binds": ["/x"]}, "invalid volume specification: '/x'"),
        ({"Binds": ["/x:/x:ro:rw"]}, "invalid volume specification"),
        ({"Binds": ["/x:x"]}, "'x' mount path must be absolute"),
        ({"Binds": ["/x:/"]}, "destination can't be '/'"),
        ({"Binds": ["/x:/a:sometimes"]}, "invalid mode: sometimes"),
        ({"Binds": ["/x:/a:ro,rw"]}, "invalid mode: ro,rw"),
        ({"Binds": ["x/y:/a"]}, "includes invalid characters for a local volume name"),
        ({"Binds": ["/x:/a", "/y:/a/"]}, "Duplicate mount point: /a"),
        ({"Binds": ["/x:/a"], "Tmpfs": {"/a": ""}}, "Duplicate mount point: /a"),
        ({"Mounts": [{"Type": "bind", "Target": "/a"}]}, "field Source must not be empty"),
        ({"Mounts": [{"Type": "bind", "Source": "x", "Target": "/a"}]}, "'x' mount path must be absolute"),
        ({"Mounts": [{"Type": "volume", "Target": "a"}]}, "'a' mount path must be absolute"),
        (
            {"Mounts": [{"Target": "/a", "Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"x": ""}}}}]},
            "invalid option: x=",
        ),
        ({"VolumesFrom": ["other:sometimes"]}, "invalid volumes-from specification"),
    ],
)
def test_a_bad_mount_is_refused_in_dockers_words(host: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        mounts(**host)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        {"Mounts": [{"Type": "volume", "Target": "/a", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]},
        {"Mounts": [{"Type": "volume", "Target": "/a", "VolumeOptions": {"Subpath": "x"}}]},
        {"Mounts": [{"Type": "bind", "Source": "/x", "Target": "/a", "BindOptions": {"Propagation": "rshared"}}]},
        {"Mounts": [{"Type": "cluster", "Source": "x", "Target": "/a"}]},
    ],
)
def test_what_a_vm_cannot_have_is_refused_by_name(host: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match="atoll does not have"):
        mounts(**host)


def test_binds_are_shown_as_they_were_asked_for() -> None:
    points = tuple(mounts(Binds=["/srv:/a:ro", "data:/b"], volumes={"/anonymous": {}}).values())
    config = ContainerConfig(image="", image_id="", hostname="", mounts=points)
    assert binds_json(config) == ["/srv:/a:ro", "data:/b"]
