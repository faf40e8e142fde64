"""Runs are brought into memory and opened, a step at a time, so that nobody waits for a wide one.

Opening asks every pending node for its rule: what was decided and not recorded is decided again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from ..core.decide import decide
from ..core.events import Followed, Opened
from ..core.run import Run
from ..core.states import ENDED_RUNS, FIRST_ENDED, NodeState
from ..core.timers import timer_event
from ..errors import StoreUnsafe
from ..store.commits import Commit
from ..store.inboxes import Entry, Shard
from ..store.loading import LOADED_AT_ONCE, First
from ..store.runs import Runs
from ..wire import RunId, is_run_id
from .apply import apply
from .batch import Batch
from .dispatch import Dispatch
from .facts import recall
from .held import Held
from .rewinds import renumber, unclaimed

log = logging.getLogger("celeriac.scheduler")

OPENED_AT_ONCE = 5000
"""Nodes of one run that are asked for their rule, or cancelled, before others have their turn."""
FEWEST_OPENED = 1000
"""So many of them although somebody may be waiting for a single node."""
FEWEST_FOLLOWED = 100
"""Of those that wait for one node, this many are asked in a turn although somebody may be waiting for another."""
_READY = int(NodeState.READY)


class Loading:
    """Runs from the store into a shard's memory.

    Args:
        dispatch: knows which attempts fly.
        counts: of the scheduler; runs that cannot be read.
        learn: reads what holds for all runs, such as the policy in force, if it has changed.
    """

    def __init__(self, runs: Runs, dispatch: Dispatch, counts: Counter[str], learn: Callable[[], None]) -> None:
        self._runs = runs
        self._dispatch = dispatch
        self._counts = counts
        self._learn = learn
        self._first: dict[RunId, First] = {}
        """Of runs that were submitted just now, in this turn."""

    def load(self, held: Held, batch: Batch, runs: Sequence[RunId], flying: Mapping[str, str] | None = None) -> None:
        """Bring the runs of a shard that was just read into memory and open them: what was decided and not recorded is
        decided again. By what holds for all runs now, for it may have changed before the last of them was submitted.

        Args:
            flying: attempts in flight with their states, for runs that may have some.
        """
        if runs:
            self._learn()
        for run in self._runs.load_many([it for it in runs if it not in held.runs], self.unreadable):
            self._begin(held, batch, run, flying or {})

    def _begin(self, held: Held, batch: Batch, run: Run, flying: Mapping[str, str]) -> None:
        """A run that was just loaded: opened at once, or its first part if it is wide."""
        if run.run_state in ENDED_RUNS:
            batch.ended.append(run)
            return
        held.runs[run.id] = run
        recall(self._runs, run)
        behind = renumber(held, batch, run)
        self._adopt(held, batch, run)
        batch.ready += ((run, node) for node, state in enumerate(run.state) if state == _READY)
        self._open_part(held, batch, run, 0)
        for id_, lost in unclaimed(held, run, flying, batch.now) if behind else ():
            told = lost._replace(unsafe=self._dispatch.is_unsafe(held, run, lost.node, id_))
            apply(self._dispatch, held, batch, run, told, id_)

    def _adopt(self, held: Held, batch: Batch, run: Run) -> bool:
        """A run takes up the policy in force, if that is for it; whether it did."""
        event = self._dispatch.policies.wanted(run)
        return event is not None and apply(self._dispatch, held, batch, run, event)

    def _adopt_some(self, held: Held, batch: Batch, until: float) -> None:
        """Runs under way take up the policy in force, until the time is over; what they hold is looked at anew."""
        while held.to_adopt:
            run = held.runs.get(held.to_adopt.popleft())
            if run is not None and self._adopt(held, batch, run):
                self._dispatch.policies.forget(run)
                self._dispatch.admission.forget([run.id])
                batch.queue_again(run)
            if time.monotonic() >= until:
                return

    def _open_part(self, held: Held, batch: Batch, run: Run, first: int) -> None:
        end = first + min(OPENED_AT_ONCE, max(FEWEST_OPENED, round(OPENED_AT_ONCE * self._dispatch.pace)))
        apply(self._dispatch, held, batch, run, Opened(first, end))
        if end < run.n and run.run_state not in ENDED_RUNS:
            held.to_open.append((run.id, end))

    @property
    def at_once(self) -> int:
        """Nodes of one run that are taken up in one turn."""
        return OPENED_AT_ONCE

    def rest_later(self, held: Held, run: Run) -> None:
        """The first part of a wide run was taken up; the others are for turns to come."""
        if run.n > OPENED_AT_ONCE:
            held.to_open.append((run.id, OPENED_AT_ONCE))

    def go_on(self, held: Held, batch: Batch, until: float) -> None:
        """What earlier turns had no time for: load submitted runs, ask those that wait for a node that ended, open wide
        runs; each in turn, one step at least.

        Args:
            until: of this process's clock, seconds.
        """
        self._adopt_some(held, batch, until)
        self.load_some(held, batch, until)
        self._follow_some(held, batch, until)
        for _ in range(len(held.to_open)):
            run_id, first = held.to_open.popleft()
            if (run := held.runs.get(run_id)) is not None:
                if not first:  # one that somebody has opened again
                    self._dispatch.admission.forget([run_id])
                    batch.queue_again(run)
                self._open_part(held, batch, run, first)
                if time.monotonic() >= until:
                    return

    def _follow_some(self, held: Held, batch: Batch, until: float) -> None:
        """Some of those that wait for a node which more wait for than were asked when it ended, for each such node."""
        for _ in range(len(held.to_follow)):
            run_id, node, first = held.to_follow.popleft()
            run = held.runs.get(run_id)
            if run is None or run.state[node] < FIRST_ENDED:  # one that is opened again ends again
                continue
            end = first + max(FEWEST_FOLLOWED, round(run.at_once * self._dispatch.pace))
            apply(self._dispatch, held, batch, run, Followed(node, first, end))
            if end < run.down_at[node + 1] - run.down_at[node]:
                held.to_follow.append((run_id, node, end))
            if time.monotonic() >= until:
                return

    def read_ahead(self, arrived: Iterable[Sequence[Entry]]) -> None:
        """Runs that were submitted to several shards: one round trip in place of one for each. For this turn."""
        self._first.clear()
        told = [it.fields[1].decode("ascii", "replace") for it in chain(*arrived) if it.fields[0] == b"submit"]
        if len(told) > 1:
            self._first |= self._runs.read_first([RunId(it) for it in told[:LOADED_AT_ONCE] if is_run_id(it)])

    def load_some(self, held: Held, batch: Batch, until: float) -> None:
        """Submitted runs into memory, until the time is over."""
        while held.to_load or held.loading:
            if held.loading is None:
                wanted = [it for it in held.to_load if it not in held.runs]
                held.to_load.clear()
                held.loading = self._runs.load_in_steps(wanted, self.unreadable, self._first)
            for run in held.loading:
                if run is not None:
                    self._begin(held, batch, run, {})
                if time.monotonic() >= until:
                    return
            held.loading = None

    def unreadable(self, _run: RunId, damage: StoreUnsafe) -> None:
        """A damaged run stays where it is and is left alone: the others go on."""
        self._counts["unreadable runs"] += 1
        log.error("%s", damage)

    def broken_off(self, held: Held, found: Shard, now: int) -> Commit:
        """What a crash between two calls of a commit left behind, to be removed before anything else is committed:
        attempts, leases and timers that no record knows yet, or knows no more. And room that is kept for ended runs:
        schedulers of the version before do not give it back.
        """
        commit = Commit(held.keys, held.epoch, held.count)
        attempts = found.attempts.items()
        known = {id_ for id_, state in attempts if held.current(id_) or held.goes_on(id_, state)}
        commit.over([id_ for id_ in dict.fromkeys((*found.attempts, *found.leases)) if id_ not in known])
        done = []
        for timer in found.timers:
            run_id, _, name = timer.partition(" ")
            run, event = held.runs.get(run_id), timer_event(name, 0.0)
            if run is None or (event is not None and decide(run, event, now).stale):
                done.append(timer)
        commit.timers({}, done)
        commit.approvals({}, [it for it in found.approvals if not _is_asked(held, it)])
        for run_id in set(found.expected).difference(found.live):
            commit.unexpected(run_id)
        return commit


def _is_asked(held: Held, name: str) -> bool:
    """Whether an approval, "run node epoch", waits for its answer."""
    run_id, node, epoch = name.split(" ")
    run = held.runs.get(run_id)
    return run is not None and int(node) in run.parked and run.epoch[int(node)] == int(epoch)
