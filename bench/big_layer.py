"""A registry of one image whose layer has any size: its bytes are made while they are sent, and are kept nowhere.

The layer is a gzip stream of one member, as Docker makes them. Its tar holds files of pseudo-random data, half of which
can be compressed; each MiB is one of a few that were compressed beforehand up to a byte boundary, without a reference
to what came before (a full flush), so that they can stand in any order.
"""

import hashlib
import json
import random
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.docker_registry import DOCKER_MANIFEST

MIB = 1 << 20
_FILE_MIB = 64
_PIECES = 16
_REPOSITORY = "bench/big"
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


@dataclass(frozen=True)
class _Piece:
    """Bytes of the tar, and the same compressed."""

    plain: bytes
    packed: bytes

    @classmethod
    def of(cls, plain: bytes) -> "_Piece":
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return cls(plain, packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH))


class _Layer:
    """What is sent: the sequence of pieces, its digests and sizes (found by going through it once)."""

    def __init__(self, mib: int) -> None:
        noise = random.Random(5).randbytes
        self._data = [_Piece.of(noise(MIB // 2) + noise(512) * 1024) for _ in range(_PIECES)]
        self._heads = [_Piece.of(_head(number)) for number in range(-(-mib // _FILE_MIB))]
        self._end = _Piece.of(bytes(1024))
        plain, packed = hashlib.sha256(), hashlib.sha256(_GZIP_HEAD)
        checksum = self.plain_bytes = 0
        self.packed_bytes = len(_GZIP_HEAD)
        for piece in self._pieces():
            plain.update(piece.plain)
            packed.update(piece.packed)
            checksum = zlib.crc32(piece.plain, checksum)
            self.plain_bytes += len(piece.plain)
            self.packed_bytes += len(piece.packed)
        # An empty last block, then what gzip's trailer tells.
        last = b"\x03\0" + checksum.to_bytes(4, "little") + (self.plain_bytes & 0xFFFF_FFFF).to_bytes(4, "little")
        packed.update(last)
        self._last = last
        self.packed_bytes += len(last)
        self.diff_id = f"sha256:{plain.hexdigest()}"
        self.digest = f"sha256:{packed.hexdigest()}"

    def chunks(self) -> Iterator[bytes]:
        yield _GZIP_HEAD
        yield from (piece.packed for piece in self._pieces())
        yield self._last

    def _pieces(self) -> Iterator[_Piece]:
        for head in self._heads:
            yield head
            yield from (self._data[number % _PIECES] for number in range(_FILE_MIB))
        yield self._end


@dataclass(frozen=True)
class BigImage:
    """An image that waits to be pulled: its name, and the bytes of its layer's tar and blob."""

    name: str
    tar_bytes: int
    blob_bytes: int


@contextmanager
def big_image(mib: int) -> Iterator[BigImage]:
    """Serve an image with a layer of `mib` MiB (whole files of 64) on loopback."""
    layer = _Layer(mib)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "digest": layer.digest,
                    "size": layer.packed_bytes,
                }
            ],
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "/manifests/" in self.path:
                self._answer(DOCKER_MANIFEST, len(manifest), [manifest])
            elif self.path.endswith(layer.digest):
                self._answer("application/octet-stream", layer.packed_bytes, layer.chunks())
            elif "/blobs/" in self.path:
                self._answer("application/octet-stream", len(config), [config])
            else:
                self._answer("application/json", 2, [b"{}"])

        def _answer(self, media_type: str, size: int, body: Iterator[bytes] | list[bytes]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            for chunk in body:
                self.wfile.write(chunk)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield BigImage(f"127.0.0.1:{server.server_port}/{_REPOSITORY}:1", layer.plain_bytes, layer.packed_bytes)
    finally:
        server.shutdown()
        server.server_close()


def _head(number: int) -> bytes:
    info = tarfile.TarInfo(f"data/{number:04}")
    info.size = _FILE_MIB * MIB
    return info.tobuf(tarfile.USTAR_FORMAT)
