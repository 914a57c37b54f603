"""`atoll tag`."""

from collections.abc import Sequence

from atoll.cli.session import Session
from atoll.cli.values.references import split_reference
from atoll.cli.verb import verb


@verb(
    "tag",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    help="Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    at_least=2,
    at_most=2,
    aliases=("atoll image tag", "atoll tag"),
)
def tag(session: Session, arguments: Sequence[str]) -> None:
    """Give an image another name."""
    from atoll.client import images

    source, target = arguments
    repository, tag_name = split_reference(target)
    images.tag(session.client, source, repository, tag_name or "latest")
