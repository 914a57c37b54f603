"""What `prune` spares: the filters that it has for containers, images and whatever else can be pruned."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from atoll.api.listing import decode_filters, label_fits
from atoll.errors import InvalidRequest

KNOWN = ("until", "label", "label!")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")
_NUMBER = re.compile(r"\d+(?:\.\d{1,9})?")


class PruneFilter:
    """The filters of one request, `text` as it is in the query; `known` are names that the caller looks at itself."""

    def __init__(self, text: str | None, *known: str) -> None:
        self.values = decode_filters(text, (*KNOWN, *known))
        untils = self.values.get("until", ())
        if len(untils) > 1:
            raise InvalidRequest("more than one until filter specified")
        self._until_s = _moment_s(untils[0]) if untils else None

    def takes(self, created_s: float, labels: Mapping[str, str]) -> bool:
        """Whether what was created then (seconds since the epoch) and has these labels may be removed."""
        labels = dict(labels)
        return (
            (self._until_s is None or created_s <= self._until_s)
            and all(label_fits(label, labels) for label in self.values.get("label", ()))
            and not any(label_fits(label, labels) for label in self.values.get("label!", ()))
        )


def _moment_s(text: str) -> float:
    """Seconds since the epoch of a duration before now (`24h`), of such seconds, or of a time, UTC without a zone."""
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time() - sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"invalid filter 'until={text}': it is neither a duration nor a time") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
