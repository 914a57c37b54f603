"""`atoll commit`."""

from collections.abc import Sequence

from atoll.cli.flags import LIST, flag, switch
from atoll.cli.session import Session
from atoll.cli.values.references import split_reference
from atoll.cli.verb import verb


@verb(
    "commit",
    "CONTAINER [REPOSITORY[:TAG]]",
    help="Create a new image from a container's changes",
    at_least=1,
    at_most=2,
    aliases=("atoll container commit", "atoll commit"),
)
@flag("-a", "--author", default="", help='Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")')
@flag("-c", "--change", "changes", kind=LIST, multiple=True, help="Apply Dockerfile instruction to the created image")
@flag("-m", "--message", default="", help="Commit message")
@switch("-p", "--pause", default=True, help="Pause container during commit")
def commit(
    session: Session, author: str, changes: Sequence[str], message: str, pause: bool, arguments: Sequence[str]
) -> None:
    """Make an image of a container and print its id."""
    from atoll.client import archives

    container, *name = arguments
    repository, tag_name = split_reference(name[0]) if name else ("", "")
    image = archives.commit(
        session.client,
        container,
        repository=repository,
        tag_name=tag_name,
        author=author,
        message=message,
        changes=changes,
        pause=pause,
    )
    session.print(image)
