"""Which containers `docker ps` shows: its filters and limits."""

import fnmatch
import re
from collections.abc import Callable, Iterable

import msgspec

from atoll.api.endpoints import FindNetwork, is_on
from atoll.api.human import state_word
from atoll.api.ports import matches_ports, parse_ports, port_rows
from atoll.engine.container import Container
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest

Filters = dict[str, list[str]]

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def decode_filters(text: str | None, known: Iterable[str]) -> Filters:
    """The query parameter `filters`: names to lists, or (older clients) to sets; raises `InvalidRequest` for others."""
    if not text:
        return {}
    try:
        decoded = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"invalid filter: {error}") from error
    for name in decoded:
        if name not in known:
            raise InvalidRequest(f"invalid filter '{name}'")
    return {
        name: [value for value, wanted in values.items() if wanted] if isinstance(values, dict) else values
        for name, values in decoded.items()
    }


class ContainerFilter:
    """The filters of one request for a list of containers."""

    KNOWN = (
        "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
        "publish", "since", "status", "volume",
    )  # fmt: skip

    def __init__(
        self,
        filters: Filters,
        find: Callable[[str], Container],
        image_id: Callable[[str], str | None],
        network: FindNetwork,
    ) -> None:
        self._filters = filters
        self._network = network
        self._before = [find(reference).record.created_at for reference in filters.get("before", ())]
        self._since = [find(reference).record.created_at for reference in filters.get("since", ())]
        self._images = {image_id(reference) for reference in filters.get("ancestor", ())}
        for value in filters.get("exited", ()):
            if not re.fullmatch(r"-?\d+", value):
                raise InvalidRequest(f"invalid filter 'exited={value}'")
        for value in (*filters.get("publish", ()), *filters.get("expose", ())):
            parse_ports(value)
        for value in filters.get("status", ()):
            if value not in STATES:
                raise InvalidRequest(f"invalid filter 'status={value}': must be one of {', '.join(STATES)}")

    @property
    def looks_at_stopped(self) -> bool:
        """Whether the filters ask for containers that do not run, so that `--all` is implied."""
        return any(name in self._filters for name in ("status", "exited", "before", "since"))

    def takes(self, record: ContainerRecord) -> bool:
        """Whether the container is wanted: one value of every filter fits, all labels do."""
        filters = self._filters
        tests: dict[str, Callable[[str], bool]] = {
            "id": record.id.startswith,
            "name": lambda pattern: _name_fits(pattern, record.name),
            "status": lambda state: state == state_word(record),
            "exited": lambda code: record.finished_at is not None and record.exit_code == int(code),
            "network": lambda network: is_on(record, network, self._network),
            "health": lambda health: health == "none",
            "volume": lambda volume: any(volume in (mount.name, mount.target) for mount in record.config.mounts),
            "publish": lambda port: matches_ports(port_rows(record), "PublicPort", port),
            "expose": lambda port: matches_ports(port_rows(record), "PrivatePort", port),
            "is-task": lambda wanted: wanted.lower() in ("false", "0"),
            "isolation": lambda wanted: wanted in ("", "default"),
        }
        return (
            all(any(test(value) for value in filters[name]) for name, test in tests.items() if filters.get(name))
            and all(label_fits(label, record.config.labels) for label in filters.get("label", ()))
            and (not filters.get("ancestor") or record.config.image_id in self._images)
            and all(record.created_at < moment for moment in self._before)
            and all(record.created_at > moment for moment in self._since)
        )


def label_fits(wanted: str, labels: dict[str, str]) -> bool:
    """`key`, or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def image_name_fits(pattern: str, repo_tags: Iterable[str]) -> bool:
    """A shell pattern of a repository, or of repository and tag."""
    return any(
        fnmatch.fnmatchcase(tag, pattern) or fnmatch.fnmatchcase(tag.rpartition(":")[0], pattern) for tag in repo_tags
    )


def _name_fits(pattern: str, name: str) -> bool:
    """Docker takes a regular expression, with or without the name's slash."""
    try:
        return bool(re.search(pattern, f"/{name}") or re.search(pattern, name))
    except re.error as error:
        raise InvalidRequest(f"invalid filter 'name={pattern}': {error}") from error
