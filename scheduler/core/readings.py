"""What rules, guards, choices and stop conditions rested on: ends counted, edges closed, values read.

Pure; for explain.py. Ends come from the log. A value comes from what the log tells of the report that brought it, else
from the store, as long as the node has not run again since; then it is gone, and `lacking` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from .events import Reported
from .expressions import Expression
from .facts import EDGE, Fact, laid, true
from .guards import Facts
from .history import History, Line
from .recorded import event_of
from .rules import Answer
from .run import COUNTED_AS, Run
from .states import FIRST_ENDED, NodeState

FactsOf = Callable[[int], Facts]
"""What expressions may read of the output or error that the store has of a node now."""
SEEN = re.compile(r"\S+ ([0-9]+),([0-9]+),([0-9]+),([0-9]+) of ([0-9]+)")
"""What a rule is said to have counted."""
TRIGGERS = frozenset(
    {
        "dispatch",
        "succeed",
        "fail",
        "retry",
        "lose",
        "wake",
        "reopen",
        "hand_over",
        "resolve",
        "expire",
        "complete",
        "ask",
    }
)
"""Moves that begin a decision."""
_VALUED = (NodeState.SUCCEEDED, NodeState.FAILED)

End = tuple[int, Fact, Fact | None]
"""Which of a rule's four counts an end raised, the end, and the closed edge."""


