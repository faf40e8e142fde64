"""Compile: from declared nodes to the form that the store keeps and the core loads.

Pure. Checks how nodes hang together (missing nodes, self loops, cycles, ancestors, quorums, contracts), puts them
in topological order (of several, the one nearest to the order of declaration), and writes pages of at most 1,000
nodes, one at a time, so that a hundred thousand nodes never stand in memory as one text.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..core.rules import quorum_of
from ..errors import CycleFound, InvalidValue, NotAnAncestor, SelfLoop, TooLarge, UnknownClass, UnknownNode, quoted
from .branching import Stop
from .contracts import Contracts
from .document import check_count
from .guards import (
    Pair,
    check_gates,
    check_names,
    check_types,
    has_guards,
    has_waits,
    missing_edges,
    page_guards,
)
from .handles import Reference
from .inputs import GAP, Inputs
from .limits import MAX_EDGES, MAX_GRAPH_CHARACTERS, MAX_PAGE_BYTES, MAX_PAGE_NODES
from .mapped import check_reads, known_mappers, mappers_used
from .places import references_at
from .policy import Policy
from .spec import Spec

FORMAT = 1
GUARDED_FORMAT = 2
"""Of graphs with expressions: who reads version 1 only must not run them without."""
WAITING_FORMAT = 3
"""Of graphs with waits, limits of time before or between attempts, retry ladders, kinds of error that are never tried
again, capabilities, tools, or versions of executors that nodes ask for."""
MAPPED_FORMAT = 4
"""Of graphs with mappers: who reads version 3 would hand over what has to be mapped as it stands."""
_ANCESTORS_AT_ONCE = 4_096
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class CompiledGraph:
    """A checked graph, ready to be stored.

    Attributes:
        header: what the store keeps beside the pages: name, hash, counts, profiles, index of the result's node; of a
            graph with mappers their names, "mappers", so that whoever stores a run can pin what they mean.
        hash: of the canonical form.
        nodes: how many.
        keys: the user's key of every node, by index.
    """

    def __init__(
        self, header: dict[str, Any], specs: Sequence[Spec], up: Sequence[Sequence[int]], profile: Sequence[int]
    ) -> None:
        self.header = header
        self.hash: str = header["hash"]
        self.nodes = len(specs)
        self.keys = tuple([s.key for s in specs])
        self._specs = specs
        self._up = up
        self._profile = profile
        self._index = {key: i for i, key in enumerate(self.keys)}
        self._ends = list(_page_ends(specs))
        header["pages"] = len(self._ends)

    def index(self, key: str) -> int:
        """Position of a node, which is its name in attempts and in the store.

        Raises:
            UnknownNode: there is none of that key.
        """
        if key not in self._index:
            raise UnknownNode(key, "node", self.keys)
        return self._index[key]

    @property
    def executors(self) -> set[str]:
        """The executors that it names, those of retry ladders included; capabilities and tools as documents do."""
        ways = ((it, *it.get("steps", ())) for it in self.header["profiles"])
        return {str(way["executor"]) for profile in ways for way in profile if way.get("executor")}

    def key_of_profile(self, profile: int) -> str:
        """The first node that has the profile of this number in the header."""
        return self.keys[self._profile.index(profile)]

    def pages(self) -> Iterator[bytes]:
        """The pages in order, zlib of JSON, each made when it is asked for."""
        first = 0
        for end in self._ends:
            yield zlib.compress(self.page(first, end).encode(), 1)
            first = end

    def page(self, first: int, end: int) -> str:
        """The JSON of nodes first up to end."""
        specs = self._specs[first:end]
        labels = {str(first + i): s.labels for i, s in enumerate(specs) if s.labels}
        page: dict[str, Any] = {
            "v": FORMAT,
            "first": first,
            "keys": self.keys[first:end],
            "profile": self._profile[first:end],
            "up": self._up[first:end],
            "inputs": [self._template(s.inputs) for s in specs],
        }
        if labels:
            page["labels"] = labels
        secrets = {str(first + i): s.inputs.secrets for i, s in enumerate(specs) if s.inputs.secrets}
        if secrets:
            page["secrets"] = secrets
        steps = {str(first + i): self._steps(s) for i, s in enumerate(specs) if s.steps}
        if steps:
            page["steps"] = steps
        if self.header["v"] != FORMAT and (guards := page_guards(specs, first, self._index)):
            page["guards"] = guards
        return _json(page)

    def _template(self, inputs: Inputs) -> str | list[Any]:
        """Inputs as they are stored: text, or text and references in turn."""
        references = inputs.references
        if not references:
            return f"{inputs.args},{inputs.kwargs}"
        index = self._index
        parts = inputs.parts()
        found: list[Any] = [parts[0]]
        for reference, part in zip(references, parts[1:], strict=True):
            through = () if reference.via is None else (reference.via,)
            found.append((index[reference.key], reference.path, reference.what, *through))
            found.append(part)
        return found

    def _steps(self, spec: Spec) -> dict[str, Any]:
        """Inputs of the steps of a node's retry ladder, where they are not its own: step -> inputs, secrets."""
        return {str(n): (self._template(it), it.secrets) for n, it in enumerate(spec.steps) if it is not None}


