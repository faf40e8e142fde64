"""Coverage: which branches of a graph's policy did simulations take, and which did none?

    coverage = Coverage(g)
    coverage.simulate({"score": {"value": 0.9}}, default=None)
    coverage.simulate({"score": {"value": 0.1}}, default=None)
    coverage.check()

Counted are: each trigger rule's answers that are possible (start, skip, upstream_failed); each guard true and false;
each guarded edge open and closed; each branch of a choice; who wins a race, or nobody; each stop condition, and a run
without it; each rung of a declared retry policy, and when none is left; how each wait ends; each limit of time that
passes. With a policy also what it sets, and each of its safety checks letting pass and denying. What is decided by
nobody's policy, such as the default retries, is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..core.run import Run
from ..core.states import ENDED_RUNS
from ..errors import InvalidValue, shown
from ..graph import Graph
from .branches import Branch, branches_of, not_stopped, of_checks, taken
from .errors import NotCovered, Stuck
from .governing import Governing
from .playing import RUN_ID
from .simulate import simulate
from .simulation import Simulation


class Coverage:
    """The branches of one graph, and how often they were taken.

    Args:
        graph: as it is simulated; one that is changed afterwards is another graph.
        policy: the document of a policy; every simulation takes it up that names no other.

    Raises:
        GraphError: the graph cannot be run.
    """

    def __init__(self, graph: Graph, policy: Mapping[str, Any] | None = None) -> None:
        self._graph = graph
        self._policy = policy
        compiled = graph.compile()
        self._hash = compiled.hash
        self._run = Run.load(RUN_ID, compiled.header, compiled.pages(), created_at_ms=0)
        asked = []
        if policy is not None:
            governing = Governing(policy, self._run, {})
            self._run.take_policy(governing.adopted.policy)
            asked = list(governing.branches)
        self._words = branches_of(self._run) | of_checks(asked)
        self._taken: Counter[Branch] = Counter()
        self._runs = 0

    def simulate(self, outcomes: Mapping[str, Any] | None = None, **options: Any) -> Simulation:
        """Run the graph as `simulate` does, with the same arguments, and count what it did; also when it got stuck."""
        try:
            return self.add(simulate(self._graph, outcomes, **{"policy": self._policy, **options}))
        except Stuck as stuck:
            self.add(stuck.simulation)
            raise

    def add(self, played: Simulation) -> Simulation:
        """Count the branches that a simulation took, and hand it back.

        Raises:
            InvalidValue: it is one of another graph.
        """
        if played.graph != self._hash:
            raise InvalidValue("simulation", played.graph, "is the hash of another graph", f"Wanted {self._hash}.")
        self._runs += 1
        for it in played.decided:
            self._taken.update(set(taken(self._run, it)))
        self._taken.update({Branch("check", -1, " ".join(it)) for it in played.asked})
        if played.state in ENDED_RUNS and not any(it.decision.stopped for it in played.decided):
            self._taken.update(not_stopped(self._run))
        return played

    @property
    def branches(self) -> dict[str, int]:
        """Every branch in words -> how many decisions took it, in the order of the graph."""
        return {words: self._taken[branch] for branch, words in self._words.items()}

    def missing(self, but: Iterable[str] = ()) -> list[str]:
        """The branches that no simulation took, in words that name the node and the expression or policy.

        Args:
            but: those that need not be taken, as words or patterns with * for any text: what values never let happen.

        Raises:
            InvalidValue: a pattern that fits no branch.
        """
        left = dict(self._words)
        for pattern in but:
            fitting = [
                branch for branch, words in self._words.items() if words == pattern or fnmatchcase(words, pattern)
            ]
            if not fitting:
                raise InvalidValue("but", pattern, "fits no branch", "See Coverage.report() for their words.")
            for branch in fitting:
                left.pop(branch, None)
        return [words for branch, words in left.items() if not self._taken[branch]]

    def check(self, but: Iterable[str] = ()) -> None:
        """Fail unless every branch was taken.

        Args:
            but: as for `missing`.

        Raises:
            NotCovered: an AssertionError that lists those that were not.
        """
        missing = self.missing(but)
        if missing:
            raise NotCovered(self._graph.name, missing, len(self._words))

    def report(self) -> str:
        """All branches with their counts, as text for people."""
        found = self.branches
        took = sum(bool(count) for count in found.values())
        runs = f"{self._runs} run{'' if self._runs == 1 else 's'}"
        head = f"graph {shown(self._graph.name)}: {took} of {len(found)} branches taken in {runs}"
        return "\n".join(
            [head, *(f"{f'{count}x' if count else 'never':>7}  {words}" for words, count in found.items())]
        )
