"""The rules of the way out and of the gateway itself, as text for nft: one table, and in it what is an endpoint's own.

An endpoint is known by its source address, which the bridge's filter lets nobody forge. `policy` says where an
endpoint's new connections are judged. One that may pass gets its endpoint's mark in connection tracking, and goes on
only as long as that mark is alive: an endpoint that goes, or whose policy changes, takes its connections with it, and
what still arrives for it is not given to who gets its address next.
"""

import hashlib
from ipaddress import ip_address, ip_network

import msgspec

from atoll.model.network import Endpoint, SegmentSpec
from atoll.network.destination import Destination
from atoll.network.segment.bridge import bridge_mac

TABLE = "inet egress"

METADATA = ("169.254.0.0/16", "fd00:ec2::254/128")
"""Where clouds offer credentials to whoever asks."""

# What is too much of an endpoint: entries of connection tracking, and questions to the resolver, which all share.
_CROWD = "ct count over 8192"
_FLOOD = "limit rate over 500/second burst 200 packets"
_MOST_LEARNT = 8192

_FAMILIES = (("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr"))


def table(spec: SegmentSpec) -> str:
    """The table without any endpoint, in the place of the one that is there."""
    blocked = [str(ip_network(address.partition("%")[0], strict=False)) for address in _blocked(spec)]
    gateways = [subnet.gateway for subnet in (spec.network.ipv4, spec.network.ipv6) if subnet is not None]
    by_way_of_the_gateway = f'iifname "br0" oifname "br0" ether daddr {bridge_mac(spec.network.id)} drop'
    lines = [f"table {TABLE} {{"]
    for family, _, address_type in _FAMILIES:
        lines += [
            f"map policy{family} {{ type {address_type} : verdict; }}",
            f"map mark{family} {{ type {address_type} : mark; }}",
            f"map refused{family} {{ type {address_type} : counter; }}",
            f"set alive{family} {{ type {address_type} . mark; }}",
            f"set connections{family} {{ type {address_type}; flags dynamic; size 65535; }}",
            f"set queries{family} {{ type {address_type}; flags dynamic, timeout; timeout 10s; size 65535; }}",
            f"set blocked{family} {{ type {address_type}; flags interval; auto-merge; {_elements(blocked, family)} }}",
            f"set gateway{family} {{ type {address_type}; {_elements(gateways, family)} }}",
        ]
    lines += [
        # Programs see `No route to host` or `Permission denied` at once.
        *_chain("refuse", *_each("counter name {ip} saddr map @refused{n}"), "reject with icmpx admin-prohibited"),
        *_chain("pass", *_each("ct mark set {ip} saddr map @mark{n}"), "accept"),
        *_chain(
            "leave",
            # A published port's connection that its proxy has given up: an answer to a host that never saw its address.
            "ct direction reply drop",
            *_each("ct state established,related {ip} saddr . ct mark @alive{n} accept"),
            "ct state invalid drop",
            *_each("{ip} daddr @blocked{n} goto refuse"),
            *_each(f"ct state new add @connections{{n}} {{{{ {{ip}} saddr {_CROWD} }}}} goto refuse"),
            *_each("{ip} saddr vmap @policy{n}"),
        ),
        *_chain("enter", *_each("ct state established,related {ip} daddr . ct mark @alive{n} accept")),
        *_chain(
            "forward",
            "type filter hook forward priority filter; policy drop;",
            # Containers reach each other over the bridge, not by way of the gateway, where nothing would be `isolated`.
            # A host may load br_netfilter at any time: what is bridged then comes by here, and is not for that MAC.
            *(() if spec.network.isolated else (by_way_of_the_gateway, 'iifname "br0" oifname "br0" accept')),
            'iifname "br0" oifname "uplink" jump leave',
            'iifname "uplink" oifname "br0" jump enter',
        ),
        *_chain(
            "input",
            "type filter hook input priority filter; policy drop;",
            'iifname "lo" accept',
            *_each(f'iifname "br0" udp dport 53 update @queries{{n}} {{{{ {{ip}} saddr {_FLOOD} }}}} drop'),
            "ct state established,related accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
            *_each('iifname "br0" {ip} daddr @gateway{n} meta l4proto {{ icmp, icmpv6 }} accept'),
            *_each('iifname "br0" {ip} daddr @gateway{n} meta l4proto {{ tcp, udp }} th dport 53 accept'),
            # All else of the gateway's, and the uplink's own addresses: pasta gives it those of the host.
            'iifname "br0" fib daddr type local goto refuse',
        ),
        # A guest that asks from ever new ports would fill connection tracking.
        *_chain(
            "untracked",
            "type filter hook prerouting priority raw;",
            *_each('iifname "br0" {ip} daddr @gateway{n} udp dport 53 notrack'),
        ),
        *_chain(
            "untracked_answers",
            "type filter hook output priority raw;",
            *_each('oifname "br0" {ip} saddr @gateway{n} udp sport 53 notrack'),
        ),
    ]
    if spec.uplink != "none":
        masquerade = 'iifname "br0" oifname "uplink" masquerade'
        lines += _chain("translate", "type nat hook postrouting priority srcnat;", masquerade)
    return "\n".join([f"table {TABLE}", f"delete table {TABLE}", *lines, "}"]) + "\n"


