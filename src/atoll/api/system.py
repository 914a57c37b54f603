"""Routes of Docker's system endpoints: ping, version, info."""

import hashlib
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from atoll import __version__
from atoll.api.requests import answer, engine_of
from atoll.engine.status import TCG_WARNING, host_cpus, host_memory_bytes, qemu_version
from atoll.errors import AtollError

API_VERSION = "1.47"
OLDEST_API_VERSION = "1.24"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


async def ping(request: web.Request) -> web.Response:
    """Whether we are there."""
    headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    return web.Response(text="OK", headers=headers)


async def version(request: web.Request) -> web.Response:
    """What serves this API: Atoll, QEMU, the kernel of the host and that of the guests."""
    engine = engine_of(request)
    machine = platform.machine()
    details = {
        "ApiVersion": API_VERSION,
        "Arch": _ARCHITECTURES.get(machine, machine),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": platform.release(),
        "MinAPIVersion": OLDEST_API_VERSION,
        "Os": "linux",
    }
    qemu = await qemu_version(engine.settings.qemu)
    try:
        kernel = (await engine.kernels.current()).version
    except AtollError:
        kernel = "none"
    return answer(
        {
            "Platform": {"Name": "Atoll"},
            "Components": [
                {"Name": "Engine", "Version": __version__, "Details": details},
                {"Name": "QEMU", "Version": qemu or "missing", "Details": {}},
                {"Name": "Guest kernel", "Version": kernel, "Details": {}},
            ],
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": OLDEST_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": details["Arch"],
            "KernelVersion": platform.release(),
            "BuildTime": "",
        }
    )


async def info(request: web.Request) -> web.Response:
    """Docker's info object: what it says of containers, images and the host."""
    engine = engine_of(request)
    counts = engine.counts()
    images = await engine.images.content.list()
    accelerator = engine.accelerators.chosen
    return answer(
        {
            "ID": hashlib.sha256(os.fsencode(engine.paths.root)).hexdigest(),
            "Containers": counts["total"],
            "ContainersRunning": counts["running"],
            "ContainersPaused": counts["paused"],
            "ContainersStopped": counts["stopped"],
            "Images": len(images),
            "Driver": "squashfs",
            "DriverStatus": [["Accelerator", accelerator.name if accelerator is not None else "not yet chosen"]],
            "Plugins": {"Volume": [], "Network": ["bridge", "host", "null"], "Authorization": None,
                        "Log": ["json-file"]},
            "MemoryLimit": True,
            "SwapLimit": True,
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": False,
            "PidsLimit": True,
            "IPv4Forwarding": False,
            "BridgeNfIptables": False,
            "BridgeNfIp6tables": False,
            "Debug": False,
            "NFd": sum(1 for _ in os.scandir("/proc/self/fd")),
            "OomKillDisable": False,
            "NGoroutines": 0,
            "SystemTime": datetime.now(UTC).isoformat(),
            "LoggingDriver": "json-file",
            "CgroupDriver": "none",
            "CgroupVersion": "2",
            "NEventsListener": 0,
            "KernelVersion": platform.release(),
            "OperatingSystem": _operating_system(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": "",
            "RegistryConfig": {
                "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
                "IndexConfigs": {},
                "Mirrors": [],
            },
            "NCPU": host_cpus(),
            "MemTotal": host_memory_bytes(),
            "GenericResources": None,
            "DockerRootDir": str(engine.paths.root),
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": platform.node(),
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"atoll": {"path": "atoll"}},
            "DefaultRuntime": "atoll",
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False,
                      "Error": "", "RemoteManagers": None},
            "LiveRestoreEnabled": True,
            "Isolation": "vm",
            "InitBinary": "atoll-agent",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": ["name=vm"],
            "Warnings": [TCG_WARNING] if accelerator is not None and accelerator.name == "tcg" else None,
        }
    )  # fmt: skip


def _operating_system() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "Linux"
    named = dict(line.partition("=")[::2] for line in lines)
    return named.get("PRETTY_NAME", "Linux").strip('"')


ROUTES = (
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
)
