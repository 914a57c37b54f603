"""From flags to the request that the engine gets."""

from typing import Any

import click
import pytest

from atoll.cli.commands.container_flags import ContainerFlags
from atoll.cli.commands.container_request import attached_streams, container_request
from atoll.cli.commands.run import run
from atoll.cli.errors import Failure


def request_of(*line: str, detached: bool = False) -> dict[str, Any]:
    """The request of `atoll run LINE`."""
    with run.make_context("run", list(line), obj=None) as ctx:
        image, *command = ctx.params.pop("arguments")
        return container_request(ContainerFlags(ctx.params), image, command, detached=detached)


def test_what_was_not_asked_for_is_left_to_the_engine() -> None:
    assert request_of("busybox") == {
        "Image": "busybox",
        "Env": [],
        "Labels": {},
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
    }


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["-e", "A=1", "-e", "B=2"], "Env", ["A=1", "B=2"]),
        (["-l", "a=b", "--label", "c"], "Labels", {"a": "b", "c": ""}),
        (["-w", "/tmp"], "WorkingDir", "/tmp"),
        (["-u", "1:2"], "User", "1:2"),
        (["-h", "reef"], "Hostname", "reef"),
        (["--entrypoint", ""], "Entrypoint", [""]),
        (["--entrypoint", "/bin/sh"], "Entrypoint", ["/bin/sh"]),
        (["--stop-signal", "SIGINT"], "StopSignal", "SIGINT"),
        (["--stop-timeout", "3"], "StopTimeout", 3),
        (["--expose", "90-91", "-p", "80"], "ExposedPorts", {"90/tcp": {}, "91/tcp": {}, "80/tcp": {}}),
        (
            ["--network", "reef", "--network-alias", "a"],
            "NetworkingConfig",
            {
                "EndpointsConfig": {"reef": {"Aliases": ["a"]}},
            },
        ),
        (
            ["--ip", "10.5.0.2"],
            "NetworkingConfig",
            {
                "EndpointsConfig": {"default": {"IPAMConfig": {"IPv4Address": "10.5.0.2"}}},
            },
        ),
    ],
)
def test_flags_of_the_container(flags: list[str], field: str, value: object) -> None:
    assert request_of(*flags, "busybox")[field] == value


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--rm"], "AutoRemove", True),
        (["--cpus", "1.5"], "NanoCpus", 1_500_000_000),
        (["-m", "512m"], "Memory", 512 << 20),
        (["-m", "1g", "--memory-swap", "-1"], "MemorySwap", -1),
        (["--disk", "2g"], "StorageOpt", {"size": "2g"}),
        (["--tmpfs", "/a", "--tmpfs", "/b:size=1m,mode=700"], "Tmpfs", {"/a": "", "/b": "size=1m,mode=700"}),
        (["--ulimit", "nofile=1:2"], "Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 2}]),
        (["--cap-add", "NET_ADMIN", "--cap-add", "ALL"], "CapAdd", ["NET_ADMIN", "ALL"]),
        (["--privileged"], "Privileged", True),
        (["--read-only"], "ReadonlyRootfs", True),
        (["--init"], "Init", True),
        (["--init=false"], "Init", False),
        (["--sysctl", "net.core.somaxconn=1024"], "Sysctls", {"net.core.somaxconn": "1024"}),
        (["--restart", "on-failure:3"], "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        (["--security-opt", "no-new-privileges"], "SecurityOpt", ["no-new-privileges"]),
        (["--add-host", "a:1.2.3.4"], "ExtraHosts", ["a:1.2.3.4"]),
        (["--log-opt", "max-size=1m"], "LogConfig", {"Type": "", "Config": {"max-size": "1m"}}),
        (["--net", "none"], "NetworkMode", "none"),
        (["--network", "name=reef,ip=10.5.0.2", "--network", "b"], "NetworkMode", "reef"),
        (
            ["-p", "8080:80", "-p", "80/udp"],
            "PortBindings",
            {
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                "80/udp": [{"HostIp": "", "HostPort": ""}],
            },
        ),
        (["-P"], "PublishAllPorts", True),
        (["--egress", "dns"], "Atoll", {"Egress": ["dns"]}),
    ],
)
def test_flags_of_the_host(flags: list[str], field: str, value: object) -> None:
    assert request_of(*flags, "busybox")["HostConfig"][field] == value


def test_what_follows_the_image_is_the_command() -> None:
    request = request_of("-i", "busybox", "ls", "-l", "--rm")
    assert request["Cmd"] == ["ls", "-l", "--rm"]
    assert "AutoRemove" not in request["HostConfig"]


@pytest.mark.parametrize(
    ("line", "detached", "streams"),
    [
        ([], False, {"stdout", "stderr"}),
        (["-i"], False, {"stdin", "stdout", "stderr"}),
        (["-a", "STDERR"], False, {"stderr"}),
        (["-a", "stdout", "-i"], False, {"stdin", "stdout"}),
        (["-i"], True, set()),
    ],
)
def test_streams_are_attached_as_docker_does(line: list[str], detached: bool, streams: set[str]) -> None:
    with run.make_context("run", [*line, "busybox"]) as ctx:
        assert attached_streams(ContainerFlags(ctx.params), detached=detached) == streams


def test_a_container_that_is_removed_is_not_restarted() -> None:
    with pytest.raises(Failure, match="cannot specify both --restart and --rm"):
        request_of("--rm", "--restart", "always", "busybox")


def test_every_shared_flag_has_a_place_for_its_value() -> None:
    with run.make_context("run", ["busybox"]) as ctx:
        own = {"detach", "detach_keys", "sig_proxy", "timings", "arguments"}
        assert set(ctx.params) - own == set(ContainerFlags.__annotations__)
    assert all(isinstance(parameter, click.Parameter) for parameter in run.params)
