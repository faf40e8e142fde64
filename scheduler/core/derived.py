"""The event behind a decision, from the decision's own lines: which one can have led to them?

Pure. For replay.py, where the log does not tell the event (core/recorded.py): because it follows from its moves, or
because a version before that field wrote the log. `candidates` gives the likely ones, the likeliest first; whoever
asks decides each and takes the one whose moves are the recorded lines, so a wrong guess cannot pass.

A move that a later version adds is one row of _DERIVED, unless its events are told.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .events import (
    Admitted,
    CancelRequested,
    DeadlinePassed,
    Event,
    Followed,
    GraceOver,
    Opened,
    PauseRequested,
    Reported,
    ResumeRequested,
    RetryDue,
    RetryRequested,
)
from .guards import Facts
from .history import GOES_ON, Line
from .retry import backoff_ms
from .run import Run
from .states import FIRST_ENDED, IN_FLIGHT, RunState
from .verbs import DEADLINE_PASSED

PART = 5000
"""Nodes of one run that a scheduler opens in one turn."""
_FLYING = frozenset(map(int, IN_FLIGHT))
_AGAIN = re.compile(r"([a-z_]+): try again in ([0-9]+) ms, ")
_LOST = re.compile(r"lost: again at once, .* \(([A-Za-z0-9_.?-]+)\)")

FactsOf = Callable[[int, int], Facts | None]


def candidates(run: Run, lines: Sequence[Line], at: int, facts_of: FactsOf) -> Iterator[Event]:
    """Events that may have led to the lines from `at` on, the likeliest first.

    Args:
        run: as it stood then.
        facts_of: (node, epoch) -> what expressions read of its stored output.
    """
    it = lines[at]
    if it.node < 0:
        yield from _of_run(run, lines, at)
    elif it.word == "dispatch":
        yield Admitted([it.node], it.why == GOES_ON)
    elif it.word == "wake":
        yield RetryDue(it.node, run.attempt[it.node])
    elif it.word in ("succeed", "hand_over"):
        wanted = run.guards is not None and it.node in run.guards.wanted
        yield _report(run, it, "succeeded", facts=facts_of(it.node, run.epoch[it.node]) if wanted else None)
    elif it.word in _DERIVED:
        yield from _DERIVED[it.word](run, lines, at)
    else:  # ready, skip, upstream_fail, decide, refuse: rules are asked when many wait for one node, or a run is opened
        yield from _followed_on(run, lines, at)
        first = it.node // PART * PART
        yield Opened(first, first + PART)
        yield Opened()


def _followed_on(run: Run, lines: Sequence[Line], at: int) -> Iterator[Followed]:
    """Nodes downstream of one that has ended, of which there are too many to be asked at once: a part, whose own moves
    stand behind each other and before what follows from them.
    """
    cause, last = lines[at].cause, at
    if cause < 0 or run.state[cause] < FIRST_ENDED:
        return
    while last + 1 < len(lines) and lines[last + 1].cause == cause and lines[last + 1].node > lines[last].node:
        last += 1
    down = run.downstream(cause)
    first, end = (bisect_left(down, lines[number].node) for number in (at, last))
    if first >= run.at_once:
        yield Followed(cause, first, end + 1)


def _report(run: Run, it: Line, end: str, **fields: Any) -> Reported:
    """The report of the attempt that a line ends."""
    given = {"error": None, "retry_after_ms": None, "chance": 0.0, "facts": None, **fields}
    output = "inline" if end == "succeeded" else "none"
    return Reported(it.node, run.epoch[it.node], it.attempt, end, output, "", it.at_ms, it.at_ms, **given)


def _retry(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    """A failed attempt with another try: the chance that gives the recorded wait, else a wait that was asked for."""
    it = lines[at]
    found = _AGAIN.match(it.why)
    if found is None:
        return
    wait, error = int(found[2]), {"kind": found[1], "type": "Unknown", "message": ""}
    profile = run.profiles[run.profile[it.node]]
    most = backoff_ms(run.failures[it.node] + 1, profile.base_ms, profile.factor, profile.cap_ms, 1.0)
    if wait < most:
        yield _report(run, it, "failed", error=error, chance=(wait + 0.5) / most)
    yield _report(run, it, "failed", error=error, retry_after_ms=wait)


def _fail(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    it = lines[at]
    if it.why.startswith("lost: "):
        type_ = "NeverClaimed" if "never claimed" in it.why else "Unknown"
        yield _report(run, it, "lost", error={"kind": "lost", "type": type_, "message": ""})
    yield _report(run, it, "failed", error={"kind": it.why.partition(":")[0], "type": "Unknown", "message": ""})


def _lose(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    if found := _LOST.match(lines[at].why):
        yield _report(run, lines[at], "lost", error={"kind": "lost", "type": found[1], "message": ""})


def _cancel(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    """An attempt that ends in a cancelled run; the end of the grace; a part of what is cancelled; or the request."""
    it = lines[at]
    if run.run_state is RunState.CANCELLING:
        first = it.node // PART * PART
        if run.state[it.node] in _FLYING:
            yield GraceOver()
            yield _report(run, it, "failed", error={"kind": "cancelled", "type": "Unknown", "message": ""})
        yield Opened(first, first + PART)
        yield Opened()
        yield GraceOver()
        return
    yield from _requested(run, lines, at)


def _requested(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    """A cancel or a deadline, from the lines up to the one of the run."""
    end = next((number for number in range(at, len(lines)) if lines[number].is_of_run), None)
    if end is None:
        return
    if lines[end].why == DEADLINE_PASSED:
        yield DeadlinePassed()
        return
    cancelled = {it.node for it in lines[at:end] if it.word == "cancel"}
    running = frozenset(node for node, state in enumerate(run.state) if state in _FLYING and node not in cancelled)
    left = (
        node
        for node, state in enumerate(run.state)
        if state < FIRST_ENDED and state not in _FLYING and node not in cancelled
    )
    yield CancelRequested(lines[end].why.removeprefix("cancelled: "), running, next(left, None))


def _reopen(_run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    end = next((it for it in lines[at:] if it.is_of_run), None)
    if end is not None and end.why.startswith("retry: "):
        yield RetryRequested(end.why.removeprefix("retry: "))


def _of_run(run: Run, lines: Sequence[Line], at: int) -> Iterator[Event]:
    """The run itself changes its state, and no node before it."""
    it = lines[at]
    if it.word == RunState.PAUSED:
        yield PauseRequested(*_said("paused", it.why))
    elif it.word == RunState.RUNNING and it.why.startswith("resumed"):
        yield ResumeRequested(*_said("resumed", it.why))
    elif it.word == RunState.RUNNING:
        yield from _reopen(run, lines, at)
    else:
        yield from _requested(run, lines, at)
        yield GraceOver()
        yield Opened()


def _said(what: str, why: str) -> tuple[str, str]:
    """(reason, by) that give these words again; where one ends and the other begins changes no decision."""
    rest = why.removeprefix(what)
    return (rest.removeprefix(": "), "") if rest.startswith(": ") else ("", rest.removeprefix(" by "))


_DERIVED: dict[str, Callable[[Run, Sequence[Line], int], Iterator[Event]]] = {
    "retry": _retry,
    "fail": _fail,
    "lose": _lose,
    "cancel": _cancel,
    "reopen": _reopen,
}
