"""Ethernet frames as a liar writes them: every field is the caller's, checksums are right. In hex, for `probe send`."""

import ipaddress
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _UDP, _ICMPV6 = 1, 17, 58


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> str:
    """A frame of at least the size that Ethernet asks for."""
    return (_mac(destination) + _mac(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0").hex()


def arp_reply(source: str, *, mac: str, ip: str, to_mac: str, to_ip: str) -> str:
    """`mac` says that it has `ip`; `source` is what the frame comes from."""
    claim = _mac(mac) + _ip(ip) + _mac(to_mac) + _ip(to_ip)
    return ethernet(source, to_mac, _ARP, struct.pack("!HHBBH", 1, _IPV4, 6, 4, 2) + claim)


def udp(
    source: str, destination: str, *, from_ip: str, to_ip: str, port: int, data: bytes, from_port: int = 4000
) -> str:
    """A datagram, over IPv4 or IPv6 as the addresses are."""
    header = struct.pack("!HHHH", from_port, port, 8 + len(data), 0)
    checksum = _checksum(_pseudo(from_ip, to_ip, _UDP, 8 + len(data)) + header + data) or 0xFFFF
    datagram = header[:6] + struct.pack("!H", checksum) + data
    return ethernet(source, destination, *_packet(from_ip, to_ip, _UDP, datagram))


def ping(source: str, destination: str, *, from_ip: str, to_ip: str) -> str:
    """An echo request, of ICMP or ICMPv6."""
    if _is_four(from_ip):
        return ethernet(
            source, destination, *_packet(from_ip, to_ip, _ICMP, _checked(b"", struct.pack("!BBHHH", 8, 0, 0, 7, 1)))
        )
    return _icmpv6(source, destination, from_ip, to_ip, struct.pack("!BBHHH", 128, 0, 0, 7, 1))


def neighbour_advertisement(source: str, destination: str, *, mac: str, ip: str, to_ip: str) -> str:
    """`mac` says that it has `ip`."""
    message = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + _ip(ip) + b"\x02\x01" + _mac(mac)
    return _icmpv6(source, destination, ip, to_ip, message)


def router_advertisement(source: str, *, mac: str, from_ip: str) -> str:
    """`from_ip` says that it is a router."""
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + _mac(mac)
    return _icmpv6(source, "33:33:00:00:00:01", from_ip, "ff02::1", message)


def dhcp_offer(source: str, *, from_ip: str) -> str:
    """A DHCP server's offer to everybody."""
    offered = (
        struct.pack("!BBBBIHH", 2, 1, 6, 0, 0x1234, 0, 0x8000) + bytes(4) + _ip("192.0.2.9") + _ip(from_ip) + bytes(4)
    )
    options = bytes(16 + 192) + b"\x63\x82\x53\x63" + b"\x35\x01\x02" + b"\x36\x04" + _ip(from_ip) + b"\xff"
    return udp(
        source, BROADCAST, from_ip=from_ip, to_ip="255.255.255.255", from_port=67, port=68, data=offered + options
    )


def _icmpv6(source: str, destination: str, from_ip: str, to_ip: str, message: bytes) -> str:
    checked = _checked(_pseudo(from_ip, to_ip, _ICMPV6, len(message)), message)
    return ethernet(source, destination, *_packet(from_ip, to_ip, _ICMPV6, checked))


def _packet(from_ip: str, to_ip: str, protocol: int, payload: bytes) -> tuple[int, bytes]:
    addresses = _ip(from_ip) + _ip(to_ip)
    if not _is_four(from_ip):
        return _IPV6, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + addresses + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + addresses
    return _IPV4, header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + payload


def _checked(pseudo: bytes, message: bytes) -> bytes:
    """An ICMP message with its checksum, which is its third and fourth byte."""
    return message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]


def _pseudo(from_ip: str, to_ip: str, protocol: int, length: int) -> bytes:
    lengths = struct.pack("!BBH", 0, protocol, length) if _is_four(from_ip) else struct.pack("!II", length, protocol)
    return _ip(from_ip) + _ip(to_ip) + lengths


def _checksum(data: bytes) -> int:
    words = struct.iter_unpack("!H", data + b"\0" * (len(data) % 2))
    total: int = sum(word for (word,) in words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _is_four(address: str) -> bool:
    return ipaddress.ip_address(address).version == 4


def _ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))
