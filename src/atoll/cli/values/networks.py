"""Networks of a container: `--network` and what goes with it, in Docker's grammar and in ours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from atoll.cli.values.limits import is_address

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Object

DEFAULT = "default"
_NAMES = {"ip": "ip", "ip6": "ip6", "mac": "mac-address", "mac-address": "mac-address", "alias": "alias"}


class Join(NamedTuple):
    """A network to join, by name, and the entry of `EndpointsConfig` that says how; {} for in no particular way."""

    network: str
    endpoint: "Object"


def parse_network(text: str) -> Join:
    """`NAME`, `NAME:ip=ADDRESS,alias=WORD` or Docker's `name=NAME,ip=ADDRESS,alias=WORD`. Raises `ValueError`."""
    name, colon, options = text.partition(":")
    if "=" in name:
        name, colon, options = "", "", text
    elif "=" not in options:
        # Also `container:NAME`, which the engine refuses.
        return Join(text, {})
    aliases: list[str] = []
    driver_options: dict[str, Json] = {}
    values: dict[str, str] = {}
    for option in options.split(","):
        key, equals, value = option.partition("=")
        key = key.strip().lower()
        if not equals or not value:
            raise ValueError(f"invalid field {option}")
        if key == "name" and not colon:
            name = value
        elif key == "alias":
            aliases.append(value)
        elif key == "driver-opt":
            driver_options.update([value.partition("=")[::2]])
        elif key == "gw-priority" or key in _NAMES:
            values[_NAMES.get(key, key)] = value
        else:
            raise ValueError(f"invalid field key {key}")
    if not name:
        raise ValueError("network name/id is not specified")
    shown = endpoint(
        ip=values.get("ip"), ip6=values.get("ip6"), mac=values.get("mac-address"), aliases=aliases,
        driver_options=driver_options, gateway_priority=values.get("gw-priority"),
    )  # fmt: skip
    return Join(name, shown)


def endpoint(
    *,
    ip: str | None,
    ip6: str | None,
    mac: str | None = None,
    aliases: Sequence[str] = (),
    driver_options: "Object | None" = None,
    gateway_priority: str | int | None = None,
) -> "Object":
    """An entry of `EndpointsConfig` without what was not asked for. Raises `ValueError`."""
    for address in (ip, ip6):
        if address is not None and not is_address(address):
            raise ValueError(f"invalid IP address: {address}")
    addresses: Object = {}
    if ip is not None:
        addresses["IPv4Address"] = ip
    if ip6 is not None:
        addresses["IPv6Address"] = ip6
    given: Object = {"IPAMConfig": addresses} if addresses else {}
    if mac is not None:
        given["MacAddress"] = mac
    if aliases:
        given["Aliases"] = list(aliases)
    if driver_options:
        given["DriverOpts"] = driver_options
    if gateway_priority is not None:
        given["GwPriority"] = _priority(gateway_priority)
    return given


def joined(networks: Sequence[Join], own: "Object") -> tuple[str | None, dict[str, "Object"]]:
    """The mode of the network and `EndpointsConfig`; `own` (`--ip` and the like) is for the first network.

    Raises `ValueError` for a network that is named twice, and for what is said twice of the first.
    """
    names = [network for network, _ in networks]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f'network "{name}" is specified multiple times')
    if not networks:
        return None, {DEFAULT: own} if own else {}
    endpoints = dict(networks)
    first = endpoints[names[0]]
    for field, flag in (("Aliases", "--network-alias"), ("MacAddress", "--mac-address"), ("IPAMConfig", "--ip")):
        if field in own and field in first:
            raise ValueError(f"conflicting options: {flag} is for the network '{names[0]}', which says so as well")
    endpoints[names[0]] = {**first, **own}
    return names[0], endpoints if len(endpoints) > 1 or endpoints[names[0]] else {}


def _priority(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"invalid gw-priority: {text} is no whole number") from None
