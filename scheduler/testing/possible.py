"""Which answers of a node's trigger rule are possible in its graph, and which are not, however its upstream nodes end?

Pure. A node may end succeeded, failed, upstream_failed or skipped, as far as anything in the graph can bring that
about; the rules themselves are asked (core/rules.py) with every combination of counts that these ends allow. Ends are
taken to be independent of each other, so what two nodes can never bring about together may be called possible.
Expressions that have no value are faults and no policy, so a choice does not fail here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..core.guards import Guards
from ..core.rules import Answer, Rule
from ..core.run import Run

SUCCEEDED, FAILED, UPSTREAM_FAILED, SKIPPED = "s", "f", "u", "k"
Ends = frozenset[str]
"""Some of the four."""


def answers_of(run: Run) -> list[frozenset[Answer]]:
    """For each node the answers that its rule may give. O(edges), and its in-edges for each number of successes."""
    guards = run.guards or Guards()
    withdrawn = {it for race in guards.races.values() for it in race}
    ends: list[Ends] = []
    found = []
    for node in range(run.n):  # upstream nodes first
        upstream = [_over_edge(ends[up], guards, up, node) for up in run.upstream(node)]
        rule = run.profiles[run.profile[node]].rule
        answers = frozenset(_answers(rule, upstream)) if upstream else frozenset({Answer.START})
        found.append(answers)
        ends.append(_ends(run, guards, node, answers, withdrawn=node in withdrawn))
    return found


def _over_edge(ends: Ends, guards: Guards, up: int, node: int) -> Ends:
    """What a node may count of an upstream node: one that has succeeded over a closed edge counts as skipped."""
    gated = SUCCEEDED in ends and node in guards.gates.get(up, {})
    return ends | {SKIPPED} if gated else ends


def _ends(run: Run, guards: Guards, node: int, answers: frozenset[Answer], *, withdrawn: bool) -> Ends:
    """How a node may end."""
    found = set()
    if Answer.START in answers:
        found.add(SUCCEEDED)
        if may_fail(run, guards, node):
            found.add(FAILED)
        if node in guards.when:
            found.add(SKIPPED)
    if Answer.SKIP in answers:
        found.add(SKIPPED)
    if Answer.UPSTREAM_FAIL in answers or withdrawn:
        found.add(UPSTREAM_FAILED)
    return frozenset(found)


def may_fail(run: Run, guards: Guards, node: int) -> bool:
    """Whether a node that has begun may fail: work may, and a wait that is over in time and has no default."""
    if run.profiles[run.profile[node]].executor:
        return True
    wait = guards.waits.get(node)
    return wait is not None and wait.within_ms is not None and wait.default is None


def _answers(rule: Rule, upstream: Sequence[Ends]) -> Iterator[Answer]:
    for counts in _counts(upstream):
        answer = rule.answer(len(upstream), *counts)
        if answer is not Answer.WAIT:
            yield answer


def _counts(upstream: Sequence[Ends]) -> Iterable[tuple[int, int, int, int]]:
    """Counts that upstream nodes may come to once all have ended: (s, f, u, k).

    Rules ask how many succeeded, and of the others only whether there are any; so for each set of other ends that
    occurs the possible numbers of successes are kept, as the bits of one integer.
    """
    reached: dict[Ends, int] = {frozenset(): 1}
    for ends in upstream:
        after: dict[Ends, int] = {}
        for seen, successes in reached.items():
            for end in ends:
                key, mask = (seen, successes << 1) if end == SUCCEEDED else (seen | {end}, successes)
                after[key] = after.get(key, 0) | mask
        reached = after
    for seen, successes in reached.items():
        for s in range(successes.bit_length()):
            if successes >> s & 1:
                others = dict.fromkeys(seen, 1)
                for first in sorted(seen)[:1]:
                    others[first] += len(upstream) - s - len(seen)
                yield s, others.get(FAILED, 0), others.get(UPSTREAM_FAILED, 0), others.get(SKIPPED, 0)
