"""The bridge's name in its namespace, and its MAC."""

import hashlib

BRIDGE = "br0"


def bridge_mac(network_id: str) -> str:
    """The gateway's MAC: the same after a restart, as containers have it in their tables."""
    digest = hashlib.sha256(f"gateway {network_id}".encode()).digest()
    return bytes([0x02, *digest[:5]]).hex(":")
