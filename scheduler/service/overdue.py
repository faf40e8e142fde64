"""Leases and timers that have run out become events; Redis's clock decides which have."""

from __future__ import annotations

import random
from collections import Counter

from ..core.events import DeadlinePassed, Event, GraceOver, LeaseExpired, RetryDue
from ..store.inboxes import DUE_COUNT, Inboxes
from ..wire import AttemptId
from .apply import apply
from .batch import Batch
from .dispatch import Dispatch
from .held import CHECK_MS, Held


class Overdue:
    """What has run out, into batches.

    Args:
        dispatch: knows which attempts fly, and what the broker still holds.
        counts: of the scheduler; leases that ended.
    """

    def __init__(self, inboxes: Inboxes, dispatch: Dispatch, counts: Counter[str]) -> None:
        self._inboxes = inboxes
        self._dispatch = dispatch
        self._counts = counts

    def take(self, held: Held, batch: Batch) -> None:
        """Leases and timers that have run out."""
        due = self._inboxes.due(held.keys)
        nexts = [it for it in (due.next_timer_ms, due.next_lease_ms) if it is not None]
        if held.flying:
            nexts.append(due.now_ms + CHECK_MS)
        if max(len(due.attempts), len(due.timers)) >= DUE_COUNT:
            nexts.append(due.now_ms)
        held.due_at_ms = min(nexts, default=None)
        seen: dict[str, frozenset[str] | None] = {}
        for id_, state in due.attempts.items():
            self._lease_ended(held, batch, id_, state, due.now_ms, seen)
        for timer in due.timers:
            run_id, _, name = timer.partition(" ")
            batch.timers_done.append(timer)
            run, event = held.runs.get(run_id), timer_event(name)
            if run is not None and event is not None:
                apply(self._dispatch, held, batch, run, event)

    def _lease_ended(
        self, held: Held, batch: Batch, id_: str, state: str, now: int, seen: dict[str, frozenset[str] | None]
    ) -> None:
        attempt = AttemptId.parse(id_)
        run = held.runs.get(attempt.run) if attempt else None
        parts = state.split("|", 7)
        if attempt is not None and run is not None and len(parts) >= 4:
            claimed = parts[0] == "c"
            if not claimed and self._dispatch.still_queued(id_, parts[1], seen):
                batch.deadlines[id_] = now + self._dispatch.claim_by_ms(parts[1], run, attempt.node)
                return
            event = LeaseExpired(
                attempt.node,
                attempt.epoch,
                attempt.attempt,
                int(parts[4]) if claimed else None,
                parts[7] if claimed else "",
                claimed and int(parts[5]) <= now,
                random.random(),
            )
            if apply(self._dispatch, held, batch, run, event, id_):
                self._counts["leases ended"] += 1
                batch.still[id_] = state
                return
        batch.over.append(id_)
        self._dispatch.landed(held, id_)


def timer_event(name: str) -> Event | None:
    """The event that a timer of a run stands for; None for one that only a later version knows."""
    kind, *numbers = name.split(":")
    if kind == "retry" and len(numbers) == 2 and all(it.isdecimal() for it in numbers):
        return RetryDue(int(numbers[0]), int(numbers[1]))
    if kind == "grace":
        return GraceOver()
    return DeadlinePassed() if kind == "deadline" else None
