"""The flags that `run` and `create` share, and their values.

Docker has more. What Atoll does not have yet is not here: asking for it is an error and not a surprise.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from atoll.cli.flags import INTEGER, LIST, Kind, flag, switch
from atoll.cli.terminal.detach import parse_detach_keys
from atoll.cli.values import environment, limits, mounts, networks, ports, sizes

if TYPE_CHECKING:
    from atoll.client.shapes import Object

Command = TypeVar("Command", bound=Callable[..., object])


def checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """A parser that only checks: the engine gets the text as written."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


BYTES = Kind("bytes", sizes.parse_size)
DETACH_KEYS = flag(
    "--detach-keys",
    kind=Kind("string", checked(parse_detach_keys)),
    help="Override the key sequence for detaching a container",
)

FLAGS = (
    flag(
        "--add-host",
        kind=Kind("list", limits.parse_host),
        multiple=True,
        help="Add a custom host-to-IP mapping (host:ip)",
    ),
    flag(
        "-a",
        "--attach",
        kind=Kind("list", limits.parse_stream),
        multiple=True,
        help="Attach to STDIN, STDOUT or STDERR",
    ),
    flag("--cap-add", kind=LIST, multiple=True, help="Add Linux capabilities"),
    flag("--cap-drop", kind=LIST, multiple=True, help="Drop Linux capabilities"),
    flag("--cidfile", help="Write the container ID to the file"),
    flag("--cpu-period", kind=INTEGER, help="Limit CPU CFS (Completely Fair Scheduler) period"),
    flag("--cpu-quota", kind=INTEGER, help="Limit CPU CFS (Completely Fair Scheduler) quota"),
    flag("-c", "--cpu-shares", kind=INTEGER, help="CPU shares (relative weight)"),
    flag("--cpus", kind=Kind("decimal", limits.parse_cpus), help="Number of CPUs"),
    flag("--disk", kind=Kind("bytes", checked(sizes.parse_size)), help="Size of the container's writable layer"),
    flag("--dns", kind=Kind("list", limits.parse_dns), multiple=True, help="Set custom DNS servers"),
    flag("--dns-option", kind=LIST, multiple=True, help="Set DNS options"),
    flag("--dns-search", kind=LIST, multiple=True, help="Set custom DNS search domains"),
    flag("--domainname", help="Container NIS domain name"),
    flag(
        "--egress",
        kind=LIST,
        multiple=True,
        help="What the container may reach beyond its networks: none, dns, all, allow=CIDR[:port], domain=NAME",
    ),
    flag("--entrypoint", help="Overwrite the default ENTRYPOINT of the image"),
    flag("-e", "--env", kind=Kind("list", environment.parse_variable), multiple=True, help="Set environment variables"),
    flag("--env-file", kind=LIST, multiple=True, help="Read in a file of environment variables"),
    flag("--expose", kind=Kind("list", ports.parse_expose), multiple=True, help="Expose a port or a range of ports"),
    flag("--group-add", kind=LIST, multiple=True, help="Add additional groups to join"),
    flag("-h", "--hostname", help="Container host name"),
    switch("--init", default=None, help="Run an init inside the container that forwards signals and reaps processes"),
    switch("-i", "--interactive", help="Keep STDIN open even if not attached"),
    flag("--ip", help="IPv4 address (e.g., 172.30.100.104)"),
    flag("--ip6", help="IPv6 address (e.g., 2001:db8::33)"),
    flag(
        "-l", "--label", kind=Kind("list", environment.parse_label), multiple=True, help="Set meta data on a container"
    ),
    flag("--label-file", kind=LIST, multiple=True, help="Read in a line delimited file of labels"),
    flag("--log-driver", help="Logging driver for the container"),
    flag("--log-opt", kind=LIST, multiple=True, help="Log driver options"),
    flag("--mac-address", help="Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    flag("-m", "--memory", kind=BYTES, help="Memory limit"),
    flag(
        "--memory-swap",
        kind=Kind("bytes", sizes.parse_swap),
        help="Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
    flag(
        "--mount",
        kind=Kind("mount", mounts.parse_mount),
        multiple=True,
        help="Attach a filesystem mount to the container",
    ),
    flag("--name", help="Assign a name to the container"),
    flag(
        "--network",
        "--net",
        kind=Kind("network", networks.parse_network),
        multiple=True,
        help="Connect a container to a network: NAME or NAME:ip=,ip6=,mac=,alias=",
    ),
    flag("--network-alias", kind=LIST, multiple=True, help="Add network-scoped alias for the container"),
    flag("--oom-score-adj", kind=INTEGER, help="Tune the guest's OOM preferences (-1000 to 1000)"),
    flag("--pids-limit", kind=INTEGER, help="Tune container pids limit (set -1 for unlimited)"),
    flag("--platform", help="Set platform if server is multi-platform capable"),
    switch("--privileged", help="Give extended privileges to this container, inside its VM"),
    flag(
        "-p",
        "--publish",
        kind=Kind("list", ports.parse_publish),
        multiple=True,
        help="Publish a container's port(s) to the host",
    ),
    switch("-P", "--publish-all", help="Publish all exposed ports to random ports"),
    flag(
        "--pull",
        kind=Kind("string", limits.parse_pull),
        default="missing",
        help='Pull image before running ("always", "missing", "never")',
    ),
    switch("-q", "--quiet", help="Suppress the pull output"),
    switch("--read-only", help="Mount the container's root filesystem as read only"),
    flag(
        "--restart",
        kind=Kind("string", limits.parse_restart),
        default="no",
        help="Restart policy to apply when a container exits",
    ),
    switch("--rm", help="Automatically remove the container when it exits"),
    flag("--security-opt", kind=Kind("list", limits.parse_security), multiple=True, help="Security Options"),
    flag("--shm-size", kind=BYTES, help="Size of /dev/shm"),
    flag("--stop-signal", help="Signal to stop the container"),
    flag("--stop-timeout", kind=INTEGER, help="Timeout (in seconds) to stop a container"),
    flag("--storage-opt", kind=LIST, multiple=True, help="Storage driver options for the container"),
    flag("--sysctl", kind=Kind("map", limits.parse_sysctl), multiple=True, help="Sysctl options"),
    flag("--tmpfs", kind=LIST, multiple=True, help="Mount a tmpfs directory"),
    switch("-t", "--tty", help="Allocate a pseudo-TTY"),
    flag("--ulimit", kind=Kind("ulimit", limits.parse_ulimit), multiple=True, help="Ulimit options"),
    flag("-u", "--user", help="Username or UID (format: <name|uid>[:<group|gid>])"),
    switch("--verify", help="Verify the image's content whenever it is read"),
    flag("-v", "--volume", kind=LIST, multiple=True, help="Bind mount a volume, or a directory of the host"),
    flag("--volume-driver", help="Optional volume driver for the container"),
    flag("--volumes-from", kind=LIST, multiple=True, help="Mount volumes from the specified container(s)"),
    flag("-w", "--workdir", help="Working directory inside the container"),
)
"""One line a flag, as Docker's help has them."""


class ContainerFlags:
    """The values of `FLAGS`; None, or an empty sequence, for what was not given."""

    add_host: Sequence[str]
    attach: Sequence[str]
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    cidfile: str | None
    cpu_period: int | None
    cpu_quota: int | None
    cpu_shares: int | None
    cpus: int | None
    disk: str | None
    dns: Sequence[str]
    dns_option: Sequence[str]
    dns_search: Sequence[str]
    domainname: str | None
    egress: Sequence[str]
    entrypoint: str | None
    env: Sequence[str]
    env_file: Sequence[str]
    expose: Sequence[Sequence[str]]
    group_add: Sequence[str]
    hostname: str | None
    init: bool | None
    interactive: bool
    ip: str | None
    ip6: str | None
    label: Sequence[str]
    label_file: Sequence[str]
    log_driver: str | None
    log_opt: Sequence[str]
    mac_address: str | None
    memory: int | None
    memory_swap: int | None
    mount: "Sequence[Object]"
    name: str | None
    network: "Sequence[networks.Join]"
    network_alias: Sequence[str]
    oom_score_adj: int | None
    pids_limit: int | None
    platform: str | None
    privileged: bool
    publish: "Sequence[Sequence[ports.Published]]"
    publish_all: bool
    pull: str
    quiet: bool
    read_only: bool
    restart: dict[str, str | int]
    rm: bool
    security_opt: Sequence[str]
    shm_size: int | None
    stop_signal: str | None
    stop_timeout: int | None
    storage_opt: Sequence[str]
    sysctl: Sequence[str]
    tmpfs: Sequence[str]
    tty: bool
    ulimit: Sequence[dict[str, str | int]]
    user: str | None
    verify: bool
    volume: Sequence[str]
    volume_driver: str | None
    volumes_from: Sequence[str]
    workdir: str | None

    def __init__(self, values: dict[str, object]) -> None:
        self.__dict__.update(values)


def container_flags(command: Command) -> Command:
    """Decorator: all of `FLAGS`; the command's function takes them as `**values`."""
    for declare in reversed(FLAGS):
        command = declare(command)
    return command
