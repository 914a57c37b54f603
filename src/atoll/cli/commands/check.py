"""`atoll system check`: is everything that images consist of still what it was?"""

from collections.abc import Sequence

from atoll.cli.errors import Failure
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb


@verb("check", help="Verify every blob, layer and disk of the images", at_most=0)
@switch("--repair", help="Make anew what can be, and remove images that cannot be mended and that no container has")
def check(session: Session, repair: bool, arguments: Sequence[str]) -> int:
    """Print what is wrong, and what became of it; exit code 1 when something is left."""
    from atoll.client import system

    for line in system.check(session.client, repair=repair):
        if "Found" in line:
            kinds = (
                (line["Images"], "image"),
                (line["Blobs"], "blob"),
                (line["Layers"], "layer"),
                (line["Disks"], "disk"),
            )
            looked_at = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in kinds)
            found, left = line["Found"], line["Left"]
            said = f"{found} problem{'' if found == 1 else 's'} found, {left} left" if found else "no problem found"
            session.print(f"{looked_at}: {said}")
            return 1 if left else 0
        outcome = f" ({line['Outcome']})" if repair else ""
        session.print(f"{line['Kind']} {line['Name']} {line['Problem']}{outcome}")
    raise Failure("the check broke off: see 'atoll system logs'")
