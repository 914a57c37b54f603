"""Where the checkout is, what `make` has built in it, and the programs that tests need.

Nothing is skipped: what is missing fails with its name and with what puts it there.
"""

import shutil
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "build"
TOOLS = BUILD / "tools"
"""Programs that `make test` takes out of their Debian packages without installing these."""


def program(name: str) -> Path:
    """The program `name` from `build/tools` or PATH; its absence fails the test with its name."""
    found = shutil.which(name, path=TOOLS) or shutil.which(name)
    assert found, f"{name} is missing: run 'make test', which installs it, or scripts/install-packages test"
    return Path(found)


def script(name: str) -> Path:
    """A script of the checkout."""
    return CHECKOUT / "scripts" / name
