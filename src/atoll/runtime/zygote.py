"""The zygote: a small warm process that forks runtimes, so that a start does not pay for imports.

`python -m atoll.runtime.zygote FD` is started by the engine (`spawner.py`) with a socket of datagrams at FD. For
each `Launch` it forks a child, which becomes the runtime and answers itself, once it listens. The children
are sessions of their own; when the engine ends, however it ends, the socket does, and the zygote with
it. The runtimes are then init's children and go on.

Its memory is frozen for the garbage collector before the first fork, so that the pages stay shared.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec

from atoll.errors import AtollError, Unavailable
from atoll.model.agent import Exited
from atoll.model.container import BundleSpec, SpareSpec
from atoll.network.taps import taking_taps
from atoll.runtime.bootstrap import boot_vm
from atoll.runtime.server import read_bundle_spec, serve, serve_spare
from atoll.runtime.spare import open_spare
from atoll.runtime.spawner import MAX_DATAGRAM_BYTES, MOST_DESCRIPTORS, Launch, Launched
from atoll.runtime.vm import Vm
from atoll.vmm import SavedMachine, slots

_LOG = logging.getLogger(__name__)


def main() -> None:
    """Fork runtimes until the engine hangs up."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    launched: dict[int, int] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(control, launched))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        datagram, descriptors, _, _ = socket.recv_fds(control, MAX_DATAGRAM_BYTES, MOST_DESCRIPTORS)
        if not datagram:
            return
        launch = msgspec.json.decode(datagram, type=Launch)
        # A child that ends at once must be known by then.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            if (pid := os.fork()) == 0:
                _become_runtime(control, launch, SavedMachine(*descriptors) if descriptors else None)
            launched[pid] = launch.number
        except OSError as error:
            _answer(control, Launched(launch.number, error=f"cannot fork: {error.strerror}"))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(control: socket.socket, launched: dict[int, int]) -> None:
    """Answer for runtimes that have ended: the engine heeds it where it waits for one that did not get to answer."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            code = os.waitstatus_to_exitcode(status)
            how = f"it was killed by signal {-code}" if code < 0 else f"it ended with status {code}"
            if (number := launched.pop(pid, None)) is not None:
                _answer(control, Launched(number, error=how))


def _become_runtime(control: socket.socket, launch: Launch, template: SavedMachine | None) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.version_info < (3, 12):  # from then on it is the default; the older one waits in a thread per process
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
        Path("/proc/self/comm").write_text("atoll-runtime")

        def ready() -> None:
            is_heard = _answer(control, Launched(launch.number, pid=os.getpid()))
            control.close()
            if launch.is_spare and not is_heard:
                raise Unavailable("the engine that asked for a spare is gone")

        config = Path(launch.config)
        if launch.is_spare and template is not None:
            spare = msgspec.json.decode(config.read_bytes(), type=SpareSpec)
            _redirect_output(config.with_name("runtime.log"))
            asyncio.run(_be_spare(spare, template, ready))
        else:
            spec = read_bundle_spec(launch.config)
            _redirect_output(Path(spec.bundle) / "runtime.log")
            asyncio.run(_be_runtime(spec, template, ready))
        status = 0
    except Exception as error:
        if control.fileno() != -1:
            known = isinstance(error, (AtollError, OSError, msgspec.MsgspecError))
            _answer(control, Launched(launch.number, error=str(error) if known else repr(error)))
        _LOG.exception("the runtime of %s failed", launch.config)
    finally:
        os._exit(status)  # not through the zygote's stack


async def _be_runtime(spec: BundleSpec, template: SavedMachine | None, ready: Callable[[], None]) -> None:
    async with taking_taps(spec.keeper, len(slots.NETWORKS)) as taps:
        await serve(spec, partial(boot_vm, template=template, taps=taps.descriptors), ready, taps.names)


async def _be_spare(spec: SpareSpec, template: SavedMachine, ready: Callable[[], None]) -> None:
    async with (
        taking_taps(spec.keeper, len(slots.NETWORKS)) as taps,
        open_spare(spec, template, taps.descriptors) as spare,
    ):

        def boot(claimed: BundleSpec, on_exited: Callable[[Exited], None]) -> AbstractAsyncContextManager[Vm]:
            _redirect_output(Path(claimed.bundle) / "runtime.log")
            return spare.boot(claimed, on_exited)

        await serve_spare(spec, boot, ready, taps.names)


def _redirect_output(log: Path) -> None:
    """What a runtime says goes into a file of its bundle, begun anew by each runtime."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def _answer(control: socket.socket, launched: Launched) -> bool:
    """Tell the engine; whether it could be told."""
    try:
        control.send(msgspec.json.encode(launched))
    except OSError as error:
        _LOG.warning("the engine does not hear about launch %d: %s", launched.number, error.strerror)
        return False
    return True


if __name__ == "__main__":
    main()
