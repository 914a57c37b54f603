"""One thing done to several objects, at once, as `docker stop a b c` does: one that fails keeps no other from it."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atoll.cli.errors import Failure, describe
from atoll.cli.session import Session
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client import Client

AT_ONCE = 50
"""Requests under way at the same time, as in Docker."""


def each(
    session: Session,
    names: Sequence[str],
    act: "Callable[[Client, str], str | None]",
    *,
    last_word: str = "",
) -> None:
    """Call `act` with a client and each name, and print what it returns (None: the name), in order.

    Raises `Failure` with all the errors when it is done, one a line, then `last_word` with the names that failed.
    """
    failed: list[str] = []
    messages: list[str] = []
    for outcome, name in zip(_outcomes(session, names, act), names, strict=True):
        if isinstance(outcome, AtollError):
            failed.append(name)
            messages.append(describe(outcome))
        elif outcome != "":
            session.print(name if outcome is None else outcome)
    if failed:
        raise Failure("\n".join(messages + ([f"{last_word}{', '.join(failed)}"] if last_word else [])))


def _outcomes(
    session: Session, names: Sequence[str], act: "Callable[[Client, str], str | None]"
) -> "list[str | AtollError | None]":
    client = session.client
    if len(names) == 1:
        return [_attempt(act, client, names[0])]
    # An engine that does not run is started once, before several clients ask for it.
    client.reach()
    outcomes: list[str | AtollError | None] = [None] * len(names)
    places = iter(range(len(names)))
    lock = threading.Lock()

    def work() -> None:
        own = session.fork()
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                own.close()
                return
            outcomes[place] = _attempt(act, own, names[place])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(names)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _attempt(act: "Callable[[Client, str], str | None]", client: "Client", name: str) -> "str | AtollError | None":
    try:
        return act(client, name)
    except AtollError as error:
        return error
