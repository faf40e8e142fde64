"""Why a node, or a run, stands where it stands: decisions with the facts they rest on, as callers are told them.

Read from the run's log and records alone, by core/explain.py; here keys stand for numbers, and words beside values.
What the log has lost is said in `unknown`. `needs` says what must hold for the node to move on. A state that a later
version adds is one row of _NEEDS; a kind of wait, one of _WAITING.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..core.explain import Explainer, Reason
from ..core.facts import Fact as CoreFact
from ..core.guards import Facts
from ..core.history import History, Line
from ..core.states import ENDED_RUNS, FIRST_ENDED, NodeState, RunState
from ..errors import NodeNotFound, escaped, shown
from ..graph.limits import Duration
from ..store.facts import facts_in_store
from ..store.runs import Runs
from ..wire import RunId
from .views import SHOWN_NODES, Workers, view_nodes
from .whole import instant_ms, read_whole
from .wording import words_of

if TYPE_CHECKING:
    from ..settings import Settings

MOST_CAUSES = 100
"""Nodes that failed by themselves, of those that the explanation of a run tells."""
Instant = datetime | Duration
"""An instant, or how long after the run's start."""
_AGAIN = re.compile(r"try again in ([0-9]+) ms")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is recorded and that a decision rests on.

    Attributes:
        id: of the record: an `Event.id`; "node N", the record of the node of that number; or "graph".
        node: key of the node that it is about; None for the run.
        what: state, closed, stood, output, error, attempts, ready, dispatched, waits, report, failure, loss, excused,
            reopened, run, stopped, asked or policy (core/facts.py).
        value: as recorded, JSON.  path: of a value inside an output or error.
        text: the same in words.
    """

    id: str
    node: str | None
    what: str
    value: Any
    path: tuple[str | int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """One decision about a node.

    Attributes:
        id: of the line of the log that made it, an `Event.id`; "" when it is not there.
        at_ms: when, ms since 1970; 0 when that is not known.
        node: its key.  state: where it leads.
        move, attempt, why: as in Event.
        facts: what it rests on; take one away, and it would not have been made so.
        checked: None when it was not checked; "" when the core decides the same of the facts; else what differs.
    """

    id: str
    at_ms: int
    node: str
    state: NodeState
    move: str
    attempt: int
    why: str
    facts: tuple[Fact, ...]
    checked: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a node that could go out waited, from an instant on; until the next wait or the node's next move."""

    id: str
    at_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a node or a run stands where it does.

    Attributes:
        run: its id.  node: key of the node; None for the run as a whole.
        state: a state of nodes or of runs, in a word.
        as_of_ms: the instant it is told for.
        steps: the decisions that led there since the node was last opened, the last one last.
        because: further decisions, upstream from one node that was passed over to the next, to the one that began it.
        waits: what it waited for while it was ready, as far as that was recorded.
        needs: what must hold for it to move on; empty when it has ended.
        unknown: what is not recorded any more.
    """

    run: str
    node: str | None
    state: str
    as_of_ms: int
    steps: tuple[Step, ...]
    because: tuple[Step, ...] = ()
    waits: tuple[Wait, ...] = ()
    needs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def differs(self) -> list[str]:
        """What the checks of its decisions have found, with the ids of their lines."""
        return [f"{it.id}: {it.checked}" for it in (*self.steps, *self.because) if it.checked]


class Reading:
    """One run as it is explained: log, records and values, read together.

    Args:
        runs: the store, or the archive.
        run: its id.
        at: as it stood then; None for now.
        settings: where queue classes are declared, when that is known.

    Raises:
        RunNotFound: there is no such run.
        InvalidValue: `at` is no instant of the run.
    """

    def __init__(self, runs: Runs, run: RunId, at: Instant | None, settings: Settings | None) -> None:
        self._runs = runs
        self._values: dict[int, Facts] = {}
        self.run, lines = read_whole(runs, run)
        self.until_ms = None if at is None else instant_ms(at, self.run.created_at_ms)
        self.as_of_ms = self.until_ms or runs.now_ms()
        self.history = History(lines, self.until_ms)
        self.explainer = Explainer(self.run, self.history, self._facts_of)
        now = at is None
        found = view_nodes(self.run, runs.claimed(self.run), Workers.read(runs, settings)) if now else ()
        self._views = {it.key: it for it in found}

    def _facts_of(self, node: int) -> Facts:
        found = self._values.get(node)
        if found is None:
            found = self._values[node] = facts_in_store(self._runs, self.run, node) or {}
        return found

    def number(self, key: str) -> int:
        """The number of a node.

        Raises:
            NodeNotFound: the run has none of that key.
        """
        try:
            return self.run.keys.index(key)
        except ValueError:
            raise NodeNotFound(self.run.id, key, self.run.keys) from None

    # -- a node ---------------------------------------------------------------------------------------

    def node(self, key: str, *, check: bool = False) -> Explanation:
        """Why a node stands where it does.

        Args:
            check: make each decision again of the facts that it cites.
        """
        node, history = self.number(key), self.history
        newest = self.explainer.reason(node)
        steps = [self._step(newest, check)]
        if newest.at is not None:
            earlier = [self.explainer.reason(node, at + 1) for at in history.epoch(node, newest.at)]
            steps = [self._step(it, check) for it in earlier] + steps
        unknown = dict.fromkeys(newest.unknown)
        chain = self.explainer.chain(newest)
        for one in chain:
            unknown |= dict.fromkeys(f"node {shown(self.run.keys[one.node])}: {it}" for it in one.unknown)
        waits = tuple(Wait(it.id, it.at_ms, it.why) for it in newest.waits)
        view = self._views.get(key)
        state = view.state if view is not None else newest.state
        if newest.line is not None and (newest.state, state) not in _SAME and newest.state is not state:
            unknown[f"the log has no line of how it became {state.word}; its record says that it is"] = None
        return Explanation(
            self.run.id,
            key,
            state.word,
            self.as_of_ms,
            tuple(steps) if newest.line or newest.facts or newest.unknown else (),
            tuple(self._step(it, check) for it in chain),
            waits,
            tuple(self._needs(node, state, newest)),
            tuple(unknown),
        )

    def _step(self, reason: Reason, check: bool) -> Step:
        line, key = reason.line, self.run.keys[reason.node]
        facts = tuple(self._fact(it, reason.node) for it in reason.facts)
        checked = self.explainer.check(reason) if check else None
        if line is None:
            return Step("", 0, key, reason.state, "", 0, "", facts, checked)
        return Step(line.id, line.at_ms, key, reason.state, line.word, line.attempt, line.why, facts, checked)

    def _fact(self, fact: CoreFact, of: int) -> Fact:
        key = self.run.keys[fact.node] if fact.node >= 0 else None
        return Fact(fact.id, key, fact.what, fact.value, fact.path, words_of(fact, key, own=fact.node == of))

    def _needs(self, node: int, state: NodeState, reason: Reason) -> Iterator[str]:
        """What must hold for a node to move on."""
        run_state = self.history.run_state()
        if state >= FIRST_ENDED or run_state in ENDED_RUNS:
            return
        if run_state is RunState.PAUSED and state in (NodeState.READY, NodeState.PENDING):
            line = self.history.lines[self.history.run_line() or 0]
            yield f"the run must be resumed; it is {escaped(line.why, 300)} ({line.id})"
        yield from _NEEDS.get(state, _no_needs)(self, node, reason)

    def _needs_upstream(self, node: int, reason: Reason) -> Iterator[str]:
        rule = self.run.profiles[self.run.profile[node]].rule.name
        stands = {fact.node: fact.value for fact in reason.facts if fact.what == "state"}
        left = [up for up in self.run.upstream(node) if stands.get(up, "") not in _ENDED_WORDS]
        names = [f"{shown(self.run.keys[up], 60)} ({stands.get(up, 'pending')})" for up in left[:SHOWN_NODES]]
        more = f" and {len(left) - SHOWN_NODES} more" if len(left) > SHOWN_NODES else ""
        if left:
            yield f"{rule} must be met: {len(left)} upstream nodes have not ended: {', '.join(names)}{more}"
        else:
            yield "a scheduler must ask its rule"

    def _needs_room(self, node: int, reason: Reason) -> Iterator[str]:
        if reason.waits:
            yield f"{reason.waits[-1].why} ({reason.waits[-1].id})"
        elif self.until_ms is None:
            yield self._views[self.run.keys[node]].why
        else:
            yield "room in its queue class, and a scheduler that sends it"

    def _needs_claim(self, node: int, _reason: Reason) -> Iterator[str]:
        view = self._views.get(self.run.keys[node])
        yield f"a worker must begin attempt {self.run.attempt[node]}" + (f"; {view.why}" if view is not None else "")

    def _needs_end(self, node: int, _reason: Reason) -> Iterator[str]:
        view = self._views.get(self.run.keys[node])
        where = f" on {escaped(view.worker, 200)}" if view is not None and view.worker else ""
        yield f"attempt {self.run.attempt[node]}, which runs{where}, must end"

    def _needs_time(self, _node: int, reason: Reason) -> Iterator[str]:
        """What a waiting node waits for: by the move that made it wait."""
        line = reason.line
        if line is not None:
            yield _WAITING.get(line.word, _waits_on)(line)

    # -- the run --------------------------------------------------------------------------------------

    def whole(self, *, check: bool = False) -> Explanation:
        """Why the run stands where it does: what holds it up, or which nodes made it end so."""
        history, run = self.history, self.run
        number = history.run_line()
        line = None if number is None else history.lines[number]
        state = RunState.RUNNING.value if line is None else line.word
        unknown = []
        if self.until_ms is None and state != run.run_state:
            unknown.append(f"the log has no line of how the run became {run.run_state}; its record says: {run.reason}")
            state = run.run_state.value
        needs = () if state in ENDED_RUNS else self._held_up(state, line)
        steps = [self._step(it, check) for it in islice(self._began(state), MOST_CAUSES)]
        own = () if line is None else (Step(line.id, line.at_ms, "", NodeState.PENDING, line.word, 0, line.why, ()),)
        return Explanation(run.id, None, state, self.as_of_ms, own, tuple(steps), (), tuple(needs), tuple(unknown))

    def _began(self, state: str) -> Iterator[Reason]:
        """Nodes that ended badly by themselves, in an ended run that is not cancelled."""
        if state == RunState.FAILED:
            for node in range(self.run.n):
                if self.history.state(node) is NodeState.FAILED:
                    yield self.explainer.reason(node)

    def _held_up(self, state: str, line: Line | None) -> Iterator[str]:
        """What a run that goes on waits for, most pressing first: one line for each state and cause."""
        if state == RunState.PAUSED and line is not None:
            yield f"the run must be resumed; it is {escaped(line.why, 300)} ({line.id})"
        groups: dict[str, list[int]] = {}
        for node in range(self.run.n):
            view = self._views.get(self.run.keys[node])
            now = view.state if view is not None else self.history.state(node)
            if now < FIRST_ENDED and now is not NodeState.PENDING:
                reason = self.explainer.reason(node) if len(groups) < _MOST_GROUPS else None
                told = next(self._needs(node, now, reason), "") if reason is not None else ""
                if now in (NodeState.DISPATCHED, NodeState.RUNNING):
                    told = ""
                groups.setdefault(f"{now.word}{f': {told}' if told else ''}", []).append(node)
        for told, nodes in groups.items():
            names = ", ".join(shown(self.run.keys[it], 60) for it in nodes[:SHOWN_NODES])
            more = f" and {len(nodes) - SHOWN_NODES} more" if len(nodes) > SHOWN_NODES else ""
            yield f"{len(nodes)} {told} ({names}{more})"
        pending = sum(self.history.state(node) is NodeState.PENDING for node in range(self.run.n)) - len(
            groups.get("", ())
        )
        if pending > 0 and not groups:
            yield f"{pending} pending: a scheduler must ask their rules"

    def differs(self) -> dict[str, str]:
        """Every node's newest decision made again: key -> what differs, of those where something does."""
        found = {}
        for node, key in enumerate(self.run.keys):
            told = self.explainer.check(self.explainer.reason(node))
            if told:
                found[key] = told
        return found


