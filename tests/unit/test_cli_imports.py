"""The command stays light: what `atoll ps` imports is paid for at every call."""

import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp", "asyncio", "msgspec", "rich", "logging", "subprocess", "email", "http", "ssl", "tempfile", "concurrent",
    "argparse", "tomllib", "ctypes", "shutil", "hashlib", "random", "decimal", "fractions",
}  # fmt: skip


def imported(*line: str) -> set[str]:
    """The modules that a command line has imported when it ends."""
    script = (
        "import sys; from atoll.cli.program import run; code = run(sys.argv[1:]);"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *line], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "line",
    [
        ("ps",),
        ("run", "busybox", "true"),
        ("exec", "a", "true"),
        ("images",),
        ("rm", "-f", "a", "b"),
        ("logs", "a"),
        ("version",),
        ("system", "status"),
    ],
)
def test_a_simple_command_imports_nothing_heavy(line: tuple[str, ...]) -> None:
    modules = imported("-H", "unix:///nonexistent/socket", *line)
    assert "atoll.cli.program" in modules
    assert not {module for module in modules if module.partition(".")[0] in HEAVY}


def test_a_command_imports_no_other_command() -> None:
    modules = imported("-H", "unix:///nonexistent/socket", "ps")
    assert {module for module in modules if module.startswith("atoll.cli.commands.")} == {
        "atoll.cli.commands.names",
        "atoll.cli.commands.ps",
    }
    assert "atoll.cli.template" not in modules
