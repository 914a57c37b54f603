"""Debian's docker-registry on loopback, and what a test or a bench needs to put images there and see them fetched."""

import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.checkout import program

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_SENT_BLOB = re.compile(rb'"GET /v2/\S+/blobs/\S+ HTTP/1\.1" 20[06] (\d+)')
_START_S = 30.0
_ANSWER_S = 60.0


@dataclass(frozen=True)
class GzipLayer:
    """A layer as Docker pushes it: the tar compressed with gzip, and the digest of the tar."""

    blob: bytes
    diff_id: str
    tar_bytes: int


@dataclass(frozen=True)
class DockerRegistry:
    """A running registry: its `address` (host:port) and the log of its answers."""

    address: str
    log: Path

    def sent_blob_bytes(self) -> int:
        """Bytes of blobs that it has sent since it was started."""
        return sum(int(size) for size in _SENT_BLOB.findall(self.log.read_bytes()))

    def push(self, repository: str, tag: str, layers: Sequence[GzipLayer], command: Sequence[str] = ("sh",)) -> str:
        """Put an image of `layers` there, as `docker push` does, and return the name to pull it by."""
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": list(command)},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": self._put_blob(repository, _DOCKER_CONFIG, config),
            "layers": [self._put_blob(repository, _DOCKER_LAYER, layer.blob) for layer in layers],
        }
        path = f"/v2/{repository}/manifests/{tag}"
        self._request("PUT", path, json.dumps(manifest).encode(), {"Content-Type": DOCKER_MANIFEST})
        return f"{self.address}/{repository}:{tag}"

    def _put_blob(self, repository: str, media_type: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = self._request("POST", f"/v2/{repository}/blobs/uploads/", b"", {}).removeprefix(
            f"http://{self.address}"
        )
        separator = "&" if "?" in where else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self._request("PUT", f"{where}{separator}digest={digest}", data, headers)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        """The `Location` that it answers with."""
        connection = http.client.HTTPConnection(self.address, timeout=_ANSWER_S)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            said = response.read()
            assert response.status in (201, 202), f"{method} {path}: {response.status} {said.decode(errors='replace')}"
            return response.headers.get("Location", "")
        finally:
            connection.close()


@contextmanager
def docker_registry(
    directory: Path, settings: Mapping[str, Mapping[str, object]] | None = None
) -> Iterator[DockerRegistry]:
    """A registry that keeps everything in `directory` and ends with the block; `settings` are added to its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    storage = {"filesystem": {"rootdirectory": str(directory / "registry")}}
    added = dict(settings or {})
    http = {"addr": address, **added.pop("http", {})}
    config = directory / "registry.yml"
    # JSON is YAML.
    config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": http, **added}))
    answers, words = directory / "answers.log", directory / "registry.log"
    with answers.open("wb") as out, words.open("wb") as err:
        server = subprocess.Popen(
            [program("docker-registry"), "serve", config],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        deadline = time.monotonic() + _START_S
        while b"listening on" not in words.read_bytes():
            said = words.read_text(errors="replace")
            assert server.poll() is None, f"docker-registry does not start: {said}"
            assert time.monotonic() < deadline, f"docker-registry does not start: {said}"
            time.sleep(0.02)
        yield DockerRegistry(address, answers)
    finally:
        server.kill()
        server.wait()
