"""The channel between host and agent, and between engine and runtime."""

from atoll.channel.connection import Connection, decode
from atoll.channel.frames import PROTOCOL, ProtocolViolation
from atoll.channel.readiness import readable
from atoll.channel.streams import Piece, StreamReader, StreamsReader, StreamStopped, StreamWriter

__all__ = [
    "PROTOCOL",
    "Connection",
    "Piece",
    "ProtocolViolation",
    "StreamReader",
    "StreamStopped",
    "StreamWriter",
    "StreamsReader",
    "decode",
    "readable",
]
