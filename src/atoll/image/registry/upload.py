"""Writing one repository of a registry: OCI distribution-spec 1.1, pushing.

A blob goes in one request after the upload is opened when it is small; else as a stream that, when it breaks, goes on
where the registry says that it stopped.
"""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from yarl import URL

from atoll.errors import AccessDenied, AtollError
from atoll.image.blobs import digest_of
from atoll.image.reference import Reference
from atoll.image.registry.credentials import ANONYMOUS, Credentials
from atoll.image.registry.endpoint import Registries, Scheme, endpoint_of
from atoll.image.registry.exchange import Exchange
from atoll.image.registry.follow import joined, wrong
from atoll.image.registry.patience import TRANSIENT, Attempts, Interrupted
from atoll.image.registry.repository import open_session

Read = Callable[[int], AsyncIterable[bytes]]
"""The bytes of what is sent, from the given one on."""
Progress = Callable[[int], None]
"""Told how many bytes are sent."""

_SMALL_BYTES = 4 << 20
_HASHED_BYTES_PER_S = 32 << 20
"""What a slow registry verifies in a second."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass
class _Upload:
    """A blob that is being sent: where, and how much of it has arrived."""

    digest: str
    size_bytes: int
    location: URL
    done: int = 0


class Uploads:
    """What is put into the repository of `reference`."""

    def __init__(self, reference: Reference, exchange: Exchange) -> None:
        self._path = reference.path
        self._exchange = exchange

    async def has(self, digest: str) -> bool:
        """Whether the blob is in the repository."""

        async def attempt() -> bool:
            url = self._url(f"blobs/{digest}")
            # Why the door is shut, an answer without a body cannot say: the upload is told.
            async with self._exchange.request("HEAD", url, accept=(200, 401, 403, 404)) as response:
                return response.status == 200

        return await self._exchange.persistently(attempt)

    async def mount(self, digest: str, path: str) -> bool:
        """Let the blob of the repository `path` of this registry be in ours as well, unless the registry will not."""
        query = {"mount": digest, "from": path}

        async def attempt() -> bool:
            url = self._url("blobs/uploads/").with_query(query)
            async with self._exchange.request("POST", url, accept=(201, 202, 400, 403, 404, 405)) as response:
                if response.status == 202 and (location := response.headers.get("Location")):
                    await self._abandon(joined(self._exchange.endpoint, response.url, location))
                return response.status == 201

        try:
            return await self._exchange.persistently(attempt)
        except AccessDenied:
            # We may not read there: it is sent.
            return False

    async def put_blob(self, digest: str, size_bytes: int, read: Read, progress: Progress) -> None:
        """Send a blob. Raises `AccessDenied`, `RegistryFailed`."""
        upload = _Upload(digest, size_bytes, await self._exchange.persistently(self._begin))
        attempts = Attempts(self._exchange.endpoint.host, self._exchange.patience)
        is_lost = False
        while True:
            try:
                before = upload.done
                if is_lost and await self._find_again(upload):
                    return
                if upload.done > before:
                    attempts.progressed()
                await self._send(upload, read, progress)
                return
            except TRANSIENT as error:
                is_lost = True
                await attempts.failed(error)

    async def put_manifest(self, which: str, data: bytes, media_type: str) -> None:
        """Let `which` (a tag or digest) name a manifest; raises `AccessDenied`, `RegistryFailed`."""

        async def attempt() -> str:
            url, headers = self._url(f"manifests/{which}"), {"Content-Type": media_type}
            async with self._exchange.request("PUT", url, accept=(200, 201), headers=headers, body=data) as response:
                return response.headers.get("Docker-Content-Digest", "")

        digest = await self._exchange.persistently(attempt)
        if digest not in ("", digest_of(data)):
            raise wrong(self._exchange.endpoint, f"it took the manifest {digest_of(data)} for {digest}")

    async def _begin(self) -> URL:
        async with self._exchange.request("POST", self._url("blobs/uploads/"), accept=(202,)) as response:
            return joined(self._exchange.endpoint, response.url, response.headers.get("Location", ""))

    async def _abandon(self, location: URL) -> None:
        async with self._exchange.request("DELETE", location, accept=range(200, 500)):
            pass

    async def _find_again(self, upload: _Upload) -> bool:
        """Ask how much has arrived; True when all of it has, and the upload is over."""
        async with self._exchange.request("GET", upload.location, accept=(204, 404)) as response:
            if response.status == 204:
                match = _RANGE.fullmatch(response.headers.get("Range", ""))
                # `0-0` is how nothing at all is written.
                upload.done = int(match[1]) + 1 if match and match[1] != "0" else 0
                if location := response.headers.get("Location"):
                    upload.location = joined(self._exchange.endpoint, response.url, location)
                if upload.done <= upload.size_bytes:
                    return False
        if await self.has(upload.digest):
            return True
        upload.location, upload.done = await self._begin(), 0
        return False

    async def _send(self, upload: _Upload, read: Read, progress: Progress) -> None:
        if upload.done or upload.size_bytes > _SMALL_BYTES:
            if upload.done < upload.size_bytes:
                await self._send_rest(upload, read, progress)
            await self._put(upload, None, 0)
        else:
            await self._put(upload, lambda: read(0), upload.size_bytes)
            progress(upload.size_bytes)

    async def _put(self, upload: _Upload, body: Callable[[], AsyncIterable[bytes]] | None, size_bytes: int) -> None:
        url = upload.location.extend_query({"digest": upload.digest})
        headers = {**_BYTES, "Content-Length": str(size_bytes)}
        accept = (201, 204, 404, 416)
        # It may hash all of the blob before it answers.
        extra_s = upload.size_bytes / _HASHED_BYTES_PER_S
        request = self._exchange.request("PUT", url, accept=accept, headers=headers, body=body or b"", extra_s=extra_s)
        async with request as response:
            _check_session(response.status)

    async def _send_rest(self, upload: _Upload, read: Read, progress: Progress) -> None:
        begin, silence_s = upload.done, self._exchange.patience.silence_s
        headers = {
            **_BYTES,
            "Content-Length": str(upload.size_bytes - begin),
            "Content-Range": f"{begin}-{upload.size_bytes - 1}",
        }
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(silence_s) as deadline:

            async def body() -> AsyncIterator[bytes]:
                done = begin
                async for chunk in read(begin):
                    deadline.reschedule(loop.time() + silence_s)
                    yield chunk
                    done += len(chunk)
                    progress(done)
                # For the answer to it the session's own deadline holds.
                deadline.reschedule(None)

            accept: Collection[int] = (202, 204, 404, 416)
            request = self._exchange.request("PATCH", upload.location, accept=accept, headers=headers, body=body)
            async with request as response:
                _check_session(response.status)
                upload.location = joined(self._exchange.endpoint, response.url, response.headers.get("Location", ""))
                upload.done = upload.size_bytes

    def _url(self, path: str) -> URL:
        return self._exchange.url(f"{self._path}/{path}")


def _check_session(status: int) -> None:
    """Raise `Interrupted` when the registry does not know the upload (any more), or has another part of it."""
    if status in (404, 416):
        raise Interrupted(f"it forgot the upload (it answered {status})")


@asynccontextmanager
async def open_uploads(
    reference: Reference,
    registries: Registries,
    scheme: Scheme = Scheme.AUTO,
    credentials: Credentials = ANONYMOUS,
    readable: Sequence[str] = (),
) -> AsyncIterator[Uploads]:
    """A client that may write the repository of `reference`, and mount from those called `readable`.

    Raises `InvalidRequest`.
    """
    endpoint = await endpoint_of(reference.domain, registries, scheme)

    def refusal(why: str) -> AtollError:
        return AccessDenied(
            f"push access denied for {reference.familiar_repository}: {why}"
            " (does the repository exist, and may you write it? log in with 'atoll registry login')"
        )

    async with open_session(endpoint, registries.patience) as session:
        scopes = [f"repository:{reference.path}:pull,push", *(f"repository:{path}:pull" for path in readable)]
        yield Uploads(reference, Exchange(endpoint, session, credentials, scopes, registries.patience, refusal))
