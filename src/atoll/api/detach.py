"""The key sequence that leaves a container without ending it."""

from atoll.errors import InvalidRequest

DEFAULT = "ctrl-p,ctrl-q"
_NAMED = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def detach_sequence(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes; raises `InvalidRequest` in Docker's words."""
    sequence = bytearray()
    for key in (text or DEFAULT).split(","):
        if len(key) == 1 and key.isascii():
            sequence += key.encode()
            continue
        letter = key.lower().removeprefix("ctrl-") if key.lower().startswith("ctrl-") else ""
        if len(letter) == 1 and "a" <= letter <= "z":
            sequence.append(ord(letter) - ord("a") + 1)
        elif letter in _NAMED:
            sequence.append(_NAMED[letter])
        else:
            raise InvalidRequest(f"Invalid detach keys ({text}) provided")
    return bytes(sequence)


class DetachKeys:
    """Watches what a client types; keys that might begin the sequence are held back until it is clear."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0
        self.is_detached = False

    def pass_on(self, typed: bytes) -> bytes:
        """What of `typed`, and of what was held back, is for the process; sets `is_detached` at the sequence's end."""
        passed = bytearray()
        for key in typed:
            if key == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    self.is_detached = True
                    return bytes(passed)
                continue
            passed += self._sequence[: self._matched]
            self._matched = 1 if key == self._sequence[0] else 0
            if not self._matched:
                passed.append(key)
        return bytes(passed)
