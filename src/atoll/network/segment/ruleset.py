"""What a network lets through, as text for nftables. `docs/networking.md` explains it rule by rule.

One table of the `bridge` family sees every frame at the tap it comes from, before the bridge does. Its policy is to
drop. Each tap has a chain of its own, which knows the one MAC and the addresses that frames from there may bear: in
the Ethernet header, in IP, in ARP, in neighbour discovery. All else is counted as forged, by tap, and dropped.
"""

from ipaddress import IPv6Address, ip_address

from atoll.model.network import Endpoint, Network

TABLE = "bridge atoll"
METADATA = ("169.254.169.254", "fd00:ec2::254")

_FRAMES = f"""
table {TABLE} {{
    # By tap: frames that bore what is not theirs.
    map forged_by_tap {{ type ifname : counter; }}
    map taps {{ type ifname : verdict; }}
    counter metadata {{}}

    chain forged {{
        counter name meta iifname map @forged_by_tap
        drop
    }}

    chain metadata {{
    }}

    # The sender is who it says; what it sends must also be a guest's to send.
    chain packets4 {{
        udp sport {{ 67, 68 }} goto forged
        udp dport {{ 67, 68 }} goto forged
        jump metadata
        accept
    }}

    chain packets6 {{
        udp sport {{ 546, 547 }} goto forged
        udp dport {{ 546, 547 }} goto forged
        jump metadata
        meta l4proto icmpv6 goto messages6
        # True of every packet whose protocol can be found: a chain of headers that goes on in a later fragment is none.
        meta l4proto != 255 accept
        goto forged
    }}

    # No router advertisement, no redirect; neighbour discovery has passed a chain of its tap's already.
    chain messages6 {{
        icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ echo-request, echo-reply, mld-listener-report, mld-listener-done, mld2-listener-report }} accept
        frag frag-off != 0 accept
        icmpv6 type nd-router-solicit drop
        goto forged
    }}

    chain frames {{
        type filter hook prerouting priority -200; policy drop;
        meta iifname vmap @taps
    }}
}}
"""


def table(network: Network) -> str:
    """The table of a network; the taps' chains and what they have counted stay as they are."""
    metadata = "" if network.reaches_metadata else "".join(
        f"add rule {TABLE} metadata {_family(address)} daddr {address} counter name metadata drop\n"
        for address in METADATA
    )  # fmt: skip
    return (
        f"add table {TABLE}\n"
        + "".join(f"add chain {TABLE} {chain}\nflush chain {TABLE} {chain}\n" for chain in _SHARED_CHAINS)
        + f"add chain {TABLE} frames {{ type filter hook prerouting priority -200; policy drop; }}\n"
        + f"flush chain {TABLE} frames\n"
        + _FRAMES
        + metadata
    )


_SHARED_CHAINS = ("forged", "metadata", "packets4", "packets6", "messages6")


def added(endpoint: Endpoint) -> str:
    """Let through what bears the endpoint's own addresses; replaces what was said of its tap before."""
    tap, mac = endpoint.tap, endpoint.mac
    frames, neighbours = chains(tap)
    lines = [
        f"add counter {TABLE} {counter(tap)}",
        f'add element {TABLE} forged_by_tap {{ "{tap}" : "{counter(tap)}" }}',
        *(f"add chain {TABLE} {chain}" for chain in (frames, neighbours)),
        *(f"flush chain {TABLE} {chain}" for chain in (frames, neighbours)),
        f"add rule {TABLE} {frames} ether saddr != {mac} goto forged",
    ]
    if endpoint.ipv4:
        lines += [
            f"add rule {TABLE} {frames} arp htype 1 arp ptype ip arp hlen 6 arp plen 4 "
            f"arp operation {{ request, reply }} arp saddr ether {mac} arp saddr ip {endpoint.ipv4} accept",
            f"add rule {TABLE} {frames} ether type ip ip saddr {endpoint.ipv4} goto packets4",
        ]
    if endpoint.ipv6:
        lines += _ipv6(endpoint, frames, neighbours)
    else:
        # Its kernel tries what it always does; nobody is deceived.
        lines.append(f"add rule {TABLE} {frames} ether type ip6 ip6 saddr {{ ::, {link_local(mac)} }} drop")
    lines += [
        f"add rule {TABLE} {frames} goto forged",
        f'add element {TABLE} taps {{ "{tap}" : goto {frames} }}',
    ]
    return "\n".join(lines) + "\n"


