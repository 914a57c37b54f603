"""The keys that leave a container running and give the terminal back: ctrl-p, ctrl-q unless told otherwise.

Grammar as in moby/term: keys separated by commas, each a character, `DEL`, or `ctrl-` with a letter or one
of `@ [ \\ ] ^ _`.
"""

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_detach_keys(text: str) -> bytes:
    """The bytes that the keys send. Raises `ValueError`."""
    return bytes(_key_code(key) for key in text.split(","))


def _key_code(key: str) -> int:
    if key == "DEL":
        return 127
    if key.startswith("ctrl-") and len(key) == 6 and key[5].lower() in _CONTROLS:
        return _CONTROLS.index(key[5].lower())
    if len(key) == 1 and key.isascii():
        return ord(key)
    raise ValueError(f"Unknown character: '{key}'")


class DetachKeys:
    """Looks for the keys in what is typed, and holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were completed; what follows them is dropped."""
        if not self._keys or (not self._held and self._keys[0] not in typed):
            return typed, False
        passed = bytearray()
        for code in typed:
            self._held += bytes((code,))
            # A mismatch may hide a later beginning: after "aab" for the keys "ab", the second a counts.
            while not self._keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                return bytes(passed), True
        return bytes(passed), False