_MOST_GROUPS = 100
_SAME = {(NodeState.DISPATCHED, NodeState.RUNNING)}
"""(As the log says, as shown): a claim is the workers' own record, and no line of the log."""
_ENDED_WORDS = frozenset(state.word for state in NodeState if state >= FIRST_ENDED)


def _no_needs(_reading: Reading, _node: int, _reason: Reason) -> Iterator[str]:
    return iter(())


_NEEDS: dict[NodeState, Callable[[Reading, int, Reason], Iterator[str]]] = {
    NodeState.PENDING: Reading._needs_upstream,
    NodeState.READY: Reading._needs_room,
    NodeState.DISPATCHED: Reading._needs_claim,
    NodeState.RUNNING: Reading._needs_end,
    NodeState.WAITING: Reading._needs_time,
}
"""State -> what a node in it needs."""


def _backoff(line: Line) -> str:
    found = _AGAIN.search(line.why)
    if found is None:
        return _waits_on(line)
    due = datetime.fromtimestamp((line.at_ms + int(found[1])) / 1000, UTC).strftime("%H:%M:%S")
    return f"its next try is due at {due}Z, {found[1]} ms after attempt {line.attempt} failed ({line.id})"


def _waits_on(line: Line) -> str:
    return f"{line.why or line.word} ({line.id})"


_WAITING: dict[str, Callable[[Line], str]] = {"retry": _backoff}
"""Move that made a node wait -> what it waits for. Delays, approvals and the like have their rows here; without one,
the words of the log are told."""
