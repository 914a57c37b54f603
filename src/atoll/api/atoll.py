"""Routes of Atoll's own: its status, its kernels, its end."""

import os
import shutil
from pathlib import Path

from aiohttp import web
from msgspec import Struct, to_builtins

from atoll import __version__
from atoll.api.human import timestamp
from atoll.api.requests import answer, body_of, engine_of, nothing, whole_number
from atoll.api.schemas import KernelBody
from atoll.engine.engine import Engine
from atoll.engine.sizing import VmSize, default_size, vm_memory_mib
from atoll.engine.status import (
    TCG_WARNING,
    AcceleratorStatus,
    ContainerCounts,
    EngineStatus,
    KernelStatus,
    PoolStatus,
    TemplateCounts,
    host_cpus,
    qemu_version,
)
from atoll.errors import AtollError, InvalidRequest, NotFound
from atoll.kernel import KernelInfo
from atoll.template import StoredTemplate


class TemplateBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /atoll/templates`: virtual CPUs, and `--memory` in bytes, of the containers that it is for."""

    cpus: int | None = None
    memory: int | None = None
    force: bool = False


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
    problem = await engine.networks.problem()
    warnings += [problem] if problem else []
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
            templates=await _template_counts(engine),
            pool=PoolStatus(
                ready=engine.pool.ready, size=engine.settings.pool_size if engine.settings.templates else 0
            ),
            warnings=warnings,
        )
    )


async def _kernel_status(engine: Engine) -> KernelStatus:
    try:
        kernel = await engine.kernels.current()
    except AtollError as error:
        return KernelStatus(version=None, reason=str(error))
    return KernelStatus(version=kernel.version, image=str(kernel.image))


async def _template_counts(engine: Engine) -> TemplateCounts:
    all_ = engine.templates.list()
    current = [stored for stored in all_ if await _is_current(engine, stored)]
    return TemplateCounts(total=len(all_), current=len(current))


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


async def list_templates(request: web.Request) -> web.Response:
    """The templates that are on disk."""
    engine = engine_of(request)
    return answer([await _template_json(engine, stored) for stored in engine.templates.list()])


async def build_template(request: web.Request) -> web.Response:
    """Build a template, for containers without limits unless the body says otherwise, and wait for it."""
    engine, body = engine_of(request), await body_of(request, TemplateBody)
    cpus = body.cpus or default_size(engine.settings).cpus
    size = VmSize(cpus, vm_memory_mib(body.memory, engine.settings))
    if not 1 <= size.cpus <= host_cpus():
        raise InvalidRequest(f"a template for {size.cpus} CPUs cannot be built: this host has {host_cpus()}")
    kernel, vm = await engine.vms.make(size)
    building = engine.templates.build(kernel, vm, force=body.force)
    stored = await engine.tasks.finish(building, "building of a template")
    engine.pool.refill()
    return answer(await _template_json(engine, stored))


async def inspect_template(request: web.Request) -> web.Response:
    """One template, with all that it was made of."""
    engine = engine_of(request)
    stored = engine.templates.get(request.match_info["id"])
    key = to_builtins(stored.record.key)
    digests = {"MemoryDigest": stored.record.memory_digest, "StateDigest": stored.record.state_digest}
    return answer(await _template_json(engine, stored) | {"Key": key} | digests)


async def remove_template(request: web.Request) -> web.Response:
    """Remove a template; it is built again when a container needs it."""
    engine = engine_of(request)
    stored = engine.templates.get(request.match_info["id"])
    engine.templates.discard(stored.record.key, "somebody removed it")
    return nothing()


async def _template_json(engine: Engine, stored: StoredTemplate) -> dict[str, object]:
    key = stored.record.key
    return {
        "ID": key.id,
        "Kernel": key.kernel_version,
        "Cpus": key.cpus,
        "MemoryMib": key.memory_mib,
        "Accelerator": key.accelerator,
        "SizeBytes": stored.size_bytes,
        "CreatedAt": timestamp(stored.record.created_at),
        "LastUsedAt": timestamp(stored.last_used_at),
        "Current": await _is_current(engine, stored),
        "Qemu": key.qemu.partition(" ")[0],
    }


async def _is_current(engine: Engine, stored: StoredTemplate) -> bool:
    try:
        return engine.templates.is_current(await engine.kernels.current(), engine.vms.qemu(), stored)
    except AtollError:
        return False


async def timings(request: web.Request) -> web.Response:
    """Where the time of a container's last start went."""
    engine, reference = engine_of(request), request.match_info["id"]
    try:
        container_id = engine.containers.get(reference).id
    except NotFound:
        container_id = reference  # removed since
    return answer(engine.services.timings.get(container_id))


ROUTES = (
    ("GET", "/atoll/info", info),
    ("GET", "/atoll/status", status),
    ("GET", "/atoll/kernels", list_kernels),
    ("POST", "/atoll/kernels", set_kernel),
    ("GET", "/atoll/templates", list_templates),
    ("POST", "/atoll/templates", build_template),
    ("GET", "/atoll/templates/{id}", inspect_template),
    ("DELETE", "/atoll/templates/{id}", remove_template),
    ("GET", "/atoll/containers/{id}/timings", timings),
    ("POST", "/atoll/stop", stop),
)
