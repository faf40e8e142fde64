"""A wall clock that jumps: Python imports this by itself in a process whose path begins with this directory.

time.time() and time.time_ns() are then off by as many seconds as the file named by FAULTS_CLOCK says at the moment.
Celery, kombu and celeriac ask no other wall clock; the monotonic clock goes on as it does on a machine whose
time is corrected. What asks the system from C (datetime.now) is not shifted.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_EVERY_SECONDS = 0.05


class _Clock:
    """The real clock and an offset that is read again a few times a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time, self.time_ns = time.time, time.time_ns
        self.offset = 0.0
        self.read_at = 0.0

    def _now_off(self) -> float:
        if time.monotonic() >= self.read_at:
            self.read_at = time.monotonic() + _EVERY_SECONDS
            with contextlib.suppress(OSError, ValueError):  # not written yet, or half written
                self.offset = float(self.path.read_text() or 0)
        return self.offset

    def shifted(self) -> float:
        """In place of time.time."""
        return self.time() + self._now_off()

    def shifted_ns(self) -> int:
        """In place of time.time_ns."""
        return self.time_ns() + round(self._now_off() * 1_000_000_000)


if os.environ.get("FAULTS_CLOCK"):
    _clock = _Clock(Path(os.environ["FAULTS_CLOCK"]))
    time.time, time.time_ns = _clock.shifted, _clock.shifted_ns
