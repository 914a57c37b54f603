"""`--network` of the command, and the subnets of a new network."""

import pytest

from atoll.cli.values.networks import Join, joined, parse_network
from atoll.cli.values.subnets import match_subnets

MAC = "02:00:00:00:00:05"


@pytest.mark.parametrize(
    ("text", "join"),
    [
        ("reef", Join("reef", {})),
        ("container:other", Join("container:other", {})),
        (
            "reef:ip=10.5.0.2,ip6=fd00::2,mac=02:00:00:00:00:05,alias=a,alias=b",
            Join(
                "reef",
                {
                    "IPAMConfig": {"IPv4Address": "10.5.0.2", "IPv6Address": "fd00::2"},
                    "MacAddress": MAC,
                    "Aliases": ["a", "b"],
                },
            ),
        ),
        ("name=reef,mac-address=02:00:00:00:00:05", Join("reef", {"MacAddress": MAC})),
        (
            "name=reef,gw-priority=-1,driver-opt=a=b=c",
            Join("reef", {"GwPriority": -1, "DriverOpts": {"a": "b=c"}}),
        ),
    ],
)
def test_a_network_is_written_in_our_way_or_in_dockers(text: str, join: Join) -> None:
    assert parse_network(text) == join


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reef:ip=10.5.0", "invalid IP address: 10.5.0"),
        ("reef:ip=", "invalid field ip="),
        ("reef:colour=red", "invalid field key colour"),
        ("reef:name=other", "invalid field key name"),
        ("ip=10.5.0.2", "network name/id is not specified"),
        ("name=reef,gw-priority=high", "invalid gw-priority: high"),
    ],
)
def test_what_is_no_network_is_an_error_that_says_so(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_network(text)


def test_the_first_network_is_the_mode_and_gets_what_has_flags_of_its_own() -> None:
    assert joined([], {}) == (None, {})
    assert joined([], {"Aliases": ["mine"]}) == (None, {"default": {"Aliases": ["mine"]}})
    assert joined([Join("a", {})], {}) == ("a", {})
    assert joined([Join("a", {"MacAddress": MAC}), Join("b", {})], {"Aliases": ["mine"]}) == (
        "a", {"a": {"MacAddress": MAC, "Aliases": ["mine"]}, "b": {}},
    )  # fmt: skip


def test_nothing_is_said_twice() -> None:
    with pytest.raises(ValueError, match='network "a" is specified multiple times'):
        joined([Join("a", {}), Join("a", {})], {})
    with pytest.raises(ValueError, match="conflicting options: --mac-address"):
        joined([Join("a", {"MacAddress": MAC})], {"MacAddress": MAC})


def test_ranges_and_gateways_find_their_subnets() -> None:
    assert match_subnets(["10.5.0.0/16", "fd00:5::/64"], ["10.5.1.0/24"], ["fd00:5::1", "10.5.0.1"]) == [
        {"Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "Gateway": "10.5.0.1"},
        {"Subnet": "fd00:5::/64", "Gateway": "fd00:5::1"},
    ]


@pytest.mark.parametrize(
    ("subnets", "ranges", "gateways", "words"),
    [
        (["10.5.0.0"], [], [], "invalid CIDR address: 10.5.0.0"),
        (["reef/8"], [], [], "'reef/8' does not appear to be"),
        (["10.5.0.0/16", "10.5.1.0/24"], [], [], "multiple overlapping subnet"),
        (["10.5.0.0/16"], ["10.6.0.0/24"], [], "no matching subnet for range 10.6.0.0/24"),
        ([], [], ["10.5.0.1"], "no matching subnet for gateway 10.5.0.1"),
        (["10.5.0.0/16"], [], ["10.5.0.1", "10.5.0.2"], "cannot configure multiple values of Gateway"),
    ],
)
def test_subnets_that_do_not_fit_are_refused(
    subnets: list[str], ranges: list[str], gateways: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        match_subnets(subnets, ranges, gateways)
