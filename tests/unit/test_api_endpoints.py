"""Networks, ports and egress of a new container, from Docker's words to ours."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.api.container_config import container_config
from atoll.api.ports import exposed_ports, parse_ports
from atoll.api.schemas import ContainerBody, decode
from atoll.errors import InvalidRequest, Unsupported
from atoll.image import Image
from atoll.image.oci import Empty, Execution, ImageConfig, RootFilesystem
from atoll.model.container import ContainerConfig
from atoll.model.network import Egress, NetworkWish, PortBinding

ID = "0123456789abcdef" * 4
MAC = "02:00:00:00:00:05"


def configure(
    endpoints: Mapping[str, object] | None = None, host: Mapping[str, object] | None = None, **body: object
) -> ContainerConfig:
    execution = Execution(cmd=("true",), exposed_ports={"80/tcp": Empty(), "53/udp": Empty()})
    config = ImageConfig(architecture="amd64", os="linux", config=execution, rootfs=RootFilesystem(type="layers"))
    image = Image("sha256:" + "0" * 64, config, ("box:latest",), (), ())
    request = {"Image": "box", **body, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}
    decoded = decode(json.dumps(request).encode(), ContainerBody)
    return container_config(decoded, image, ID, None, lambda _: ())


@pytest.mark.parametrize("mode", [None, "", "default", "bridge"])
def test_who_says_nothing_is_on_the_network_bridge(mode: str | None) -> None:
    for endpoints in (None, {}, {mode or "default": None}, {"bridge": {}}):
        config = configure(endpoints, {"NetworkMode": mode})
        assert (config.network_mode, config.networks) == ("bridge", (NetworkWish(network="bridge"),))


def test_who_names_networks_and_no_mode_is_on_those() -> None:
    assert configure({"reef": {}, "abyss": {}}).networks == (NetworkWish(network="reef"), NetworkWish(network="abyss"))
    assert configure({"reef": {}}, {"NetworkMode": "abyss"}).networks == (
        NetworkWish(network="abyss"), NetworkWish(network="reef"),
    )  # fmt: skip


def test_none_is_no_network() -> None:
    assert configure(host={"NetworkMode": "none"}, endpoints={"none": {}}).networks == ()
    assert configure(NetworkDisabled=True).networks == ()


def test_the_network_of_the_mode_comes_first_and_each_has_its_wishes() -> None:
    reef = {
        "IPAMConfig": {"IPv4Address": "10.5.0.2", "IPv6Address": "FD00::2"}, "MacAddress": MAC.upper(),
        "Aliases": ["a", "a", "b"], "GwPriority": 7, "DriverOpts": None, "Links": None,
    }  # fmt: skip
    config = configure({"abyss": None, "reef": reef}, {"NetworkMode": "reef"})
    assert config.networks == (
        NetworkWish(network="reef", ipv4="10.5.0.2", ipv6="fd00::2", mac=MAC, aliases=("a", "b"), gateway_priority=7),
        NetworkWish(network="abyss"),
    )


def test_the_containers_own_mac_address_is_for_the_first_network() -> None:
    assert configure(MacAddress=MAC).networks == (NetworkWish(network="bridge", mac=MAC),)
    with pytest.raises(InvalidRequest, match="must match the endpoint-specific MAC address"):
        configure({"default": {"MacAddress": "02:00:00:00:00:06"}}, MacAddress=MAC)


@pytest.mark.parametrize(
    ("mode", "endpoints", "words"),
    [
        ("none", {"reef": {}}, "--network none cannot be on reef as well"),
        ("host", {"reef": {}}, "--network host cannot be on reef as well"),
        ("reef", {"host": {}}, "conflicting options"),
        ("reef", {"reef": {"IPAMConfig": {"IPv4Address": "fd00::2"}}}, "invalid IPv4 address: fd00::2"),
        ("reef", {"reef": {"IPAMConfig": {"IPv6Address": "10.5.0.2"}}}, "invalid IPv6 address: 10.5.0.2"),
        ("reef", {"reef": {"MacAddress": "02:00"}}, "invalid MAC address: 02:00"),
        ("reef", {"reef": {"MacAddress": "ff:ff:ff:ff:ff:ff"}}, "is not that of one interface"),
        ("reef", {"reef": {"MacAddress": "00:00:00:00:00:00"}}, "is not that of one interface"),
    ],
)
def test_networks_that_make_no_sense_are_refused(mode: str, endpoints: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        configure(endpoints, {"NetworkMode": mode})


@pytest.mark.parametrize(
    ("mode", "endpoint", "words"),
    [
        ("container:reef", None, "each container has a kernel of its own"),
        ("reef", {"Links": ["db"]}, "atoll does not have links"),
        ("reef", {"DriverOpts": {"colour": "red"}}, "the endpoint option 'colour'"),
        ("reef", {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}, "--link-local-ip"),
    ],
)
def test_what_a_network_of_ours_does_not_have_is_refused(
    mode: str, endpoint: Mapping[str, object] | None, words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        configure({mode: endpoint}, {"NetworkMode": mode})


def test_ports_are_published_and_exposed() -> None:
    bindings = {
        "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}, {"HostIp": "::1", "HostPort": ""}],
        "6000": [{"HostPort": "7000-7010"}, {"HostPort": "7000-7000"}],
        "5353": [{"HostIp": None, "HostPort": "53"}],
        "99/udp": None,
    }
    config = configure(
        host={"PortBindings": bindings, "PublishAllPorts": True}, ExposedPorts={"7000-7001/udp": {}, "80/tcp": {}}
    )
    assert config.ports == (
        PortBinding(container_port=8080, host_ip="127.0.0.1", host_port=80),
        PortBinding(container_port=8080, host_ip="::1"),
        PortBinding(container_port=6000, host_port=7000, host_port_last=7010),
        PortBinding(container_port=6000, host_port=7000),
        PortBinding(container_port=5353, host_port=53),
    )
    assert config.exposed == ("53/udp", "80/tcp", "5353/tcp", "6000/tcp", "7000/udp", "7001/udp", "8080/tcp")
    assert config.publish_all


@pytest.mark.parametrize(
    ("port", "binding", "words"),
    [
        ("x", {}, "invalid port specification: 'x'"),
        ("0", {}, "ports are from 1 to 65535"),
        ("80/icmp", {}, "invalid protocol 'icmp'"),
        ("80", {"HostPort": "x"}, "invalid host port: 'x'"),
        ("80", {"HostPort": "81-80"}, "invalid host port: '81-80'"),
        ("80", {"HostPort": "80/tcp"}, "invalid host port: '80/tcp'"),
        ("80", {"HostPort": "65536"}, "invalid host port: '65536'"),
        ("80", {"HostIp": "nosuch"}, "invalid IP address: nosuch"),
    ],
)
def test_a_port_that_is_none_is_refused(port: str, binding: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        configure(host={"PortBindings": {port: [binding]}})


@given(st.text(alphabet="0123456789-/tcpudx", max_size=14))
def test_a_port_of_any_text_is_read_or_refused(text: str) -> None:
    try:
        ports = parse_ports(text)
    except (InvalidRequest, Unsupported):
        return
    assert exposed_ports((text,), (), ()) == tuple(f"{number}/{protocol}" for number, protocol in ports)


def test_egress_is_said_in_several_words() -> None:
    assert configure().egress == Egress()
    config = configure(host={"Atoll": {"Egress": ["allow=192.0.2.0/24:443", "domain=example.org"]}})
    assert config.egress == Egress(mode="listed", allow=("192.0.2.0/24:443",), domains=("example.org",))
    with pytest.raises(InvalidRequest, match="invalid egress policy"):
        configure(host={"Atoll": {"Egress": ["none", "dns"]}})
