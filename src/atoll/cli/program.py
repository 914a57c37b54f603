"""`atoll`: the tree of commands, and what becomes of their errors."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

import click

from atoll import __version__
from atoll.cli.commands.names import CONTAINER_VERBS, IMAGE_VERBS, REGISTRY_VERBS, TREES
from atoll.cli.errors import INTERRUPTED, Failure, describe, usage_text
from atoll.cli.flags import STRING, TRUTH, Switch
from atoll.cli.session import Session
from atoll.cli.tree import Tree
from atoll.errors import AtollError

COMPLETION = "_ATOLL_COMPLETE"


@click.pass_context
def _begin(ctx: click.Context, host: str | None, debug: bool, version: bool) -> None:
    if version:
        click.echo(f"atoll version {__version__}")
        ctx.exit()
    ctx.obj = Session(host, debug=debug)


ROOT = Tree(
    "atoll",
    help="Containers with a kernel of their own, used like Docker",
    entries={**CONTAINER_VERBS, **IMAGE_VERBS, **REGISTRY_VERBS, **TREES},
    sections={
        "Common Commands": ["run", "exec", "ps", "pull", "push", "images", "login", "logout", "version", "info"],
        "Management Commands": ["container", "image", "network", "registry", "system", "volume"],
        "Commands": sorted(
            {*CONTAINER_VERBS, "history", "inspect", "import", "load", "rmi", "save", "tag"} - {"run", "exec", "ps"},
        ),
    },
    params=[
        click.Option(["-H", "--host"], type=STRING, help="Engine's socket, as unix://PATH"),
        Switch(["-D", "--debug"], type=TRUTH, default=False, help="Show where an error came from"),
        Switch(["-v", "--version"], type=TRUTH, default=False, help="Print the version and quit"),
    ],
    callback=_begin,
    acts_alone_with="--version=true",
)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; errors are printed. Raises `BrokenPipeError`."""
    debug = False
    try:
        with ROOT.make_context("atoll", list(arguments)) as ctx:
            debug = bool(ctx.params.get("debug"))
            code = ROOT.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (click.ClickException, Failure, AtollError) as error:
        if debug:
            raise
        return _report(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Whatever speaks to the engine or opens a file has its own words: this is our output, on a full disk say.
        if debug:
            raise
        return _report(Failure(f"the output cannot be written: {(error.strerror or str(error)).lower()}"))
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run our own command line; ends the process."""
    if COMPLETION in os.environ:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(ROOT, {}, "atoll", COMPLETION, os.environ[COMPLETION]))
    _complete_descriptors()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # Nobody reads our output any more: end as `head` makes `cat` end.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    # Everything is written; taking the interpreter apart would cost a tenth of the time of `atoll ps`.
    os._exit(code)


def _complete_descriptors() -> None:
    """Have all three standard descriptors open, lest the engine's connection becomes one and gets our output."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w"))
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report(error: click.ClickException | Failure | AtollError) -> int:
    with suppress(OSError):
        sys.stdout.flush()
    if isinstance(error, click.ClickException):
        text, code = usage_text(error), error.exit_code
    elif isinstance(error, Failure):
        text, code = str(error), error.code
    else:
        text, code = describe(error), 1
    if text:
        sys.stderr.write(text + "\n")
    return code
