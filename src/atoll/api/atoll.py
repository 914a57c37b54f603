"""Routes of Atoll's own: its status, its kernels, its end."""

import os
import shutil
from pathlib import Path

from aiohttp import web
from msgspec import Struct

from atoll import __version__
from atoll.api.human import timestamp
from atoll.api.requests import answer, body_of, engine_of, nothing, whole_number
from atoll.api.schemas import KernelBody
from atoll.engine.engine import Engine
from atoll.engine.status import (
    TCG_WARNING,
    AcceleratorStatus,
    ContainerCounts,
    EngineStatus,
    KernelStatus,
    qemu_version,
)
from atoll.errors import AtollError, InvalidRequest
from atoll.kernel import KernelInfo


class StopBody(Struct, frozen=True):
    """Body of `POST /atoll/stop`."""

    containers: bool = False


async def info(request: web.Request) -> web.Response:
    """Where things are."""
    paths = engine_of(request).paths
    return answer(
        {
            "Version": __version__,
            "Socket": str(paths.socket),
            "Root": str(paths.root),
            "Run": str(paths.run),
            "Log": str(paths.engine_log),
            "SettingsFile": str(paths.settings_file),
            "Pid": os.getpid(),
        }
    )


async def status(request: web.Request) -> web.Response:
    """How the engine stands."""
    engine = engine_of(request)
    kernel, accelerator = await _kernel_status(engine), _accelerator_status(engine)
    qemu = shutil.which(engine.settings.qemu)
    found = await qemu_version(qemu) if qemu is not None else None
    warnings = [TCG_WARNING] if accelerator.name == "tcg" else []
    warnings += [kernel.reason] if kernel.version is None else []
    warnings += [f"QEMU is missing: {engine.settings.qemu} cannot be run"] if found is None else []
    return answer(
        EngineStatus(
            version=__version__,
            pid=os.getpid(),
            started_at=timestamp(engine.started_at),
            root=str(engine.paths.root),
            socket=str(engine.paths.socket),
            log=str(engine.paths.engine_log),
            settings_file=str(engine.paths.settings_file),
            kernel=kernel,
            accelerator=accelerator,
            qemu=qemu or engine.settings.qemu,
            qemu_version=found or "",
            containers=ContainerCounts(**engine.counts()),
            images=len(await engine.images.content.list()),
            warnings=warnings,
        )
    )


async def _kernel_status(engine: Engine) -> KernelStatus:
    try:
        kernel = await engine.kernels.current()
    except AtollError as error:
        return KernelStatus(version=None, reason=str(error))
    return KernelStatus(version=kernel.version, image=str(kernel.image))


def _accelerator_status(engine: Engine) -> AcceleratorStatus:
    chosen = engine.accelerators.chosen
    if chosen is None:
        return AcceleratorStatus(name=None, reason="not chosen yet: the first start tries")
    return AcceleratorStatus(name=chosen.name, reason=chosen.reason)


async def list_kernels(request: web.Request) -> web.Response:
    """The kernels that are here."""
    return answer([_kernel_json(kernel) for kernel in await engine_of(request).kernels.list()])


async def set_kernel(request: web.Request) -> web.Response:
    """Use another kernel for containers that start from now on."""
    engine, body = engine_of(request), await body_of(request, KernelBody)
    if sum(map(bool, (body.package, body.binary, body.host))) != 1:
        raise InvalidRequest("say which kernel: one of Package, Binary (with Modules) and Host")
    kernels = engine.kernels
    if body.package:
        setting = kernels.set_package(body.package)
    elif body.binary:
        setting = kernels.set_binary(Path(body.binary), Path(body.modules) if body.modules else None)
    else:
        setting = kernels.set_host()
    info = await engine.tasks.finish(setting, "change of the kernel")
    engine.warm_up()
    return answer(_kernel_json(info))


async def stop(request: web.Request) -> web.Response:
    """End the engine; with `{"containers": true}` all containers first."""
    engine, body = engine_of(request), await body_of(request, StopBody)
    if body.containers:
        stopping = engine.stop_containers(whole_number(request, "t"))
        await engine.tasks.finish(stopping, "stop of all containers")
    engine.stopping.set()
    return nothing()


def _kernel_json(kernel: KernelInfo) -> dict[str, object]:
    return {
        "Version": kernel.version,
        "Source": kernel.source,
        "Current": kernel.current,
        "Digest": kernel.digest,
    }


ROUTES = (
    ("GET", "/atoll/info", info),
    ("GET", "/atoll/status", status),
    ("GET", "/atoll/kernels", list_kernels),
    ("POST", "/atoll/kernels", set_kernel),
    ("POST", "/atoll/stop", stop),
)
