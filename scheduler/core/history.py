"""A run's log as lines that can be asked: where did a node stand then, which move brought it there?

Pure. A line is one move of a node, one change of the run's state, or a note; its id is that of the client's events,
"<entry>.<line of it>". A log is bounded, so its oldest lines may be gone, and a crash in the middle of a commit may
have kept some from it: `History.gaps` names the nodes of which that shows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .run import Run
from .states import FIRST_ENDED, LEGAL, TARGET, MoveKind, NodeState, RunState

KINDS: dict[str, MoveKind] = {kind.word: kind for kind in MoveKind}
"""Word of a move -> the move."""
RUN_WORDS = frozenset(state.value for state in RunState)
REWOUND, WAIT = "rewound", "wait"
"""Notes: the store has lost commits; nodes that could go out wait, and why."""
GOES_ON = "begun with the report of the node before it"
"""Why a step of a chain is dispatched: the worker that has run the one before goes on with it."""

Entries = Iterable[tuple[str, list[list[Any]], Mapping[int, Mapping[str, Any]]]]
"""(id, moves, number of a move -> what is told beside it), as the store has them."""


class Line(NamedTuple):
    """One line of a log.

    Attributes:
        id: "<entry>.<number>".  at_ms: of the entry, by Redis.
        node: -1 for the run itself.
        word: the move's, the run's new state, or a note's.
        attempt, cause, why: as in core/events.Move; a cause of -1 is none.
        told: the event behind the decision that begins here, where the moves do not say it (core/recorded.py).
    """

    id: str
    at_ms: int
    node: int
    word: str
    attempt: int
    cause: int
    why: str
    told: Mapping[str, Any] | None = None

    @property
    def state(self) -> NodeState:
        """Where its move leads the node."""
        return NodeState(TARGET[KINDS[self.word]])

    @property
    def is_move(self) -> bool:
        """Whether it moves a node."""
        return self.node >= 0 and self.word in KINDS

    @property
    def is_of_run(self) -> bool:
        """Whether it changes the state of the run."""
        return self.node < 0 and self.word in RUN_WORDS


def lines_of(entries: Entries) -> list[Line]:
    """The lines of a log's entries. What has not the form of a move is left out, for a later version may write it."""
    found = []
    for id_, moves, told in entries:
        at_ms = int(id_.partition("-")[0])
        for number, move in enumerate(moves):
            node, word, attempt, cause, why = move[:5]
            found.append(Line(f"{id_}.{number}", at_ms, node, word, attempt, cause, why, told.get(number)))
    return found


class History:
    """The lines of one run, in order.

    Args:
        lines: all there are.
        until_ms: only those up to this instant; None for all.

    Attributes:
        lines: those lines.
    """

    def __init__(self, lines: Iterable[Line], until_ms: int | None = None) -> None:
        self.lines = [it for it in lines if until_ms is None or it.at_ms <= until_ms]
        self.until_ms = until_ms
        self._of: dict[int, list[int]] = {}
        self._run: list[int] = []
        self._waits: list[int] = []
        for at, it in enumerate(self.lines):
            if it.is_move:
                self._of.setdefault(it.node, []).append(at)
            elif it.is_of_run:
                self._run.append(at)
            elif it.word == WAIT:
                self._waits.append(at)

    def moves(self, node: int, before: int | None = None) -> list[int]:
        """Where the moves of a node stand, those before a line."""
        found = self._of.get(node, [])
        return found if before is None else found[: bisect_left(found, before)]

    def last(self, node: int, before: int | None = None) -> int | None:
        """Where the newest move of a node stands, before a line; None when there is none."""
        found = self._of.get(node, [])
        at = len(found) if before is None else bisect_left(found, before)
        return found[at - 1] if at else None

    def state(self, node: int, before: int | None = None) -> NodeState:
        """Where a node stood before a line, as the log says: pending when it says nothing."""
        at = self.last(node, before)
        return NodeState.PENDING if at is None else self.lines[at].state

    def epoch(self, node: int, before: int) -> list[int]:
        """The moves of a node before a line, from the last time that it was opened again on."""
        found = self.moves(node, before)
        for number in range(len(found) - 1, -1, -1):
            if self.lines[found[number]].word == "reopen":
                return found[number + 1 :]
        return found

    def run_line(self, before: int | None = None) -> int | None:
        """Where the newest change of the run's state stands, before a line."""
        at = len(self._run) if before is None else bisect_left(self._run, before)
        return self._run[at - 1] if at else None

    def run_line_from(self, at: int) -> int | None:
        """Where the next change of the run's state stands, at a line or after it."""
        found = bisect_left(self._run, at)
        return self._run[found] if found < len(self._run) else None

    def run_state(self, before: int | None = None) -> RunState:
        """Where the run stood before a line."""
        at = self.run_line(before)
        return RunState.RUNNING if at is None else RunState(self.lines[at].word)

    def waits(self, node: int, since: int, before: int | None = None) -> list[Line]:
        """Notes of why a node waited, between two lines: its own, and those of its class that name its number."""
        end = len(self.lines) if before is None else before
        found = (self.lines[at] for at in self._waits[bisect_left(self._waits, since) :] if at < end)
        return [it for it in found if it.node == node or (it.node < 0 and _names(it, node))]

    def pauses(self, since: int, before: int | None = None) -> list[Line]:
        """The pauses of the run between two lines, each with its end, and the one that was on at the first."""
        end = len(self.lines) if before is None else before
        first = bisect_left(self._run, since)
        found = [self.lines[at] for at in self._run[first:] if at < end]
        if first and self.lines[self._run[first - 1]].word == RunState.PAUSED:
            found.insert(0, self.lines[self._run[first - 1]])
        return [it for at, it in enumerate(found) if RunState.PAUSED in (it.word, found[at - 1].word if at else "")]

    def gaps(self, run: Run) -> list[int]:
        """Nodes whose first line does not begin where nodes begin: lines before it are gone. O(nodes)."""
        first = ((node, self.lines[found[0]]) for node, found in self._of.items() if node < run.n)
        return sorted(node for node, it in first if NodeState.PENDING not in LEGAL[KINDS[it.word]])

    def ends(self, run: Run, node: int, before: int) -> list[int]:
        """Where the ends of a node's upstream nodes stand, those before a line, in the order of the log."""
        found = (self.last(up, before) for up in run.upstream(node))
        return sorted(at for at in found if at is not None and self.lines[at].state >= FIRST_ENDED)


def _names(it: Line, node: int) -> bool:
    """Whether a note for many nodes is about this one."""
    spans = (it.told or {}).get("nodes", ())
    return any(first <= node <= last for first, last in spans)
