"""Why do ready nodes wait? Written into their runs' logs when it has lasted for a moment, and when it changes.

One line for all nodes of a run that wait for one queue class, with the numbers of those nodes beside it
(core/history.py reads them). A cause that changes is told again, and so are nodes that have come to wait since, in
growing pauses, so a wide run in a long flood does not fill its log. Nothing is looked at while nothing waits, and
nothing that was sent at once is ever told.

Told elsewhere: an executor that nobody has published (dispatch.py: queue), a pause (the run's own line), the wait
before another try (the line of the retry), messages that no worker takes (overdue.py). Upstream nodes are recorded
anyway. A kind of wait of its own, such as a delay or an approval, is told by the move that begins it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ..core.run import Run
from ..core.states import NodeState
from ..errors import shown
from ..settings import QueueClass
from ..store.workers import classes_of, silent_ms
from .admission import Admission
from .batch import Batch

MOMENT_SECONDS = 1.0
"""A cause that does not last longer is not worth a line."""
LONGEST_SECONDS = 60.0
"""Between two lines of one run and class about nodes that have come to wait."""
UNCHANGED_SECONDS = 5.0
"""How often to look again when everything that waits is told."""
MOST_LINES, MOST_SPANS = 100, 100
"""Lines of one look, and spans of node numbers of one line; what is left of the first is told by the next look."""
_READY = int(NodeState.READY)

Announced = Callable[[], tuple[Mapping[str, Mapping[str, Any]], int]]
"""Asks the store: (name -> what a worker says of itself, Redis's time in ms)."""


@dataclass(slots=True)
class _Told:
    """What is known and told of the nodes of one run that wait for one class.

    Attributes:
        cause: at the last look.  told: the cause in the log; "" for none.
        seen: the newest node of the last look.  covered: the newest that the log names; -1 for none.
        pause: seconds before further nodes are told, from `at` on.
    """

    cause: str
    seen: int
    told: str = ""
    covered: int = -1
    pause: float = MOMENT_SECONDS
    at: float = 0.0


class Waits:
    """The waits of one scheduler.

    Args:
        admission: knows what waits for room.
        classes: the declared queue classes.
    """

    def __init__(self, admission: Admission, classes: Mapping[str, QueueClass]) -> None:
        self._admission = admission
        self._of_queue = {it.queue: name for name, it in classes.items()}
        self._known: dict[tuple[str, str], _Told] = {}
        self._look_at = 0.0

    def looks_in(self) -> float | None:
        """Seconds until a look is due although nothing else happens; None while nothing waits."""
        return max(self._look_at - time.monotonic(), 0.0) if self._admission.busy() else None

    def look(
        self, workers: Callable[[], tuple[Mapping[str, Mapping[str, Any]], int]], batch_of: Callable[[Run], Batch]
    ) -> None:
        """Note what has waited for a moment by now.

        Args:
            workers: asked once, if anything waits.
            batch_of: the batch of a run's shard.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        waiting = self._admission.waiting()
        if not waiting:
            self._known.clear()
            self._look_at = now + MOMENT_SECONDS / 2
            return
        announced, now_ms = workers()
        serving = {
            name
            for it in announced.values()
            if silent_ms(it, now_ms) is None
            for name in classes_of(it, self._of_queue)
        }
        lines = 0
        for key in self._known.keys() - {(name, run.id) for name, run, _ in waiting}:
            del self._known[key]
        for name, run, nodes in waiting:
            cause = "full" if name in serving else "no worker"
            lines += lines < MOST_LINES and self._note(name, run, nodes, cause, now, batch_of)
        fresh = any(it.told != it.cause or it.covered != it.seen for it in self._known.values())
        self._look_at = now + (MOMENT_SECONDS if fresh else UNCHANGED_SECONDS)

    def _note(
        self, name: str, run: Run, nodes: deque[int], cause: str, now: float, batch_of: Callable[[Run], Batch]
    ) -> bool:
        """One run that waits for one class: a line if its cause has lasted since the last look, or more wait by now."""
        it = self._known.get((name, run.id))
        if it is None or it.cause != cause:
            told, covered = (it.told, it.covered) if it is not None else ("", -1)
            self._known[name, run.id] = _Told(cause, nodes[-1], told, covered, at=now)
            return False
        changed = it.told != cause
        upto, it.seen = it.seen, nodes[-1]
        if not changed and (it.covered == upto or now < it.at + it.pause):
            return False
        named = _between(nodes, -1 if changed else it.covered, upto, run)
        it.pause = MOMENT_SECONDS if changed else min(2 * it.pause, LONGEST_SECONDS)
        it.told, it.covered, it.at = cause, upto, now
        if not named:
            return False
        batch_of(run).wait(
            run, _words(cause, name, len(named), self._admission.flying[name]), cause, name, spans(named)
        )
        return True


def _between(nodes: Sequence[int], after: int, upto: int, run: Run) -> list[int]:
    """Those that wait behind one node of a queue, up to another; all up to it when the first has gone."""
    back = list(takewhile(lambda node: node != after, reversed(nodes)))
    at = back.index(upto) if upto in back else 0
    return [node for node in back[at:] if run.state[node] == _READY]


def _words(cause: str, name: str, count: int, flying: int) -> str:
    who = f"{count} ready node{'s' if count > 1 else ''}"
    if cause == "no worker":
        return f"{who} cannot go out: no worker serves the queue class {shown(name)}"
    return f"{who} wait for room in the queue class {shown(name)}: {flying} attempts of it are in flight"


def spans(nodes: Iterable[int]) -> list[list[int]]:
    """Node numbers as [first, last], the lowest first; no more than MOST_SPANS.

    >>> spans([5, 1, 2, 3])
    [[1, 3], [5, 5]]
    """
    found: list[list[int]] = []
    for node in sorted(nodes):
        if found and node == found[-1][1] + 1:
            found[-1][1] = node
        else:
            found.append([node, node])
    return found[:MOST_SPANS]
