"""The endpoints of containers and their processes, as functions.

Docker's behaviour: the Docker Engine API reference, `/containers` and `/exec`. Names and ids are quoted;
filters are Docker's: a name with the values that it may have.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client
from atoll.client.http import Response
from atoll.client.streams import Hijacked

if TYPE_CHECKING:
    from atoll.client.shapes import (
        Container,
        ContainerSummary,
        CreatedContainer,
        ExecState,
        Object,
        ProcessTable,
        Pruned,
        Statistics,
        Timings,
        WaitResult,
    )


def encode_filters(filters: Mapping[str, Sequence[str]]) -> str | None:
    """Filters as the API takes them in a query, None for none."""
    if not filters:
        return None
    return json.dumps({name: dict.fromkeys(values, True) for name, values in filters.items()})


def list_containers(
    client: Client,
    *,
    everything: bool = False,
    limit: int | None = None,
    size: bool = False,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> "list[ContainerSummary]":
    """Running containers, or all with `everything` or `limit` (the newest so many); `size` asks for their sizes."""
    query = {
        "all": everything or None,
        "limit": limit,
        "size": size or None,
        "filters": encode_filters(filters or {}),
    }
    return cast("list[ContainerSummary]", client.get("/containers/json", query))


def create(client: Client, body: "Object", *, name: str | None, platform: str | None) -> "CreatedContainer":
    """A new container; 404 when its image is not here."""
    answer = client.post("/containers/create", {"name": name, "platform": platform}, body)
    return cast("CreatedContainer", answer)


def inspect(client: Client, container: str, *, size: bool = False) -> "Object":
    """All about a container, as it is."""
    return cast("Object", client.get(_path(container, "json"), {"size": size or None}))


def get(client: Client, container: str) -> "Container":
    """What we need to know of a container to attach to it."""
    return cast("Container", inspect(client, container))


def start(client: Client, container: str, *, detach_keys: str | None = None) -> None:
    """Start; no error when it runs already."""
    client.post(_path(container, "start"), {"detachKeys": detach_keys})


def timings(client: Client, container: str) -> "Timings":
    """Where the time of its last start went; gone with the container."""
    return cast("Timings", client.get(f"/atoll{_path(container, 'timings')}"))


def stop(client: Client, container: str, *, signal: str | None, timeout_s: int | None) -> None:
    """Stop by signal, SIGKILL after `timeout_s`; None is what the container says."""
    client.post(_path(container, "stop"), {"signal": signal, "t": timeout_s})


def restart(client: Client, container: str, *, signal: str | None, timeout_s: int | None) -> None:
    """Stop, if it runs, and start."""
    client.post(_path(container, "restart"), {"signal": signal, "t": timeout_s})


def kill(client: Client, container: str, *, signal: str | None) -> None:
    """Send a signal to the first process, SIGKILL by default."""
    client.post(_path(container, "kill"), {"signal": signal})


def remove(client: Client, container: str, *, force: bool, volumes: bool) -> None:
    """Remove; `force` kills it first."""
    client.delete(_path(container, ""), {"force": force or None, "v": volumes or None})


def prune(client: Client, filters: Mapping[str, Sequence[str]]) -> "Pruned":
    """Remove the containers that do not run."""
    return cast("Pruned", client.post("/containers/prune", {"filters": encode_filters(filters)}))


def rename(client: Client, container: str, name: str) -> None:
    """Give another name."""
    client.post(_path(container, "rename"), {"name": name})


def pause(client: Client, container: str) -> None:
    """Stop the VM's clock."""
    client.post(_path(container, "pause"))


def unpause(client: Client, container: str) -> None:
    """Let the VM's clock run again."""
    client.post(_path(container, "unpause"))


def top(client: Client, container: str, arguments: str | None) -> "ProcessTable":
    """The container's processes; `arguments` are those of ps."""
    return cast("ProcessTable", client.get(_path(container, "top"), {"ps_args": arguments}))


def begin_wait(client: Client, container: str, condition: str | None = None) -> "Callable[[], WaitResult]":
    """Register a wait for `not-running`, `next-exit` or `removed`; the function that returns does the waiting.

    The engine answers with the head of the response at once, so that an end between here and there is not missed.
    """
    response = client.request("POST", _path(container, "wait"), {"condition": condition})

    def finish() -> "WaitResult":
        result = cast("WaitResult", json.loads(response.read()))
        response.close()
        return result

    return finish


def attach(
    client: Client, container: str, *, stdin: bool, stdout: bool, stderr: bool, detach_keys: str | None
) -> Hijacked:
    """A connection with the first process's stdio."""
    query = {
        "stream": True,
        "stdin": stdin or None,
        "stdout": stdout or None,
        "stderr": stderr or None,
        "detachKeys": detach_keys,
    }
    return client.hijack(_path(container, "attach"), query)


def resize(client: Client, container: str, rows: int, columns: int) -> None:
    """Tell the size of the terminal."""
    client.post(_path(container, "resize"), {"h": rows, "w": columns})


def logs(
    client: Client,
    container: str,
    *,
    follow: bool,
    since: str | None,
    until: str | None,
    tail: str,
    timestamps: bool,
    details: bool,
) -> Response:
    """The output logged; frames without a terminal, raw with one. `since` and `until` as `seconds.nanoseconds`."""
    query = {
        "stdout": True,
        "stderr": True,
        "follow": follow or None,
        "since": since,
        "until": until,
        "tail": tail,
        "timestamps": timestamps or None,
        "details": details or None,
    }
    return client.request("GET", _path(container, "logs"), query)


def statistics(client: Client, container: str, *, stream: bool) -> "Iterator[Statistics]":
    """What the container uses: one value, or one a second."""
    response = client.request("GET", _path(container, "stats"), {"stream": stream})
    try:
        for line in response.lines():
            yield cast("Statistics", json.loads(line))
    finally:
        response.close()


def create_exec(client: Client, container: str, body: "Object") -> str:
    """Prepare a process in a running container; its id."""
    answer = cast("dict[str, str]", client.post(_path(container, "exec"), body=body))
    return answer["Id"]


def start_exec(client: Client, execution: str, body: "Object") -> None:
    """Start it and leave it alone."""
    client.post(f"/exec/{execution}/start", body=body)


def attach_exec(client: Client, execution: str, body: "Object") -> Hijacked:
    """Start it with a connection to its stdio."""
    return client.hijack(f"/exec/{execution}/start", body=body)


def resize_exec(client: Client, execution: str, rows: int, columns: int) -> None:
    """Tell the size of its terminal."""
    client.post(f"/exec/{execution}/resize", {"h": rows, "w": columns})


def get_exec(client: Client, execution: str) -> "ExecState":
    """How it stands with it."""
    return cast("ExecState", client.get(f"/exec/{execution}/json"))


def _path(container: str, verb: str) -> str:
    return f"/containers/{quote(container, safe='')}" + (f"/{verb}" if verb else "")
