"""skopeo, which reads and writes images everywhere."""

import subprocess
from pathlib import Path


def skopeo(*arguments: str | Path) -> str:
    """Run skopeo, and return what it says."""
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
