"""Leases and timers that have run out become events; Redis's clock decides which have."""

from __future__ import annotations

import random
from collections import Counter

from ..core.events import LeaseExpired, StartLimitPassed
from ..core.run import Run
from ..core.states import IN_FLIGHT
from ..core.timers import timer_event
from ..errors import shown
from ..store.inboxes import DUE_COUNT, Inboxes
from ..wire import AttemptId, read_place
from .apply import apply
from .batch import Batch
from .dispatch import Dispatch
from .held import CHECK_MS, Held
from .waits import spans


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
        """Leases and timers that have run out by the instant as of which this turn decides.

        What follows bears that instant, and nothing may be told as earlier than it was due.
        """
        due = self._inboxes.due(held.keys, by_ms=batch.now)
        nexts = [it for it in (due.next_timer_ms, due.next_lease_ms) if it is not None]
        if held.flying:
            nexts.append(due.now_ms + CHECK_MS)
        if max(len(due.attempts), len(due.timers)) >= DUE_COUNT:
            nexts.append(due.now_ms)
        held.due_at_ms = min(nexts, default=None)
        seen: dict[str, frozenset[str] | None] = {}
        queued: dict[tuple[str, str], list[int]] = {}
        for id_, state in due.attempts.items():
            self._lease_ended(held, batch, id_, state, due.now_ms, seen, queued)
        for (run_id, name), nodes in queued.items():
            many = "s" if len(nodes) > 1 else ""
            why = f"{len(nodes)} message{many} of sent nodes wait in the queue of class {shown(name)}, for a worker"
            batch.wait(held.runs[run_id], why, "unclaimed", name, spans(nodes))
        for timer in due.timers:
            run_id, _, name = timer.partition(" ")
            if name == "deadline" and (timer in batch.timers or timer in batch.timers_done):
                continue  # it was set anew in this turn, or taken away
            batch.timers_done.append(timer)
            run, event = held.runs.get(run_id), timer_event(name, random.random())
            if run is not None and isinstance(event, StartLimitPassed):
                event = self._whether_begun(held, batch, run, event)
            if run is not None and event is not None:
                apply(self._dispatch, held, batch, run, event)

    def _whether_begun(self, held: Held, batch: Batch, run: Run, event: StartLimitPassed) -> StartLimitPassed:
        """Whether a worker has claimed a node's attempt; one that does so in this moment counts more."""
        if not (event.node < run.n and run.state[event.node] in IN_FLIGHT):
            return event
        id_ = run.attempt_id(held.keys.shard, event.node)
        state = self._inboxes.attempt(held.keys, id_)
        if state.startswith("s"):
            batch.still[id_] = state
        return event._replace(begun=state.startswith("c"))

    def _lease_ended(
        self,
        held: Held,
        batch: Batch,
        id_: str,
        state: str,
        now: int,
        seen: dict[str, frozenset[str] | None],
        queued: dict[tuple[str, str], list[int]],
    ) -> None:
        """A lease that has run out: an event, unless the message simply waits; the first time that is to be told.

        Args:
            queued: (run, class) -> nodes whose messages were found to wait for the first time.
        """
        attempt = AttemptId.parse(id_)
        run = held.runs.get(attempt.run) if attempt else None
        parts = state.split("|", 7)
        if attempt is not None and run is not None and len(parts) >= 4:
            claimed, (queue_class, executor) = parts[0] == "c", read_place(parts[1])
            if not claimed and self._dispatch.still_queued(id_, queue_class, seen):
                pause = self._dispatch.claim_by_ms(queue_class, run.excused[attempt.node])
                batch.deadlines[id_] = now + pause
                if now - run.created_at_ms - run.dispatched_at[attempt.node] < 2 * pause:
                    queued.setdefault((run.id, queue_class), []).append(attempt.node)
                return
            event = LeaseExpired(
                attempt.node,
                attempt.epoch,
                attempt.attempt,
                int(parts[4]) if claimed else None,
                parts[7] if claimed else "",
                claimed and int(parts[5]) <= now,
                random.random(),
                claimed and self._dispatch.is_cut_short(run, attempt.node, queue_class, executor, parts),
                claimed and self._dispatch.is_unsafe(held, run, attempt.node, id_),
            )
            if apply(self._dispatch, held, batch, run, event, id_):
                self._counts["leases ended"] += 1
                batch.still[id_] = state
                return
        batch.over.append(id_)
        self._dispatch.landed(held, id_)
