"""`atoll push`."""

from collections.abc import Sequence

from atoll.cli.commands.pull import SCHEME
from atoll.cli.errors import Failure
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.values.references import normalized, split_reference
from atoll.cli.verb import verb


@verb(
    "push",
    "NAME[:TAG]",
    help="Upload an image to a registry",
    at_least=1,
    at_most=1,
    aliases=("atoll image push", "atoll push"),
)
@switch("-a", "--all-tags", help="Push all tags of an image to the repository")
@switch("-q", "--quiet", help="Suppress verbose output")
@SCHEME
def push(session: Session, all_tags: bool, quiet: bool, scheme: str | None, arguments: Sequence[str]) -> None:
    """Upload an image."""
    from atoll.cli.credentials import registry_headers
    from atoll.cli.progress import show_progress
    from atoll.client import images

    (name,) = arguments
    repository, tag_name = split_reference(name)
    if all_tags and tag_name:
        raise Failure("tag can't be used with --all-tags/-a")
    if not all_tags and not tag_name and not quiet:
        session.print("Using default tag: latest")
    headers = registry_headers(name)
    wanted = None if all_tags else tag_name or "latest"
    lines = images.push(session.client, repository, wanted, scheme=scheme, headers=headers)
    show_progress(session, lines, quiet=quiet)
    if quiet:
        session.print(repository if all_tags else normalized(name))
