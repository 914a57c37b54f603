"""The words of an egress policy."""

import re
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.api.egress import egress_text, parse_egress
from atoll.errors import InvalidRequest
from atoll.model.network import Egress
from atoll.network.destination import Destination


@pytest.mark.parametrize(
    ("text", "egress"),
    [
        ("", Egress()),
        ("all", Egress()),
        (" none ", Egress(mode="none")),
        ("dns", Egress(mode="dns")),
        ("allow=192.0.2.0/24", Egress(mode="listed", allow=("192.0.2.0/24",))),
        (
            "allow=192.0.2.1/32:443, 2001:db8::1,allow=[2001:DB8::/32]:53,[::1]",
            Egress(mode="listed", allow=("192.0.2.1:443", "2001:db8::1", "[2001:db8::/32]:53", "::1")),
        ),
        (
            "domain=*.Debian.org.,python.org,allow=10.0.0.0/8,domain=bücher.example,domain=python.org",
            Egress(
                mode="listed",
                allow=("10.0.0.0/8",),
                domains=("debian.org", "python.org", "xn--bcher-kva.example"),
            ),
        ),
    ],
)
def test_a_policy_is_a_word_or_a_list(text: str, egress: Egress) -> None:
    assert parse_egress(text) == egress
    assert parse_egress(egress_text(egress)) == egress


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("some", "invalid egress policy 'some': write all, none, dns, or a list"),
        ("allow=10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("allow=192.0.2.1:0", "'0' is no port"),
        ("allow=192.0.2.1:", "'' is no port"),
        ("allow=192.0.2.1:65536", "'65536' is no port"),
        ("allow=[192.0.2.1]:1", "brackets, which are for IPv6"),
        ("allow=[2001:db8::1", "not closed"),
        ("allow=[2001:db8::1]1", "not closed"),
        ("allow=fe80::1%eth0", "invalid egress destination"),
        ("allow=example.org", "invalid egress destination 'example.org'"),
        ("allow=", "invalid egress destination ''"),
        ("none,dns", "invalid egress policy"),
        ("allow=10.0.0.0/8,none", "invalid egress destination 'none'"),
        ("deny=10.0.0.0/8", "invalid egress policy"),
        ("domain=", "invalid egress domain ''"),
        ("domain=*.*.org", "invalid egress domain"),
        ("domain=-a.org", "invalid egress domain"),
        ("domain=a..b", "invalid egress domain"),
        ("domain=" + "a" * 64, "invalid egress domain"),
        (",", "invalid egress policy"),
        ("domain=" + ",".join(f"a{number}.b" for number in range(300)), "more than 256 entries"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        parse_egress(text)


@given(
    st.text() | st.lists(st.sampled_from(["allow=", "domain=", ",", "[", "]", ":", "1", ".", "/", "é"])).map("".join)
)
def test_every_text_is_a_policy_that_can_be_said_again_or_is_refused(text: str) -> None:
    try:
        egress = parse_egress(text)
    except InvalidRequest:
        return
    assert parse_egress(egress_text(egress)) == egress


@given(st.ip_addresses(), st.integers(0, 32), st.integers(0, 65535))
def test_a_destination_reads_what_it_writes(address: object, prefix: int, port: int) -> None:
    network = IPv4Network if ":" not in str(address) else IPv6Network
    destination = Destination(network(f"{address}/{prefix}", strict=False), port)
    assert Destination.parse(str(destination)) == destination
