"""The kernel's network devices, over route netlink: the few requests that a segment needs.

The messages are pyroute2's. The socket is ours: it stays in the namespace that it was made in, wherever its process
goes from there, and a request is one exchange, without an event loop of its own.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface
from threading import Lock
from typing import Any, NamedTuple

from pyroute2.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_SETLINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import NTF_MASTER, NUD_NOARP, NUD_PERMANENT, ndmsg

ADD = NLM_F_CREATE | NLM_F_EXCL
PUT = NLM_F_CREATE | NLM_F_REPLACE


class Link(NamedTuple):
    """A network device; counts are the kernel's: what it received is what a VM has sent."""

    number: int
    name: str
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

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._marshal = MarshalRtnl()
        self._lock = Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def links(self) -> dict[str, Link]:
        """All devices by name."""
        return {link.name: link for link in map(_link, self.dump(RTM_GETLINK, ifinfmsg()))}

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge without spanning tree, which forwards at once and floods multicast; raises `FileExistsError`."""
        # Snooping without a querier would forget who listens.
        settings = {"IFLA_BR_FORWARD_DELAY": 0, "IFLA_BR_STP_STATE": 0, "IFLA_BR_MCAST_SNOOPING": 0}
        kind = nest(IFLA_INFO_KIND="bridge", IFLA_INFO_DATA=nest(**settings))
        bridge = message(ifinfmsg(), attributes={"IFLA_IFNAME": name, "IFLA_ADDRESS": mac, "IFLA_LINKINFO": kind})
        self.change(RTM_NEWLINK, bridge, ADD)

    def set_link(self, index: int, *, up: bool | None = None, mtu: int = 0, master: int | None = None) -> None:
        """Change a device; `master` 0 takes it off its bridge."""
        changed = {"IFLA_MTU": mtu or None, "IFLA_MASTER": master}
        flags = {} if up is None else {"flags": IFF_UP if up else 0, "change": IFF_UP}
        self.change(RTM_SETLINK, message(ifinfmsg(), attributes=changed, index=index, **flags))

    def set_port(self, index: int, *, isolated: bool) -> None:
        """A bridge's port that learns no address, and gets no frame for an address that the bridge does not know."""
        port = nest(IFLA_BRPORT_LEARNING=0, IFLA_BRPORT_UNICAST_FLOOD=0, IFLA_BRPORT_ISOLATED=int(isolated))
        change = message(ifinfmsg(), attributes={}, family=int(socket.AF_BRIDGE), index=index)
        change["attrs"] = [("IFLA_PROTINFO", port, NLA_F_NESTED)]
        self.change(RTM_SETLINK, change)

    def move(self, name: str, namespace: int) -> None:
        """Move a device to another network namespace; takes some 15 ms. Raises `OSError`."""
        self.change(RTM_SETLINK, message(ifinfmsg(), attributes={"IFLA_IFNAME": name, "IFLA_NET_NS_FD": namespace}))

    def addresses(self, index: int) -> set[str]:
        """The addresses of a device, with prefix lengths, but for link-local ones."""
        return {
            f"{found.get_attr('IFA_LOCAL') or found.get_attr('IFA_ADDRESS')}/{found['prefixlen']}"
            for found in self.dump(RTM_GETADDR, ifaddrmsg())
            if found["index"] == index and found["scope"] == 0
        }

    def add_address(self, index: int, address: str) -> None:
        """Give a device an address (with prefix length), usable at once; nothing when it has it."""
        self.change(RTM_NEWADDR, _address(index, address), PUT)

    def remove_address(self, index: int, address: str) -> None:
        """Take an address (with prefix length) from a device."""
        self.change(RTM_DELADDR, _address(index, address))

    def add_fdb(self, port: int, mac: str) -> None:
        """Have a port's bridge send frames for `mac` there, and nowhere else."""
        self.change(RTM_NEWNEIGH, _fdb(port, mac), PUT)

    def remove_fdb(self, port: int, mac: str) -> None:
        """Take back `add_fdb`; raises `FileNotFoundError`."""
        self.change(RTM_DELNEIGH, _fdb(port, mac))

    def add_neighbour(self, device: int, address: str, mac: str) -> None:
        """Tell the kernel that `address` has `mac`, so that it never asks."""
        self.change(RTM_NEWNEIGH, _neighbour(device, address, mac), PUT)

    def remove_neighbour(self, device: int, address: str) -> None:
        """Take back `add_neighbour`; raises `FileNotFoundError`."""
        self.change(RTM_DELNEIGH, _neighbour(device, address, None))

    def change(self, kind: int, body: nlmsg, flags: int = 0) -> None:
        """Have something done; raises `OSError`."""
        for _ in self._exchange(kind, body, flags | NLM_F_ACK):
            pass

    def dump(self, kind: int, body: nlmsg) -> list[Any]:
        """All messages of an answer."""
        return list(self._exchange(kind, body, NLM_F_DUMP))

    def _exchange(self, kind: int, body: nlmsg, flags: int) -> Iterator[Any]:
        with self._lock:
            self._sequence += 1
            header = {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": self._sequence, "pid": 0}
            body["header"].update(header)
            body.encode()
            self._socket.send(body.data)
            while True:
                for answer in self._marshal.parse(self._socket.recv(1 << 17)):
                    if answer["header"]["sequence_number"] != self._sequence:
                        continue  # of an exchange that was broken off
                    if error := answer["header"]["error"]:
                        raise OSError(error.code, os.strerror(error.code))
                    if answer["header"]["type"] in (NLMSG_DONE, NLMSG_ERROR):
                        return
                    yield answer


def message(body: nlmsg, *, attributes: Mapping[str, object], **fields: int) -> nlmsg:
    """`body` with these fields, and those of the attributes that are not None."""
    for name, value in fields.items():
        body[name] = value
    body["attrs"] = [(name, value) for name, value in attributes.items() if value is not None]
    return body


def nest(**attributes: object) -> dict[str, object]:
    """Attributes inside of an attribute."""
    return {"attrs": list(attributes.items())}


def family(address: str) -> int:
    """The address family of an address."""
    return int(socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6)


def _link(found: Any) -> Link:
    counts = found.get_attr("IFLA_STATS64")
    return Link(
        number=found["index"],
        name=found.get_attr("IFLA_IFNAME"),
        master=found.get_attr("IFLA_MASTER") or 0,
        mac=found.get_attr("IFLA_ADDRESS") or "",
        mtu=found.get_attr("IFLA_MTU"),
        received_packets=counts["rx_packets"],
        sent_packets=counts["tx_packets"],
        received_bytes=counts["rx_bytes"],
        sent_bytes=counts["tx_bytes"],
        received_dropped=counts["rx_dropped"],
        sent_dropped=counts["tx_dropped"],
    )


def _address(index: int, address: str) -> nlmsg:
    interface = ip_interface(address)
    attributes = {"IFA_LOCAL": str(interface.ip), "IFA_ADDRESS": str(interface.ip), "IFA_FLAGS": IFA_F_NODAD}
    prefix = interface.network.prefixlen
    return message(ifaddrmsg(), attributes=attributes, family=family(str(interface.ip)), prefixlen=prefix, index=index)


def _fdb(port: int, mac: str) -> nlmsg:
    fields = {"family": int(socket.AF_BRIDGE), "ifindex": port, "state": NUD_NOARP, "flags": NTF_MASTER}
    return message(ndmsg(), attributes={"NDA_LLADDR": mac}, **fields)


def _neighbour(device: int, address: str, mac: str | None) -> nlmsg:
    fields = {"family": family(address), "ifindex": device, "state": NUD_PERMANENT}
    return message(ndmsg(), attributes={"NDA_DST": address, "NDA_LLADDR": mac}, **fields)
