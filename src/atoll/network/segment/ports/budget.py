"""How much of what all ports share one of them may have: descriptors."""


class Budget:
    """How many connections an endpoint, or all of them together, may have."""

    def __init__(self, most: int, whole: "Budget | None" = None) -> None:
        self._left = most
        self._whole = whole

    def is_left(self) -> bool:
        """Whether there may be one more."""
        return self._left > 0 and (self._whole is None or self._whole.is_left())

    def take(self) -> None:
        """There is one more."""
        self._left -= 1
        if self._whole is not None:
            self._whole.take()

    def give_back(self) -> None:
        """There is one less."""
        self._left += 1
        if self._whole is not None:
            self._whole.give_back()
