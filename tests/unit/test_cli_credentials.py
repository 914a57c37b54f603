"""Logins are kept as Docker keeps them: in config.json, or by a helper, which here is a real program."""

import json
import os
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from atoll.cli.credentials import (
    DEFAULT_SERVER,
    ConfigFile,
    Login,
    config_path,
    logins,
    registry_headers,
    server_key,
    server_of_image,
    store_for,
)
from atoll.cli.errors import Failure

REEF = Login("reef:5000", "sailor", "co:ral")

HELPER = """\
#!/bin/sh
# Keeps what it is given in a file for each registry, as the protocol wants it.
kept=$(dirname "$0")/kept
mkdir -p "$kept"
case $1 in
store)
    body=$(cat)
    server=$(printf %s "$body" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/')
    printf %s "$body" > "$kept/$server";;
get)
    read -r server || true
    cat "$kept/$server" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; };;
erase) read -r server || true; rm "$kept/$server";;
list) printf '{'; comma=; for file in "$kept"/*; do
    [ -e "$file" ] && printf '%s"%s": "sailor"' "$comma" "$(basename "$file")" && comma=,; done; printf '}';;
esac
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration's directory, with the helpers `reef` and `lagoon` on PATH."""
    for name in ("reef", "lagoon"):
        helper = tmp_path / name / f"docker-credential-{name}"
        helper.parent.mkdir()
        helper.write_text(HELPER)
        helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/reef:{tmp_path}/lagoon:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def write(directory: Path, **content: object) -> ConfigFile:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(content))
    return ConfigFile(config_path())


def read(directory: Path) -> dict[str, object]:
    content = json.loads((directory / "config.json").read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("image", "server"),
    [
        ("busybox", DEFAULT_SERVER),
        ("someone/busybox:1", DEFAULT_SERVER),
        ("docker.io/library/busybox", DEFAULT_SERVER),
        ("localhost/busybox", "localhost"),
        ("reef:5000/busybox@sha256:00", "reef:5000"),
        ("reef.example/a/b/c:1", "reef.example"),
    ],
)
def test_an_image_belongs_to_the_registry_that_it_names(image: str, server: str) -> None:
    assert server_of_image(image) == server


@pytest.mark.parametrize(
    ("said", "key"),
    [("https://reef:5000/v2/", "reef:5000"), ("reef:5000", "reef:5000"), ("docker.io", DEFAULT_SERVER)],
)
def test_a_registry_has_one_key_however_it_is_written(said: str, key: str) -> None:
    assert server_key(said) == key


def test_a_login_in_the_file_is_found_again_and_the_rest_stays(directory: Path) -> None:
    config = write(directory, detachKeys="ctrl-e,e", HttpHeaders={"a": "b"})
    store_for(config, REEF.server).store(REEF)
    assert read(directory) == {
        "detachKeys": "ctrl-e,e",
        "HttpHeaders": {"a": "b"},
        "auths": {"reef:5000": {"auth": b64encode(b"sailor:co:ral").decode()}},
    }
    assert (directory / "config.json").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in directory.iterdir()] == ["config.json"]
    assert store_for(ConfigFile(config_path()), REEF.server).get(REEF.server) == REEF


def test_a_link_to_the_file_stays_a_link(directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    (directory / "config.json").symlink_to(tmp_path / "elsewhere.json")
    store_for(ConfigFile(config_path()), REEF.server).store(REEF)
    assert (directory / "config.json").is_symlink()
    assert "reef:5000" in (tmp_path / "elsewhere.json").read_text()


def test_an_old_entry_with_an_address_for_a_key_counts(directory: Path) -> None:
    config = write(directory, auths={"https://reef:5000/v1/": {"auth": b64encode(b"sailor:coral\0").decode()}})
    found = store_for(config, "reef:5000").get("reef:5000")
    assert found is not None
    assert (found.username, found.password) == ("sailor", "coral")
    assert store_for(config, "reef:5000").erase("reef:5000")
    assert read(directory) == {"auths": {}}
    assert not store_for(config, "reef:5000").erase("reef:5000")


@pytest.mark.parametrize("login", [REEF, Login("reef:5000", identity_token="token")])
def test_a_helper_keeps_the_secret_and_the_file_none(directory: Path, login: Login) -> None:
    config = write(directory, credsStore="reef")
    store = store_for(config, login.server)
    assert store.get(login.server) is None
    store.store(login)
    assert read(directory) == {"credsStore": "reef", "auths": {"reef:5000": {}}}
    assert store.get(login.server) == login
    assert logins(config) == [("reef:5000", "sailor", "reef")]
    assert store.erase(login.server)
    assert not store.erase(login.server)
    assert read(directory) == {"credsStore": "reef", "auths": {}}


def test_a_helper_of_one_registry_comes_before_that_of_all(directory: Path, tmp_path: Path) -> None:
    config = write(directory, credsStore="reef", credHelpers={"reef:5000": "lagoon"})
    store_for(config, "reef:5000").store(REEF)
    store_for(config, "other").store(Login("other", "sailor", "x"))
    assert [path.name for path in (tmp_path / "lagoon/kept").iterdir()] == ["reef:5000"]
    assert logins(config) == [("other", "sailor", "reef"), ("reef:5000", "sailor", "lagoon")]


def test_a_helper_that_is_missing_is_named(directory: Path) -> None:
    config = write(directory, credsStore="gone")
    with pytest.raises(Failure, match=r"docker-credential-gone cannot be used: no such file"):
        store_for(config, "reef:5000").get("reef:5000")


def test_the_engine_is_told_who_asks_and_nothing_for_nobody(directory: Path) -> None:
    store_for(ConfigFile(config_path()), REEF.server).store(REEF)
    header = registry_headers("reef:5000/busybox:1")["X-Registry-Auth"]
    said = json.loads(b64decode(header.translate(str.maketrans("-_", "+/"))))
    assert said == {"username": "sailor", "password": "co:ral", "serveraddress": "reef:5000"}
    assert registry_headers("busybox") == {}
    assert "co:ral" not in repr(REEF)


@pytest.mark.parametrize("text", ["[]", "{", '{"auths": []}', '{"credHelpers": 1}'])
def test_a_file_that_is_malformed_is_named_and_left_alone(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(text)
    with pytest.raises(Failure, match=r"config\.json"):
        registry_headers("busybox")
    assert (directory / "config.json").read_text() == text


def test_an_entry_that_is_no_name_and_password_names_its_registry(directory: Path) -> None:
    write(directory, auths={"reef:5000": {"auth": "!!!"}})
    with pytest.raises(Failure, match=r"entry of reef:5000"):
        registry_headers("reef:5000/x")
