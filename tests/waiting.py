"""How every test waits: for something to see, and never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str = "", seconds: float = 60.0) -> T:
    """Look until there is something to see; the limit is generous because the machine may be busy."""
    until = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        found = look()
        if found:
            return found
        now = time.monotonic()
        if now > until:
            raise AssertionError(f"not within {seconds} s: {what or look}; last seen: {found!r:.500}")
        time.sleep(min(max(0.01, now - began), 0.05))  # longer where a look costs more
