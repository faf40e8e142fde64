"""What has a say beside trigger rules: guards of nodes and edges, choices, stop conditions, waits, limits of time.

Pure. A run without any of them has none of this (`Run.guards` is None) and pays nothing for it. Expressions see
facts: the parts of outputs and error records that some expression reads, taken out when a node ends and read from the
store again when the run is loaded; and the states of nodes, as they are when a decision is made.

A gate is the guard of one edge: closed, the edge counts as skipped for the node downstream. Which gates were closed
when their upstream node ended is kept in that node's record, for it is a decision and not a fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .expressions import EvaluationError, Expression, Missing, Read, evaluated, follow, parse, worded
from .states import FIRST_ENDED, NodeState, RunState
from .waits import Wait

if TYPE_CHECKING:
    from .events import Decision
    from .run import Run

Path = tuple[str | int, ...]
Facts = dict[tuple[str, Path], Any]
"""What expressions may see of an ended node: ("output" or "error", path) -> value; what is not there is left out."""

_parsed = lru_cache(2_000)(parse)
"""Runs of one graph share its expressions, which never change."""
GUARD_FAILED = "ExpressionFailed"
"""Type of the error of a node whose guard, gate or choice had no value."""


class Gate(NamedTuple):
    """The guard of one edge: an expression, or the branch that a choice must have taken."""

    when: Expression | None
    branch: str | None


class Choice(NamedTuple):
    """A node that chooses: the first branch whose expression is true, else the last one.

    Attributes:
        branches: (name, expression), in order.
        otherwise: name of the branch that is taken when none is true.
    """

    branches: tuple[tuple[str, Expression], ...]
    otherwise: str


class Stop(NamedTuple):
    """A condition that ends the run: what has not begun is skipped, what runs ends by itself.

    Attributes:
        outcome: how the run ends then.
        reason: in the words of the graph; "" for none.
    """

    when: Expression
    outcome: RunState
    reason: str


@dataclass(slots=True)
class Guards:
    """The expressions and waits of a graph, by the numbers of its nodes.

    Attributes:
        when: node -> its guard.
        gates: upstream node -> downstream node -> the guard of that edge.
        choices: nodes that are no work but a decision.
        stops: conditions that end the run, the first one that is true counts.
        waits: nodes that wait without a worker, before their work, after it, or instead of it.
        races: nodes that are a race -> their members.
        timed: nodes that may have timers to be forgotten when they end.
        asks: some retry ladder ends at a person.
        wanted: node -> which parts of its output and error some expression reads.
        index: key -> number, of the nodes that expressions read.
    """

    when: dict[int, Expression] = field(default_factory=dict)
    gates: dict[int, dict[int, Gate]] = field(default_factory=dict)
    choices: dict[int, Choice] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    waits: dict[int, Wait] = field(default_factory=dict)
    races: dict[int, tuple[int, ...]] = field(default_factory=dict)
    timed: set[int] = field(default_factory=set)
    asks: bool = False
    wanted: dict[int, set[tuple[str, Path]]] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_records(
        cls, pages: Iterable[Mapping[str, Any]], stops: Iterable[Mapping[str, Any]], keys: list[str]
    ) -> Guards:
        """The guards of a compiled graph.

        Args:
            pages: the fields "when", "gates", "choices", "waits" and "races" of its pages.
            stops: the field "stops" of its header.
            keys: node -> key.
        """
        texts: dict[str, Expression] = {}

        def read(text: str) -> Expression:
            return texts.setdefault(text, _parsed(text))

        it = cls()
        for page in pages:
            for node, text in page.get("when", {}).items():
                it.when[int(node)] = read(text)
            for node, gates in page.get("gates", {}).items():
                for upstream, text, branch in gates:
                    gate = Gate(None if text is None else read(text), branch)
                    it.gates.setdefault(upstream, {})[int(node)] = gate
            for node, (branches, otherwise) in page.get("choices", {}).items():
                it.choices[int(node)] = Choice(tuple((name, read(text)) for name, text in branches), otherwise)
            for node, record in page.get("waits", {}).items():
                it.waits[int(node)] = Wait.from_record(record)
            for node, members in page.get("races", {}).items():
                it.races[int(node)] = tuple(members)
        it.timed.update(it.waits)
        for stop in stops:
            it.stops.append(Stop(read(stop["when"]), RunState(stop["outcome"]), stop.get("reason", "")))
        it._know(texts.values(), keys)
        return it

    def _know(self, expressions: Iterable[Expression], keys: list[str]) -> None:
        """Which nodes are read, and what of them."""
        reads = {one for expression in expressions for one in expression.reads}
        named = {one.node for one in reads}
        self.index = {key: node for node, key in enumerate(keys) if key in named}
        for one in reads:
            if one.what in ("output", "error"):
                self.wanted.setdefault(self.index[one.node], set()).add((one.what, one.path))

    def facts(self, node: int, what: str, value: Any) -> Facts:
        """What expressions read of an output or error record."""
        found: Facts = {}
        for wanted, path in self.wanted.get(node, ()):
            if wanted == what:
                try:
                    found[what, path] = follow(value, path)
                except Missing:
                    continue
        return found


class Sight:
    """What expressions see while one decision is made: the run, and what the decision has brought so far.

    Args:
        run: as it stands.
        guards: of the run.
        decision: in the making; facts and closed gates are noted in it.
        now: ms since 1970, by Redis.
    """

    def __init__(self, run: Run, guards: Guards, decision: Decision, now: int) -> None:
        self.guards = guards
        self.now = now
        self.run = run
        self._decision = decision
        self._states: dict[int, int] = {}

    @classmethod
    def of(cls, run: Run, decision: Decision, now: int) -> Sight | None:
        """None for a run without expressions, waits and limits of time."""
        return None if run.guards is None else cls(run, run.guards, decision, now)

    def moved(self, node: int, state: int) -> None:
        """A node has moved in this decision."""
        self._states[node] = state

    def state(self, node: int) -> int:
        """Where a node stands, with the moves of this decision."""
        return self._states.get(node, self.run.state[node])

    def error(self, node: int, error: Mapping[str, Any] | None) -> None:
        """A node fails in this decision; its error record is a fact."""
        if node in self.guards.wanted:
            self._decision.facts[node] = self.guards.facts(node, "error", dict(error or {}))

    def _look(self, read: Read) -> Any:
        node = self.guards.index[read.node]
        state = self.state(node)
        if read.what == "state":
            return NodeState(state).word
        if read.what == "attempts":
            return self.run.attempt[node]
        if state < FIRST_ENDED:
            raise Missing(0, f"nothing yet, for the node is {NodeState(state).word}")
        facts = self._decision.facts.get(node) or self.run.facts.get(node, {})
        wanted = (read.what, read.path)
        if wanted in facts:
            return facts[wanted]
        if read.what == "error" and state != NodeState.FAILED and not read.path:
            return None
        raise Missing

    def value(self, expression: Expression) -> tuple[bool, str]:
        """Whether a condition is true, and the words for it.

        Raises:
            EvaluationError: it has no value, or one that is neither true nor false.
        """
        found, seen = evaluated(expression, self._look)
        if type(found) is not bool:
            raise EvaluationError(expression.text, "type", f"is {found!r:.80}, neither true nor false", seen)
        return found, worded(expression, found, seen)

    def chosen(self, choice: Choice) -> tuple[str, str]:
        """The branch that a choice takes, and why: what was looked at, in order.

        Raises:
            EvaluationError: a branch that was to be looked at has no value.
        """
        looked = []
        for name, expression in choice.branches:
            true, why = self.value(expression)
            looked.append(f"{name}: {why}")
            if true:
                return name, f"branch {name}; {'; '.join(looked)}"
        return choice.otherwise, f"branch {choice.otherwise}, as no other is open; {'; '.join(looked)}"

    def closed(self, node: int, branch: str | None = None) -> tuple[dict[int, str], dict[int, EvaluationError]]:
        """Gates of a node that has succeeded: those that are closed with the reason, and those that have no value.

        Args:
            branch: that it has taken, when it is a choice.
        """
        shut: dict[int, str] = {}
        broken: dict[int, EvaluationError] = {}
        for child, gate in self.guards.gates.get(node, {}).items():
            if gate.branch is not None and gate.branch != branch:
                shut[child] = f"branch {branch} was taken, not {gate.branch}"
                continue
            if gate.when is None:
                continue
            try:
                true, why = self.value(gate.when)
            except EvaluationError as failed:
                broken[child] = failed
                continue
            if not true:
                shut[child] = why
        return shut, broken
