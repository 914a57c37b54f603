"""The host's packet filter, by libnftables: a change takes 0.2 ms, of which a process of `nft` would make 4.

A context belongs to the network namespace that the thread was in when it was made. Source: libnftables(3).
"""

import ctypes
import json
from typing import Any

from atoll.errors import Unavailable, VmFailed

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4


class Nftables:
    """The tables of the network namespace that it is made in."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise Unavailable(f"networks need {_LIBRARY} (Debian: the package nftables): {error}") from None
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        self._library = library
        self._context: int | None = library.nft_ctx_new(0)
        if self._context is None:
            raise VmFailed("libnftables gave no context")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)

    def run(self, commands: str) -> None:
        """Carry out `commands`, one a line, all or none. Raises `VmFailed` with nft's own words."""
        self._run(commands)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """What a `list` command prints, as JSON objects: libnftables-json(5). Raises `VmFailed`."""
        objects: list[dict[str, Any]] = json.loads(self._run(command))["nftables"]
        return objects

    def close(self) -> None:
        """Give the context back; the tables stay."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, commands: str) -> bytes:
        status: int = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading a buffer empties it: both, also when only one is of interest.
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        words: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if status != 0:
            raise VmFailed(f"the packet filter refused a change: {words.decode(errors='replace').strip()}")
        return output
