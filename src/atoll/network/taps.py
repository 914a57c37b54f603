"""The taps of one VM, from the keeper."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from atoll.network.keeper_client import Keeper


@dataclass(frozen=True)
class Taps:
    """What is behind a VM's network devices, by slot: the names on the host, and the descriptors."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()


@asynccontextmanager
async def taking_taps(keeper: str, count: int) -> AsyncIterator[Taps]:
    """Taps of the keeper in the directory `keeper`, or none of no keeper (""); raises `Unavailable`.

    The keeper sees us as long as the context lasts; the taps are there as long as anybody has their descriptors.
    """
    if not keeper:
        yield Taps()
        return
    async with await Keeper.connect(Path(keeper)) as connection:
        taps = await connection.taps(count)
        try:
            yield Taps(tuple(tap.name for tap in taps), tuple(tap.fd for tap in taps))
        finally:
            for tap in taps:
                os.close(tap.fd)
