"""What `atoll run --timings` prints: where the time of one start went."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.client.shapes import Timings

FIRST_INSTRUCTION = "exec"
"""The phase that ends with the first instruction of the container's process."""


def timings_page(timings: "Timings") -> str:
    """How it started, then a phase a line: its name, when it began, how long it took; no newline at the end."""
    phases = timings["Phases"]
    headline = f"start: {timings['Kind']}"
    for phase in phases:
        if phase["Name"] == FIRST_INSTRUCTION:
            headline += f", {phase['EndMs']:.1f} ms from the request to the first instruction"
    width = max((len(phase["Name"]) for phase in phases), default=0)
    rows = [
        f"  {phase['Name']:<{width}}  {phase['StartMs']:8.1f} ms  {phase['EndMs'] - phase['StartMs']:8.1f} ms"
        for phase in phases
    ]
    return "\n".join([headline, *rows])