def compile_graph(
    name: str,
    declared: Mapping[str, Spec],
    returns: str | None,
    hash_: str,
    contracts: Mapping[str, Mapping[str, Any]] | None = None,
    classes: Collection[str] | None = None,
    stops: Sequence[Stop] = (),
    mappers: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> CompiledGraph:
    """Checks and compiles; see `Graph.compile`.

    O(nodes + edges), and for every 4,096 different nodes that are named by "ancestor" references or read by expressions
    once more.
    """
    if not declared:
        raise InvalidValue("nodes", [], "holds no node", "Add at least one node.")
    check_count(len(declared))
    specs: Sequence[Spec] = list(declared.values())
    index = {key: i for i, key in enumerate(declared)}
    guarded = has_guards(specs, stops)
    if guarded:
        check_names(specs, stops, index)
    up, ordered, far = _upstream(specs, index)
    if returns is not None and returns not in index:
        raise UnknownNode(returns, "returns", index)
    if not ordered:
        specs, up = _in_order(specs, up)
    if guarded:
        specs, up = _with_guards(specs, up)
    if guarded or not ordered:
        index = {s.key: i for i, s in enumerate(specs)}
    edges = _check_sizes(specs, up)
    if far:
        _check_ancestors(specs, up, index)
    policies = _policies(specs, up, classes)
    used = mappers_used(specs)
    known = known_mappers(specs, used, mappers)
    if contracts:
        _check_contracts(specs, index, Contracts(contracts, {name: it.shape(GAP) for name, it in known.items()}))
    check_reads(specs, index, known, contracts or {})
    if guarded:
        check_types(specs, stops, index, contracts or {})
    numbers = {id(policy): i for i, policy in enumerate(policies)}
    format_ = _format_of(specs, policies, guarded, used)
    header: dict[str, Any] = {
        "v": format_,
        "name": name,
        "hash": hash_,
        "nodes": len(specs),
        "pages": 0,
        "edges": edges,
        "profiles": [policy.profile() for policy in policies],
        "returns": None if returns is None else index[returns],
    }
    more = {
        "min_reader": format_ if format_ != FORMAT else None,
        "mappers": used,
        "stops": [stop.record() for stop in stops],
        "version": version,
    }
    header |= {name: it for name, it in more.items() if it}
    return CompiledGraph(header, specs, up, [numbers[id(s.policy)] for s in specs])


def _format_of(specs: Sequence[Spec], policies: Sequence[Policy], guarded: bool, mappers: Sequence[str]) -> int:
    """The oldest format whose readers do not misread the graph."""
    if mappers:
        return MAPPED_FORMAT
    if has_waits(specs, policies) or any(policy.is_laddered for policy in policies):
        return WAITING_FORMAT
    return GUARDED_FORMAT if guarded else FORMAT


def _check_sizes(specs: Sequence[Spec], up: Sequence[Sequence[int]]) -> int:
    """How many edges there are.

    Raises:
        TooLarge: too many, or too many characters of inputs.
    """
    edges = sum(map(len, up))
    if edges > MAX_EDGES:
        raise TooLarge("nodes", size=edges, limit=MAX_EDGES, unit="edges", remedy="Join nodes in stages.")
    size = sum(len(it.inputs.args) + len(it.inputs.kwargs) for it in specs)
    size += sum(len(it.args) + len(it.kwargs) for spec in specs if spec.steps for it in spec.steps if it is not None)
    if size > MAX_GRAPH_CHARACTERS:
        remedy = "Store large data elsewhere and pass its address, or submit several runs."
        raise TooLarge(
            "nodes", size=size, limit=MAX_GRAPH_CHARACTERS, unit="characters", what="args and inputs", remedy=remedy
        )
    return edges


def _with_guards(specs: Sequence[Spec], up: list[list[int]]) -> tuple[Sequence[Spec], list[list[int]]]:
    """The graph in order, with the edges that its expressions need; `specs` are in order without them.

    Raises:
        CycleFound: with them it has a cycle.
        NotAnAncestor: the guard of an edge reads what need not have ended by then.
    """
    index = {s.key: i for i, s in enumerate(specs)}
    missing = missing_edges(specs, index, lambda pairs: _not_ancestors(up, pairs))
    for node, target in missing:
        up[node] = sorted({*up[node], target})
    if any(target > node for node, target in missing):
        specs, up = _in_order(specs, up)
        index = {s.key: i for i, s in enumerate(specs)}
    check_gates(specs, index, lambda pairs: _not_ancestors(up, pairs))
    return specs, up


def _upstream(specs: Sequence[Spec], index: Mapping[str, int]) -> tuple[list[list[int]], bool, bool]:
    """Upstream nodes of each node, sorted; whether declaration is in order already; whether ancestors are named."""
    up: list[list[int]] = []
    ordered, far = True, False
    for i, spec in enumerate(specs):
        references = spec.references
        if not references and not spec.after:
            up.append([])
            continue
        try:
            found = {index[r.key] for r in references if not r.ancestor}
            if spec.after:
                found.update([index[k] for k in spec.after])
        except KeyError:
            raise _unknown(spec, index) from None
        if i in found:
            raise SelfLoop(spec.key, at=_where(spec, spec.key))
        parents = sorted(found)
        if parents and parents[-1] > i:
            ordered = False
        if len(found) < len(references) and not far:
            far = any(r.ancestor for r in references)
        elif references and references[0].ancestor:
            far = True
        up.append(parents)
    return up, ordered, far


def _unknown(spec: Spec, index: Mapping[str, int]) -> UnknownNode:
    key = next(k for k in (*(r.key for r in spec.references if not r.ancestor), *spec.after) if k not in index)
    return UnknownNode(key, _where(spec, key), index)


def _where(spec: Spec, key: str) -> str:
    """Place of the first mention of a key among a node's references, or in its `after`."""
    for reference, place in zip(spec.references, references_at(spec), strict=True):
        if reference.key == key:
            return place
    return f"nodes[{quoted(spec.key)}].after[{spec.after.index(key)}]"


def _in_order(specs: Sequence[Spec], up: Sequence[list[int]]) -> tuple[list[Spec], list[list[int]]]:
    """Topological order by Kahn's method with a heap, so that of all ready nodes the first declared goes first.

    Raises:
        CycleFound: there is none.
    """
    missing = [len(parents) for parents in up]
    down: list[list[int]] = [[] for _ in specs]
    for node, parents in enumerate(up):
        for parent in parents:
            down[parent].append(node)
    ready = [node for node, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for child in down[node]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, child)
    if len(order) < len(specs):
        raise CycleFound([specs[i].key for i in _cycle(up, missing)])
    position = [0] * len(order)
    for new, old in enumerate(order):
        position[old] = new
    return [specs[old] for old in order], [sorted([position[p] for p in up[old]]) for old in order]


def _cycle(up: Sequence[list[int]], missing: Sequence[int]) -> list[int]:
    """One cycle, in the direction of the edges. Every node left over has such a parent: walk back until one repeats."""
    node = next(i for i, count in enumerate(missing) if count)
    seen: dict[int, int] = {}
    path: list[int] = []
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        node = next(p for p in up[node] if missing[p])
    return path[seen[node] :][::-1]


def _check_ancestors(specs: Sequence[Spec], up: Sequence[list[int]], index: Mapping[str, int]) -> None:
    """Every "ancestor" reference must point to an ancestor."""
    named: dict[Pair, Reference] = {}
    for i, spec in enumerate(specs):
        for reference in spec.references:
            if reference.ancestor:
                if reference.key not in index:
                    raise UnknownNode(reference.key, _where(spec, reference.key), index)
                named[i, index[reference.key]] = reference
    for i, target in sorted(_not_ancestors(up, named), key=lambda it: it[1]):
        raise NotAnAncestor(specs[i].key, specs[target].key, at=_where(specs[i], named[i, target].key))


def _not_ancestors(up: Sequence[list[int]], pairs: Collection[Pair]) -> set[Pair]:
    """Those of some (node, target) of which the target is no ancestor of the node.

    For up to 4,096 targets at once, each node gets a bit set of those among its ancestors, from its parents' sets.
    """
    asked: dict[int, list[int]] = {}
    for node, target in pairs:
        asked.setdefault(target, []).append(node)
    found: set[Pair] = set()
    targets = sorted(asked)
    for start in range(0, len(targets), _ANCESTORS_AT_ONCE):
        batch = targets[start : start + _ANCESTORS_AT_ONCE]
        bit = {target: 1 << n for n, target in enumerate(batch)}
        low, high = batch[0], max(node for target in batch for node in asked[target])
        sets = _ancestor_sets(up, bit, low, high)
        found.update(
            (node, target)
            for target in batch
            for node in asked[target]
            if node < low or not sets[node - low] & bit[target]
        )
    return found


def _ancestor_sets(up: Sequence[list[int]], bit: Mapping[int, int], low: int, high: int) -> list[int]:
    """For each node from low to high, the bits of those among its ancestors that have one."""
    sets = [0] * (high + 1 - low)
    for node in range(low, high + 1):
        found = 0
        for parent in up[node]:
            if parent >= low:
                found |= sets[parent - low] | bit.get(parent, 0)
        sets[node - low] = found
    return sets


def _policies(specs: Sequence[Spec], up: Sequence[list[int]], classes: Collection[str] | None) -> list[Policy]:
    """Distinct policies in the order of first use; checks classes and quorums on the way."""
    seen: dict[int, Policy] = {}
    quorums: dict[int, int] = {}
    for i, spec in enumerate(specs):
        policy = spec.policy
        if id(policy) not in seen:
            seen[id(policy)] = policy
            quorum = quorum_of(policy.rule)
            if quorum is not None:
                quorums[id(policy)] = quorum
            queue_class = policy.queue_class
            if classes is not None and queue_class is not None and queue_class not in classes:
                raise UnknownClass(queue_class, f"nodes[{quoted(spec.key)}].queue_class", classes)
            for number, step in enumerate(policy.retry.steps):
                if classes is not None and step.queue_class is not None and step.queue_class not in classes:
                    at = f"nodes[{quoted(spec.key)}].retry.steps[{number}].queue_class"
                    raise UnknownClass(step.queue_class, at, classes)
        if quorums and quorums.get(id(policy), 0) > len(up[i]):
            raise InvalidValue(
                f"nodes[{quoted(spec.key)}].trigger_rule",
                policy.rule,
                f"can never be met by {len(up[i])} upstream nodes",
                "Lower n, or add upstream nodes.",
            )
    return list(seen.values())


def _check_contracts(specs: Sequence[Spec], index: Mapping[str, int], contracts: Contracts) -> None:
    """Executors, inputs and paths; of a node with a ladder those of every step. Nodes share their policies."""
    checked: set[int] = set()
    for spec in specs:
        if not spec.policy.executor:
            continue  # a choice, or a wait
        if id(spec.policy) not in checked:
            checked.add(id(spec.policy))
            _check_executor(spec, contracts)
        contracts.check_inputs(spec.policy.executor, spec.inputs, spec.key)
        if spec.policy.retry.steps:
            _check_steps(spec, contracts)
        for i, reference in enumerate(spec.references):
            if reference.path and reference.what == "output":
                producer = specs[index[reference.key]].policy
                if producer.timing.outside:
                    continue
                for executor in (producer.executor, *(e for _, e in _other_executors(producer))):
                    problem = contracts.path_problem(executor, reference.path)
                    if problem:
                        raise problem.error(references_at(spec)[i], reference, executor)


def _check_executor(spec: Spec, contracts: Contracts) -> None:
    """Some worker has the executor, in the version that the node asks for."""
    at, policy = f"nodes[{quoted(spec.key)}]", spec.policy
    contracts.check_executor(policy.executor, f"{at}.executor")
    if policy.executor_version is not None:
        contracts.check_version(policy.executor, policy.executor_version, f"{at}.executor_version")


def _other_executors(policy: Policy) -> Iterator[tuple[int, str]]:
    """(step, executor) of the steps of a ladder that name one."""
    return ((n, step.executor) for n, step in enumerate(policy.retry.steps) if step.executor is not None)


def _check_steps(spec: Spec, contracts: Contracts) -> None:
    """The executor of each step is known, and takes the inputs that it would get."""
    executor, others = spec.policy.executor, dict(_other_executors(spec.policy))
    for number in range(len(spec.policy.retry.steps)):
        executor = others.get(number, executor)
        inputs = (spec.steps[number] if spec.steps else None) or spec.inputs
        if number in others:
            contracts.check_executor(executor, f"nodes[{quoted(spec.key)}].retry.steps[{number}].executor")
        if number in others or inputs is not spec.inputs:
            contracts.check_inputs(executor, inputs, spec.key, number)


def _page_ends(specs: Sequence[Spec]) -> Iterator[int]:
    """Where pages end: after 1,000 nodes, or earlier when their text would pass 16 MB."""
    first = size = 0
    for i, spec in enumerate(specs):
        inputs = spec.inputs
        # inputs stand as JSON texts inside JSON, where quotes and backslashes double; names are counted generously
        weight = 2 * 4 * (len(inputs.args) + len(inputs.kwargs)) + 1_300 * len(inputs.references) + 2_048
        for step in spec.steps:
            if step is not None:
                weight += 2 * 4 * (len(step.args) + len(step.kwargs)) + 1_300 * len(step.references) + 2_048
        if i > first and (i - first >= MAX_PAGE_NODES or size + weight > MAX_PAGE_BYTES):
            yield i
            first, size = i, 0
        size += weight
    yield len(specs)
