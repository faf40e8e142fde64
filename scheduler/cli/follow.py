"""A run, followed by its log: how many nodes of each group are where, what failed last, why nodes wait.

Reads Redis alone, so it works for runs that have ended and while every other process is stopped. Groups are
executors: a run of ten thousand nodes has a handful of them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from ..core.states import ENDED_RUNS, FIRST_ENDED, TARGET, MoveKind, NodeState, RunState
from ..store.connection import UNREACHABLE
from ..store.runs import Runs
from ..wire import RunId
from .output import note

_TARGETS = {kind.word: TARGET[kind] for kind in MoveKind}
_LAST_FAILURES = 5
_BLOCK_MS = 500
_AGAIN_SECONDS = 1.0


class Failed(NamedTuple):
    """A node that failed, or whose attempt failed."""

    node: int
    attempt: int
    why: str


class Followed:
    """What is known of a run so far.

    Args:
        runs: of the installation.
        run_id: the run.

    Attributes:
        run: the run as stored when following began; for keys, edges and executors.
        state: of the run.  reason: why it is there.
        groups: executor -> state -> nodes, executors in the order of the graph.
        totals: executor -> nodes.
        counts: state -> nodes.
        attempts: dispatches so far.
        failures: the last few.
        waits: why nodes wait apart: reason -> nodes.

    Raises:
        RunNotFound: there is no such run.
    """

    def __init__(self, runs: Runs, run_id: RunId) -> None:
        self._runs = runs
        self.id = run_id
        self.run = runs.load(run_id)
        self.state = RunState.RUNNING
        self.reason = ""
        self.executors = [profile.executor for profile in self.run.profiles]
        self._states = bytearray(self.run.n)
        self._waiting: dict[int, str] = {}
        self._after = "0"
        self.counts = [0] * len(NodeState)
        self.counts[NodeState.PENDING] = self.run.n
        self.groups: dict[str, list[int]] = {}
        for profile in self.run.profile:
            group = self.groups.setdefault(self.executors[profile], [0] * len(NodeState))
            group[NodeState.PENDING] += 1
        self.totals = {executor: sum(group) for executor, group in self.groups.items()}
        self.attempts = 0
        self.failures: deque[Failed] = deque(maxlen=_LAST_FAILURES)
        self.ended_at_ms = 0

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

    def words(self, node: int) -> str:
        """The state of a node, as people read it."""
        return NodeState(self._states[node]).word

    def read(self, block_ms: int | None = None) -> bool:
        """Take what the log has to say since the last time; whether that was anything. May wait for it."""
        entries = self._runs.log(self.id, self._after, block_ms=block_ms)
        for id_, moves in entries:
            self._after = id_
            for node, word, attempt, _cause, why in moves:
                if node < 0:
                    self.state, self.reason = RunState(word), why
                    if self.over:
                        self.ended_at_ms = int(id_.partition("-")[0])
                else:
                    self._take(node, word, attempt, why)
        return bool(entries)

    def follow(self) -> Iterator[bool]:
        """Until the run has ended: whether anything changed, at least twice a second. Outages are waited for."""
        silent = False
        while True:
            try:
                changed = self.read()
                yield changed
                if self.over and not changed:
                    return
                if not changed:
                    yield self.read(_BLOCK_MS)
                silent = False
            except UNREACHABLE as lost:
                if not silent:
                    note(f"Redis does not answer ({type(lost).__name__}); the run goes on, waiting for it ...")
                silent = True
                time.sleep(_AGAIN_SECONDS)

    def _take(self, node: int, word: str, attempt: int, why: str) -> None:
        target = _TARGETS.get(word)
        if target is None:
            if word == "wait":
                self._waiting[node] = why
            return
        if word == "dispatch":
            self.attempts += 1
            self._waiting.pop(node, None)
        elif word in ("fail", "retry", "lose"):
            self.failures.append(Failed(node, attempt, why))
        before = self._states[node]
        if before != target:
            self._states[node] = target
            group = self.groups[self.executors[self.run.profile[node]]]
            for counted in (self.counts, group):
                counted[before] -= 1
                counted[target] += 1
        if target >= FIRST_ENDED:
            self._waiting.pop(node, None)
