"""Makes what arrives meanwhile arrive together: a scheduler that is held before it reads its inboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from scheduler.store.inboxes import Entry, Inboxes

GENEROUS_SECONDS = 20.0


class Gate:
    """Holds the scheduler before it reads its inboxes.

    Attributes:
        block_ms: for how long the read before which it is held may block.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waits = threading.Event()
        self.block_ms = 0
        self._passes = threading.Semaphore(0)
        read = Inboxes.read

        def gated(inboxes: Inboxes, after: Mapping[str, bytes], block_ms: int) -> tuple[dict[str, list[Entry]], int]:
            self.block_ms = block_ms
            until = time.monotonic() + GENEROUS_SECONDS
            while not self.open.is_set() and not self._passes.acquire(timeout=0.005) and time.monotonic() < until:
                self.waits.set()
            return read(inboxes, after, min(block_ms, 20))

        monkeypatch.setattr(Inboxes, "read", gated)

    def shut(self) -> None:
        """From now on nothing is read."""
        self.waits.clear()
        self.open.clear()
        assert self.waits.wait(GENEROUS_SECONDS)

    def once(self) -> None:
        """While it is shut: one turn more, to its end."""
        self.waits.clear()
        self._passes.release()
        assert self.waits.wait(GENEROUS_SECONDS)
