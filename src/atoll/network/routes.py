"""Routes, rules and veth pairs, over the same netlink as `netlink.py`: what a way out and published ports need."""

import errno
import socket

from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    rt_proto,
    rt_scope,
    rt_type,
)
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from atoll.network.netlink import ADD, PUT, Netlink, family, message, nest

_MAIN_TABLE, _LARGE_TABLE = 254, 252


class Routes(Netlink):
    """Netlink with routes."""

    def add_veth(self, name: str, peer: str, namespace: int) -> None:
        """A pair of devices, `peer` in another network namespace; raises `OSError`."""
        other = nest(IFLA_IFNAME=peer, IFLA_NET_NS_FD=namespace)
        kind = nest(IFLA_INFO_KIND="veth", IFLA_INFO_DATA=nest(VETH_INFO_PEER=other))
        self.change(RTM_NEWLINK, message(ifinfmsg(), attributes={"IFLA_IFNAME": name, "IFLA_LINKINFO": kind}), ADD)

    def delete_link(self, number: int) -> None:
        """Delete a device, if it is there."""
        try:
            self.change(RTM_DELLINK, message(ifinfmsg(), attributes={}, index=number))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def delete_named(self, name: str) -> None:
        """Delete the device of that name, if there is one."""
        link = self.links().get(name)
        if link is not None:
            self.delete_link(link.number)

    def add_default(self, device: int, gateway: str) -> None:
        """Send by `gateway` what no other route is for, in the gateway's family; instead of where it went before."""
        route = message(
            rtmsg(),
            attributes={"RTA_GATEWAY": gateway, "RTA_OIF": device},
            family=family(gateway),
            table=_MAIN_TABLE,
            proto=rt_proto["boot"],
            scope=rt_scope["universe"],
            type=rt_type["unicast"],
        )
        self.change(RTM_NEWROUTE, route, PUT)

    def add_local(self, family: int, loopback: int, mark: int, table: int) -> None:
        """Take packets with `mark` for ours, whatever their destination: a `table` of that one route, and its rule."""
        route = message(
            rtmsg(),
            attributes={"RTA_OIF": loopback, "RTA_TABLE": table},
            family=family,
            table=_LARGE_TABLE,
            proto=rt_proto["boot"],
            scope=rt_scope["host"],
            type=rt_type["local"],
        )
        self.change(RTM_NEWROUTE, route, PUT)
        rules = self.dump(RTM_GETRULE, message(fibmsg(), attributes={}, family=family))
        if not any(rule.get_attr("FRA_FWMARK") == mark for rule in rules):
            attributes = {"FRA_FWMARK": mark, "FRA_TABLE": table}
            rule = message(fibmsg(), attributes=attributes, family=family, table=_LARGE_TABLE, action=FR_ACT_TO_TBL)
            self.change(RTM_NEWRULE, rule, ADD)

    def destinations(self) -> list[str]:
        """The networks that there are routes to, in all tables; not those of default routes."""
        return [
            f"{destination}/{found['dst_len']}"
            for found in self.dump(RTM_GETROUTE, message(rtmsg(), attributes={}, family=socket.AF_UNSPEC))
            if (destination := found.get_attr("RTA_DST")) is not None and found["dst_len"]
        ]
