"""What every bench here does with its figures: medians and 95th percentiles, and waiting until the machine is quiet."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOOK_S = 0.1


def p95(values: Sequence[float]) -> float:
    """The 95th percentile by the nearest rank: a value that was measured."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def print_table(title: str, series: Mapping[str, Sequence[float]], unit: str = "ms") -> None:
    """One line for each series that has values: median, 95th percentile, least, number of values."""
    width = max([len(title), *(len(name) for name in series)])
    print(f"\n{title:{width}}  {'median':>8}  {'p95':>8}  {'min':>8}  {'n':>4}   ({unit})")
    for name, values in series.items():
        if values:
            figures = "  ".join(f"{value:8.1f}" for value in (statistics.median(values), p95(values), min(values)))
            print(f"{name:{width}}  {figures}  {len(values):4}")


def wait_until_quiet(busy: float = 0.15, deadline_s: float = 5.0) -> bool:
    """Return when the processors are idle but for a share of `busy`; after `deadline_s` in any case (False)."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        total, idle = _processor_ticks()
        time.sleep(_LOOK_S)
        later_total, later_idle = _processor_ticks()
        if later_total - total > 0 and 1 - (later_idle - idle) / (later_total - total) <= busy:
            return True
    return False


def _processor_ticks() -> tuple[int, int]:
    """All ticks of all processors since boot, and the idle ones among them."""
    with Path("/proc/stat").open() as file:
        # The last two, guests' time, are in the first two already.
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]
