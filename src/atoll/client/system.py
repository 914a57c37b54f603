"""The endpoints of the engine itself: Docker's `/version` and `/info`, ours under `/atoll/`."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from atoll.client.client import Client

if TYPE_CHECKING:
    from atoll.client.shapes import CheckLine, DiskUsage, Kernel, Object


def version(client: Client) -> "Object":
    """Docker's version object."""
    return cast("Object", client.get("/version"))


def info(client: Client) -> "Object":
    """Docker's info object."""
    return cast("Object", client.get("/info"))


def atoll_info(client: Client) -> "Object":
    """What Atoll has to say beyond Docker's info."""
    return cast("Object", client.get("/atoll/info"))


def status(client: Client) -> "Object":
    """How the engine stands: its kernel, accelerator and containers."""
    return cast("Object", client.get("/atoll/status"))


def stop(client: Client, *, containers: bool = False, timeout_s: int | None = None) -> None:
    """Ask the engine to end; with `containers`, these first, each with so many seconds to obey."""
    client.post("/atoll/stop", {"t": timeout_s}, {"containers": containers})


def disk_usage(client: Client) -> "DiskUsage":
    """What takes room on the disk."""
    return cast("DiskUsage", client.get("/system/df"))


def check(client: Client, *, repair: bool) -> "Iterator[CheckLine]":
    """Have the store checked: a line for each thing that is wrong, and one with the sum."""
    response = client.request("POST", "/atoll/check", {"repair": repair})
    try:
        for line in response.lines():
            yield cast("CheckLine", json.loads(line))
    finally:
        response.close()


def kernels(client: Client) -> "list[Kernel]":
    """The kernels that are here."""
    return cast("list[Kernel]", client.get("/atoll/kernels"))


def set_kernel(client: Client, body: "Object") -> "Kernel":
    """Use another kernel from now on."""
    return cast("Kernel", client.post("/atoll/kernels", body=body))
