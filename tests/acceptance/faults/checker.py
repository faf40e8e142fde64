"""The checker: do the graph, the ledger and the system's own account of a run agree?

Pure, and knows nothing of how celeriac works: a graph whose nodes start when all their parents have succeeded (the rule
all_success), lines that tasks wrote, and what the public client says at the end. Each violation is a sentence.
What it counts besides (duplicates, work paid for twice) is not wrong by itself, and a row may set a limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import ledger
from .load import Plan

MOST_SHOWN = 20
"""Violations of one kind that are told one by one."""


class Tried(NamedTuple):
    """One attempt of a node as the system tells it; instants in ms of its clock, 0 when it did not come to that."""

    ready_at_ms: int
    dispatched_at_ms: int
    claimed_at_ms: int
    ended_at_ms: int
    end: str


class NodeAccount(NamedTuple):
    """A node as the system tells it at the end.

    Attributes:
        state: in words.
        reason: whether it says why, where it did not run.
        tries: number of the attempt -> its timeline.
    """

    state: str
    reason: bool
    tries: Mapping[int, Tried]


class Account(NamedTuple):
    """A run as the system tells it at the end.

    Attributes:
        state: of the run.
        nodes: by key.
        outcomes: key -> every outcome that was ever recorded for the node, in order.
        outputs: key -> output, of the nodes that succeeded.
    """

    state: str
    nodes: Mapping[str, NodeAccount]
    outcomes: Mapping[str, Sequence[str]]
    outputs: Mapping[str, Any]


@dataclass
class Findings:
    """What the checker found.

    Attributes:
        violations: sentences.
        starts: lines that tell a start.
        duplicates: starts beyond the first of each node.
        spent: nodes whose work was done to its end more than once.
        repeats_by_system: attempts beyond the first of each node that the system says were begun.
        claims_without_start: attempts that the system says were begun, and whose task never wrote a line: it was
            killed in between.
    """

    violations: list[str] = field(default_factory=list)
    starts: int = 0
    duplicates: int = 0
    spent: int = 0
    repeats_by_system: int = 0
    claims_without_start: int = 0


def check(plan: Plan, lines: Sequence[ledger.Line], account: Account) -> Findings:
    """Compare; O(nodes + edges + lines). `lines` are those of this run, in the order in which they were written."""
    found = Findings()
    of_node: dict[str, list[ledger.Line]] = defaultdict(list)
    for line in lines:
        of_node[line.node].append(line)
    for kind in (
        _known(plan, of_node, account),
        _outcomes(plan, of_node, account),
        _order(plan, of_node, account),
        _told(plan, of_node, account),
        _data(plan, account),
    ):
        every = list(kind)
        found.violations += every[:MOST_SHOWN]
        if len(every) > MOST_SHOWN:
            found.violations.append(f"and {len(every) - MOST_SHOWN} more of that kind")
    for node in plan.upstream:
        mine = of_node.get(node, [])
        starts = [line.attempt for line in mine if line.what == ledger.START]
        ends = sum(line.what != ledger.START for line in mine)
        tries = account.nodes[node].tries if node in account.nodes else {}
        begun = {number for number, it in tries.items() if it.claimed_at_ms}
        found.starts += len(starts)
        found.duplicates += max(0, len(starts) - 1)
        found.spent += ends > 1
        found.repeats_by_system += max(0, len(begun) - 1)
        found.claims_without_start += len(begun - set(starts))
    if found.duplicates > found.repeats_by_system:
        found.violations.append(
            f"the ledger has {found.duplicates} repeated starts, the system tells of {found.repeats_by_system}"
        )
    return found


def _known(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """Both sides speak of the nodes of the graph and of no others."""
    for node in of_node.keys() - plan.upstream.keys():
        yield f"{node} ran and is not in the graph"
    for node in account.nodes.keys() - plan.upstream.keys():
        yield f"{node} is told of and is not in the graph"
    for node in plan.upstream.keys() - account.nodes.keys():
        yield f"{node} is in the graph and not told of"
    wanted = "failed" if plan.failing else "succeeded"
    if account.state != wanted:
        yield f"the run is {account.state}, the graph makes it {wanted}"


def _outcomes(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """Each node has the one outcome that the graph gives it, and the ledger says the same."""
    doomed = plan.doomed()
    for node in plan.upstream:
        it = account.nodes.get(node)
        if it is None:
            continue
        wanted = "failed" if node in plan.failing else "succeeded"
        if node in doomed:
            wanted = "upstream_failed"
        if it.state != wanted:
            yield f"{node} is {it.state}, the graph makes it {wanted}"
        ever = account.outcomes.get(node, ())
        if len(ever) > 1:
            yield f"{node} has {len(ever)} outcomes: {', '.join(ever)}"
        elif ever and ever[0] != it.state:
            yield f"{node} is {it.state}, and its outcome was told as {ever[0]}"
        did = {line.what for line in of_node.get(node, ())}
        if it.state == "succeeded" and ledger.END not in did:
            yield f"{node} is succeeded, and its task never came to its end"
        if it.state == "failed" and ledger.FAIL not in did:
            yield f"{node} is failed, and its task never failed"
        if it.state in ("upstream_failed", "skipped") and did:
            yield f"{node} is {it.state}, and it ran"
        if it.state not in ("succeeded", "failed") and not it.reason:
            yield f"{node} is {it.state}, and nothing says why"


def _order(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """No node started before all its parents had ended, by the ledger and by what is recorded."""
    ended = {
        node: min((line.at for line in lines if line.what == ledger.END), default=None)
        for node, lines in of_node.items()
    }
    recorded = {node: max((t.ended_at_ms for t in it.tries.values()), default=0) for node, it in account.nodes.items()}
    for node, parents in plan.upstream.items():
        first = min((line.at for line in of_node.get(node, ()) if line.what == ledger.START), default=None)
        it = account.nodes.get(node)
        sent = min((t.dispatched_at_ms for t in it.tries.values() if t.dispatched_at_ms), default=None) if it else None
        for parent in parents:
            end = ended.get(parent)
            if first is not None and (end is None or end > first):
                yield f"{node} started before its parent {parent} had come to its end"
            if sent is not None and not 0 < recorded.get(parent, 0) <= sent:
                yield f"{node} was sent before the outcome of its parent {parent} was recorded"


def _told(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """Every start in the ledger is an attempt that the system knows as begun, and each attempt began once."""
    for node in plan.upstream:
        it = account.nodes.get(node)
        if it is None:
            continue
        counted: dict[int, int] = defaultdict(int)
        for line in of_node.get(node, ()):
            if line.what == ledger.START:
                counted[line.attempt] += 1
        for number, times in counted.items():
            tried = it.tries.get(number)
            if tried is None:
                yield f"{node} started attempt {number}, which the system does not know"
            elif not tried.claimed_at_ms:
                yield f"{node} started attempt {number}, which never began, says the system (end: {tried.end})"
            if times > 1:
                yield f"{node} started attempt {number} {times} times"
        for number, tried in it.tries.items():
            if tried.end in ("succeeded", "failed") and number not in counted:
                yield f"{node} is said to have {tried.end} in attempt {number}, which never started"


def _data(plan: Plan, account: Account) -> Iterator[str]:
    """Every output is the one that follows from the outputs before it."""
    wanted = plan.outputs()
    for node in wanted.keys() - account.outputs.keys():
        yield f"{node} has no output"
    for node, output in account.outputs.items():
        if node in wanted and output != wanted[node]:
            yield f"{node} has the output {output!r}, it should be {wanted[node]}"
        elif node not in wanted:
            yield f"{node} has the output {output!r}, it should have none"
