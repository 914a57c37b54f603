"""Where keeper and segments listen, below the engine's run directory."""

from pathlib import Path


def keeper_socket(directory: Path) -> Path:
    """The keeper's socket."""
    return directory / "keeper.sock"


def segment_socket(directory: Path, network_id: str) -> Path:
    """The socket of a network's segment."""
    return directory / f"{network_id[:12]}.sock"
