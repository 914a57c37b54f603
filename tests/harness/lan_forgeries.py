"""Frames that a container of `harness.lan` may not send: each bears something that is not its own."""

import struct
from ipaddress import IPv6Address

from harness.ethernet import (
    ARP,
    BROADCAST,
    FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    UDP,
    VLAN,
    arp,
    discovery,
    echo,
    frame,
    icmpv6,
    ipv4,
    ipv6,
    link_layer,
    udp,
)
from harness.lan import GATEWAY, GATEWAY6, GATEWAY_MAC, A, B, C, honest

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
MALLORY = "02:66:66:66:66:66"


def fragmented(source: str, target: str, protocol: int, payload: bytes, offset_and_more: int = 1) -> bytes:
    """An IPv6 packet with a fragment header."""
    return ipv6(source, target, FRAGMENT, struct.pack("!BBHI", protocol, 0, offset_and_more, 9) + payload)


def solicited(address: str) -> tuple[str, str]:
    """The group that hears who asks for an IPv6 address, and its MAC."""
    tail = IPv6Address(address).packed[-3:]
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + tail)
    return str(group), f"33:33:ff:{tail.hex(':')}"


def forgeries() -> dict[str, bytes]:
    """Frames from A's tap that bear what is not A's, or are not a guest's to send; all of them for B or everybody."""
    group, group_mac = solicited(B.ipv6)
    advert = IPv6Address(C.ipv6).packed
    router = ipv6(A.link_local, ALL_NODES, ICMPV6, icmpv6(A.link_local, ALL_NODES, 134, bytes(12)))
    redirect = icmpv6(A.link_local, B.ipv6, 137, bytes(4) + advert + advert)
    dhcp_server = udp(A.ipv4, "255.255.255.255", 67, 68, b"offer")
    dhcp_client = udp("0.0.0.0", "255.255.255.255", 68, 67, b"discover")
    dhcp6_server = udp(A.link_local, B.link_local, 547, 546, b"advertise")
    long_option = link_layer(1, A.mac) + link_layer(1, MALLORY)
    solicit = discovery(135, A.ipv6, group, B.ipv6, link_layer(1, MALLORY))[40:]
    hidden = struct.pack("!BBHI", ICMPV6, 0, 0, 1) + icmpv6(A.link_local, ALL_NODES, 134, bytes(12))
    jumbled = ipv6(A.link_local, ALL_NODES, FRAGMENT, struct.pack("!BBHI", 60, 0, 1, 9) + bytes([ICMPV6, 1] + [0] * 6))
    return {
        "another's MAC": frame(B.mac, C.mac, IPV4, ipv4(A.ipv4, C.ipv4, UDP, udp(A.ipv4, C.ipv4, 7, 7, b""))),
        "a made up MAC": frame(MALLORY, B.mac, IPV4, ipv4(A.ipv4, B.ipv4, UDP, udp(A.ipv4, B.ipv4, 7, 7, b""))),
        "the gateway's MAC": frame(GATEWAY_MAC, B.mac, IPV4, ipv4(A.ipv4, B.ipv4, ICMP, echo(b""))),
        "another's IPv4": frame(A.mac, B.mac, IPV4, ipv4(C.ipv4, B.ipv4, UDP, udp(C.ipv4, B.ipv4, 7, 7, b""))),
        "the gateway's IPv4": frame(A.mac, B.mac, IPV4, ipv4(GATEWAY, B.ipv4, ICMP, echo(b""))),
        "an address outside": frame(A.mac, B.mac, IPV4, ipv4("198.51.100.1", B.ipv4, ICMP, echo(b""))),
        "another's IPv6": frame(A.mac, B.mac, IPV6, ipv6(C.ipv6, B.ipv6, UDP, udp(C.ipv6, B.ipv6, 7, 7, b""))),
        "another's link-local IPv6": frame(
            A.mac, B.mac, IPV6, ipv6(C.link_local, B.ipv6, UDP, udp(C.link_local, B.ipv6, 7, 7, b""))
        ),
        "ARP: another's address": frame(A.mac, B.mac, ARP, arp(2, A.mac, C.ipv4, B.ipv4, B.mac)),
        "ARP: the gateway's address": frame(A.mac, BROADCAST, ARP, arp(1, A.mac, GATEWAY, GATEWAY)),
        "ARP: another's MAC": frame(A.mac, B.mac, ARP, arp(2, C.mac, A.ipv4, B.ipv4, B.mac)),
        "ARP: another's MAC in the header": frame(C.mac, B.mac, ARP, arp(2, A.mac, A.ipv4, B.ipv4, B.mac)),
        "ARP: a probe for nobody": frame(A.mac, BROADCAST, ARP, arp(1, A.mac, "0.0.0.0", C.ipv4)),
        "RARP": frame(A.mac, BROADCAST, 0x8035, arp(3, A.mac, A.ipv4, A.ipv4)),
        "ND: advertises another's address": frame(
            A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, C.ipv6, link_layer(2, A.mac))
        ),
        "ND: advertises the gateway's address": frame(
            A.mac, ALL_NODES_MAC, IPV6, discovery(136, A.ipv6, ALL_NODES, GATEWAY6, link_layer(2, A.mac))
        ),
        "ND: advertises another's MAC": frame(
            A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, A.ipv6, link_layer(2, C.mac))
        ),
        "ND: advertises in another's name": frame(A.mac, B.mac, IPV6, discovery(136, C.ipv6, B.ipv6, C.ipv6)),
        "ND: asks in another's name": frame(A.mac, group_mac, IPV6, discovery(135, C.ipv6, group, B.ipv6)),
        "ND: asks with another's MAC": frame(
            A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, link_layer(1, MALLORY))
        ),
        "ND: asks with two MACs": frame(A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, long_option)),
        "ND: claims that another's address is being taken": frame(
            A.mac, group_mac, IPV6, discovery(135, "::", group, B.ipv6)
        ),
        "ND: in a fragment": frame(A.mac, group_mac, IPV6, fragmented(A.ipv6, group, ICMPV6, solicit)),
        "ND: behind other headers": frame(
            A.mac, group_mac, IPV6, ipv6(A.ipv6, group, 0, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0]) + solicit)
        ),
        "router advertisement": frame(A.mac, ALL_NODES_MAC, IPV6, router),
        "router advertisement in a fragment": frame(
            A.mac, ALL_NODES_MAC, IPV6, ipv6(A.link_local, ALL_NODES, FRAGMENT, hidden)
        ),
        "headers that go on in a later fragment": frame(A.mac, ALL_NODES_MAC, IPV6, jumbled),
        "redirect": frame(A.mac, B.mac, IPV6, ipv6(A.link_local, B.ipv6, ICMPV6, redirect)),
        "DHCP offer": frame(A.mac, BROADCAST, IPV4, ipv4(A.ipv4, "255.255.255.255", UDP, dhcp_server)),
        "DHCP discover": frame(A.mac, BROADCAST, IPV4, ipv4("0.0.0.0", "255.255.255.255", UDP, dhcp_client)),
        "DHCPv6 advertise": frame(A.mac, B.mac, IPV6, ipv6(A.link_local, B.link_local, UDP, dhcp6_server)),
        "a VLAN's tag": frame(A.mac, B.mac, VLAN, struct.pack("!HH", 5, IPV4) + honest(A, B)[14:]),
        "a VLAN's tag of number 0": frame(A.mac, B.mac, VLAN, struct.pack("!HH", 0, IPV4) + honest(A, B)[14:]),
        "spanning tree": frame(A.mac, "01:80:c2:00:00:00", 0x0026, b"\x42\x42\x03" + bytes(35)),
        "another protocol": frame(A.mac, BROADCAST, 0x88B5, bytes(46)),
    }
