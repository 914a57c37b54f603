"""`atoll system template list|build|rm`: the templates that containers start from (`inspect.py` shows one)."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.flags import INTEGER, Kind, flag, switch
from atoll.cli.listing import FORMAT, listing
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.values.sizes import human_binary_size, human_size, parse_size
from atoll.cli.values.times import human_duration, seconds_of
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client
    from atoll.client.shapes import Template

HEADERS = {
    "ID": "TEMPLATE ID",
    "Kernel": "KERNEL",
    "CPUs": "CPUS",
    "Memory": "MEMORY",
    "Accelerator": "ACCELERATOR",
    "Qemu": "QEMU",
    "Size": "SIZE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "LastUsedSince": "LAST USED",
    "LastUsedAt": "LAST USED AT",
    "Current": "CURRENT",
}
COLUMNS = ("ID", "Kernel", "CPUs", "Memory", "Accelerator", "Size", "CreatedSince", "Current")
SHORT_ID = 12


@verb("list", help="List templates", at_most=0, aliases=("atoll system template list", "atoll system template ls"))
@FORMAT
@switch("--no-trunc", help="Don't truncate output")
@switch("-q", "--quiet", help="Only display template IDs")
def list_(session: Session, format: str | None, no_trunc: bool, quiet: bool, arguments: Sequence[str]) -> None:
    """List the templates that are here; a current one is what a container may start from."""
    from atoll.client import templates

    found = templates.list_templates(session.client)
    if quiet and not format:
        format = "{{.ID}}"
    rows = [_row(template, truncate=not no_trunc) for template in found]
    text = listing(rows, HEADERS, COLUMNS, format)
    if text or rows:
        session.print(text)


@verb("build", help="Build a template now, unless it is here", at_most=0)
@flag("--cpus", kind=INTEGER, help="Number of CPUs (the settings say otherwise)")
@flag("-m", "--memory", kind=Kind("bytes", parse_size), help="Memory (the settings say otherwise)")
@switch("--force", help="Build it anew when it is here")
def build(session: Session, cpus: int | None, memory: int | None, force: bool, arguments: Sequence[str]) -> None:
    """Wait until the template is built, and print its id."""
    from atoll.client import templates

    session.print(templates.build(session.client, cpus=cpus, memory_bytes=memory, force=force)["ID"])


@verb(
    "rm",
    "TEMPLATE [TEMPLATE...]",
    help="Remove one or more templates; containers run on, and the next one that needs it builds it again",
    at_least=1,
    aliases=("atoll system template rm", "atoll system template remove"),
)
def rm(session: Session, arguments: Sequence[str]) -> None:
    """Remove templates."""
    from atoll.client import templates

    def act(client: "Client", name: str) -> None:
        templates.remove(client, name)

    each(session, arguments, act)


def _row(template: "Template", *, truncate: bool) -> dict[str, str]:
    created, used = template.get("CreatedAt") or "", template.get("LastUsedAt") or ""
    return {
        "ID": template["ID"][:SHORT_ID] if truncate else template["ID"],
        "Kernel": template.get("Kernel", ""),
        "CPUs": str(template.get("Cpus", "")),
        "Memory": human_binary_size(template.get("MemoryMib", 0) << 20),
        "Accelerator": template.get("Accelerator", ""),
        "Qemu": template.get("Qemu", ""),
        "Size": human_size(template.get("SizeBytes", 0)),
        "CreatedSince": _since(created),
        "CreatedAt": created,
        "LastUsedSince": _since(used),
        "LastUsedAt": used,
        "Current": "yes" if template.get("Current") else "",
    }


def _since(timestamp: str) -> str:
    return f"{human_duration(time.time() - seconds_of(timestamp))} ago" if timestamp else ""
