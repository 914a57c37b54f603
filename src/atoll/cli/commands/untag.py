"""`atoll rmi`."""

from collections.abc import Sequence

from atoll.cli.errors import Failure, describe
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import AtollError

NOT_FOUND_STATUS = 404


@verb(
    "rmi",
    "IMAGE [IMAGE...]",
    help="Remove one or more images",
    at_least=1,
    aliases=("atoll image rm", "atoll image remove", "atoll rmi"),
)
@switch("-f", "--force", help="Force removal of the image")
@switch("--no-prune", help="Do not delete untagged parents")
def rmi(session: Session, force: bool, no_prune: bool, arguments: Sequence[str]) -> None:
    """Take names away, and each image with its last."""
    from atoll.client import EngineError, images

    errors: list[str] = []
    is_fatal = False
    for name in arguments:
        try:
            removed = images.remove(session.client, name, force=force, prune=not no_prune)
        except AtollError as error:
            errors.append(describe(error))
            is_fatal |= not (isinstance(error, EngineError) and error.status == NOT_FOUND_STATUS)
            continue
        for line in removed:
            session.print(f"Deleted: {line['Deleted']}" if "Deleted" in line else f"Untagged: {line['Untagged']}")
    if errors:
        text = "\n".join(errors)
        if is_fatal or not force:
            raise Failure(text)
        session.warn(text)
