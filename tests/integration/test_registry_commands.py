"""`atoll push`, `login` and the rest against Debian's `docker-registry`, and the real `docker` doing the same."""

import asyncio
import gzip
import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.archives import directory, file, tar
from harness.command import Command
from harness.docker_registry import docker_registry
from harness.engine import EngineUnderTest
from harness.registry_security import authority, basic_auth
from harness.rude_registry import Ranged, RudeRegistry, config_of, digest, manifest_of, serve
from harness.skopeo import skopeo

USER, PASSWORD = "sailor", "coral: reef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that lets in `sailor` alone."""
    files = tmp_path_factory.mktemp("registry")
    with docker_registry(files, basic_auth(files, USER, PASSWORD)) as registry:
        yield registry.address


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An empty directory for the configuration of `docker` and ours."""
    return tmp_path / "docker-config"


def as_user(command: Command, config: Path) -> Command:
    return command.with_environment(DOCKER_CONFIG=str(config))


def inspect_digest(name: str) -> str:
    credentials = f"--creds={USER}:{PASSWORD}"
    return skopeo("inspect", "--tls-verify=false", credentials, "--format={{.Digest}}", f"docker://{name}")


def test_atoll_and_docker_push_the_same_and_pull_it_again(
    atoll: Command, docker: Command, guarded: str, config: Path
) -> None:
    atoll, docker = as_user(atoll, config), as_user(docker, config)
    ours, theirs = f"{guarded}/ours:1", f"{guarded}/theirs:1"
    atoll.ok("tag", "busybox", ours)
    atoll.ok("tag", "busybox", theirs)
    refused = atoll("push", ours)
    assert refused.code == 1
    assert "push access denied" in refused.stderr

    said = atoll.ok("login", "-u", USER, "--password-stdin", guarded, input=PASSWORD + "\n")
    assert said == "Login Succeeded"
    out = atoll.ok("push", ours)
    assert f"The push refers to repository [{guarded}/ours]" in out
    assert "1: digest: sha256:" in out
    assert inspect_digest(ours) in out
    # What the one has kept, the other uses.
    out = docker.ok("push", theirs)
    assert ": Mounted from ours" in out
    assert inspect_digest(theirs) in out
    assert inspect_digest(theirs) == inspect_digest(ours)
    assert docker.ok("push", "-q", theirs) == theirs
    assert ": Layer already exists" in docker.ok("push", theirs)

    for command, name in ((atoll, ours), (docker, theirs)):
        image = atoll.ok("image", "inspect", "-f", "{{.Id}}", name)
        command.ok("rmi", name)
        assert f"Digest: {inspect_digest(name)}" in command.ok("pull", name)
        assert atoll.ok("image", "inspect", "-f", "{{.Id}}", name) == image
    atoll.ok("rmi", ours, theirs)


def test_every_tag_of_a_repository_is_pulled_and_pushed(
    atoll: Command, docker: Command, guarded: str, config: Path
) -> None:
    atoll, docker = as_user(atoll, config), as_user(docker, config)
    docker.ok("login", "-u", USER, "--password-stdin", guarded, input=PASSWORD)
    names = [f"{guarded}/many:{tag}" for tag in ("1", "2")]
    for name in names:
        atoll.ok("tag", "busybox", name)
    atoll.ok("push", "--all-tags", f"{guarded}/many")
    for command in (atoll, docker):
        atoll.ok("rmi", *names)
        command.ok("pull", "--all-tags", f"{guarded}/many")
        assert set(names) <= set(json.loads(atoll.ok("image", "inspect", "-f", "{{json .RepoTags}}", names[0])))
    atoll.ok("rmi", *names)


def test_a_wrong_password_is_refused_and_not_kept(
    engine: EngineUnderTest, atoll: Command, docker: Command, guarded: str, config: Path
) -> None:
    for command in (as_user(atoll, config), as_user(docker, config)):
        done = command("login", "-u", USER, "--password-stdin", guarded, input="not the password")
        assert done.code == 1
        assert "unauthorized: incorrect username or password" in done.stderr
        assert "not the password" not in done.stdout + done.stderr + engine.log()
    assert not (config / "config.json").exists()


def test_a_login_is_listed_and_forgotten(atoll: Command, docker: Command, guarded: str, config: Path) -> None:
    atoll, docker = as_user(atoll, config), as_user(docker, config)
    config.mkdir()
    (config / "config.json").write_text('{"detachKeys": "ctrl-e,e"}')
    atoll.ok("registry", "login", "-u", USER, "-p", PASSWORD, guarded)
    kept = json.loads((config / "config.json").read_text())
    assert kept["detachKeys"] == "ctrl-e,e"
    assert list(kept["auths"]) == [guarded]
    assert (config / "config.json").stat().st_mode & 0o777 == 0o600
    assert (
        atoll.ok("registry", "list", "--format", "{{.Registry}} {{.Username}} {{.Keeper}}") == f"{guarded} {USER} file"
    )
    assert docker.ok("login", guarded) == "Login Succeeded"
    assert "Login Succeeded" in atoll.ok("login", guarded)
    assert atoll.ok("logout", guarded) == f"Removing login credentials for {guarded}"
    assert atoll.ok("logout", guarded) == f"Not logged in to {guarded}"
    assert json.loads((config / "config.json").read_text()) == {"detachKeys": "ctrl-e,e", "auths": {}}
    assert docker.ok("login", "-u", USER, "--password-stdin", guarded, input=PASSWORD).endswith("Login Succeeded")
    assert atoll.ok("registry", "ls", "-q") == guarded


def test_a_registry_with_a_certificate_of_our_own_authority_is_trusted_when_that_is(
    engine: EngineUnderTest, atoll: Command, tmp_path: Path
) -> None:
    ca = authority(tmp_path / "ca")
    certificate, key = ca.issue("good")
    settings = {"http": {"tls": {"certificate": str(certificate), "key": str(key)}}}
    with docker_registry(tmp_path, settings) as registry:
        address = registry.address
        name = f"{address}/reef:1"
        atoll.ok("tag", "busybox", name)
        done = atoll("push", name)
        assert done.code == 1
        assert "cannot be trusted: its certificate is not valid" in done.stderr
        trusted = engine.root / "certs.d" / address
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(ca.certificate.read_bytes())
        assert "1: digest:" in atoll.ok("push", name)
        assert "Image is up to date" in atoll.ok("pull", "--scheme", "https", name)
        assert atoll("pull", "--scheme", "http", name).code == 1
        atoll.ok("rmi", name)


async def test_a_pull_goes_on_where_it_stopped_when_the_engine_was_killed(empty_engine: EngineUnderTest) -> None:
    data = random.Random(0).randbytes(3_000_000)
    blob = gzip.compress(tar([directory("bin"), file("bin/sh", data)]), 1, mtime=0)
    config = config_of(digest(gzip.decompress(blob)))
    registry, ranged = RudeRegistry(), Ranged(blob)
    registry.blobs |= {digest(config): config}
    registry.manifests["1"] = manifest_of(config, blob)
    registry.replaced[f"/v2/reef/blobs/{digest(blob)}"] = ranged.answer
    partial = empty_engine.root / "content/partial" / digest(blob)[7:]
    async with AsyncExitStack() as stack:
        name = f"{await serve(registry.answer, stack)}/reef:1"
        with empty_engine.atoll.start("pull", name, stdin=subprocess.DEVNULL) as interrupted:
            await asyncio.wait_for(ranged.reached.wait(), 60)
            deadline = time.monotonic() + 60
            while not partial.exists() or partial.stat().st_size < 2 << 20:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            await asyncio.to_thread(empty_engine.kill)
            await asyncio.to_thread(interrupted.communicate)
        ranged.stalls = False
        ranged.released.set()
        assert "Downloaded newer image" in await asyncio.to_thread(empty_engine.atoll.ok, "pull", name)
    assert ranged.begun == [0, 2 << 20]
    assert not partial.exists()
    assert (await asyncio.to_thread(empty_engine.atoll, "system", "check")).code == 0
