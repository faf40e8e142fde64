"""A run, followed by its log: how many nodes of each group are where, what failed last, why nodes wait.

Groups are executors: a run of ten thousand nodes has a handful of them. The log is read, and its end found, by the
client's handle, so it works for runs that have ended and while every other process is stopped.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from ..client import Event, RunHandle
from ..core.run import Run, work_of
from ..core.states import ENDED_RUNS, FIRST_ENDED, TARGET, MoveKind, NodeState, RunState
from ..errors import StoreUnreachable, WaitTimeout
from .output import note

_TARGETS = {kind.word: TARGET[kind] for kind in MoveKind}
_LAST_FAILURES = 5
_LOOK_SECONDS = 0.25
_AGAIN_SECONDS = 1.0


class Failed(NamedTuple):
    """A node that failed, or whose attempt failed."""

    node: str
    attempt: int
    why: str


class Followed:
    """What is known of a run so far.

    Args:
        run: as stored now; for keys and executors.
        handle: of the same run.

    Attributes:
        state: of the run.  reason: why it is there.
        groups: executor -> state -> nodes, executors in the order of the graph.
        totals: executor -> nodes.
        counts: state -> nodes.
        attempts: dispatches so far.
        failures: the last few.
        waits: why nodes wait apart: reason -> nodes.
    """

    def __init__(self, run: Run, handle: RunHandle) -> None:
        self.id = handle.id
        self.run = run
        self.handle = handle
        self.state = RunState.RUNNING
        self.reason = ""
        self.ended_at_ms = 0
        self.attempts = 0
        self.failures: deque[Failed] = deque(maxlen=_LAST_FAILURES)
        self.counts = [0] * len(NodeState)
        self.counts[NodeState.PENDING] = run.n
        self._executors = {key: work_of(run, node) for node, key in enumerate(run.keys)}
        self.totals = Counter(self._executors.values())
        self.groups = {executor: [0] * len(NodeState) for executor in self.totals}
        for executor, group in self.groups.items():
            group[NodeState.PENDING] = self.totals[executor]
        self._states = dict.fromkeys(run.keys, int(NodeState.PENDING))
        self._waiting: dict[str, str] = {}
        self._after: str | None = None

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.state in ENDED_RUNS

    @property
    def done(self) -> int:
        """Nodes that have ended, however."""
        return sum(self.counts[FIRST_ENDED:])

    @property
    def waits(self) -> Counter[str]:
        """Why nodes wait apart from the others: reason -> nodes."""
        return Counter(self._waiting.values())

    def counts_by_word(self) -> dict[str, int]:
        """State -> nodes, states without nodes left out."""
        return {state.word: self.counts[state] for state in NodeState if self.counts[state]}

    def follow(self) -> Iterator[None]:
        """Until the run has ended: a turn for the caller, at least twice a second. Outages are waited for.

        Raises:
            RunNotFound: it was removed.
        """
        silent = False
        while not self.ended_at_ms:
            try:
                yield from self._news()
                self._settle()
                silent = False
            except WaitTimeout:
                silent = False
            except StoreUnreachable:
                if not silent:
                    note("Redis does not answer; the run goes on, waiting for it ...")
                silent = True
                time.sleep(_AGAIN_SECONDS)
            yield

    def _news(self) -> Iterator[None]:
        """Take what the log has to say since the last time, to the run's end.

        Raises:
            WaitTimeout: nothing more for the moment.
        """
        looked = time.monotonic()
        for event in self.handle.events(self._after, timeout=_LOOK_SECONDS):
            self._take(event)
            if time.monotonic() - looked >= _LOOK_SECONDS:
                yield
                looked = time.monotonic()

    def _settle(self) -> None:
        """The log has told all; what the run came to stands in its record, whatever a crash kept out of the log."""
        it = self.handle.summary()
        self.state, self.reason = it.state, it.reason
        if self.over:
            self.ended_at_ms = it.ended_at_ms or it.created_at_ms
            self.counts = [it.progress.get(state.word, 0) for state in NodeState]

    def _take(self, it: Event) -> None:
        self._after = it.id
        if it.node is None:
            if it.move in set(RunState):  # anything else is a note
                self.state, self.reason = RunState(it.move), it.why
            return
        target = _TARGETS.get(it.move)
        if target is None:
            if it.move == "wait":
                self._waiting[it.node] = it.why
            return
        if it.move == "dispatch":
            self.attempts += 1
        elif it.move in ("fail", "retry", "lose"):
            self.failures.append(Failed(it.node, it.attempt, it.why))
        if it.move == "dispatch" or target >= FIRST_ENDED:
            self._waiting.pop(it.node, None)
        before, self._states[it.node] = self._states[it.node], target
        for counted in (self.counts, self.groups[self._executors[it.node]]):
            counted[before] -= 1
            counted[target] += 1
