"""An actor's inbox: messages are methods of the actor, carried out one after the other by one task.

`tell` brings news, `ask` a request: its method gets a future for the reply first, which it, or a later message, sets.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from atoll.errors import AtollError

T = TypeVar("T")
P = ParamSpec("P")


class Inbox:
    """Messages to one actor, in the order of their sending."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._refusal: AtollError | None = None

    async def obey(self) -> None:
        """Carry out messages for ever."""
        while True:
            message = await self._messages.get()
            message()

    def close(self, refusal: AtollError) -> None:
        """Carry out what is left, for replies are owed; whoever asks from now on gets `refusal`."""
        self._refusal = refusal
        while not self._messages.empty():
            self._messages.get_nowait()()

    def tell(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have `method` called by the actor's task."""
        self._messages.put_nowait(partial(method, *args, **kwargs))

    async def ask(
        self, method: Callable[Concatenate["asyncio.Future[T]", P], None], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Have `method` called by the actor's task, and wait for the reply; raises what it raises or replies with."""
        if self._refusal is not None:
            raise self._refusal
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def message() -> None:
            try:
                method(answer, *args, **kwargs)
            except AtollError as error:
                refuse(answer, error)

        self._messages.put_nowait(message)
        return await answer


def reply(future: "asyncio.Future[T]", value: T) -> None:
    """Answer whoever asked, if nobody has yet and they still wait."""
    if not future.done():
        future.set_result(value)


def refuse(future: "asyncio.Future[T]", error: AtollError) -> None:
    """Answer whoever asked with an error, if nobody has answered yet and they still wait."""
    if not future.done():
        future.set_exception(error)
