"""How long a registry is waited for, and how often it is asked again."""

import asyncio
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp

from atoll.errors import RegistryFailed

BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass."""


@dataclass(frozen=True)
class Patience:
    """The waits of one engine, in seconds."""

    connect_s: float = 15.0
    silence_s: float = 30.0
    """How long a registry may say nothing, and take nothing of an upload."""
    tries: int = 4
    """Tries without progress in between, before it is given up."""
    first_pause_s: float = 0.5
    """Doubled with every try."""
    most_pause_s: float = 30.0

    def timeout(self, extra_s: float = 0.0) -> aiohttp.ClientTimeout:
        """The same in aiohttp's words, with `extra_s` more of silence; a transfer may take as long as it takes."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s, sock_read=self.silence_s + extra_s)


class Interrupted(Exception):
    """The exchange failed in a way that may pass; `pause_s` is what the registry asked for."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


TRANSIENT = (aiohttp.ClientError, TimeoutError, ConnectionError, Interrupted)
"""What `Attempts.failed` decides about."""


class Attempts:
    """The tries of one thing that is wanted of the registry `host`."""

    def __init__(self, host: str, patience: Patience) -> None:
        self._host = host
        self._patience = patience
        self._used = 0

    def progressed(self) -> None:
        """Something was achieved: count anew."""
        self._used = 0

    async def failed(self, error: Exception) -> None:
        """Wait before the next try, or raise `RegistryFailed` when it is no use."""
        reason = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or reason
            raise RegistryFailed(
                f"registry {self._host} cannot be trusted: its certificate is not valid ({why}); put the certificate of"
                f" its authority into certs.d/{self._host}/ca.crt beside the settings file, or have it mended"
            ) from error
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            raise RegistryFailed(
                f"registry {self._host} cannot be trusted: {reason} (if it speaks plain HTTP, use --scheme http, or"
                " name it in the setting insecure_registries)"
            ) from error
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            raise RegistryFailed(f"registry {self._host} cannot be reached: {reason}") from error
        # One that says nothing at all has been waited for long enough the second time.
        self._used += 2 if isinstance(error, TimeoutError) else 1
        if self._used >= self._patience.tries:
            if isinstance(error, TimeoutError):
                reason = f"it said nothing for {self._patience.silence_s:g} s"
            raise RegistryFailed(f"registry {self._host} failed again and again, at last: {reason}") from error
        asked = error.pause_s if isinstance(error, Interrupted) else None
        pause_s = self._patience.first_pause_s * 2.0 ** (self._used - 1) if asked is None else asked
        await asyncio.sleep(min(pause_s, self._patience.most_pause_s))


def retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The seconds that an answer asks us to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        moment_s = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment_s - time.time()) if math.isfinite(moment_s) else None
