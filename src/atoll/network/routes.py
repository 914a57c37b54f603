"""Routes, rules and veth pairs, over the same netlink as `netlink.py`: what a way out and published ports need."""

import errno
import socket
import struct
from ipaddress import ip_address, ip_network

from atoll.network.netlink import Netlink, attribute, attributes, family, text, u32

_ROUTE = struct.Struct("=BBBBBBBBI")
_LINK = struct.Struct("=BxHiII")
_NEW_LINK, _DELETE_LINK = 16, 17
_NEW_ROUTE, _GET_ROUTE = 24, 26
_NEW_RULE, _GET_RULE = 32, 34
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400

_NESTED = 0x8000
_IFLA_NAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_RTA_DESTINATION, _RTA_DEVICE, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_FRA_MARK, _FRA_TABLE = 10, 15
_MAIN_TABLE, _LARGE_TABLE = 254, 252
_BOOT, _UNIVERSE, _HOST_SCOPE = 3, 0, 254
_UNICAST, _LOCAL = 1, 2
_TO_TABLE = 1


class Routes(Netlink):
    """Netlink with routes."""

    def add_veth(self, name: str, peer: str, namespace: int) -> None:
        """A pair of devices, `peer` in another network namespace; raises `OSError`."""
        empty = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        other = empty + text(_IFLA_NAME, peer) + u32(_IFLA_NET_NS_FD, namespace)
        data = attribute(_INFO_DATA | _NESTED, attribute(_VETH_PEER | _NESTED, other))
        kind = attribute(_IFLA_LINKINFO | _NESTED, attribute(_INFO_KIND, b"veth") + data)
        self.change(_NEW_LINK, empty + text(_IFLA_NAME, name) + kind, _CREATE | _EXCLUSIVE)

    def delete_link(self, number: int) -> None:
        """Delete a device, if it is there."""
        try:
            self.change(_DELETE_LINK, _LINK.pack(socket.AF_UNSPEC, 0, number, 0, 0))
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
        address = ip_address(gateway)
        message = _ROUTE.pack(family(address), 0, 0, 0, _MAIN_TABLE, _BOOT, _UNIVERSE, _UNICAST, 0)
        message += attribute(_RTA_GATEWAY, address.packed) + u32(_RTA_DEVICE, device)
        self.change(_NEW_ROUTE, message, _CREATE | _REPLACE)

    def add_local(self, family: int, loopback: int, mark: int, table: int) -> None:
        """Take packets with `mark` for ours, whatever their destination: a `table` of that one route, and its rule."""
        message = _ROUTE.pack(family, 0, 0, 0, _LARGE_TABLE, _BOOT, _HOST_SCOPE, _LOCAL, 0)
        message += u32(_RTA_DEVICE, loopback) + u32(_RTA_TABLE, table)
        self.change(_NEW_ROUTE, message, _CREATE | _REPLACE)
        rule = _ROUTE.pack(family, 0, 0, 0, _LARGE_TABLE, 0, 0, _TO_TABLE, 0)
        if not any(self._is_rule(found, mark) for found in self.dump(_GET_RULE, _ROUTE.pack(family, *[0] * 8))):
            self.change(_NEW_RULE, rule + u32(_FRA_MARK, mark) + u32(_FRA_TABLE, table), _CREATE | _EXCLUSIVE)

    def destinations(self) -> list[str]:
        """The networks that there are routes to, in all tables; not those of default routes."""
        found = []
        for message in self.dump(_GET_ROUTE, _ROUTE.pack(socket.AF_UNSPEC, *[0] * 8)):
            length = message[1]
            packed = attributes(message[_ROUTE.size :]).get(_RTA_DESTINATION)
            if packed is not None and length:
                found.append(str(ip_network((packed, length), strict=False)))
        return found

    @staticmethod
    def _is_rule(message: bytes, mark: int) -> bool:
        value = attributes(message[_ROUTE.size :]).get(_FRA_MARK, b"")
        return int.from_bytes(value, "little") == mark
