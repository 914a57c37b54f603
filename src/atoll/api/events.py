"""Route of events: what happened since a time, and what happens until another."""

import asyncio
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from atoll.api.listing import Filters, decode_filters, label_fits
from atoll.api.requests import engine_of, moment_ns
from atoll.engine.events import Event

_KNOWN = ("container", "event", "image", "label", "type", "scope", "daemon", "network", "volume")


async def events(request: web.Request) -> web.StreamResponse:
    """A stream of JSON objects; without `until` it goes on for as long as the client listens."""
    bus = engine_of(request).events
    filters = decode_filters(request.query.get("filters"), _KNOWN)
    since_ns, until_ns = moment_ns(request, "since"), moment_ns(request, "until")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    with bus.listen() as listener:
        past = list(bus.past(since_ns, until_ns or time.time_ns())) if since_ns is not None else []
        await response.prepare(request)
        for event in past:
            await _send(response, event, filters)
        rest_s = (until_ns - time.time_ns()) / 1e9 if until_ns is not None else None
        if rest_s is not None and rest_s <= 0:
            return response
        try:
            async with asyncio.timeout(rest_s):
                async for event in listener:
                    await _send(response, event, filters)
        except TimeoutError:
            pass
    return response


async def _send(response: web.StreamResponse, event: Event, filters: Filters) -> None:
    if _wanted(event, filters):
        await response.write(msgspec.json.encode(_event_json(event)) + b"\n")


def _wanted(event: Event, filters: Filters) -> bool:
    names = (event.id, event.attributes.get("name", ""), event.attributes.get("image", ""))
    tests: dict[str, Callable[[str], bool]] = {
        "type": lambda value: value == event.type,
        "event": lambda value: value == event.action or event.action.startswith(f"{value}:"),
        "container": lambda value: event.type == "container" and (event.id.startswith(value) or value == names[1]),
        "image": lambda value: value in names or f"{value}:latest" in names,
        "label": lambda value: label_fits(value, event.attributes),
        "scope": lambda value: value == "local",
        "daemon": lambda value: event.type == "daemon",
        "network": lambda value: event.type == "network" and (event.id.startswith(value) or value == names[1]),
        "volume": lambda value: event.type == "volume" and event.id.startswith(value),
    }
    return all(any(test(value) for value in filters[name]) for name, test in tests.items() if filters.get(name))


def _event_json(event: Event) -> dict[str, object]:
    shown: dict[str, object] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        # Fields of API versions before 1.22, which clients still read.
        shown |= {"status": event.action, "id": event.id, "from": event.attributes.get("image", "")}
    return shown


ROUTES = (("GET", "/events", events),)
