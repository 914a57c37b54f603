"""Credential helpers: programs `docker-credential-NAME` that keep secrets, spoken to over stdin and stdout.

https://github.com/docker/docker-credential-helpers#development
"""

import json
import subprocess

from atoll.cli.credentials.login import TOKEN_USER, Login
from atoll.cli.errors import Failure

TIMEOUT_S = 60.0
"""A helper may ask its user for a password."""
_NOT_FOUND = "credentials not found in native keychain"


class Helper:
    """The helper called `name`."""

    def __init__(self, name: str) -> None:
        self._program = f"docker-credential-{name}"

    def get(self, server: str) -> Login | None:
        """What it keeps for a registry; raises `Failure`."""
        said = self._call("get", server)
        if said is None:
            return None
        found = self._object(said)
        username, secret = str(found.get("Username", "")), str(found.get("Secret", ""))
        if username == TOKEN_USER:
            return Login(server, identity_token=secret)
        return Login(server, username, secret)

    def store(self, login: Login) -> None:
        """Have it keep a login; raises `Failure`."""
        username = TOKEN_USER if login.identity_token else login.username
        secret = login.identity_token or login.password
        self._call("store", json.dumps({"ServerURL": login.server, "Username": username, "Secret": secret}))

    def erase(self, server: str) -> None:
        """Have it forget a registry; raises `Failure`."""
        self._call("erase", server)

    def list(self) -> dict[str, str]:
        """User names by registry; raises `Failure`."""
        return {str(server): str(user) for server, user in self._object(self._call("list", "") or "{}").items()}

    def _call(self, verb: str, sent: str) -> str | None:
        """What it says, None when it has no such thing."""
        try:
            done = subprocess.run(
                [self._program, verb], input=sent, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", "") or f"it did not answer within {TIMEOUT_S:g} s"
            raise Failure(f"credential helper {self._program} cannot be used: {reason.lower()}") from error
        if done.returncode == 0:
            return done.stdout
        # What it says about an error is no secret; helpers put it on either stream.
        said = (done.stdout.strip() or done.stderr.strip())[:200]
        if _NOT_FOUND in said and verb in ("get", "erase"):
            return None
        raise Failure(f"credential helper {self._program} failed to {verb}: {said or f'exit code {done.returncode}'}")

    def _object(self, said: str) -> dict[str, object]:
        try:
            found = json.loads(said)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failure(f"credential helper {self._program} answered something that is no JSON object")
        return found
