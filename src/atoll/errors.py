"""Every error that Atoll raises on purpose.

    AtollError
    ├── InvalidRequest          bad flag, bad value, bad file: the caller's to mend
    ├── NotFound                no such container, image, exec, kernel
    ├── Conflict                name taken, container running, image in use
    ├── NotModified             already started, already stopped
    ├── StartFailed             the container's process could not be started
    │   ├── CommandNotFound     exit status 127
    │   └── CommandNotExecutable  exit status 126
    ├── VmFailed                QEMU or the guest kernel did not do what it should
    │   ├── BootFailed          the agent did not answer in time
    │   └── AgentFailed         the agent answered with a failure, or broke the protocol
    ├── RegistryFailed          a registry could not be reached or answered wrongly
    ├── AccessDenied            a registry does not let us in, or not do that
    ├── OutOfSpace              a disk is full
    ├── OutOfMemory             the host has no memory for one more container
    ├── Unavailable             the engine, a tool or a kernel is missing
    └── Unsupported             Docker has it, Atoll does not (yet)

Each carries one sentence that says what failed, why, and what to do, in lower case. `code` is the
name that crosses process boundaries; `from_code` makes the error again on the other side. The API
maps classes to HTTP statuses (`api/errors.py`), the CLI to exit codes (`cli/errors.py`).
"""

from typing import ClassVar


class AtollError(Exception):
    """Base of all errors of ours; `str(error)` is the sentence for the user."""

    code: ClassVar[str] = "internal"


class InvalidRequest(AtollError):
    """The request itself is wrong."""

    code = "invalid"


class NotFound(AtollError):
    """What was named does not exist."""

    code = "not-found"


class Conflict(AtollError):
    """The request does not fit the present state."""

    code = "conflict"


class NotModified(AtollError):
    """The state asked for is the state there is."""

    code = "not-modified"


class StartFailed(AtollError):
    """The container's process could not be started."""

    code = "start-failed"


class CommandNotFound(StartFailed):
    """The command is not in the image (exit status 127)."""

    code = "command-not-found"


class CommandNotExecutable(StartFailed):
    """The command is there and cannot be executed (exit status 126)."""

    code = "command-not-executable"


class VmFailed(AtollError):
    """The virtual machine failed on the host's side."""

    code = "vm-failed"


class BootFailed(VmFailed):
    """The guest kernel or its agent did not come up in time."""

    code = "boot-failed"


class AgentFailed(VmFailed):
    """The agent refused a request or broke the protocol."""

    code = "agent-failed"


class RegistryFailed(AtollError):
    """A registry could not be reached, or answered wrongly."""

    code = "registry-failed"


class AccessDenied(AtollError):
    """A registry does not take who we are, or does not let us do what we want."""

    code = "access-denied"


class OutOfSpace(AtollError):
    """No space is left where data had to be written."""

    code = "out-of-space"


class OutOfMemory(AtollError):
    """The host has no memory for one more container, or may not promise it."""

    code = "out-of-memory"


class Unavailable(AtollError):
    """Something that Atoll needs is missing on this host."""

    code = "unavailable"


class Unsupported(AtollError):
    """A Docker feature that Atoll does not have."""

    code = "unsupported"


def _tree(root: type[AtollError]) -> dict[str, type[AtollError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_code(code: str, message: str) -> AtollError:
    """The error that `code` names, with `message`; an unknown code is a plain `AtollError`."""
    return _tree(AtollError).get(code, AtollError)(message)
