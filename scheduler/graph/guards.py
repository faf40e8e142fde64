"""Do a graph's expressions fit it? And what the compiled graph holds of them.

Pure. For compile.py, and only for graphs that have expressions. A guard or a choice waits for the nodes that it reads:
each becomes an upstream node unless it is an ancestor already by inputs and `after`. A read of a node's `state` waits
for nobody: it sees the state at the moment of the decision, which is what a milestone is. The guard of an edge is asked
when the edge's upstream node has succeeded, so it can read that node and its ancestors only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..core.expressions import Expression, check
from ..errors import ExpressionError, InvalidValue, NotAnAncestor, SelfLoop, UnknownNode, did_you_mean, quoted
from .branching import Branching, Stop
from .formulas import reads_of
from .policy import Policy
from .spec import Spec
from .waits import same_signals

Pair = tuple[int, int]
"""(node, the node that is to be its ancestor)."""
NotAncestors = Callable[[Collection[Pair]], set[Pair]]
"""Which of some pairs are no such thing."""


def has_guards(specs: Sequence[Spec], stops: Sequence[Stop]) -> bool:
    """Whether there is any expression or wait."""
    return bool(stops) or any(spec.branching is not None for spec in specs)


def has_waits(specs: Sequence[Spec], policies: Sequence[Policy]) -> bool:
    """Whether there is any wait, race, or limit of time before or between attempts."""
    waits = any(it.wait is not None or it.race is not None for _, it in _branching(specs))
    return waits or any(policy.timing.limits for policy in policies)


def check_names(specs: Sequence[Spec], stops: Sequence[Stop], index: Mapping[str, int]) -> None:
    """Every node that an expression reads exists, no node waits for itself, every branch is one, signals agree.

    Raises:
        UnknownNode, SelfLoop, InvalidValue: one does not.
    """
    for at, expression in _expressions(specs, stops):
        for read in expression.reads:
            if read.node not in index:
                raise UnknownNode(read.node, at, index)
    same_signals((spec.key, it.wait) for spec, it in _branching(specs) if it.wait is not None)
    for spec, it in _branching(specs):
        if spec.key in reads_of(it.expressions):
            raise SelfLoop(spec.key, at=f"nodes[{quoted(spec.key)}].when")
        for gate in it.gates:
            if gate.branch is not None:
                _check_branch(spec, gate.key, gate.branch, specs[index[gate.key]].branching)


def _check_branch(spec: Spec, key: str, branch: str, upstream: Branching | None) -> None:
    at = f"nodes[{quoted(spec.key)}].after"
    if upstream is None or upstream.choice is None:
        raise InvalidValue(at, key, "is no choice and has no branches", 'Write {"node": key, "when": condition}.')
    names = upstream.choice.names
    if branch not in names:
        known = f"{key} has {', '.join(names)}.{did_you_mean(branch, names)}"
        raise InvalidValue(at, branch, "is no branch of that choice", known)


def missing_edges(specs: Sequence[Spec], index: Mapping[str, int], not_ancestors: NotAncestors) -> set[Pair]:
    """Edges that guards and choices need so that what they read has ended: (node, upstream node)."""
    wanted = {(index[spec.key], index[key]) for spec, it in _branching(specs) for key in reads_of(it.expressions)}
    return not_ancestors(wanted)


def check_gates(specs: Sequence[Spec], index: Mapping[str, int], not_ancestors: NotAncestors) -> None:
    """The guard of an edge reads its upstream node and that one's ancestors.

    Raises:
        NotAnAncestor: it reads another.
    """
    asked: dict[Pair, str] = {}
    for spec, it in _branching(specs):
        for gate in it.gates:
            for key in reads_of(() if gate.when is None else (gate.when,)):
                if key != gate.key:
                    asked[index[gate.key], index[key]] = f"nodes[{quoted(spec.key)}].after"
    for node, target in sorted(not_ancestors(asked)):
        raise NotAnAncestor(specs[node].key, specs[target].key, at=asked[node, target])


def check_types(
    specs: Sequence[Spec], stops: Sequence[Stop], index: Mapping[str, int], contracts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Every expression is a condition, as far as the published schemas tell.

    Args:
        contracts: executor -> contract, as published; empty when nobody knows any.

    Raises:
        ExpressionError: one can never be true or false.
    """

    def schema_of(key: str, what: str) -> Any:
        if what != "output":
            return None
        spec = specs[index[key]]
        if spec.branching is not None and spec.branching.wait is not None:
            return spec.branching.wait.output_schema  # of a job that ends outside nobody knows
        return decision_schema(spec) or contracts.get(spec.policy.executor, {}).get("output_schema")

    for at, expression in _expressions(specs, stops):
        try:
            check(expression, schema_of, want="bool")
        except ExpressionError as wrong:
            raise ExpressionError(wrong.text, wrong.position, wrong.problem, wrong.remedy, at=at) from None


def decision_schema(spec: Spec) -> Any:
    """JSON Schema of what a node gives that the scheduler does itself; None for work, and where nobody knows."""
    it = spec.branching
    if it is None:
        return None
    if it.choice is not None:
        branch = {"enum": list(it.choice.names)}
        return {"type": "object", "properties": {"branch": branch}, "required": ["branch"]}
    if it.race is not None:
        winners = {"type": "array", "items": {"enum": list(it.race.members)}}
        return {"type": "object", "properties": {"winners": winners}, "required": ["winners"]}
    return None if it.wait is None else it.wait.output_schema


def page_guards(specs: Sequence[Spec], first: int, index: Mapping[str, int]) -> dict[str, Any]:
    """What a page of the compiled graph holds of its nodes' expressions, as core/guards.py reads it; {} for nothing.

    Args:
        specs: of the page.
        first: number of its first node.
    """
    when: dict[str, str] = {}
    gates: dict[str, list[list[Any]]] = {}
    choices: dict[str, list[Any]] = {}
    waits: dict[str, Any] = {}
    races: dict[str, list[int]] = {}
    for number, spec in enumerate(specs, first):
        it = spec.branching
        if it is None:
            continue
        if it.when is not None:
            when[str(number)] = it.when.text
        if it.gates:
            gates[str(number)] = [
                [index[gate.key], None if gate.when is None else gate.when.text, gate.branch] for gate in it.gates
            ]
        if it.choice is not None:
            choices[str(number)] = [[[name, one.text] for name, one in it.choice.open], it.choice.otherwise]
        if it.race is not None:
            races[str(number)] = [index[key] for key in it.race.members]
        if it.wait is not None:
            waits[str(number)] = it.wait.record
    found = (("when", when), ("gates", gates), ("choices", choices), ("waits", waits), ("races", races))
    return {name: it for name, it in found if it}


def _branching(specs: Sequence[Spec]) -> Iterator[tuple[Spec, Branching]]:
    return ((spec, spec.branching) for spec in specs if spec.branching is not None)


def _expressions(specs: Sequence[Spec], stops: Sequence[Stop]) -> Iterator[tuple[str, Expression]]:
    """(place, expression), of every expression of a graph."""
    for spec, it in _branching(specs):
        at = f"nodes[{quoted(spec.key)}]"
        if it.when is not None:
            yield f"{at}.when", it.when
        for gate in it.gates:
            if gate.when is not None:
                yield f"{at}.after", gate.when
        for i, (_, when) in enumerate(() if it.choice is None else it.choice.open):
            yield f"{at}.choice[{i}].when", when
    for i, stop in enumerate(stops):
        yield f"stops[{i}].when", stop.when
