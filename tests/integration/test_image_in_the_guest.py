"""What an image's layers hold, as a container finds it: a hundred layers, file capabilities, odd files and paths."""

import hashlib
import json
import struct
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from harness.archives import Member, device, directory, file, hard_link, member, symlink, tar
from harness.checkout import program
from harness.command import Command
from harness.images import BUSYBOX_CHANGES, busybox_root

_PATH = BUSYBOX_CHANGES[1].removeprefix("ENV ")
_CAP_NET_RAW = 13

Load = Callable[..., str]


def archive(name: str, layers: Sequence[bytes]) -> bytes:
    """What `docker save` makes of an image."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": [_PATH]}, "rootfs": rootfs}
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    members = [file("config.json", json.dumps(config).encode()), file("manifest.json", json.dumps(manifest).encode())]
    return tar(members + [file(path, layer) for path, layer in zip(names, layers, strict=True)])


def with_libraries(path: Path) -> list[Member]:
    """A program of this machine in `/host`, with what it needs there: the image may be of an older Debian."""
    needed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    files = [path, *(Path(word) for word in needed.split() if word.startswith("/"))]
    names = ["loader" if found.name.startswith("ld-linux") else found.name for found in files]
    return [file(f"host/{name}", found.read_bytes(), mode=0o755) for name, found in zip(names, files, strict=True)]


@pytest.fixture
def load(atoll: Command, tmp_path: Path) -> Load:
    """Loads an image of some layers; the session's engine takes it along when it goes."""

    def load(name: str, *layers: bytes) -> str:
        (tmp_path / "image.tar").write_bytes(archive(name, layers))
        atoll.ok("image", "load", "-i", tmp_path / "image.tar")
        return name

    return load


def test_an_image_of_a_hundred_layers_runs_and_shows_all_of_them(atoll: Command, load: Load) -> None:
    layers = [
        tar([file("top", b"%d" % number), file(f"own/{number}"), file(f"own/.wh.{number - 2}")])
        for number in range(1, 100)
    ]
    image = load("layers:100", busybox_root(), *layers)
    said = atoll.ok(
        "run", "--rm", "--network", "none", image, "sh", "-c", "cat top; echo; ls own; echo new > own/5; cat own/5"
    )
    assert said.split() == ["99", "98", "99", "new"]


def test_a_file_capability_of_the_image_holds_in_the_guest(atoll: Command, load: Load, debian_tar: Path) -> None:
    # Revision 2, effective: the words of capabilities(7), lower permitted and inheritable, then upper.
    capability = struct.pack("<IIIII", 0x0200_0001, 1 << _CAP_NET_RAW, 0, 0, 0).decode("latin-1")
    tools = [
        file("usr/bin/ping", program("busybox").read_bytes(), mode=0o755, xattrs={"security.capability": capability}),
        *with_libraries(program("getcap")),
    ]
    image = load("capable:1", debian_tar.read_bytes(), tar(tools))
    getcap = ("/host/loader", "--library-path", "/host", "/host/getcap", "/usr/bin/ping")
    assert atoll.ok("run", "--rm", "--network", "none", image, *getcap) == "/usr/bin/ping cap_net_raw=ep"
    line = ("run", "--rm", "--network", "none", "--user", "nobody", image)
    assert "1 packets received" in atoll.ok(*line, "ping", "-c", "1", "127.0.0.1")
    status = atoll.ok(*line, "bash", "-c", "exec -a grep ping CapEff /proc/self/status")
    assert int(status.split()[-1], 16) == 1 << _CAP_NET_RAW


def test_odd_files_of_an_image_are_what_they_are(atoll: Command, load: Load) -> None:
    long = "/".join(["d" * 120] * 4)
    members: list[Member] = [
        file("/absolute", b"from the root"),
        symlink("way", "absolute-directory"),
        file("way/through", b"a link"),
        file(long, b"long"),
        hard_link("short", long),
        file("owned", uid=100_000, gid=4_000_000_000, mode=0o4711, mtime=1_000_000_000.75),
        file("old", mtime=-86400.5),
        member("fifo", tarfile.FIFOTYPE, mode=0o620),
        device("zero", 1, 5),
        directory("empty", mode=0o1777),
    ]
    image = load("odd:1", busybox_root(), tar(members))
    script = (
        "cat /absolute /absolute-directory/through /short; echo;"
        "stat -c '%n %F %a %u %g %h %Y' owned old fifo empty short; head -c 3 /zero | wc -c"
    )
    assert atoll.ok("run", "--rm", "--network", "none", image, "sh", "-c", script).splitlines() == [
        "from the roota linklong",
        "owned regular empty file 4711 100000 4000000000 1 1000000000",
        "old regular empty file 644 0 0 1 0",
        "fifo fifo 620 0 0 1 0",
        "empty directory 1777 0 0 2 0",
        "short regular file 644 0 0 2 0",
        "3",
    ]
