"""`-p` and `--expose` of the command, and how it shows ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.cli.values.ports import (
    PROTOCOLS,
    Published,
    host_address,
    parse_expose,
    parse_port,
    parse_publish,
    shown_ports,
)

PORTS = st.integers(1, 65535)
ADDRESSES = st.one_of(st.just(""), st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("80", [Published("80/tcp", "", "")]),
        ("8080:80", [Published("80/tcp", "", "8080")]),
        ("53:53/UDP", [Published("53/udp", "", "53")]),
        ("127.0.0.1:8080:80", [Published("80/tcp", "127.0.0.1", "8080")]),
        ("127.0.0.1::80", [Published("80/tcp", "127.0.0.1", "")]),
        ("[::1]:8080:80", [Published("80/tcp", "::1", "8080")]),
        ("::1:8080:80", [Published("80/tcp", "::1", "8080")]),
        ("8000-8001:80-81", [Published("80/tcp", "", "8000"), Published("81/tcp", "", "8001")]),
        ("80-81", [Published("80/tcp", "", ""), Published("81/tcp", "", "")]),
        ("8000-8010:80", [Published("80/tcp", "", "8000-8010")]),
        ("target=80,published=8080,protocol=udp", [Published("80/udp", "", "8080")]),
    ],
)
def test_a_published_port_is_read_as_docker_does(text: str, published: list[Published]) -> None:
    assert parse_publish(text) == published


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no port specified"),
        ("8080:", "no port specified"),
        ("0", "invalid containerPort: 0"),
        ("65536", "invalid containerPort: 65536"),
        ("81-80", "invalid containerPort: 81-80"),
        ("x:80", "invalid hostPort: x"),
        ("80/icmp", "invalid proto: icmp"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("[::x]:80:80", "invalid IP address: ::x"),
        ("8000-8001:80-82", "invalid ranges specified for container and host Ports"),
        ("target=80,published", "invalid publish opts format"),
        ("\u0663:80", "invalid hostPort"),
    ],
)
def test_what_is_no_port_is_an_error_that_says_so(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        parse_publish(text)


@given(ADDRESSES, PORTS, PORTS, st.sampled_from(PROTOCOLS))
def test_an_address_with_its_ports_comes_back(ip: str, host: int, container: int, protocol: str) -> None:
    front = f"{host_address(ip, host)}" if ip else str(host)
    assert parse_publish(f"{front}:{container}/{protocol}") == [Published(f"{container}/{protocol}", ip, str(host))]


@given(st.integers(1, 60000), st.integers(1, 60000), st.integers(0, 50))
def test_a_range_is_so_many_ports_side_by_side(host: int, container: int, more: int) -> None:
    found = parse_publish(f"{host}-{host + more}:{container}-{container + more}")
    assert [(int(one.host_port) - host, int(one.port.removesuffix("/tcp")) - container) for one in found] == [
        (number, number) for number in range(more + 1)
    ]


@given(st.text(alphabet="0123456789:-/.[]=,tcpudx", max_size=24))
def test_nothing_but_a_value_error_comes_of_nonsense(text: str) -> None:
    for parse in (parse_publish, parse_expose, parse_port):
        try:
            assert parse(text)
        except ValueError:
            continue


def test_exposed_ports_and_the_argument_of_port_have_a_protocol() -> None:
    assert parse_expose("8000-8001/udp") == ["8000/udp", "8001/udp"]
    assert (parse_port("80"), parse_port("80/udp")) == ("80/tcp", "80/udp")
    with pytest.raises(ValueError, match="invalid port format for --expose: 1:2"):
        parse_expose("1:2")


def test_ports_are_shown_as_docker_does() -> None:
    def published(ip: str, public: int, private: int, protocol: str = "tcp") -> dict[str, str | int]:
        return {"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": protocol}

    rows = [
        published("0.0.0.0", 8080, 80), published("::", 8080, 80),
        *(published("0.0.0.0", port, port) for port in (7002, 7000, 7001, 9000)), published("::", 7000, 7000),
        published("127.0.0.1", 53, 53, "udp"), {"PrivatePort": 443, "Type": "tcp"},
    ]  # fmt: skip
    assert shown_ports(rows).split(", ") == [  # type: ignore[arg-type]  # rows are built above
        "0.0.0.0:7000-7002->7000-7002/tcp", "127.0.0.1:53->53/udp", "443/tcp", "0.0.0.0:9000->9000/tcp",
        "[::]:7000->7000/tcp", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp",
    ]  # fmt: skip
