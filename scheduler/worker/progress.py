"""What a pool process is at, where its worker's main process can read it after the process has died.

Shared memory that pool processes inherit: one slot for each, written by itself alone. Of a bundle (bundle.py) the main
process learns so which attempt was running when the process was killed, and how many claims were refused.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter

_SLOTS, _SIZE = 1024, 96
_SLOT = struct.Struct("<III64s")
"""pid, claims refused as held, claims refused as stale, id of the attempt that is running."""
_REFUSED = ("held", "stale")


class Progress:
    """Made in the main process before its pool starts."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _SLOTS * _SIZE)

    def begins(self, slot: int, id_: str) -> None:
        """The process of a slot begins an attempt; "" for none. Under a microsecond."""
        if slot < _SLOTS:
            _, held, stale, _ = _SLOT.unpack_from(self._shared, slot * _SIZE)
            _SLOT.pack_into(self._shared, slot * _SIZE, os.getpid(), held, stale, id_.encode())

    def refuses(self, slot: int, counts: Counter[str]) -> None:
        """The process of a slot was refused claims, by verdict."""
        if slot < _SLOTS and counts:
            _, held, stale, id_ = _SLOT.unpack_from(self._shared, slot * _SIZE)
            held, stale = held + counts["held"], stale + counts["stale"]
            _SLOT.pack_into(self._shared, slot * _SIZE, os.getpid(), held & 0xFFFFFFFF, stale & 0xFFFFFFFF, id_)

    def running(self, pid: int | None) -> str | None:
        """What a process was at: an attempt's id, "" between two; None when it has never said anything. O(slots)."""
        for slot in range(_SLOTS):
            found, _, _, id_ = _SLOT.unpack_from(self._shared, slot * _SIZE)
            if found and found == pid:
                return str(id_.rstrip(b"\0"), "ascii", "replace")
        return None

    def refused(self) -> Counter[str]:
        """Claims refused in all processes of this pool so far, by verdict."""
        found: Counter[str] = Counter()
        for slot in range(_SLOTS):
            pid, *counts, _ = _SLOT.unpack_from(self._shared, slot * _SIZE)
            if pid:
                found.update(dict(zip(_REFUSED, counts, strict=True)))
        return +found


def slot_here() -> int:
    """The slot of this pool process: its place in the pool, which is one process's alone while it lives."""
    from billiard import current_process

    return int(getattr(current_process(), "index", _SLOTS))
