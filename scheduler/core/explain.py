"""Why does a node stand where it stands? The facts that the decision rested on, from the log and the records alone.

Pure. A `Reason` is one decision: the line of the log that made it, and the facts (facts.py) that it needs, each with
the id of the record it stands in. They are no more than it needs: take one away, and the core decides otherwise or not
at all. Where the log has lost what one would have to cite, the reason says so in `unknown`; nothing is made up.

`chain` follows what passed a node over upstream to the node that began it. `check` makes the decision again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .facts import STATES, Fact, laid, redo, same, true
from .grounds import Grounds
from .history import History, Line
from .readings import SEEN, FactsOf, Readings
from .rules import Answer
from .run import COUNTED_AS, Run
from .states import FIRST_ENDED, MoveKind, NodeState, RunState

_PASSED_OVER = ("skip", "upstream_fail")
_RULED = frozenset({"ready", "skip", "upstream_fail", "decide", "refuse", "park"})
"""Moves that rules and guards decide, unless somebody asked for them."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node stands where it does.

    Attributes:
        node: its number.
        state: where it stands.
        at: where the line stands in the history; None for a node that has not moved.
        line: that brought it there; None when it has not moved, or when the log does not have it any more.
        facts: what that rests on.
        waits: notes of why it waited until then, or waits.
        unknown: what the log does not tell any more, in words.
        cause: the upstream node for whose sake it was passed over, or -1.
    """

    node: int
    state: NodeState
    at: int | None
    line: Line | None
    facts: tuple[Fact, ...] = ()
    waits: tuple[Line, ...] = ()
    unknown: tuple[str, ...] = ()
    cause: int = -1


class Explainer:
    """Explains nodes of one run.

    Args:
        run: the graph, with the records of its nodes as they stand now.
        history: the log, perhaps up to an instant only.
        facts_of: what expressions read of stored outputs and errors.
    """

    def __init__(self, run: Run, history: History, facts_of: FactsOf) -> None:
        self.run = run
        self.history = history
        self._readings = Readings(run, history, facts_of)
        self._grounds = Grounds(run, history)
        self._gaps = frozenset(history.gaps(run))
        self._checked_stops: dict[str, bool] = {}

    def reason(self, node: int, before: int | None = None) -> Reason:
        """Why a node stands where it does, or stood before a line."""
        history = self.history
        at = history.last(node, before)
        if at is None:
            return self._unmoved(node, before)
        line = history.lines[at]
        over = None if line.state < FIRST_ENDED and before is None else at
        found = Reason(node, line.state, at, line, waits=self._waits(node, at, over))
        if line.word in _RULED and not self._is_asked(at):
            return self._stopped(found) if line.why.startswith("stopped: ") else self._ruled(found)
        facts, unknown = self._grounds.facts_for(line, at)
        return replace(found, facts=tuple(self._fewest(line, [], list(facts))), unknown=(*self._gap(node), *unknown))

    def chain(self, reason: Reason) -> list[Reason]:
        """The reasons of those for whose sake a node was passed over, upstream to the one that began it."""
        found: list[Reason] = []
        seen = {reason.node}
        while reason.cause >= 0 and reason.cause not in seen:
            reason = self.reason(reason.cause, reason.at)
            seen.add(reason.node)
            found.append(reason)
        return found

    def _unmoved(self, node: int, before: int | None) -> Reason:
        """A node of which the log has no move: pending, unless it is the log that has lost it."""
        state = NodeState(self.run.state[node])
        if state is not NodeState.PENDING and before is None and self.history.until_ms is None:
            told = f"the log has no line of how it became {state.word}; its record says that it is"
            return Reason(node, state, None, None, (Fact(f"node {node}", node, "state", state.word),), unknown=(told,))
        unknown: tuple[str, ...] = ()
        if self._gaps and before is None:
            unknown = ("the oldest lines of the log are gone; whether it had moved by then is not known",)
        return Reason(node, NodeState.PENDING, None, None, tuple(self._upstream_facts(node)), unknown=unknown)

    def _upstream_facts(self, node: int) -> Iterator[Fact]:
        """Where the upstream nodes of a pending node stand."""
        for up in self.run.upstream(node):
            at = self.history.last(up)
            if at is not None:
                yield Fact(self.history.lines[at].id, up, "state", self.history.lines[at].state.word)
            else:
                state = NodeState.PENDING if self.history.until_ms else NodeState(self.run.state[up])
                yield Fact(f"node {up}", up, "state", state.word)

    def _waits(self, node: int, at: int, over: int | None) -> tuple[Line, ...]:
        """Why a node waited since it was ready last: notes, and pauses of the run up to the instant it was sent."""
        history, sent, begun = self.history, over, at
        for number in reversed(history.moves(node, at + 1)):
            word = history.lines[number].word
            if word == "dispatch":
                sent = number
            elif word in ("ready", "wake", "lose"):
                begun = number
                break
        found = {it.id: it for it in history.waits(node, begun, over)}
        if history.lines[begun].state is NodeState.READY:
            found |= {it.id: it for it in history.pauses(begun, sent)}
        return tuple(sorted(found.values(), key=lambda it: [int(part) for part in re.split("[-.]", it.id)]))

    def _gap(self, node: int) -> tuple[str, ...]:
        return ("the oldest lines of the log are gone, earlier ones of this node among them",) * (node in self._gaps)

    def _is_asked(self, at: int) -> bool:
        """Whether a line's decision answers what somebody asked for and not an end upstream."""
        told = self.history.lines[at].told
        return told is not None and told.get("event") not in (None, "Opened", "Reported", "LeaseExpired")

    def _ruled(self, reason: Reason) -> Reason:
        """The rule of a node was asked, and perhaps its guard: the ends it rests on and the values that it read."""
        line, at = reason.line, reason.at
        assert line is not None  # noqa: S101  the caller has it
        assert at is not None  # noqa: S101  the same
        ends, unknown = self._readings.ends(line, at)
        cause = line.cause if line.word in _PASSED_OVER else -1
        kept = self._readings.needed(line, ends)
        for start in (at, self._readings.trigger(at) + 1):
            reads, missing = self._readings.reads(line, start)
            facts = [*kept, *reads]
            if same(line, redo(self.run, line, facts)):
                facts = [*kept, *self._fewest(line, kept, reads)]
                break
        return replace(reason, facts=tuple(facts), unknown=(*self._gap(line.node), *unknown, *missing), cause=cause)

    def _fewest(self, line: Line, kept: list[Fact], facts: list[Fact]) -> list[Fact]:
        """As few of some facts as the decision comes out the same for."""
        if not same(line, redo(self.run, line, [*kept, *facts])):
            return facts
        for fact in list(facts):
            fewer = [it for it in facts if it is not fact]
            if same(line, redo(self.run, line, [*kept, *fewer])):
                facts = fewer
        return facts

    def _stopped(self, reason: Reason) -> Reason:
        """The run stopped by a condition: the values that made it true."""
        line, at = reason.line, reason.at
        assert line is not None  # noqa: S101  the caller has it
        assert at is not None  # noqa: S101  the same
        guards = self.run.guards
        stops = () if guards is None else guards.stops
        asked = next((it.when for it in stops if it.when.text[:100] in line.why), None)
        if asked is None:
            return replace(reason, unknown=("which condition of the graph stopped the run is not told",))
        facts = self._readings.values([asked], at)
        return replace(reason, facts=tuple(facts), unknown=tuple(self._readings.lacking([asked], at)))

    def check(self, reason: Reason) -> str:
        """Make the decision again of the facts that are cited: "" when it comes out the same, else what differs."""
        line = reason.line
        if line is None:
            return self._check_unmoved(reason)
        if reason.unknown:
            return ""
        if line.why.startswith("stopped: "):
            if line.why not in self._checked_stops:
                self._checked_stops[line.why] = self._stops(reason)
            return "" if self._checked_stops[line.why] else "no stop condition is true for the cited values"
        move = redo(self.run, line, reason.facts)
        if same(line, move):
            return self._check_counts(reason)
        came = "nothing" if move is None else f"{MoveKind(move.kind).word}: {move.why}"
        return f"the log says {line.word}: {line.why}; of the cited facts comes {came}"

    def _check_unmoved(self, reason: Reason) -> str:
        """A pending node must still have to wait, for what its upstream nodes came to. Its rule alone is asked."""
        if reason.state is not NodeState.PENDING or reason.unknown:
            return ""
        if self.history.run_state() not in (RunState.RUNNING, RunState.PAUSED):
            return ""
        counts = [0, 0, 0, 0]
        for fact in reason.facts:
            shut = reason.node in self.run.closed.get(fact.node, ())
            state = STATES[fact.value]
            if state >= FIRST_ENDED:
                counts[3 if shut else COUNTED_AS[state]] += 1
        rule, n = self.run.profiles[self.run.profile[reason.node]].rule, len(self.run.upstream(reason.node))
        answer = rule.answer(n, *counts) if n else Answer.START
        return (
            "" if answer is Answer.WAIT else f"{rule.name} answers {answer.name} for {counts}, and the log has no move"
        )

    def _check_counts(self, reason: Reason) -> str:
        """The ends that the log tells of must be those that the rule is said to have counted."""
        line, at = reason.line, reason.at
        if line is None or at is None or (seen := SEEN.match(line.why)) is None:
            return ""
        rule = self.run.profiles[self.run.profile[line.node]].rule
        counted = [0, 0, 0, 0]
        for place, _, _ in self._readings.ends(line, at)[0]:
            counted[place] += 1
        said = f"{rule.name} {','.join(map(str, counted))} of {len(self.run.upstream(line.node))}"
        return "" if line.why.startswith(said) else f"the log says {seen[0]!r}, and its ends upstream are {said!r}"

    def _stops(self, reason: Reason) -> bool:
        """Whether a stop condition of the graph is true for the cited values."""
        guards = self.run.guards
        stage = laid(self.run, reason.facts)
        return guards is not None and any(true(stage, it.when) for it in guards.stops)
