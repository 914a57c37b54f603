"""`atoll push`, `login` and the rest against Debian's `docker-registry`, and the real `docker` doing the same."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.command import Command
from harness.engine import EngineUnderTest
from harness.registry import authority, basic_auth, running_registry, skopeo

USER, PASSWORD = "sailor", "coral: reef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that lets in `sailor` alone."""
    files = tmp_path_factory.mktemp("registry")
    with running_registry(files, basic_auth(files, USER, PASSWORD)) as address:
        yield address


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
    with running_registry(tmp_path / "registry", settings) as address:
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
