"""Docker's defaults for the inside of a container, and how flags change them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atoll.errors import InvalidRequest
from atoll.guest.capabilities import ALL, DEFAULT, capabilities
from atoll.guest.identity_files import identity_files, network_files
from atoll.guest.start_request import (
    MASKED_PATHS,
    environment,
    exec_request,
    limits,
    rlimits,
    start_request,
)
from atoll.guest.tmpfs import tmpfs_mount
from atoll.model.agent import Disk, Extent, Limits, Mount, Process, Rlimit, Root, Start, Stdio, Terminal
from atoll.model.container import ContainerConfig
from atoll.model.network import Interface
from atoll.model.runtime import ExecStart

CONFIG = ContainerConfig(image="busybox", image_id="sha256:0", hostname="box", command=("true",))
ID = "0123456789abcdef" * 4
LAYERS = (Extent(1 << 20, 2 << 20), Extent(3 << 20, 1 << 20))
IMAGE, WRITABLE = Disk(pci="0000:00:05.0"), Disk(pci="0000:00:06.0")


def start(config: ContainerConfig) -> Start:
    stdio = Stdio(stdout=1, stderr=2)
    return start_request(config, id=ID, layers=LAYERS, image=IMAGE, writable=WRITABLE, stdio=stdio, growth_mib=128)


def test_a_plain_container_starts_with_dockers_defaults() -> None:
    request = start(CONFIG)
    assert request.root == Root(image=IMAGE, layers=LAYERS, writable=WRITABLE, read_only=False)
    assert request.process.arguments == ("true",)
    assert request.process.environment == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box",
    )
    assert set(request.process.capabilities) == set(DEFAULT)
    assert request.process.terminal is None
    assert request.process.stdio == Stdio(stdout=1, stderr=2)
    assert request.profile.masked_paths == MASKED_PATHS
    assert "/proc/sys" in request.profile.readonly_paths
    assert request.limits == Limits()
    assert request.growth_bytes == 128 << 20


def test_a_file_of_the_users_own_is_not_covered() -> None:
    mounts = (Mount(target="/etc//hosts", type="share", source="0"), Mount(target="/etc", type="share", source="1"))
    stdio = Stdio(stdout=1, stderr=2)
    request = start_request(CONFIG, id=ID, layers=LAYERS, image=IMAGE, writable=WRITABLE, stdio=stdio, mounts=mounts)
    assert sorted(request.files) == ["/etc/hostname", "/etc/machine-id", "/etc/resolv.conf"]


def test_no_two_starts_have_the_same_randomness() -> None:
    first, second = start(CONFIG), start(CONFIG)
    assert len(first.entropy) == 64
    assert first.entropy != second.entropy
    assert second.clock_ns >= first.clock_ns > 1_700_000_000 * 10**9


def test_the_entrypoint_comes_before_the_command() -> None:
    request = start(replace(CONFIG, entrypoint=("sh", "-c"), command=("exit 7",)))
    assert request.process.arguments == ("sh", "-c", "exit 7")


@pytest.mark.parametrize("command", [(), ("",)])
def test_a_container_without_a_command_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="no command given"):
        start(replace(CONFIG, command=command))


def test_a_privileged_container_may_do_everything() -> None:
    request = start(replace(CONFIG, privileged=True, cap_drop=("ALL",)))
    assert request.profile.privileged
    assert request.process.capabilities == ALL
    assert request.profile.masked_paths == request.profile.readonly_paths == ()


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("NET_ADMIN",), (), {*DEFAULT, "NET_ADMIN"}),
        (("cap_net_admin",), ("CAP_CHOWN",), {*DEFAULT, "NET_ADMIN"} - {"CHOWN"}),
        (("CHOWN",), ("chown",), set(DEFAULT)),
        (("ALL",), ("MKNOD",), set(ALL) - {"MKNOD"}),
        ((), ("all",), set()),
        (("KILL",), ("ALL",), {"KILL"}),
        (("ALL",), ("ALL",), set(ALL)),
    ],
)
def test_capabilities_are_added_and_dropped(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert set(capabilities(add, drop, privileged=False)) == expected


@pytest.mark.parametrize("privileged", [True, False])
def test_an_unknown_capability_is_refused(privileged: bool) -> None:
    with pytest.raises(InvalidRequest, match="unknown capability 'CAP_FLY'"):
        capabilities(("CAP_FLY",), (), privileged)


def test_variables_replace_defaults_in_their_place_and_can_be_taken_away() -> None:
    config = replace(CONFIG, environment=("A=1", "PATH=/bin", "B=2", "A=3", "HOSTNAME", "EMPTY="))
    assert environment(config, terminal=True) == ("PATH=/bin", "TERM=xterm", "A=3", "B=2", "EMPTY=")


def test_a_terminal_gives_term_and_a_size() -> None:
    request = start(replace(CONFIG, terminal=True))
    assert "TERM=xterm" in request.process.environment
    assert request.process.terminal == Terminal()


def test_cpus_become_a_quota() -> None:
    assert limits(replace(CONFIG, nano_cpus=1_500_000_000)) == Limits(cpu_quota_us=150_000)
    assert limits(replace(CONFIG, nano_cpus=1)).cpu_quota_us == 1000
    assert limits(replace(CONFIG, cpu_quota_us=50_000, cpu_period_us=20_000)) == Limits(
        cpu_quota_us=50_000, cpu_period_us=20_000
    )
    assert limits(replace(CONFIG, cpu_quota_us=-1)).cpu_quota_us is None


def test_swap_is_what_is_left_of_dockers_sum() -> None:
    config = replace(CONFIG, memory_bytes=100 << 20, memory_swap_bytes=150 << 20, pids_limit=-1)
    assert limits(config) == Limits(memory_bytes=100 << 20, memory_swap_bytes=50 << 20)
    assert limits(replace(config, memory_swap_bytes=-1)).memory_swap_bytes is None


def test_ulimits_replace_the_defaults() -> None:
    chosen = {limit.name: limit for limit in rlimits(replace(CONFIG, rlimits=(Rlimit(name="nofile", soft=5, hard=9),)))}
    assert chosen["nofile"] == Rlimit(name="nofile", soft=5, hard=9)
    assert "nproc" in chosen
    with pytest.raises(InvalidRequest, match="soft limit"):
        rlimits(replace(CONFIG, rlimits=(Rlimit(name="nofile", soft=9, hard=5),)))


def test_tmpfs_has_dockers_flags_unless_the_user_says_the_opposite() -> None:
    assert tmpfs_mount("/tmp", "").options == ("noexec", "nosuid", "nodev")
    assert tmpfs_mount("/tmp", "exec,size=64m,mode=1777,size=65m").options == (
        "nosuid",
        "nodev",
        "exec",
        "size=65m",
        "mode=1777",
    )
    assert tmpfs_mount("/tmp", "ro,rw").options == ("noexec", "nosuid", "nodev", "rw")


@pytest.mark.parametrize(
    ("target", "options"),
    [("tmp", ""), ("/", ""), ("/a/../b", ""), ("/t", "size=1x"), ("/t", "bind"), ("/t", "rw=1"), ("/t", "mode=9")],
)
def test_a_bad_tmpfs_is_refused(target: str, options: str) -> None:
    with pytest.raises(InvalidRequest, match="bad tmpfs"):
        tmpfs_mount(target, options)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_tmpfs_is_made_or_refused(target: str, options: str) -> None:
    try:
        mount = tmpfs_mount(target, options)
    except InvalidRequest:
        return
    assert mount.target.startswith("/")
    assert all("," not in option for option in mount.options)


def test_names_and_servers_go_into_the_usual_files() -> None:
    files = identity_files(
        replace(
            CONFIG,
            extra_hosts=("db:10.0.0.5", "six=[::2]", "colon:fe80::1"),
            dns=("10.0.0.1",),
            dns_search=("a.test", "b.test"),
            dns_options=("ndots:2",),
        ),
        ID,
    )
    assert files["/etc/hostname"] == b"box\n"
    assert files["/etc/hosts"].startswith(b"127.0.0.1\tlocalhost\n::1\tlocalhost")
    assert files["/etc/hosts"].endswith(b"10.0.0.5\tdb\n::2\tsix\nfe80::1\tcolon\n")
    assert files["/etc/resolv.conf"] == b"nameserver 10.0.0.1\nsearch a.test b.test\noptions ndots:2\n"


@pytest.mark.parametrize(
    "change",
    [
        {"extra_hosts": ("nonsense",)},
        {"extra_hosts": ("a b:10.0.0.1",)},
        {"extra_hosts": (":10.0.0.1",)},
        {"dns": ("not-an-address",)},
        {"dns_search": ("a\nnameserver 6.6.6.6",)},
    ],
)
def test_bad_names_and_servers_are_refused(change: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidRequest, match="bad"):
        identity_files(replace(CONFIG, **change), ID)


FIRST = Interface(
    pci="0000:00:07.0", name="eth0", mac="02:00:00:00:00:01", addresses=("10.1.0.2/16", "fd01::2/64"), gateways=()
)
SECOND = Interface(pci="0000:00:0b.0", name="eth1", mac="02:00:00:00:00:02", addresses=("10.2.0.2/16",), gateways=())


def test_a_container_on_networks_finds_itself_and_asks_their_resolvers() -> None:
    config = replace(CONFIG, domainname="example.test", extra_hosts=("host:host-gateway",), dns=("192.0.2.53",))
    files = network_files(config, (FIRST, SECOND), ("10.1.0.1",), "10.1.0.1")
    own = b"".join(address + b"\tbox.example.test box\n" for address in (b"10.1.0.2", b"fd01::2", b"10.2.0.2"))
    assert files["/etc/hosts"].endswith(b"10.1.0.1\thost\n" + own)
    assert files["/etc/resolv.conf"] == b"nameserver 10.1.0.1\noptions ndots:0\n"


def test_a_users_number_of_dots_is_kept() -> None:
    files = network_files(replace(CONFIG, dns_options=("ndots:3", "rotate")), (FIRST,), ("10.1.0.1",), "")
    assert files["/etc/resolv.conf"] == b"nameserver 10.1.0.1\noptions ndots:3 rotate\n"


def test_a_container_without_a_network_asks_the_servers_that_the_user_gave() -> None:
    files = network_files(replace(CONFIG, dns=("192.0.2.53",)), (), (), "")
    assert files["/etc/resolv.conf"] == b"nameserver 192.0.2.53\n"
    assert b"box" not in files["/etc/hosts"]


def test_the_hosts_address_is_refused_where_no_network_leads_there() -> None:
    with pytest.raises(InvalidRequest, match="needs a network"):
        network_files(replace(CONFIG, extra_hosts=("host:host-gateway",)), (), (), "")


def test_a_start_takes_its_interfaces_along() -> None:
    stdio = Stdio()
    request = start_request(CONFIG, id=ID, layers=LAYERS, image=IMAGE, writable=None, stdio=stdio, interfaces=(FIRST,))
    assert request.interfaces == (FIRST,)
    assert b"10.1.0.2\tbox\n" in request.files["/etc/hosts"]


def test_a_container_that_switches_ipv6_off_gets_none_of_it() -> None:
    config = replace(CONFIG, sysctls={"net.ipv6.conf.all.disable_ipv6": "1"})
    interface = replace(FIRST, gateways=("10.1.0.1", "fd01::1"))
    request = start_request(
        config, id=ID, layers=LAYERS, image=IMAGE, writable=None, stdio=Stdio(), interfaces=(interface,)
    )
    assert request.interfaces == (replace(FIRST, addresses=("10.1.0.2/16",), gateways=("10.1.0.1",)),)


def test_an_exec_is_like_the_container_where_it_says_nothing() -> None:
    config = replace(CONFIG, environment=("A=1",), user="app", cap_drop=("ALL",), no_new_privileges=True)
    process = Process(arguments=("id",), environment=("A=2", "B=3"), working_dir="/srv")
    request = exec_request(config, ExecStart(id="e", process=process), Stdio(stdout=9))
    assert request.process.user == "app"
    assert request.process.capabilities == ()
    assert request.process.no_new_privileges
    assert request.process.environment[-2:] == ("A=2", "B=3")
    assert request.process.stdio == Stdio(stdout=9)
    assert request.process.working_dir == "/srv"


def test_an_exec_may_be_privileged_in_a_plain_container() -> None:
    process = Process(arguments=("id",), user="0", terminal=Terminal(rows=5, columns=6))
    request = exec_request(CONFIG, ExecStart(id="e", privileged=True, process=process), Stdio())
    assert request.privileged
    assert request.process.capabilities == ALL
    assert request.process.user == "0"
    assert "TERM=xterm" in request.process.environment
    assert request.process.terminal == Terminal(rows=5, columns=6)
