"""The kernel's network devices, over route netlink: the few messages that a segment needs.

Written here because a segment starts on the way of a container's start: importing pyroute2 takes 200 ms, and a
message encoded by it is a hundred times slower than these.
"""

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from threading import Lock
from typing import NamedTuple

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_NEW_LINK, _DELETE_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_NEIGHBOUR, _DELETE_NEIGHBOUR = 28, 29
_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_IS_ERROR, _IS_DONE = 2, 3

_NESTED = 0x8000
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_STATS64, _IFLA_NET_NS_FD = 18, 23, 28
_INFO_KIND, _INFO_DATA = 1, 2
_BR_FORWARD_DELAY, _BR_STP, _BR_MCAST_SNOOPING = 1, 5, 23
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_ISOLATED = 8, 9, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_NODAD = 0x02
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_MASTER = 0x04
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_IFF_UP = 0x1


class Link(NamedTuple):
    """A network device; counts are the kernel's: what it received is what a VM has sent."""

    number: int
    name: str
    is_up: bool
    master: int
    mac: str
    mtu: int
    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int
    received_dropped: int
    sent_dropped: int


class Netlink:
    """A socket into the network namespace that its maker was in. Used by one thread at a time."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._lock = Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def links(self) -> dict[str, Link]:
        """All devices by name."""
        dumped = self.dump(_GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return {link.name: link for link in map(_parse_link, dumped)}

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge without spanning tree, which forwards at once and floods multicast; raises `FileExistsError`."""
        data = (
            u32(_BR_FORWARD_DELAY, 0) + u32(_BR_STP, 0) + attribute(_BR_MCAST_SNOOPING, b"\0")
        )  # snooping without a querier would forget who listens
        kind = attribute(_INFO_KIND, b"bridge") + attribute(_INFO_DATA | _NESTED, data)
        self.change(
            _NEW_LINK,
            _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            + text(_IFLA_NAME, name)
            + attribute(_IFLA_ADDRESS, _mac(mac))
            + attribute(_IFLA_LINKINFO | _NESTED, kind),
            _CREATE | _EXCLUSIVE,
        )

    def set_link(self, index: int, *, up: bool | None = None, mtu: int = 0, master: int | None = None) -> None:
        """Change a device; `master` 0 takes it off its bridge."""
        flags = (_IFF_UP if up else 0, _IFF_UP) if up is not None else (0, 0)
        fields = b""
        if mtu:
            fields += u32(_IFLA_MTU, mtu)
        if master is not None:
            fields += u32(_IFLA_MASTER, master)
        self.change(_SET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, index, *flags) + fields)

    def set_port(self, index: int, *, isolated: bool) -> None:
        """A bridge's port that learns no address, and gets no frame for an address that the bridge does not know."""
        port = (
            attribute(_PORT_LEARNING, b"\0")
            + attribute(_PORT_UNICAST_FLOOD, b"\0")
            + attribute(_PORT_ISOLATED, bytes([isolated]))
        )
        link = _LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0)
        self.change(_SET_LINK, link + attribute(_IFLA_PROTINFO | _NESTED, port))

    def move(self, name: str, namespace: int) -> None:
        """Move a device to another network namespace; takes some 15 ms. Raises `OSError`."""
        link = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        self.change(_SET_LINK, link + text(_IFLA_NAME, name) + u32(_IFLA_NET_NS_FD, namespace))

    def addresses(self, index: int) -> set[str]:
        """The addresses of a device, with prefix lengths, but for link-local ones."""
        found = set()
        for message in self.dump(_GET_ADDRESS, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, prefix, _, scope, device = _ADDRESS.unpack_from(message)
            fields = attributes(message[_ADDRESS.size :])
            packed = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
            if device == index and scope == 0 and packed is not None:
                found.add(f"{ip_address(packed)}/{prefix}")
        return found

    def add_address(self, index: int, address: str) -> None:
        """Give a device an address (with prefix length), usable at once; nothing when it has it."""
        self.change(_NEW_ADDRESS, _address(index, address), _CREATE | _REPLACE)

    def remove_address(self, index: int, address: str) -> None:
        """Take an address (with prefix length) from a device."""
        self.change(_DELETE_ADDRESS, _address(index, address))

    def add_fdb(self, port: int, mac: str) -> None:
        """Have a port's bridge send frames for `mac` there, and nowhere else."""
        self.change(_NEW_NEIGHBOUR, _fdb(port, mac), _CREATE | _REPLACE)

    def remove_fdb(self, port: int, mac: str) -> None:
        """Take back `add_fdb`; raises `FileNotFoundError`."""
        self.change(_DELETE_NEIGHBOUR, _fdb(port, mac))

    def add_neighbour(self, device: int, address: str, mac: str) -> None:
        """Tell the kernel that `address` has `mac`, so that it never asks."""
        self.change(_NEW_NEIGHBOUR, _neighbour(device, address, mac), _CREATE | _REPLACE)

    def remove_neighbour(self, device: int, address: str) -> None:
        """Take back `add_neighbour`; raises `FileNotFoundError`."""
        self.change(_DELETE_NEIGHBOUR, _neighbour(device, address, ""))

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Have something done; raises `OSError`."""
        for _ in self._exchange(kind, body, flags | _ACK):
            pass

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All messages of an answer."""
        return list(self._exchange(kind, body, _DUMP))

    def _exchange(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        with self._lock:
            self._sequence += 1
            header = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0)
            self._socket.send(header + body)
            while True:
                datagram = self._socket.recv(1 << 17)
                while datagram:
                    length, kind, _, sequence, _ = _HEADER.unpack_from(datagram)
                    message, datagram = datagram[_HEADER.size : length], datagram[-(-length // 4) * 4 :]
                    if sequence != self._sequence:
                        continue  # of an exchange that was broken off
                    if kind == _IS_DONE:
                        return
                    if kind == _IS_ERROR:
                        (code,) = _ERROR.unpack_from(message)
                        if code:
                            raise OSError(-code, os.strerror(-code))
                        return
                    yield message


def _parse_link(message: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(message)
    fields = attributes(message[_LINK.size :])
    counts = struct.unpack_from("=8Q", fields[_IFLA_STATS64])
    return Link(
        number=index,
        name=fields[_IFLA_NAME].rstrip(b"\0").decode(),
        is_up=bool(flags & _IFF_UP),
        master=int.from_bytes(fields.get(_IFLA_MASTER, b""), "little"),
        mac=fields.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(fields[_IFLA_MTU], "little"),
        received_packets=counts[0],
        sent_packets=counts[1],
        received_bytes=counts[2],
        sent_bytes=counts[3],
        received_dropped=counts[6],
        sent_dropped=counts[7],
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message by their kind."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[max(4, -(-length // 4) * 4) :]
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    """An attribute that is a name."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that is a number."""
    return attribute(kind, struct.pack("=I", value))


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def family(address: IPv4Address | IPv6Address) -> int:
    """The family of an address."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(index: int, address: str) -> bytes:
    interface = ip_interface(address)
    packed = interface.ip.packed
    return (
        _ADDRESS.pack(family(interface.ip), interface.network.prefixlen, 0, 0, index)
        + attribute(_IFA_LOCAL, packed)
        + attribute(_IFA_ADDRESS, packed)
        + u32(_IFA_FLAGS, _IFA_NODAD)
    )


def _fdb(port: int, mac: str) -> bytes:
    message = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, _NUD_NOARP, _NTF_MASTER, 0)
    return message + attribute(_NDA_LLADDR, _mac(mac))


def _neighbour(device: int, address: str, mac: str) -> bytes:
    ip = ip_address(address)
    message = _NEIGHBOUR.pack(family(ip), device, _NUD_PERMANENT, 0, 0) + attribute(_NDA_DST, ip.packed)
    return message + attribute(_NDA_LLADDR, _mac(mac)) if mac else message
