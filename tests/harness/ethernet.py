"""Frames as a VM sends them, honest or not, and the tap that they go through when a test is the VM."""

import asyncio
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
TCP, UDP, ICMP, ICMPV6, FRAGMENT = 6, 17, 1, 58, 44
_VIRTIO_HEADER = bytes(10)


@dataclass(frozen=True)
class Host:
    """Who a container is on its network."""

    mac: str
    ipv4: str
    ipv6: str

    @property
    def link_local(self) -> str:
        """The address that its MAC gives it."""
        octets = mac_bytes(self.mac)
        identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
        return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def mac_bytes(mac: str) -> bytes:
    """The six octets of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def frame(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload


def arp(operation: int, sender_mac: str, sender: str, target: str, target_mac: str = "00:00:00:00:00:00") -> bytes:
    """An ARP packet: 1 asks, 2 answers."""
    return (
        struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
        + mac_bytes(sender_mac)
        + IPv4Address(sender).packed
        + mac_bytes(target_mac)
        + IPv4Address(target).packed
    )


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    """An IPv4 packet; `fragment` is the field of flags and offset."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    header += IPv4Address(source).packed + IPv4Address(target).packed
    return header[:10] + _checksum(header) + header[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes, hops: int = 255) -> bytes:
    """An IPv6 packet."""
    header = struct.pack("!IHBB", 0x60000000, len(payload), protocol, hops)
    return header + IPv6Address(source).packed + IPv6Address(target).packed + payload


def udp(source: str, target: str, source_port: int, target_port: int, data: bytes) -> bytes:
    """A UDP datagram between two addresses."""
    header = struct.pack("!HHH", source_port, target_port, 8 + len(data))
    checksum = _checksum(_pseudo(source, target, UDP, 8 + len(data)) + header + b"\0\0" + data)
    return header + checksum + data


def syn(source: str, target: str, port: int) -> bytes:
    """The TCP segment that asks for a connection."""
    header = struct.pack("!HHIIBBHHH", 40_000, port, 1, 0, 5 << 4, 0x02, 1024, 0, 0)
    checksum = _checksum(_pseudo(source, target, TCP, len(header)) + header)
    return header[:16] + checksum + header[18:]


def echo(data: bytes) -> bytes:
    """An ICMP echo request."""
    header = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return header[:2] + _checksum(header + data) + header[4:] + data


def icmpv6(source: str, target: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message; `body` is what follows the checksum."""
    checksum = _checksum(_pseudo(source, target, ICMPV6, 4 + len(body)) + bytes([kind, 0, 0, 0]) + body)
    return bytes([kind, 0]) + checksum + body


def discovery(kind: int, source: str, destination: str, target: str, option: bytes = b"") -> bytes:
    """An IPv6 packet of neighbour discovery: 135 asks, 136 answers (solicited, override)."""
    flags = 0x60000000 if kind == 136 else 0
    body = struct.pack("!I", flags) + IPv6Address(target).packed + option
    return ipv6(source, destination, ICMPV6, icmpv6(source, destination, kind, body))


def link_layer(kind: int, mac: str) -> bytes:
    """The option of neighbour discovery that says a MAC: 1 the source's, 2 the target's."""
    return bytes([kind, 1]) + mac_bytes(mac)


def _pseudo(source: str, target: str, protocol: int, length: int) -> bytes:
    addresses = ip_address(source).packed + ip_address(target).packed
    return addresses + struct.pack("!II", length, protocol)


def _checksum(data: bytes) -> bytes:
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


class Port:
    """A tap held by a test: what a VM's network device sends and gets."""

    def __init__(self, name: str, fd: int, host: Host) -> None:
        self.name, self.fd, self.host = name, fd, host

    def send(self, data: bytes) -> None:
        """Send a frame."""
        os.write(self.fd, _VIRTIO_HEADER + data)

    async def receive_until(self, is_last: Callable[[bytes], bool], timeout_s: float = 5.0) -> list[bytes]:
        """The frames that come, up to the one that `is_last`; fails when that does not come."""
        found: list[bytes] = []
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    found.append(os.read(self.fd, 70_000)[len(_VIRTIO_HEADER) :])
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                    continue
                if is_last(found[-1]):
                    return found

    def drain(self) -> list[bytes]:
        """The frames that have come by now."""
        found = []
        while True:
            try:
                found.append(os.read(self.fd, 70_000)[len(_VIRTIO_HEADER) :])
            except BlockingIOError:
                return found

    def close(self) -> None:
        """The VM ends."""
        os.close(self.fd)
