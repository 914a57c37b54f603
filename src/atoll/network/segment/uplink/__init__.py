"""The way out of a network: pasta, or a veth pair and masquerade. `outside` runs in the outlet, `uplink` inside."""
