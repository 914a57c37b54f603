"""Asking before something is lost, as Docker does: only a `y` is a yes."""

import sys


def confirm(warning: str) -> bool:
    """Show `warning` and ask; whether the answer is yes."""
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() == "y"
