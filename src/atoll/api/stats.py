"""Route of stats: a container's use of resources, once or every second."""

import asyncio
import time

import msgspec
from aiohttp import web

from atoll.api.requests import answer, container_of, engine_of, flag
from atoll.engine.container import Container
from atoll.engine.networks import Networks
from atoll.errors import Conflict, Unavailable, VmFailed
from atoll.model.agent import Statistics

INTERVAL_S = 1.0
"""Docker's interval; clients compute percentages from two samples."""

Sample = dict[str, object]


async def stats(request: web.Request) -> web.StreamResponse:
    """One sample, or a stream of them until the container ends."""
    container, networks = container_of(request), engine_of(request).networks
    if not flag(request, "stream", default=True):
        first: Sample = {}
        if container.runtime is not None and not flag(request, "one-shot"):
            first = await _sample(container, networks, {})
            await asyncio.sleep(INTERVAL_S)
        return answer(await _sample(container, networks, first))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    sample: Sample = {}
    while True:
        sample = await _sample(container, networks, sample)
        await response.write(msgspec.json.encode(sample) + b"\n")
        if container.is_being_removed:
            return response
        await asyncio.sleep(INTERVAL_S)


async def _sample(container: Container, networks: Networks, previous: Sample) -> Sample:
    """A sample with the one before; a container that does not run has zeros, as in Docker."""
    now_ns = time.time_ns()
    sample: Sample = {
        "id": container.id,
        "name": f"/{container.name}",
        "read": _stamp(now_ns),
        "preread": previous.get("read", "0001-01-01T00:00:00Z"),
        "num_procs": 0,
        "precpu_stats": previous.get("cpu_stats", {}),
    }
    try:
        figures = _figures(await container.runtime_for("stats").statistics(), now_ns)
        return sample | figures | {"networks": await _interfaces(container, networks)}
    except (Conflict, VmFailed):
        return sample | {"pids_stats": {}, "blkio_stats": {}, "cpu_stats": {}, "memory_stats": {}, "networks": {}}


def _figures(found: Statistics, now_ns: int) -> Sample:
    return {
        "pids_stats": {"current": found.pids},
        "memory_stats": {
            "usage": found.memory_bytes,
            "max_usage": found.memory_peak_bytes,
            "limit": found.memory_limit_bytes or found.guest_memory_total_bytes,
            "stats": {
                "anon": found.memory_anonymous_bytes,
                "file": found.memory_file_bytes,
                "inactive_file": found.memory_inactive_file_bytes,
            },
        },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"major": 254, "minor": 0, "op": "read", "value": found.block_read_bytes},
                {"major": 254, "minor": 0, "op": "write", "value": found.block_write_bytes},
            ]
        },
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": found.cpu_usage_us * 1000,
                "usage_in_usermode": found.cpu_user_us * 1000,
                "usage_in_kernelmode": found.cpu_system_us * 1000,
            },
            # The guest's processors' time passes as the clock does.
            "system_cpu_usage": now_ns * found.online_cpus,
            "online_cpus": found.online_cpus,
            "throttling_data": {
                "periods": 0,
                "throttled_periods": found.throttled_periods,
                "throttled_time": found.throttled_us * 1000,
            },
        },
    }


async def _interfaces(container: Container, networks: Networks) -> Sample:
    """What went over each interface; nothing while a network cannot be asked, which is no reason to know nothing."""
    try:
        counters = await networks.counters(container)
    except Unavailable:
        return {}
    return {
        name: {
            "rx_bytes": count.received_bytes,
            "rx_packets": count.received_packets,
            "rx_errors": 0,
            "rx_dropped": count.received_dropped,
            "tx_bytes": count.sent_bytes,
            "tx_packets": count.sent_packets,
            "tx_errors": count.forged,
            "tx_dropped": count.sent_dropped,
        }
        for name, count in counters.items()
    }


def _stamp(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


ROUTES = (("GET", "/containers/{name}/stats", stats),)
