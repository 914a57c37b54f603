"""The way out for root on a host that forwards: a veth pair, and a table of the host's packet filter.

Both carry our name and are all that is added to the host; nothing that is there is changed. The pair goes with the
segment's namespace at the latest, the table with the process that made it (`flags owner`: nft(8)).

A host whose own forward policy is `drop` (Docker's is) must accept interfaces `at*` itself: an `accept` of ours does
not overrule another table's `drop`.
"""

import time
from contextlib import closing
from pathlib import Path

from atoll.errors import Unavailable, VmFailed
from atoll.network.routes import Routes
from atoll.network.segment.nftables import Nftables
from atoll.network.segment.uplink.link import INTERFACE, Link

PREFIX = "at"
_DEADLINE_S = 2.0
_FORWARDING6 = Path("/proc/sys/net/ipv6/conf/all/forwarding")
_SETTINGS = Path("/proc/sys/net/ipv6/conf")

_TABLE = """\
table inet {table} {{
  flags owner;
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname {veth} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept;
    iifname {veth} fib daddr type {{ local, broadcast, anycast, multicast }} drop;
    iifname {veth} meta nfproto ipv4 ip saddr != {ipv4} drop;
    iifname {veth} meta nfproto ipv6 ip6 saddr != {ipv6} drop;
  }};
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname {veth} oifname "{prefix}*" drop;
    iifname {veth} accept;
    oifname {veth} ct state established,related accept;
    oifname {veth} drop;
  }};
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {ipv4} masquerade;
    ip6 saddr {ipv6} masquerade;
  }};
}}
"""


class Veth:
    """A veth pair: `at<id>` on the host, `uplink` in the segment's namespace."""

    def __init__(self, name: str, link: Link, network: int) -> None:
        """Make it, with its table; raises `Unavailable`, and leaves nothing then."""
        self._name = PREFIX + name
        self._table = f"atoll_{name}"
        self.link = link
        if _FORWARDING6.read_text().strip() != "1":
            self.link = Link(ipv4=link.ipv4, gateway4=link.gateway4, ipv6="", gateway6="", configured=False)
        self._number = 0
        self._filter: Nftables | None = Nftables()
        try:
            _run_patiently(self._filter, ruleset(self._name, self._table, link))
            self._make_pair(network)
        except (OSError, VmFailed) as error:
            self.close()
            raise Unavailable(f"the network's way out could not be made: {error}") from error

    def is_alive(self) -> bool:
        """Whether the host still has it."""
        with closing(Routes()) as routes:
            link = routes.links().get(self._name)
            return link is not None and link.number == self._number

    def close(self) -> None:
        """Remove the pair and the table."""
        with closing(Routes()) as routes:
            # By its number: another outlet may have made the next one by now, when our segment was killed.
            if self._number:
                routes.delete_link(self._number)
        if self._filter is not None:
            # The kernel removes the table with the socket of its owner.
            self._filter.close()
            self._filter = None

    def _make_pair(self, network: int) -> None:
        with closing(Routes()) as routes:
            routes.delete_named(self._name)
            routes.add_veth(self._name, INTERFACE, network)
            settings = _SETTINGS / self._name / "accept_ra"
            if settings.exists():
                settings.write_text("0")
            self._number = number = routes.links()[self._name].number
            routes.add_address(number, f"{self.link.gateway4}/30")
            if self.link.gateway6:
                routes.add_address(number, f"{self.link.gateway6}/64")
            routes.set_link(number, up=True)


def ruleset(veth: str, table: str, link: Link) -> str:
    """The host's table for a veth pair: masquerade, and no way to the host itself or to another one of ours."""
    return _TABLE.format(
        table=table,
        veth=f'"{veth}"',
        prefix=PREFIX,
        ipv4=link.ipv4.partition("/")[0],
        ipv6=link.ipv6.partition("/")[0],
    )


def _run_patiently(nftables: Nftables, commands: str) -> None:
    """Make a table that the outlet of a segment that was killed may still own for a moment."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            nftables.run(commands)
            return
        except VmFailed:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)