def added(endpoint: Endpoint, spec: SegmentSpec) -> str:
    """What an endpoint has in the table."""
    short, mode = endpoint.id[:12], endpoint.egress.mode
    lines = [f"add counter {TABLE} refused_{short}"]
    verdict = "goto refuse"
    if spec.uplink != "none" and mode == "all":
        verdict = "goto pass"
    elif spec.uplink != "none" and mode == "listed":
        verdict = f"goto only_{short}"
        for family, _, address_type in _FAMILIES:
            options = f"type {address_type}; flags timeout; size {_MOST_LEARNT};"
            lines.append(f"add set {TABLE} learnt{family}_{short} {{ {options} }}")
        lines.append(f"add chain {TABLE} only_{short}")
        for rule in (
            *(_allowed(Destination.parse(entry), spec) for entry in endpoint.egress.allow),
            *_each("{ip} daddr @learnt{n}_" + short + " goto pass"),
            "goto refuse",
        ):
            lines.append(f"add rule {TABLE} only_{short} {rule}")
    for family, address in _addresses(endpoint):
        lines += [
            f"add element {TABLE} {table_set} {{ {element} }}"
            for table_set, element in (
                (f"refused{family}", f'{address} : "refused_{short}"'),
                (f"mark{family}", f"{address} : {mark(endpoint)}"),
                (f"alive{family}", f"{address} . {mark(endpoint)}"),
                (f"policy{family}", f"{address} : {verdict}"),
            )
        ]
    return "\n".join(lines) + "\n"


def removed(endpoint: Endpoint, spec: SegmentSpec) -> str:
    """The contrary of `added` for the same two."""
    short = endpoint.id[:12]
    lines = []
    for family, address in _addresses(endpoint):
        lines += [f"delete element {TABLE} {name}{family} {{ {address} }}" for name in ("policy", "mark", "refused")]
        lines.append(f"delete element {TABLE} alive{family} {{ {address} . {mark(endpoint)} }}")
    if spec.uplink != "none" and endpoint.egress.mode == "listed":
        lines += [f"flush chain {TABLE} only_{short}", f"delete chain {TABLE} only_{short}"]
        lines += [f"delete set {TABLE} learnt{family}_{short}" for family, _, _ in _FAMILIES]
    lines.append(f"delete counter {TABLE} refused_{short}")
    return "\n".join(lines) + "\n"


def learnt(endpoint: Endpoint, address: str, lifetime_s: int) -> str:
    """`address` is reachable for an endpoint with a list for so long, also if it was for less before."""
    name = f"learnt{ip_address(address).version}_{endpoint.id[:12]}"
    # What is there would keep its time; in one transaction nobody sees it go.
    return (
        f"add element {TABLE} {name} {{ {address} }}\n"
        f"delete element {TABLE} {name} {{ {address} }}\n"
        f"add element {TABLE} {name} {{ {address} timeout {lifetime_s}s }}\n"
    )


def mark(endpoint: Endpoint) -> int:
    """The endpoint's connections have it: the same as long as id, addresses and policy are, also in another process."""
    text = msgspec.json.encode((endpoint.id, endpoint.ipv4, endpoint.ipv6, endpoint.egress))
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") | 1


def _blocked(spec: SegmentSpec) -> tuple[str, ...]:
    metadata = () if spec.network.reaches_metadata else METADATA
    return (*metadata, *(() if spec.to_host else spec.host_addresses))


def _allowed(destination: Destination, spec: SegmentSpec) -> str:
    family = "ip" if destination.network.version == 4 else "ip6"
    # The gateway is somewhere else by now where it is the host: a list says what a program connects to.
    address, port = (
        (f"ct original {family} daddr", "ct original proto-dst") if spec.to_host else (f"{family} daddr", "th dport")
    )
    ports = f" meta l4proto {{ tcp, udp }} {port} {destination.port}" if destination.port else ""
    return f"{address} {destination.network}{ports} goto pass"


def _addresses(endpoint: Endpoint) -> list[tuple[str, str]]:
    return [(family, address) for family, address in (("4", endpoint.ipv4), ("6", endpoint.ipv6)) if address]


def _each(rule: str) -> list[str]:
    """A rule for both families of addresses."""
    return [rule.format(ip=ip, n=family) for family, ip, _ in _FAMILIES]


def _chain(name: str, *rules: str) -> list[str]:
    return [f"chain {name} {{", *rules, "}"]


def _elements(addresses: list[str], family: str) -> str:
    chosen = [address for address in addresses if str(ip_network(address).version) == family]
    return f"elements = {{ {', '.join(chosen)} }};" if chosen else ""
