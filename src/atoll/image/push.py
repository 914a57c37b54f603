"""`push`: an image into a repository, several layers at once, leaving out what the registry has already."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from atoll.image.blobs import digest_of
from atoll.image.oci import OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from atoll.image.origins import Origins
from atoll.image.outgoing import OutgoingBlob, OutgoingImage
from atoll.image.packing import Packing
from atoll.image.progress import Pace, Report, progress_line
from atoll.image.pull import together
from atoll.image.reference import Reference
from atoll.image.registry import Credentials, Registries, Scheme, Uploads, open_uploads

_AT_ONCE = 5
"""Layers that are under way together; as Docker."""
_PACKED_AT_ONCE = 2
_CHUNK = 1 << 20


class Pusher:
    """Puts images into registries."""

    def __init__(self, registries: Registries, packing: Packing, origins: Origins) -> None:
        self._registries = registries
        self._packing = packing
        self._origins = origins

    async def push(
        self,
        reference: Reference,
        image: OutgoingImage,
        diff_ids: Sequence[str],
        report: Report,
        *,
        may_pack: bool,
        scheme: Scheme,
        credentials: Credentials,
    ) -> str:
        """Let the tag of `reference` mean the image, in its registry; the digest of the manifest there.

        The manifest is the image's, byte for byte, or, where plain layers may be packed, one that says so. Raises
        `AccessDenied`, `RegistryFailed`, `OutOfSpace`, `InvalidRequest`.
        """
        digests = [layer.descriptor.digest for layer in image.layers]
        digests += [known.digest for diff_id in diff_ids if (known := self._packing.remembered(diff_id))]
        readable = sorted({path for digest in digests for path in self._origins.paths(reference, digest)})
        async with open_uploads(reference, self._registries, scheme, credentials, readable) as uploads:
            layers = _Layers(reference, uploads, self._packing, self._origins, report, may_pack=may_pack)
            described = await layers.put(diff_ids, image.layers)
            config = image.config.descriptor
            if not await uploads.has(config.digest):
                await uploads.put_blob(config.digest, config.size, _reader(image.config.content), lambda done: None)
            manifest = _manifest(config, described) if may_pack else image.manifest
            data, tag = b"".join(manifest.chunks()), reference.tagged().tag or ""
            await uploads.put_manifest(tag, data, manifest.descriptor.media_type)
        digest, size_bytes = manifest.descriptor.digest, manifest.descriptor.size
        report({"status": f"{tag}: digest: {digest} size: {size_bytes}"})
        report({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size_bytes}})
        return digest


class _Layers:
    """The layers of one image on their way into the repository of `reference`."""

    def __init__(
        self,
        reference: Reference,
        uploads: Uploads,
        packing: Packing,
        origins: Origins,
        report: Report,
        *,
        may_pack: bool,
    ) -> None:
        self._reference = reference
        self._uploads = uploads
        self._packing = packing
        self._origins = origins
        self._report = report
        self._may_pack = may_pack
        self._sending = asyncio.Semaphore(_AT_ONCE)
        self._packed_at_once = asyncio.Semaphore(_PACKED_AT_ONCE)

    async def put(self, diff_ids: Sequence[str], layers: Sequence[OutgoingBlob]) -> list[Descriptor]:
        """Have the registry hold the layers, and return how they are described there."""
        pairs = list(zip(diff_ids, layers, strict=True))
        # An image may have the same layer twice.
        wanted = {(diff_id, layer.descriptor.digest): layer for diff_id, layer in pairs}
        described: dict[str, Descriptor] = {}
        for diff_id, _ in reversed(wanted):
            self._report(progress_line("Preparing", diff_id))

        async def one(diff_id: str, layer: OutgoingBlob) -> None:
            if self._sending.locked():
                self._report(progress_line("Waiting", diff_id))
            async with self._sending:
                described[diff_id] = await self._layer(diff_id, layer)

        await together([one(diff_id, layer) for (diff_id, _), layer in wanted.items()])
        return [described[diff_id] for diff_id in diff_ids]

    async def _layer(self, diff_id: str, layer: OutgoingBlob) -> Descriptor:
        if not self._may_pack or layer.descriptor.media_type != OCI_LAYER:
            if not await self._is_there(diff_id, layer.descriptor.digest):
                await self._send(diff_id, layer)
            return layer.descriptor
        known = self._packing.remembered(diff_id)
        if known is not None and await self._is_there(diff_id, known.digest):
            return known
        async with self._packed_at_once, self._packing.packed(diff_id, layer) as packed:
            if packed.descriptor == known or not await self._is_there(diff_id, packed.descriptor.digest):
                await self._send(diff_id, packed)
            return packed.descriptor

    async def _is_there(self, diff_id: str, digest: str) -> bool:
        """Whether the registry has the blob, or can take it from another repository of its own."""
        if await self._uploads.has(digest):
            self._has(diff_id, digest, "Layer already exists")
            return True
        for path in self._origins.paths(self._reference, digest):
            if await self._uploads.mount(digest, path):
                self._has(diff_id, digest, f"Mounted from {path}")
                return True
            self._origins.forget(self._reference, path, digest)
        return False

    async def _send(self, diff_id: str, layer: OutgoingBlob) -> None:
        descriptor, pace = layer.descriptor, Pace()

        def progress(done: int) -> None:
            if pace.is_due() or done == descriptor.size:
                self._report(progress_line("Pushing", diff_id, done, descriptor.size))

        await self._uploads.put_blob(descriptor.digest, descriptor.size, _reader(layer.content), progress)
        self._has(diff_id, descriptor.digest, "Pushed")

    def _has(self, diff_id: str, digest: str, how: str) -> None:
        self._origins.add(self._reference, [digest])
        self._report(progress_line(how, diff_id))


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> OutgoingBlob:
    manifest = Manifest(schema_version=2, media_type=OCI_MANIFEST, config=config, layers=tuple(layers))
    data = msgspec.json.encode(manifest)
    return OutgoingBlob(Descriptor(media_type=OCI_MANIFEST, digest=digest_of(data), size=len(data)), data)


def _reader(content: bytes | Path) -> Callable[[int], AsyncIterator[bytes]]:
    async def read(begin: int) -> AsyncIterator[bytes]:
        if isinstance(content, bytes):
            yield content[begin:]
            return
        with content.open("rb", buffering=0) as file:
            file.seek(begin)
            while data := await asyncio.to_thread(file.read, _CHUNK):
                yield data

    return read
