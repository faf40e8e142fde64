"""What time is it at Redis? Its clock decides; ours only says how long to block, and nothing else."""

from __future__ import annotations

import time


class Clock:
    """Redis's time when it was last heard, and what has passed here since."""

    def __init__(self) -> None:
        self._heard = 0
        self._then = 0.0

    def hear(self, now_ms: int) -> None:
        """Redis has just said what time it is."""
        self._heard, self._then = now_ms, time.monotonic()

    def now_ms(self) -> int:
        """About what it would say now."""
        return self._heard + int((time.monotonic() - self._then) * 1000)