class Readings:
    """What was read of one run.

    Args:
        run, history, facts_of: as for Explainer.
    """

    def __init__(self, run: Run, history: History, facts_of: FactsOf) -> None:
        self.run = run
        self.history = history
        self._facts_of = facts_of

    def ends(self, line: Line, at: int) -> tuple[list[End], list[str]]:
        """The ends upstream that the rule counted: (which of its four counts, state, closed edge)."""
        run, history, node = self.run, self.history, line.node
        found: list[End] = []
        for end in history.ends(run, node, at):
            one = history.lines[end]
            shut = self._shut(line, one, end)
            place = 3 if shut is not None else COUNTED_AS[one.state]
            found.append((place, Fact(one.id, one.node, "state", one.state.word), shut))
        seen = SEEN.match(line.why)
        if seen is None:
            return found, []
        counted = [int(it) for it in seen.groups()[:4]]
        kept, left = [], list(counted)
        for place, fact, shut in found:
            if left[place] > 0:
                left[place] -= 1
                kept.append((place, fact, shut))
        if sum(left):
            return kept, [f"the rule saw {sum(left)} more ends upstream than the log tells of"]
        return kept, []

    def _shut(self, line: Line, end: Line, at: int) -> Fact | None:
        """The closed edge from an upstream node that has succeeded, as its record has it; or as the line says."""
        guards = self.run.guards
        if guards is None or end.state is not NodeState.SUCCEEDED or line.node not in guards.gates.get(end.node, {}):
            return None
        newest = self._is_now(end, at)
        if line.node in self.run.closed.get(end.node, ()) if newest else self._was_shut(line, end, at):
            return Fact(f"node {end.node}" if newest else end.id, end.node, "closed", True)
        return None

    def _is_now(self, line: Line, at: int) -> bool:
        """Whether the records tell of the same epoch of a node as one of its lines."""
        opened = sum(self.history.lines[it].word == "reopen" for it in self.history.moves(line.node))
        same_epoch = self.run.epoch[line.node] == 1 + opened
        return same_epoch and self.history.last(line.node) == at and self.run.state[line.node] == line.state

    def _was_shut(self, line: Line, end: Line, at: int) -> bool:
        """The same for an epoch that is over: the gate is asked again for what the log tells of its values."""
        assert self.run.guards is not None  # noqa: S101  the caller has asked
        gate = self.run.guards.gates[end.node][line.node]
        if gate.branch is not None:
            return _branch(end, self._branches(end.node)) != gate.branch
        stage = laid(self.run, self.values([gate.when] if gate.when else [], at + 1))
        return gate.when is not None and true(stage, gate.when) is False

    def needed(self, line: Line, ends: Sequence[End]) -> list[Fact]:
        """As few ends as the rule answers the same for; the cause is let go last. O(ends) for each pass."""
        if line.why.startswith(EDGE):
            return [fact for _, fact, _ in ends if fact.node == line.cause]
        rule = self.run.profiles[self.run.profile[line.node]].rule
        n = len(self.run.upstream(line.node))
        counts = [0, 0, 0, 0]
        for place, _, _ in ends:
            counts[place] += 1
        answer = rule.answer(n, *counts) if n else Answer.START
        kept = sorted(ends, key=lambda it: it[1].node == line.cause)
        while True:
            left = []
            for one in kept:
                counts[one[0]] -= 1
                if n and rule.answer(n, *counts) is not answer:
                    counts[one[0]] += 1
                    left.append(one)
            if len(left) == len(kept):
                break
            kept = left
        found = []
        for _, state, shut in kept:
            found.append(state)
            if shut is not None:
                opened = [counts[0] + 1, counts[1], counts[2], counts[3] - 1]
                if rule.answer(n, *opened) is answer:
                    counts = opened  # it would answer the same were the edge open
                else:
                    found.append(shut)
        return found

    def reads(self, line: Line, before: int) -> tuple[list[Fact], list[str]]:
        """What the expressions of a node may have read, as it was before a line."""
        guards = self.run.guards
        if guards is None:
            return [], []
        asked: list[Expression] = []
        if line.why.startswith(EDGE):
            gate = guards.gates[line.cause][line.node]
            asked = [gate.when] if gate.when is not None else []
        elif line.word != "upstream_fail" and not (line.word == "skip" and "; when: " not in line.why):
            asked = [guards.when[line.node]] if line.node in guards.when else []
            if (choice := guards.choices.get(line.node)) is not None:
                asked += [when for _, when in choice.branches]
        return [*self.values(asked, before), *self._signal(line, before)], self.lacking(asked, before)

    def _signal(self, line: Line, before: int) -> Iterator[Fact]:
        """The signal that was kept for a node and that it took when it came to wait: those of one name go in turn."""
        waits = {} if self.run.guards is None else self.run.guards.waits
        if line.word != "decide" or line.node not in waits:
            return
        name, lines = waits[line.node].name, self.history.lines[:before]
        taken = sum(it.word == "decide" and it.node in waits and waits[it.node].name == name for it in lines)
        kept = [it for it in lines if it.word == "signal" and (it.told or {}).get("name") == name]
        if taken < len(kept):
            yield Fact(kept[taken].id, -1, "signal", dict(kept[taken].told or {}))

    def values(self, asked: Sequence[Expression], before: int) -> list[Fact]:
        """The values behind the reads of some expressions."""
        assert self.run.guards is not None or not asked  # noqa: S101  expressions are part of guards
        found: list[Fact] = []
        for read in dict.fromkeys(read for it in asked for read in it.reads):
            node = self.run.guards.index[read.node]  # type: ignore[union-attr]
            at = self.history.last(node, before)
            if at is None:
                continue
            line = self.history.lines[at]
            if read.what == "state":
                found.append(Fact(line.id, node, "stood", line.state.word))
            elif read.what == "attempts":
                found.append(Fact(line.id, node, "attempts", line.attempt + (line.word == "lose")))
            elif line.state >= FIRST_ENDED:
                known = self._known(line, at) or {}
                wanted = (read.what, read.path)
                if wanted in known:
                    found.append(Fact(line.id, node, read.what, known[wanted], read.path))
                elif (stood := Fact(line.id, node, "stood", line.state.word)) not in found:
                    found.append(stood)
        return found

    def _branches(self, node: int) -> list[str]:
        """The names of a choice's branches."""
        assert self.run.guards is not None  # noqa: S101  a choice is one of them
        choice = self.run.guards.choices[node]
        return [*(name for name, _ in choice.branches), choice.otherwise]

    def lacking(self, asked: Sequence[Expression], before: int) -> list[str]:
        """Nodes of which a value was read that is gone."""
        found = []
        for read in dict.fromkeys(read for it in asked for read in it.reads if read.what in ("output", "error")):
            node = self.run.guards.index[read.node]  # type: ignore[union-attr]
            at = self.history.last(node, before)
            if (
                at is not None
                and self.history.lines[at].state in _VALUED
                and self._known(self.history.lines[at], at) is None
            ):
                found.append(f"the {read.what} of {read.node!r} that was read then is not stored any more")
        return found

    def _known(self, line: Line, at: int) -> Facts | None:
        """What expressions read of a node's end: as the log tells it, else as the store has it, unless it ran again."""
        guards = self.run.guards
        assert guards is not None  # noqa: S101  only expressions ask
        told = line.told
        if told is not None and line.word == "succeed" and "facts" in told:
            event = event_of(told)
            return event.facts if isinstance(event, Reported) else None
        if self._is_now(line, at):
            return self._facts_of(line.node)
        if line.word == "decide":
            return guards.facts(line.node, "output", {"branch": _branch(line, self._branches(line.node))})
        if told is not None and told.get("error"):
            return guards.facts(line.node, "error", told["error"])
        return None if line.state in _VALUED else {}

    def trigger(self, at: int) -> int:
        """Where the move stands that a line followed from, as far as lines tell."""
        lines = self.history.lines
        for number in range(at, -1, -1):
            if lines[number].word in TRIGGERS or lines[number].is_of_run:
                return number
        return -1


def _branch(line: Line, names: Sequence[str]) -> str:
    """The branch that a choice took, by its line; of names that begin alike the longest that fits."""
    fits = [name for name in names if f"; branch {name};" in line.why or f"; branch {name}, as no other" in line.why]
    return max(fits, key=len, default="")
