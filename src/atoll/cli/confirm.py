"""Asking before something is lost, as Docker does: only a `y` is a yes."""

import sys

from atoll.cli.errors import Failure


def confirm(warning: str) -> None:
    """Show `warning` and ask; raises `Failure` unless the answer is yes."""
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() != "y":
        raise Failure("operation was cancelled by the user")
