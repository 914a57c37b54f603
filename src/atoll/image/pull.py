"""`pull`: an image from a registry, layer by layer, several at once, each made runnable while it downloads."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass

from atoll.errors import InvalidRequest, NotFound, RegistryFailed
from atoll.image.blobs import digest_of
from atoll.image.download import ChunksFrom, Downloads
from atoll.image.limits import Limits
from atoll.image.manifest import choose, parse_config, parse_manifest, runs_on
from atoll.image.oci import Descriptor, ImageConfig, Index, Manifest, Platform
from atoll.image.progress import Pace, Report, progress_line
from atoll.image.reference import Reference
from atoll.image.registry import Sources

_AT_ONCE = 3
"""Layers that are under way together; as Docker."""


@dataclass(frozen=True)
class PulledImage:
    """The documents of an image in a registry: `documents` from the outermost index to the configuration."""

    image_id: str
    config: ImageConfig
    layers: tuple[tuple[str, Descriptor], ...]
    documents: tuple[bytes, ...]
    digest: str
    """What the registry calls it: the digest of the outermost document."""


async def resolve(sources: Sources, reference: Reference, platform: Platform, limits: Limits) -> PulledImage:
    """Fetch and check all documents of the image that `reference` means, for `platform`.

    Raises `NotFound` when it is not there for the platform, `RegistryFailed` when an answer makes no sense.
    """
    which = reference.digest or reference.tagged().tag or ""
    documents: list[bytes] = []
    try:
        data, media_type = await sources.manifest(which, limit_bytes=limits.document_bytes)
        documents.append(data)
        manifest = parse_manifest(data, media_type, limits=limits)
        while isinstance(manifest, Index):
            if len(documents) > 4:
                raise InvalidRequest("its indexes are nested too deeply")
            descriptor = choose(manifest, platform)
            data, media_type = await sources.manifest(descriptor.digest, limit_bytes=limits.document_bytes)
            documents.append(data)
            manifest = parse_manifest(data, media_type, limits=limits)
        data = await sources.document(manifest.config.digest, limit_bytes=limits.document_bytes)
        documents.append(data)
        config = parse_config(data)
        layers = _pair(config, manifest)
    except InvalidRequest as error:
        raise RegistryFailed(f"registry {reference.domain} answered wrongly: {error}") from error
    if not runs_on(config.platform, platform):
        raise NotFound(f"{reference.familiar} is for {config.platform} and not for {platform}")
    return PulledImage(digest_of(data), config, layers, tuple(documents), digest_of(documents[0]))


def _pair(config: ImageConfig, manifest: Manifest) -> tuple[tuple[str, Descriptor], ...]:
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidRequest(
            f"the configuration names {len(config.diff_ids)} layers and the manifest {len(manifest.layers)}"
        )
    return tuple(zip(config.diff_ids, manifest.layers, strict=True))


Fetch = Callable[[str, Descriptor, ChunksFrom], Awaitable[None]]


async def fetch_layers(
    sources: Sources,
    image: PulledImage,
    has: Callable[[str], bool],
    fetch: Fetch,
    downloads: Downloads,
    report: Report,
) -> None:
    """Have `fetch` store every layer that `has` does not find, some at once, reporting in Docker's words."""
    at_once = asyncio.Semaphore(_AT_ONCE)
    wanted: dict[str, Descriptor] = {}
    for diff_id, descriptor in image.layers:
        if diff_id in wanted:
            continue
        wanted[diff_id] = descriptor
        report(progress_line("Pulling fs layer", descriptor.digest))

    async def fetch_one(diff_id: str, descriptor: Descriptor) -> None:
        def chunks(begin: int) -> AsyncGenerator[bytes, None]:
            coming = sources.blob(descriptor.digest, descriptor.size, begin)
            return _counted(coming, descriptor, begin, lambda line: downloads.tell(descriptor.digest, line))

        if has(diff_id):
            report(progress_line("Already exists", descriptor.digest))
            return
        if at_once.locked():
            report(progress_line("Waiting", descriptor.digest))
        async with at_once:
            with downloads.watching(descriptor.digest, report):
                await fetch(diff_id, descriptor, chunks)
        report(progress_line("Pull complete", descriptor.digest))

    await together([fetch_one(diff_id, descriptor) for diff_id, descriptor in wanted.items()])


async def together(jobs: Collection[Awaitable[None]]) -> None:
    """Run `jobs` side by side; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_awaited(job))
    except* Exception as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _awaited(job: Awaitable[None]) -> None:
    await job


async def _counted(
    chunks: AsyncGenerator[bytes, None], descriptor: Descriptor, begin: int, report: Report
) -> AsyncGenerator[bytes, None]:
    """`chunks` of a blob from `begin` on, with their progress reported ten times a second."""
    done = begin
    pace = Pace()
    async with aclosing(chunks):
        async for chunk in chunks:
            done += len(chunk)
            if pace.is_due():
                report(progress_line("Downloading", descriptor.digest, done, descriptor.size))
            yield chunk
    report(progress_line("Verifying Checksum", descriptor.digest))
    report(progress_line("Download complete", descriptor.digest))
    report(progress_line("Extracting", descriptor.digest, done, descriptor.size))
