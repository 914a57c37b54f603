"""From Docker's words for a new container to ours: what is merged, what is checked, what is refused."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from doubles.volumes import open_volumes

from atoll.api.container_config import container_config
from atoll.api.inspect import container_json
from atoll.api.schemas import ContainerBody, decode
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest, NotFound, Unsupported
from atoll.image import Image
from atoll.image.oci import Execution, ImageConfig, RootFilesystem
from atoll.model.agent import Rlimit, Terminal
from atoll.model.container import ContainerConfig
from atoll.model.network import Network
from atoll.paths import Paths

ID = "0123456789abcdef" * 4
ENTRYPOINT, COMMAND = ("/entry", "-x"), ("serve",)


def image(**fields: object) -> Image:
    execution = Execution(**fields)  # type: ignore[arg-type]  # a test names the fields that it is about
    config = ImageConfig(architecture="amd64", os="linux", config=execution, rootfs=RootFilesystem(type="layers"))
    return Image("sha256:" + "0" * 64, config, ("box:latest",), (), ())


def configure(
    body: Mapping[str, object],
    of: Image | None = None,
    *,
    host: Mapping[str, object] | None = None,
    platform: str | None = None,
) -> ContainerConfig:
    request = {"Image": "box", "Cmd": ["true"], **body, "HostConfig": host or {}}
    decoded = decode(json.dumps(request).encode(), ContainerBody)
    return container_config(decoded, of or image(), ID, platform, lambda _: ())


@pytest.mark.parametrize(
    ("body", "entrypoint", "command"),
    [
        ({"Cmd": None}, ENTRYPOINT, COMMAND),
        ({"Cmd": ["mine"]}, ENTRYPOINT, ("mine",)),
        ({"Cmd": None, "Entrypoint": ["sh"]}, ("sh",), ()),
        ({"Cmd": ["-c", "true"], "Entrypoint": "sh"}, ("sh",), ("-c", "true")),
        ({"Cmd": ["mine"], "Entrypoint": [""]}, (), ("mine",)),
        ({"Cmd": "one string"}, ENTRYPOINT, ("one string",)),
    ],
)
def test_entrypoint_and_command_replace_the_images_as_in_docker(
    body: dict[str, object], entrypoint: tuple[str, ...], command: tuple[str, ...]
) -> None:
    config = configure(body, image(entrypoint=ENTRYPOINT, cmd=COMMAND))
    assert (config.entrypoint, config.command) == (entrypoint, command)


def test_an_image_without_a_command_needs_one() -> None:
    with pytest.raises(InvalidRequest, match="no command specified"):
        configure({"Cmd": None})


def test_environment_and_labels_are_united_and_the_users_win() -> None:
    of = image(env=("PATH=/bin", "COLOUR=red", "GONE=1"), labels={"a": "image", "b": "image"})
    config = configure({"Env": ["COLOUR=blue", "GONE"], "Labels": {"a": "mine"}}, of)
    assert sorted(config.environment) == ["COLOUR=blue", "PATH=/bin"]
    assert config.labels == {"a": "mine", "b": "image"}


def test_what_the_user_leaves_out_is_the_images() -> None:
    config = configure({}, image(user="sailor", working_dir="/srv", stop_signal="SIGQUIT", stop_timeout=3))
    assert (config.user, config.working_dir, config.stop_signal, config.stop_timeout_s) == (
        "sailor", "/srv", "SIGQUIT", 3,
    )  # fmt: skip
    assert (config.hostname, config.restart.name, config.shm_bytes) == (ID[:12], "no", 64 << 20)


def test_limits_capabilities_and_disks_are_read() -> None:
    host = {
        "CapAdd": ["cap_net_admin", "SYS_TIME"],
        "CapDrop": ["all"],
        "Ulimits": [{"Name": "NOFILE", "Soft": 10, "Hard": -1}],
        "StorageOpt": {"size": "2G"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
        "Mounts": [{"Type": "tmpfs", "Target": "/cache", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096}}],
        "Tmpfs": {"/run": "mode=755"},
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": -1,
        "ConsoleSize": [50, 132],
    }
    config = configure({}, host=host)
    assert (config.cap_add, config.cap_drop) == (("NET_ADMIN", "SYS_TIME"), ("ALL",))
    assert config.rlimits == (Rlimit(name="nofile", soft=10, hard=2**64 - 1),)
    assert (config.disk_bytes, config.log_max_bytes, config.log_max_files) == (2 << 30, 10 << 20, 2)
    assert config.tmpfs == {"/run": "mode=755", "/cache": "ro,size=4096"}
    assert (config.no_new_privileges, config.pids_limit) == (True, None)
    assert config.terminal_size == Terminal(rows=50, columns=132)


@pytest.mark.parametrize(
    ("body", "host", "words"),
    [
        ({"WorkingDir": "relative"}, {}, "needs to be an absolute path"),
        ({"Env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({"Hostname": "x" * 65}, {}, "is too long"),
        ({"StopSignal": "FOO"}, {}, "Invalid signal: FOO"),
        ({}, {"Memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
        ({}, {"Memory": 64 << 20, "MemorySwap": 32 << 20}, "Minimum memoryswap limit"),
        ({}, {"NanoCpus": 10**15}, "range of CPUs is from 0.01 to"),
        ({}, {"NanoCpus": 10**9, "CpuQuota": 5000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({}, {"CapAdd": ["FOO"]}, 'unknown capability: "CAP_FOO"'),
        ({}, {"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 1}]}, "must be less than or equal to hard limit"),
        ({}, {"RestartPolicy": {"Name": "sometimes"}}, "unknown policy 'sometimes'"),
        ({}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, "can only be used with 'on-failure'"),
        ({}, {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "with restart policy"),
        ({}, {"LogConfig": {"Config": {"max-file": "0"}}}, "log-opt max-file"),
        ({}, {"StorageOpt": {"size": "big"}}, "invalid size 'big'"),
        ({}, {"Tmpfs": {"run": ""}}, "mount path must be absolute"),
        ({}, {"Runtime": "nosuch"}, "unknown or invalid runtime name: nosuch"),
        ({}, {"Dns": ["nosuch"]}, "invalid DNS server: 'nosuch'"),
        ({}, {"Memory": "64m"}, "the request's body is not what it should be"),
    ],
)
def test_a_bad_value_is_refused_in_dockers_words(body: dict[str, object], host: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        configure(body, host=host)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("body", "host"),
    [
        ({"Healthcheck": {"Test": ["CMD", "true"]}}, {}),
        ({}, {"Devices": [{"PathOnHost": "/dev/null"}]}),
        ({}, {"DeviceRequests": [{"Count": -1}]}),
        ({}, {"NetworkMode": "container:x"}),
        ({}, {"Links": ["db:db"]}),
        ({}, {"PidMode": "host"}),
        ({}, {"IpcMode": "host"}),
        ({}, {"UTSMode": "host"}),
        ({}, {"CgroupnsMode": "host"}),
        ({}, {"Mounts": [{"Type": "npipe", "Source": "/x", "Target": "/x"}]}),
        ({}, {"VolumeDriver": "nfs"}),
        ({}, {"Binds": ["/x:/x:rshared"]}),
        ({}, {"SecurityOpt": ["seccomp={}"]}),
        ({}, {"MaskedPaths": []}),
        ({}, {"OomKillDisable": True}),
        ({}, {"LogConfig": {"Type": "syslog"}}),
    ],
)
def test_what_would_change_security_or_data_is_refused_and_not_ignored(
    body: dict[str, object], host: dict[str, object]
) -> None:
    with pytest.raises(Unsupported, match="atoll does not have"):
        configure(body, host=host)


def test_an_image_of_another_platform_is_not_found() -> None:
    with pytest.raises(NotFound, match="wanted linux/arm64, actual: linux/amd64"):
        configure({}, platform="linux/arm64")
    assert configure({}, platform="linux/amd64").platform == "linux/amd64"


def network_of(reference: str) -> Network:
    return Network(id="f" * 64, name=reference, created_at=datetime(2026, 1, 1, tzinfo=UTC), driver="null")


def test_inspect_gives_back_what_was_asked_for(tmp_path: Path) -> None:
    config = configure({"Tty": True}, host={"CapAdd": ["NET_ADMIN"], "NanoCpus": 500_000_000, "Tmpfs": {"/run": "ro"}})
    record = ContainerRecord(id=ID, name="reef", created_at=datetime(2026, 1, 1, tzinfo=UTC), config=config)
    with open_volumes(tmp_path) as volumes:
        shown = container_json(record, Paths(tmp_path, tmp_path, tmp_path, tmp_path), volumes, network_of, [], {})
    assert isinstance(shown, dict)
    host, state = shown["HostConfig"], shown["State"]
    assert isinstance(host, dict)
    assert isinstance(state, dict)
    assert (host["CapAdd"], host["NanoCpus"], host["Tmpfs"]) == (["CAP_NET_ADMIN"], 500_000_000, {"/run": "ro"})
    assert (shown["Name"], shown["Path"], state["Status"]) == ("/reef", "true", "created")
