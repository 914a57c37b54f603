"""Asks a segment for its counters: `python -m harness.segment_counters DIRECTORY NETWORK_ID` prints them as JSON.

A program, because a segment answers nobody but the user that it runs as.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from atoll.network.client import SegmentClient


async def main(directory: Path, network_id: str) -> None:
    """Ask, and print."""
    segment = await SegmentClient.connect(directory, network_id)
    try:
        print(msgspec.json.encode(await segment.counters()).decode())
    finally:
        await segment.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
