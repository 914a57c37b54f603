"""Wait for a descriptor that asyncio has no method for: one that brings descriptors, frames, the word of a program."""

import asyncio
import socket


async def readable(source: socket.socket | int) -> None:
    """Return when something can be read from `source`, or its other end is gone. One waits at a time."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(source, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(source)
