"""Makes what arrives meanwhile arrive together: a scheduler that is held before it reads its inboxes."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from scheduler.store.inboxes import Entry, Inboxes

GENEROUS_SECONDS = 20.0


class Gate:
    """Holds the scheduler before it reads its inboxes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waits = threading.Event()
        read = Inboxes.read

        def gated(inboxes: Inboxes, after: Mapping[str, bytes], block_ms: int) -> tuple[dict[str, list[Entry]], int]:
            if not self.open.is_set():
                self.waits.set()
                self.open.wait(GENEROUS_SECONDS)
            return read(inboxes, after, min(block_ms, 20))

        monkeypatch.setattr(Inboxes, "read", gated)

    def shut(self) -> None:
        """From now on nothing is read."""
        self.waits.clear()
        self.open.clear()
        assert self.waits.wait(GENEROUS_SECONDS)
