"""`atoll system kernel list|set`: the kernels that containers run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.cli.errors import Failure
from atoll.cli.flags import flag, switch
from atoll.cli.listing import FORMAT, listing
from atoll.cli.session import Session
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import Kernel, Object

HEADERS = {"Version": "VERSION", "Source": "SOURCE", "Digest": "DIGEST", "Current": "CURRENT"}
COLUMNS = ("Version", "Source", "Digest", "Current")
SHORT_DIGEST = 12


@verb("list", help="List kernels", at_most=0, aliases=("atoll system kernel list", "atoll system kernel ls"))
@FORMAT
@switch("--no-trunc", help="Don't truncate output")
def list_(session: Session, format: str | None, no_trunc: bool, arguments: Sequence[str]) -> None:
    """List the kernels that are here; the current one is what containers start with."""
    from atoll.client import system

    rows = [_row(kernel, truncate=not no_trunc) for kernel in system.kernels(session.client)]
    text = listing(rows, HEADERS, COLUMNS, format)
    if text or rows:
        session.print(text)


@verb("set", help="Choose the kernel that containers start with", at_most=0)
@flag("--package", help="Download this Debian package and unpack it, e.g. linux-image-cloud-amd64")
@flag("--binary", help="Use this kernel image (bzImage)")
@flag("--modules", help="Directory with the modules of --binary (lib/modules/VERSION)")
@switch("--host", help="Use the kernel that the host runs")
def set_(
    session: Session,
    package: str | None,
    binary: str | None,
    modules: str | None,
    host: bool,
    arguments: Sequence[str],
) -> None:
    """Choose a kernel, and print its version."""
    from atoll.client import system

    if sum(map(bool, (package, binary, host))) != 1:
        raise Failure("say which kernel: one of --package, --binary and --host")
    if modules and not binary:
        raise Failure("--modules belongs to --binary")
    body: Object = {"Host": True} if host else {"Package": package}
    if binary:
        # The engine has another working directory.
        body = {"Binary": str(Path(binary).absolute())}
        if modules:
            body["Modules"] = str(Path(modules).absolute())
    session.print(system.set_kernel(session.client, body)["Version"])


def _row(kernel: "Kernel", *, truncate: bool) -> dict[str, str]:
    digest = kernel.get("Digest", "")
    return {
        "Version": kernel.get("Version", ""),
        "Source": kernel.get("Source", ""),
        "Digest": digest.removeprefix("sha256:")[:SHORT_DIGEST] if truncate else digest,
        "Current": "yes" if kernel.get("Current") else "",
    }
