"""Saving a machine's devices and making a machine of what was saved: QEMU's migration, without the memory.

The capability `x-ignore-shared` leaves out memory that is shared with a file: that of the machine which is saved is,
and the machine that goes on has a private map of the same file.
"""

from atoll.errors import VmFailed
from atoll.vmm.qemu.control import Control

_SAVED_S = 60.0
_RESTORED_S = 20.0


async def save(control: Control, state: int) -> None:
    """Stop the guest and write its devices' state to the descriptor `state` of ours; raises `VmFailed`."""
    # It is saved as a running machine, so that it runs as soon as it is loaded; by then it is stopped for good.
    await _set_capabilities(control, "x-ignore-shared", "events")
    with control.listening("MIGRATION") as progress:
        await control.name(state, "state")
        await control.execute("migrate", {"uri": "fd:state"})
        while True:
            event = await control.wait_for(progress, _SAVED_S, "save the machine")
            match event["data"]:
                case {"status": "completed"}:
                    return
                case {"status": "failed" | "cancelled"}:
                    raise VmFailed(await control.why("QEMU did not save the machine"))


async def restore(control: Control, state: int) -> None:
    """Load the state from the descriptor `state` that QEMU has inherited, and let it go on; raises `VmFailed`."""
    await _set_capabilities(control, "x-ignore-shared")
    with control.listening("RESUME") as resumed:
        await control.execute("migrate-incoming", {"uri": f"fd:{state}"})
        await control.wait_for(resumed, _RESTORED_S, "load the saved machine")


async def _set_capabilities(control: Control, *names: str) -> None:
    capabilities = [{"capability": name, "state": True} for name in names]
    await control.execute("migrate-set-capabilities", {"capabilities": capabilities})
