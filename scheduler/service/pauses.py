"""How long to wait before something that failed is tried again: each time twice as long, up to a limit."""

from __future__ import annotations


class Pauses:
    """Pauses in seconds, from `first` to `longest`.

    Attributes:
        now: the pause that was given last; 0 when all went well since.

    >>> pauses = Pauses(0.1, 0.3)
    >>> pauses.next(), pauses.next(), pauses.next(), pauses.now
    (0.1, 0.2, 0.3, 0.3)
    >>> pauses.over()
    >>> pauses.now, pauses.next()
    (0.0, 0.1)
    """

    def __init__(self, first: float, longest: float) -> None:
        self.now = 0.0
        self._first, self._longest = first, longest

    def next(self) -> float:
        """It failed: the pause before the next try."""
        self.now = min(max(2 * self.now, self._first), self._longest)
        return self.now

    def over(self) -> None:
        """It went well."""
        self.now = 0.0
