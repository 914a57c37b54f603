"""One client that is attached to a container, perhaps before the container has started."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from atoll.engine.runtimes import Runtime, Session


@dataclass(frozen=True)
class Wish:
    """What a client wants to be attached to; `close_stdin`: its end of file is the process's."""

    stdin: bool
    stdout: bool
    stderr: bool
    close_stdin: bool


class Attachment:
    """A client's place: filled with a session when the container runs, with None when it will not."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._stack = AsyncExitStack()
        self._session: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()

    async def session(self) -> Session | None:
        """The streams, once there are some."""
        return await self._session

    async def open(self, runtime: Runtime) -> None:
        """Attach to the runtime; no output from now on is missed."""
        wish = self._wish
        session = await self._stack.enter_async_context(
            runtime.attach(stdin=wish.stdin, stdout=wish.stdout, stderr=wish.stderr, close_stdin=wish.close_stdin)
        )
        if not self._session.done():
            self._session.set_result(session)

    def refuse(self) -> None:
        """The container will not start: there is nothing to be attached to."""
        if not self._session.done():
            self._session.set_result(None)

    async def close(self) -> None:
        """Detach."""
        self._session.cancel()
        await self._stack.aclose()