def removed(tap: str) -> str:
    """Let nothing through from a tap any more."""
    frames, neighbours = chains(tap)
    return "\n".join(
        [
            f"delete element {TABLE} taps {{ \"{tap}\" }}",
            f"delete element {TABLE} forged_by_tap {{ \"{tap}\" }}",
            f"flush chain {TABLE} {frames}",
            f"delete chain {TABLE} {frames}",
            f"delete chain {TABLE} {neighbours}",
            f"delete counter {TABLE} {counter(tap)}",
        ]
    ) + "\n"  # fmt: skip


def chains(tap: str) -> tuple[str, str]:
    """The names of a tap's chains: for frames, and for neighbour discovery."""
    return f"from-{tap}", f"neighbours-{tap}"


def counter(tap: str) -> str:
    """The name of the counter of a tap's forged frames."""
    return f"forged-{tap}"


def tap_of_counter(name: str) -> str:
    """The tap that a counter is of, "" when it is of none."""
    prefix, _, tap = name.partition("-")
    return tap if prefix == "forged" else ""


def link_local(mac: str) -> str:
    """The IPv6 address that a device with `mac` has without being given one (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, octets[1], octets[2], 0xFF, 0xFE, *octets[3:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def _ipv6(endpoint: Endpoint, frames: str, neighbours: str) -> list[str]:
    """Neighbour discovery in the exact forms that RFC 4861 has: anything longer could say something else as well.

    The length in the IPv6 header leaves room for the message (24 bytes) and for one option (8 bytes), and none for
    further headers. `@th,64,128` is the target, `@th,192,64` that option: its type, its length, a MAC.
    """
    own = [link_local(endpoint.mac), endpoint.ipv6]
    addresses = "{ " + ", ".join(own) + " }"
    targets = "{ " + ", ".join(f"{int(IPv6Address(address)):#x}" for address in own) + " }"
    mac = endpoint.mac.replace(":", "")
    rule = f"add rule {TABLE} {neighbours}"
    solicit, advert = "icmpv6 type nd-neighbor-solicit", "icmpv6 type nd-neighbor-advert"
    frame = f"add rule {TABLE} {frames} ether type ip6"
    return [
        f"{rule} frag nexthdr 0-255 goto forged",
        # "Has somebody my address?", with and without a nonce (RFC 7527).
        f"{rule} {solicit} ip6 saddr :: ip6 length 24 @th,64,128 {targets} accept",
        f"{rule} {solicit} ip6 saddr :: ip6 length 32 @th,192,16 0x0e01 @th,64,128 {targets} accept",
        f"{rule} ip6 saddr != {addresses} goto forged",
        f"{rule} {solicit} ip6 length 24 accept",
        f"{rule} {solicit} ip6 length 32 @th,192,64 0x0101{mac} accept",
        f"{rule} {advert} ip6 length 24 @th,64,128 {targets} accept",
        f"{rule} {advert} ip6 length 32 @th,192,64 0x0201{mac} @th,64,128 {targets} accept",
        f"{rule} goto forged",
        f"{frame} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} goto {neighbours}",
        f"{frame} ip6 saddr {addresses} goto packets6",
        # A guest that has no address yet reports its groups, and asks for routers: neither is for anybody here.
        f"{frame} ip6 saddr :: icmpv6 type {{ mld2-listener-report, nd-router-solicit }} drop",
    ]


def _family(address: str) -> str:
    return "ip" if ip_address(address).version == 4 else "ip6"
