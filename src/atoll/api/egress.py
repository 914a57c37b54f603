"""What a user writes for `--egress`: `all`, `none`, `dns`, or a list: `allow=192.0.2.0/24:443,domain=example.org`."""

import re

from atoll.errors import InvalidRequest
from atoll.model.network import Egress
from atoll.network.destination import Destination

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# Each makes rules in the segment, or is compared with each question.
_MOST_ENTRIES = 256


def parse_egress(text: str) -> Egress:
    """The policy that `text` names; "" is `all`.

    A list's `allow=` and `domain=` come in any order and number; what stands without either is of the kind before it:
    `domain=debian.org,python.org`. Raises `InvalidRequest`.
    """
    words = text.strip()
    match words:
        case "" | "all":
            return Egress()
        case "none":
            return Egress(mode="none")
        case "dns":
            return Egress(mode="dns")
    allow: dict[str, None] = {}
    domains: dict[str, None] = {}
    kind = ""
    for part in words.split(","):
        before, equals, value = part.strip().partition("=")
        kind, value = (before.strip().lower(), value.strip()) if equals else (kind, before)
        if kind == "allow":
            allow[_destination(value)] = None
        elif kind == "domain":
            domains[_domain(value)] = None
        else:
            raise InvalidRequest(
                f"invalid egress policy '{text}': write all, none, dns, or a list like "
                "allow=192.0.2.0/24:443,domain=example.org"
            )
    if len(allow) + len(domains) > _MOST_ENTRIES:
        raise InvalidRequest(f"an egress policy of more than {_MOST_ENTRIES} entries: write larger networks")
    return Egress(mode="listed", allow=tuple(allow), domains=tuple(domains))


def egress_text(egress: Egress) -> str:
    """The words for `egress`, which `parse_egress` reads."""
    if egress.mode != "listed":
        return egress.mode
    return ",".join((*(f"allow={entry}" for entry in egress.allow), *(f"domain={name}" for name in egress.domains)))


def _destination(text: str) -> str:
    try:
        return str(Destination.parse(text))
    except ValueError as error:
        raise InvalidRequest(f"invalid egress destination '{text}': {error}") from None


def _domain(text: str) -> str:
    """The domain as it is compared: in lower case, no `*.` before and no dot behind, other scripts as `xn--`."""
    name = text.removeprefix("*.").removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            name = ""
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise InvalidRequest(
            f"invalid egress domain '{text}': write a name like example.org, which includes those below"
        )
    return name
