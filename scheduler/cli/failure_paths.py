"""Which nodes of a graph have no path for the case that they fail. Pure, on the shape of a compiled graph.

A path is stated by the node's own ladder (another executor, a person), by a node right after it whose trigger rule lets
it run although this one failed, or by an expression that reads its state or its error. Where nothing is stated the
default holds: it is tried as often as its policy says, then what waits for it ends upstream_failed, and the run fails.
"""

from __future__ import annotations

from itertools import chain

from ..core.ladder import ESCALATE, OTHER
from ..core.rules import Answer
from ..core.run import Run

DEFAULT = "tried as often as their policy says; then what waits for them ends upstream_failed and the run fails"


def nodes_that_may_fail(shape: Run) -> list[int]:
    """Work, and waits that fail when nothing comes in time; choices and races decide, which their expressions say."""
    waits = {} if shape.guards is None else shape.guards.waits
    return [
        node
        for node in range(shape.n)
        if shape.profiles[shape.profile[node]].executor
        or (node in waits and waits[node].within_ms is not None and waits[node].default is None)
    ]


def without_path(shape: Run) -> list[int]:
    """Nodes that may fail and for which nothing is stated, in order. O(nodes + edges)."""
    watched = _watched(shape)
    found = []
    for node in nodes_that_may_fail(shape):
        steps = {it.step for it in shape.profiles[shape.profile[node]].steps}
        if steps & {OTHER, ESCALATE} or shape.keys[node] in watched:
            continue
        if not any(_runs_all_the_same(shape, child) for child in shape.downstream(node)):
            found.append(node)
    return found


def _runs_all_the_same(shape: Run, node: int) -> bool:
    """Whether a node starts when one of those before it fails and the others succeed, or when all of them fail."""
    n = len(shape.upstream(node))
    answer = shape.profiles[shape.profile[node]].rule.answer
    return Answer.START in (answer(n, n - 1, 1, 0, 0), answer(n, 0, n, 0, 0))


def _watched(shape: Run) -> set[str]:
    """Keys of nodes whose state or error some expression reads."""
    guards = shape.guards
    if guards is None:
        return set()
    gates = (gate.when for gates in guards.gates.values() for gate in gates.values() if gate.when is not None)
    branches = (when for choice in guards.choices.values() for _, when in choice.branches)
    expressions = chain(guards.when.values(), gates, branches, (stop.when for stop in guards.stops))
    return {read.node for it in expressions for read in it.reads if read.what in ("state", "error")}
