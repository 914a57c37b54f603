"""What clients are told of a container's networks and ports, and what they ask of a new network."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from atoll.api.endpoints import is_on, networks_json, settings_json
from atoll.api.networks import network_json, network_request
from atoll.api.ports import bindings_json, matches_ports, port_rows, ports_json
from atoll.api.schemas import NetworkBody, decode
from atoll.engine.network import NetworkRequest
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest, NotFound, Unsupported
from atoll.model.container import ContainerConfig, ContainerState
from atoll.model.network import Attachment, Network, NetworkWish, PortBinding, Subnet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NETWORKS = [
    Network(
        id="b" * 64, name="bridge", created_at=NOW, ipv4=Subnet(subnet="10.83.0.0/24", gateway="10.83.0.1"),
        ipv6=Subnet(subnet="fd12::/64", gateway="fd12::1"),
    ),
    Network(
        id="e" * 64, name="reef", created_at=NOW, internal=True, labels={"colour": "red"},
        ipv4=Subnet(subnet="10.5.0.0/16", gateway="10.5.0.1", range="10.5.1.0/24"),
    ),
    Network(id="0" * 64, name="none", created_at=NOW, driver="null"),
]  # fmt: skip
CONFIG = ContainerConfig(
    image="box", image_id="sha256:0", hostname="host", network_mode="reef", exposed=("53/udp", "80/tcp", "90/tcp"),
    ports=(
        PortBinding(container_port=80),
        PortBinding(container_port=90, host_ip="127.0.0.1", host_port=9000, host_port_last=9009),
    ),
)  # fmt: skip
RECORD = ContainerRecord(
    id="c" * 64, name="crab", created_at=NOW, config=CONFIG, state=ContainerState.RUNNING,
    attachments=(
        Attachment(
            network_id="b" * 64, slot=1, mac="02:00:00:00:00:02", ipv4="10.83.0.2", ipv6="fd12::2",
            wish=NetworkWish(network="bridge"),
        ),
        Attachment(
            network_id="e" * 64, slot=0, mac="02:00:00:00:00:01", ipv4="10.5.1.2", aliases=("claw",),
            wish=NetworkWish(network="reef", ipv4="10.5.1.2", aliases=("claw",)),
        ),
    ),
    published=(
        PortBinding(container_port=80, host_port=32768),
        PortBinding(container_port=90, host_ip="127.0.0.1", host_port=9000),
    ),
)  # fmt: skip
ALONE = replace(RECORD, attachments=(), config=replace(CONFIG, network_mode="none"))
STOPPED = replace(RECORD, state=ContainerState.EXITED, published=())


def network(reference: str) -> Network:
    for candidate in NETWORKS:
        if reference in (candidate.id, candidate.name):
            return candidate
    raise NotFound(reference)


def test_a_container_is_shown_on_its_networks() -> None:
    networks = networks_json(RECORD, network)
    assert list(networks) == ["reef", "bridge"]
    reef = networks["reef"]
    assert reef["IPAMConfig"] == {"IPv4Address": "10.5.1.2"}
    assert (reef["IPAddress"], reef["IPPrefixLen"], reef["Gateway"]) == ("10.5.1.2", 16, "10.5.0.1")
    assert (reef["Aliases"], reef["DNSNames"]) == (["claw"], ["crab", "claw", "c" * 12, "host"])
    bridge = networks["bridge"]
    assert (bridge["GlobalIPv6Address"], bridge["GlobalIPv6PrefixLen"], bridge["MacAddress"]) == (
        "fd12::2", 64, "02:00:00:00:00:02",
    )  # fmt: skip
    assert reef["EndpointID"] != bridge["EndpointID"]
    assert networks_json(STOPPED, network)["reef"]["EndpointID"] == ""


def test_the_addresses_of_the_network_bridge_are_the_containers() -> None:
    settings = settings_json(RECORD, network)
    assert isinstance(settings, dict)
    assert (settings["IPAddress"], settings["MacAddress"]) == ("10.83.0.2", "02:00:00:00:00:02")
    alone = settings_json(ALONE, network)
    assert isinstance(alone, dict)
    assert isinstance(alone["Networks"], dict)
    assert (alone["IPAddress"], list(alone["Networks"])) == ("", ["none"])


def test_a_container_is_found_by_its_networks() -> None:
    assert [name for name in ("reef", "eee", "bridge", "none", "ree") if is_on(RECORD, name, network)] == [
        "reef", "eee", "bridge",
    ]  # fmt: skip
    assert is_on(ALONE, "none", network)


def test_ports_are_shown_while_the_container_runs() -> None:
    every = [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"}]
    assert ports_json(RECORD) == {
        "53/udp": None, "80/tcp": every, "90/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}],
    }  # fmt: skip
    assert (ports_json(STOPPED), port_rows(STOPPED)) == ({}, [])
    assert bindings_json(CONFIG) == {
        "80/tcp": [{"HostIp": "", "HostPort": ""}], "90/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000-9009"}],
    }  # fmt: skip
    rows = port_rows(RECORD)
    assert {"PrivatePort": 53, "Type": "udp"} in rows
    assert {"IP": "::", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"} in rows
    assert matches_ports(rows, "PublicPort", "8999-9001")
    assert not matches_ports(rows, "PublicPort", "90")
    assert matches_ports(rows, "PrivatePort", "53/udp")
    assert not matches_ports(rows, "PrivatePort", "53")


def test_a_network_is_shown_with_its_subnets() -> None:
    shown = network_json(NETWORKS[1], {})
    assert shown["IPAM"] == {
        "Driver": "default", "Options": None,
        "Config": [{"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.1", "IPRange": "10.5.1.0/24"}],
    }  # fmt: skip
    assert (shown["Internal"], shown["EnableIPv4"], shown["EnableIPv6"]) == (True, True, False)
    assert (shown["Driver"], shown["Scope"], shown["Labels"]) == ("bridge", "local", {"colour": "red"})


def request_of(**body: object) -> NetworkRequest:
    return network_request(decode(json.dumps(body).encode(), NetworkBody))


def test_a_new_network_is_what_the_client_said() -> None:
    subnet = {"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.1", "IPRange": None}
    assert request_of(
        Name="reef", Driver="bridge", EnableIPv6=False, Internal=True, Options={"isolate": "true"}, CheckDuplicate=True,
        IPAM={"Driver": "default", "Options": {}, "Config": [subnet, {}]}, Labels={"a": "b"}, Scope="",
    ) == NetworkRequest(
        name="reef", enable_ipv6=False, internal=True, options={"isolate": "true"}, labels={"a": "b"},
        subnets=(Subnet(subnet="10.5.0.0/16", gateway="10.5.0.1"),),
    )  # fmt: skip
    assert request_of(Name="reef", IPAM=None, Options=None) == NetworkRequest(name="reef")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"Driver": "overlay"}, Unsupported, "the network driver 'overlay'"),
        ({"Driver": "host"}, InvalidRequest, 'only one instance of "host" network'),
        ({"EnableIPv4": False}, Unsupported, "networks without IPv4"),
        ({"ConfigOnly": True}, Unsupported, "of several machines"),
        ({"Scope": "swarm"}, Unsupported, "of several machines"),
        ({"IPAM": {"Driver": "dhcp"}}, Unsupported, "the IPAM driver 'dhcp'"),
        ({"IPAM": {"Config": [{"Gateway": "10.5.0.1"}]}}, InvalidRequest, "needs a subnet"),
        (
            {"IPAM": {"Config": [{"Subnet": "10.5.0.0/16", "AuxiliaryAddresses": {"a": "10.5.0.9"}}]}},
            Unsupported,
            "reserved addresses",
        ),
    ],
)
def test_a_network_of_another_kind_is_refused(body: Mapping[str, object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        request_of(Name="reef", **body)
