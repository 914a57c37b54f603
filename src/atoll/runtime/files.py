"""Work on the container's files: what the engine asks is the agent's to do, and what it moves goes through here.

Only the streams are ours: one on the engine's connection, one on the agent's, joined for as long as the work lasts. A
side that takes no more, or has gone, ends the other one's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from msgspec.structs import replace

from atoll.channel import Connection, StreamReader, StreamStopped, StreamWriter
from atoll.errors import AtollError
from atoll.guest import FileMethod
from atoll.model.agent import PathStat, ReadArchive, ReadChanges, ReadStream, StatPath, WriteArchive
from atoll.runtime.container import Container

Reading = TypeVar("Reading", ReadArchive, ReadChanges, ReadStream)


class Files:
    """The files of one container, which runs or is held."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def stat(self, asked: StatPath) -> PathStat:
        """What a path is; raises `NotFound`."""
        return await self._container.agent_for_files().stat_path(asked)

    async def read(self, engine: Connection, method: FileMethod, asked: Reading) -> None:
        """Send the engine what `method` brings; returns when it has all of it."""
        sink = engine.open_writer(asked.stream)
        try:
            agent = self._container.agent_for_files()
            source = agent.connection.open_reader()
            async with _joined(source, sink) as joint:
                await agent.work_on_files(method, replace(asked, stream=source.stream))
                await joint
        finally:
            sink.end()

    async def write(self, source: StreamReader, asked: WriteArchive) -> None:
        """Extract what the engine sends on `source`; returns when that is done."""
        try:
            agent = self._container.agent_for_files()
            sink = agent.connection.open_writer()
            async with _joined(source, sink):
                await agent.work_on_files("write_archive", replace(asked, stream=sink.stream))
        finally:
            source.stop()


@asynccontextmanager
async def _joined(source: StreamReader, sink: StreamWriter) -> AsyncIterator["asyncio.Task[None]"]:
    joint = asyncio.create_task(_move(source, sink))
    try:
        yield joint
    finally:
        joint.cancel()
        await asyncio.wait([joint])
        source.stop()
        sink.end()


async def _move(source: StreamReader, sink: StreamWriter) -> None:
    try:
        async for data in source:
            await sink.write(data)
        sink.end()
    except StreamStopped:
        source.stop()
    except AtollError:
        pass  # a connection is lost: who waits for the work hears of it
