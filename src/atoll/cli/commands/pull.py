"""`atoll pull`, and pulling for `run` and `create`."""

from collections.abc import Sequence

from atoll.cli.errors import Failure
from atoll.cli.flags import flag, switch
from atoll.cli.session import Session
from atoll.cli.values.references import normalized, split_reference
from atoll.cli.verb import verb

SCHEME = flag("--scheme", help="How to speak to the registry: 'http', 'https', or 'auto' as the settings say")


@verb(
    "pull",
    "NAME[:TAG|@DIGEST]",
    help="Download an image from a registry",
    at_least=1,
    at_most=1,
    aliases=("atoll image pull", "atoll pull"),
)
@switch("-a", "--all-tags", help="Download all tagged images in the repository")
@flag("--platform", help="Set platform if server is multi-platform capable")
@switch("-q", "--quiet", help="Suppress verbose output")
@SCHEME
def pull(
    session: Session,
    all_tags: bool,
    platform: str | None,
    quiet: bool,
    scheme: str | None,
    arguments: Sequence[str],
) -> None:
    """Download an image."""
    (name,) = arguments
    if all_tags and split_reference(name)[1]:
        raise Failure("tag can't be used with --all-tags/-a")
    if not all_tags and not split_reference(name)[1] and not quiet:
        session.print("Using default tag: latest")
    pull_image(session, name, platform=platform, quiet=quiet, all_tags=all_tags, scheme=scheme)
    session.print(name if all_tags else normalized(name))


def pull_image(
    session: Session,
    name: str,
    *,
    platform: str | None,
    quiet: bool,
    all_tags: bool = False,
    scheme: str | None = None,
    descriptor: int = 1,
) -> None:
    """Pull as who the user is, showing how it goes on `descriptor` unless `quiet`."""
    from atoll.cli.credentials import registry_headers
    from atoll.cli.progress import show_progress
    from atoll.client import images

    repository, tag_name = split_reference(name)
    lines = images.pull(
        session.client,
        repository,
        tag_name or "latest",
        platform=platform,
        all_tags=all_tags,
        scheme=scheme,
        headers=registry_headers(name),
    )
    show_progress(session, lines, quiet=quiet, descriptor=descriptor)
