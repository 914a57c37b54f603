"""Starts in a row and at once, over and over: none fails, and the engine holds no more afterwards than before."""

import sys

from harness.checkout import CHECKOUT
from harness.command import Command


def test_starts_in_a_row_and_at_once_fail_never_and_leave_nothing() -> None:
    bench = Command((sys.executable, str(CHECKOUT / "bench" / "soak.py"))).with_environment(
        PYTHONPATH=str(CHECKOUT / "tests")
    )
    # So few starts say little of memory: an engine's heap still finds its size.
    done = bench("--starts", "25", "--rounds", "2", "--at-once", "10", "--tolerance", "32", timeout_s=240)
    assert done.code == 0, str(done)
