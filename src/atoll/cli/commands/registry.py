"""`atoll registry login|logout|list`: who the user is for registries."""

import os
import sys
from collections.abc import Sequence

from atoll.cli.commands.pull import SCHEME
from atoll.cli.errors import Failure
from atoll.cli.flags import flag, switch
from atoll.cli.listing import FORMAT, listing
from atoll.cli.session import Session
from atoll.cli.verb import verb

HEADERS = {"Registry": "REGISTRY", "Username": "USERNAME", "Keeper": "KEPT BY"}
COLUMNS = ("Registry", "Username", "Keeper")


@verb(
    "login",
    "[SERVER]",
    help="Log in to a registry",
    at_most=1,
    aliases=("atoll registry login", "atoll login"),
)
@flag("-u", "--username", help="Username")
@flag("-p", "--password", help="Password")
@switch("--password-stdin", help="Take the password from stdin")
@SCHEME
def login(
    session: Session,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    scheme: str | None,
    arguments: Sequence[str],
) -> None:
    """Ask the registry, and keep what it took."""
    from atoll.cli.credentials import DEFAULT_SERVER, ConfigFile, Login, config_path, server_key, store_for
    from atoll.client import registry

    server = server_key(arguments[0]) if arguments else DEFAULT_SERVER
    config = ConfigFile(config_path())
    store = store_for(config, server)
    known = store.get(server) if username is None and password is None and not password_stdin else None
    if known is not None:
        session.print("Authenticating with existing credentials...")
        wanted = known
    else:
        username, password = _asked(session, username, password, from_stdin=password_stdin)
        wanted = Login(server, username, password)
    answer = registry.log_in(
        session.client,
        server,
        username=wanted.username,
        password=wanted.password,
        identity_token=wanted.identity_token,
        scheme=scheme,
    )
    if token := answer.get("IdentityToken"):
        wanted = Login(server, wanted.username, identity_token=str(token))
    store.store(wanted)
    if not config.helper(server):
        session.warn(
            f"WARNING! Your credentials are stored unencrypted in '{config.path}'.\n"
            "A credential helper (credsStore in that file) keeps them better."
        )
    session.print(str(answer.get("Status") or "Login Succeeded"))


@verb(
    "logout",
    "[SERVER]",
    help="Log out from a registry",
    at_most=1,
    aliases=("atoll registry logout", "atoll logout"),
)
def logout(session: Session, arguments: Sequence[str]) -> None:
    """Forget the login."""
    from atoll.cli.credentials import DEFAULT_SERVER, ConfigFile, config_path, server_key, store_for

    server = server_key(arguments[0]) if arguments else DEFAULT_SERVER
    was_known = store_for(ConfigFile(config_path()), server).erase(server)
    session.print(f"Removing login credentials for {server}" if was_known else f"Not logged in to {server}")


@verb(
    "list",
    help="List the registries that you are logged in to",
    at_most=0,
    aliases=("atoll registry list", "atoll registry ls"),
)
@FORMAT
@switch("-q", "--quiet", help="Only display registries")
def list_(session: Session, format: str | None, quiet: bool, arguments: Sequence[str]) -> None:
    """List logins, without their secrets."""
    from atoll.cli.credentials import ConfigFile, config_path, logins

    found = logins(ConfigFile(config_path()))
    if quiet and not format:
        format = "{{.Registry}}"
    rows = [{"Registry": server, "Username": user, "Keeper": keeper} for server, user, keeper in found]
    text = listing(rows, HEADERS, COLUMNS, format)
    if text or rows:
        session.print(text)


def _asked(session: Session, username: str | None, password: str | None, *, from_stdin: bool) -> tuple[str, str]:
    """User name and password, asked for where the flags do not say them; raises `Failure`."""
    if from_stdin and password is not None:
        raise Failure("--password and --password-stdin are mutually exclusive")
    if from_stdin:
        if not username:
            raise Failure("Must provide --username with --password-stdin")
        return username, sys.stdin.read().rstrip("\r\n")
    if password is not None:
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    elif not os.isatty(0):
        raise Failure("cannot perform an interactive login from a non TTY device: use --password-stdin")
    if not username:
        session.flush()
        username = input("Username: ").strip()
        if not username:
            raise Failure("a non-empty username is required")
    if password is None:
        from getpass import getpass

        password = getpass("Password: ")
    if not password:
        raise Failure("a non-empty password is required")
    return username, password
