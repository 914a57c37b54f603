"""`config.json`, shared with `docker`: what we do not know in it stays as it is."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from atoll.cli.errors import Failure

Entry = dict[str, object]


def config_path() -> Path:
    """Where it is: `$DOCKER_CONFIG/config.json`, or in `~/.docker`."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path(os.environ.get("HOME", "/")) / ".docker") / "config.json"


class ConfigFile:
    """The file at `path`, read; `save` writes it."""

    def __init__(self, path: Path) -> None:
        """Read the file, a missing one as empty; raises `Failure` when it is not JSON as it should be."""
        self.path = path
        self._content: dict[str, object] = {}
        try:
            content = json.loads(path.read_bytes() or b"{}")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise Failure(f"the configuration file {path} cannot be read: {error}") from error
        if not isinstance(content, dict) or not all(
            isinstance(content.get(name), dict | None) for name in ("auths", "credHelpers")
        ):
            raise Failure(f"the configuration file {path} is malformed: see Docker's documentation of config.json")
        self._content = content

    @property
    def auths(self) -> dict[str, Entry]:
        """What is kept of each registry, by its key; those that a helper keeps have an empty entry."""
        auths = self._content.get("auths") or {}
        assert isinstance(auths, dict)
        return {server: entry for server, entry in auths.items() if isinstance(entry, dict)}

    def put(self, server: str, entry: Mapping[str, object] | None) -> None:
        """Set the entry of a registry, or take it away."""
        auths = self.auths
        auths.pop(server, None)
        if entry is not None:
            auths[server] = dict(entry)
        self._content["auths"] = auths

    def helper(self, server: str) -> str:
        """The helper that keeps the credentials of a registry, empty for none: `docker-credential-NAME`."""
        helpers = self._content.get("credHelpers") or {}
        assert isinstance(helpers, dict)
        return str(helpers.get(server) or self._content.get("credsStore") or "")

    def helpers(self) -> list[str]:
        """Every helper that is named."""
        helpers = self._content.get("credHelpers") or {}
        assert isinstance(helpers, dict)
        named = [str(self._content.get("credsStore") or ""), *map(str, helpers.values())]
        return list(dict.fromkeys(filter(None, named)))

    def save(self) -> None:
        """Write the file for its owner's eyes, all or nothing; raises `Failure`."""
        # A link stays one: some keep the file elsewhere.
        path = self.path.resolve()
        new = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(self._content, file, indent="\t")
                    file.flush()
                    os.fsync(descriptor)
                new.rename(path)
            finally:
                with suppress(FileNotFoundError):
                    new.unlink()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Failure(f"the configuration file {self.path} cannot be written: {reason}") from error
