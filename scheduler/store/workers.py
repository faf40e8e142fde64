"""Which workers can be counted on, and which queue classes they serve, by what they have announced of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SILENT_BEATS = 4
"""A worker that has missed so many heartbeats is not counted on."""
_BEAT_SECONDS = 5


def silent_ms(worker: Mapping[str, Any], now_ms: int) -> int | None:
    """How long nothing was heard of a worker that should have spoken; None while it can be counted on."""
    silent = now_ms - int(worker.get("seen_at_ms", 0))
    return silent if silent > SILENT_BEATS * 1000 * float(worker.get("heartbeat_seconds") or _BEAT_SECONDS) else None


def classes_of(worker: Mapping[str, Any], of_queue: Mapping[str, str]) -> Iterator[str]:
    """The queue classes that a worker serves, each once.

    Args:
        of_queue: queue -> class.
    """
    for name in {worker.get("queue_class"), *(of_queue.get(queue) for queue in worker.get("queues") or ())}:
        if name:
            yield str(name)
