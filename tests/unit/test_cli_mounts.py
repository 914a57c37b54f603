"""`-v` and `--mount` of the command."""

import re
from pathlib import Path

import pytest

from atoll.cli.values.mounts import parse_mount, split_volumes


def test_a_volume_without_a_source_is_anonymous_and_a_dot_is_our_directory() -> None:
    binds, anonymous = split_volumes(["/data", "name:/a:ro", "./x:/b", "/c:/c"])
    assert binds == ["name:/a:ro", f"{Path('x').resolve()}:/b", "/c:/c"]
    assert anonymous == ["/data"]


def test_a_mount_is_what_dockers_would_be() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rprivate") == {
        "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rprivate"},
    }  # fmt: skip
    assert parse_mount('source=data,target=/b,"volume-label=a=b,c",volume-opt=size=1g,volume-nocopy=true') == {
        "Type": "volume", "Source": "data", "Target": "/b",
        "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b,c"}, "DriverConfig": {"Options": {"size": "1g"}}},
    }  # fmt: skip
    assert parse_mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770") == {
        "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type=bind,source=/a", "target is required"),
        ("type=nosuch,target=/a", "invalid mount type 'nosuch'"),
        ("target", "must be a key=value pair"),
        ("target=/a,colour=red", "unexpected key 'colour'"),
        ("type=bind,source=/a,target=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
        ("type=tmpfs,source=/a,target=/b", "a tmpfs has no source"),
        ("type=tmpfs,target=/b,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        ("target=/a,readonly=maybe", "invalid value for readonly: maybe"),
    ],
)
def test_a_bad_mount_says_why(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_mount(text)
