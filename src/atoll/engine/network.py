"""What is asked of a new network, and the table that the engine remembers networks in."""

import re

import msgspec
from msgspec import Struct

from atoll.errors import InvalidRequest
from atoll.model.network import Network, Subnet
from atoll.store import Database

SCHEMA = (
    """
    CREATE TABLE network (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) STRICT
    """,
)
BRIDGE, HOST, NONE = "bridge", "host", "none"
PREDEFINED = (BRIDGE, HOST, NONE)

_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_LONGEST_NAME = 255
_MTU_OPTIONS = ("com.docker.network.driver.mtu", "mtu")
_MTUS, _LEAST_WITH_IPV6 = range(576, 65_521), 1280
_YES = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class NetworkRequest(Struct, frozen=True, kw_only=True):
    """A network that a user wants. `subnets` are those given, each with its gateway and range or "" for them.

    `enable_ipv6` None is the default: it has IPv6. `mtu` None is that of the options, else 1500.
    """

    name: str
    driver: str = "bridge"
    internal: bool = False
    enable_ipv6: bool | None = None
    subnets: tuple[Subnet, ...] = ()
    mtu: int | None = None
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class NetworkOptions(Struct, frozen=True, kw_only=True):
    """What `--opt` can say of a network."""

    mtu: int | None = None
    is_isolated: bool = False
    reaches_metadata: bool = False

    @classmethod
    def parse(cls, options: dict[str, str]) -> "NetworkOptions":
        """From `isolate=true`, `metadata=allow` and Docker's MTU; raises `InvalidRequest` for any other."""
        mtu, is_isolated, reaches_metadata = None, False, False
        for name, value in options.items():
            if name in _MTU_OPTIONS and value.isdecimal():
                mtu = int(value)
            elif name == "isolate" and value.lower() in _YES:
                is_isolated = _YES[value.lower()]
            elif name == "metadata" and value in ("allow", "block"):
                reaches_metadata = value == "allow"
            else:
                raise InvalidRequest(
                    f"invalid option: {name}={value} (a network has the options isolate=true, metadata=allow and "
                    f"{_MTU_OPTIONS[0]}=NUMBER)"
                )
        return cls(mtu=mtu, is_isolated=is_isolated, reaches_metadata=reaches_metadata)


def check_network_name(name: str) -> str:
    """`name`, if a network may be called so; raises `InvalidRequest`."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise InvalidRequest(f'invalid network name "{name}", only {_ALLOWED} are allowed')
    return name


def check_mtu(mtu: int, *, with_ipv6: bool) -> int:
    """`mtu`, if a network may have it; raises `InvalidRequest`."""
    if mtu not in _MTUS or (with_ipv6 and mtu < _LEAST_WITH_IPV6):
        least = _LEAST_WITH_IPV6 if with_ipv6 else _MTUS.start
        raise InvalidRequest(f"invalid MTU {mtu}: it is from {least} to {_MTUS.stop - 1}")
    return mtu


_decoder = msgspec.json.Decoder(Network)


class NetworkTable:
    """The table of networks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate(SCHEMA)

    def all(self) -> list[Network]:
        """Every network, by name."""
        return [
            _decoder.decode(row["record"]) for row in self._database.query("SELECT record FROM network ORDER BY name")
        ]

    def insert(self, network: Network) -> None:
        """Add a network; `sqlite3.IntegrityError` when there is one of its name."""
        self._database.execute(
            "INSERT INTO network VALUES (?, ?, ?)", (network.id, network.name, msgspec.json.encode(network))
        )

    def delete(self, network_id: str) -> None:
        """Forget a network."""
        self._database.execute("DELETE FROM network WHERE id = ?", (network_id,))
