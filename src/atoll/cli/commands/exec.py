"""`atoll exec`: one more process in a running container."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.attach import DETACHED
from atoll.cli.commands.container_flags import DETACH_KEYS
from atoll.cli.errors import Failure
from atoll.cli.flags import LIST, Kind, flag, switch
from atoll.cli.session import Session
from atoll.cli.values.environment import parse_variable, variables
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import Object


@verb(
    "exec",
    "CONTAINER COMMAND [ARG...]",
    help="Execute a command in a running container",
    at_least=2,
    interspersed=False,
    aliases=("atoll container exec", "atoll exec"),
)
@switch("-d", "--detach", help="Detached mode: run command in the background")
@DETACH_KEYS
@flag("-e", "--env", kind=Kind("list", parse_variable), multiple=True, help="Set environment variables")
@flag("--env-file", kind=LIST, multiple=True, help="Read in a file of environment variables")
@switch("-i", "--interactive", help="Keep STDIN open even if not attached")
@switch("--privileged", help="Give extended privileges to the command")
@switch("-t", "--tty", help="Allocate a pseudo-TTY")
@flag("-u", "--user", help="Username or UID (format: <name|uid>[:<group|gid>])")
@flag("-w", "--workdir", help="Working directory inside the container")
def exec_(
    session: Session,
    detach: bool,
    detach_keys: str | None,
    env: Sequence[str],
    env_file: Sequence[str],
    interactive: bool,
    privileged: bool,
    tty: bool,
    user: str | None,
    workdir: str | None,
    arguments: Sequence[str],
) -> int:
    """Execute a command; the exit code is its own."""
    from atoll.cli.terminal import is_terminal, terminal_size
    from atoll.client import containers

    container, *command = arguments
    if tty and interactive and not detach and not is_terminal(0):
        raise Failure("the input device is not a TTY")
    size = terminal_size() if tty else None
    body: Object = {
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": [*command],
        "Env": [*variables(env_file, env)],
        "Privileged": privileged,
        "User": user or "",
        "WorkingDir": workdir or "",
        "DetachKeys": detach_keys or "",
    }
    begin: Object = {"Detach": detach, "Tty": tty}
    if size is not None:
        begin["ConsoleSize"] = [*size]
    execution = containers.create_exec(session.client, container, body)
    if detach:
        containers.start_exec(session.client, execution, begin)
        return 0
    return _converse(session, execution, begin, tty=tty, stdin=interactive, detach_keys=detach_keys)


def _converse(
    session: Session, execution: str, begin: "Object", *, tty: bool, stdin: bool, detach_keys: str | None
) -> int:
    from atoll.cli.terminal import conversation
    from atoll.client import containers

    client = session.client
    stream = containers.attach_exec(client, execution, begin)
    with conversation(
        stream,
        tty=tty,
        stdin=stdin,
        stdout=True,
        stderr=True,
        detach_keys=detach_keys,
        resize=lambda rows, columns: containers.resize_exec(client, execution, rows, columns),
    ) as talk:
        if not talk.hold():
            raise Failure(DETACHED)
    state = containers.get_exec(client, execution)
    return state.get("ExitCode") or 0
