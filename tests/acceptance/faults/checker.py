"""The checker: do the graph, the ledger and the system's own account of a run agree?

Pure, and knows nothing of how celeriac works: a plan (plan.py) that says what each node may become when those before it
ended so, lines that tasks wrote, and what the public client says at the end. Each violation is a sentence.
What it counts besides (duplicates, work paid for twice) is not wrong by itself, and a row may set a limit. A try that
follows a failure is neither: the plan declares it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from . import ledger
from .plan import (
    APPROVAL,
    APPROVED,
    APPROVER,
    BAD,
    CANCELLED,
    FAILED,
    NOTHING,
    RETRY_MS,
    SKIPPED,
    SUCCEEDED,
    TIMER,
    Plan,
)

MOST_SHOWN = 20
"""Violations of one kind that are told one by one."""
GRAIN_MS = 2
"""A wait may be so much shorter by the instants that are told: each is rounded."""


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
        ended_ms: key -> when the outcome was recorded, by the system's clock.
    """

    state: str
    nodes: Mapping[str, NodeAccount]
    outcomes: Mapping[str, Sequence[str]]
    outputs: Mapping[str, Any]
    ended_ms: Mapping[str, int] = MappingProxyType({})

    @property
    def states(self) -> dict[str, str]:
        """Key -> state."""
        return {key: it.state for key, it in self.nodes.items()}


@dataclass
class Findings:
    """What the checker found.

    Attributes:
        violations: sentences.
        starts: lines that tell a start.
        duplicates: starts beyond the first of each node, and beyond those that followed a failure.
        spent: nodes whose work was done to its end more often than that.
        repeats_by_system: attempts beyond these that the system says were begun.
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
        _tries(plan, of_node, account),
        _waited(plan, account),
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
        it = account.nodes.get(node, NodeAccount("", False, {}))
        begun = {number for number, tried in it.tries.items() if tried.claimed_at_ms}
        once = 1 + max(0, _failures(it) - (it.state == FAILED))
        found.starts += len(starts)
        found.duplicates += max(0, len(starts) - once)
        found.spent += ends > once
        found.repeats_by_system += max(0, len(begun) - once)
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
    inner = {parent for parents in plan.upstream.values() for parent in parents}
    bad = any(it.state in BAD for node, it in account.nodes.items() if node not in inner)
    wanted = FAILED if bad else SUCCEEDED
    if account.state != wanted:
        yield f"the run is {account.state}, the graph makes it {wanted}"


def _outcomes(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """Each node has one outcome, one that follows from those before it, and the ledger says the same."""
    states = account.states
    for node in plan.upstream:
        it = account.nodes.get(node)
        if it is None:
            continue
        may = plan.may(node, states, account.outputs)
        if it.state not in may:
            yield f"{node} is {it.state}, the graph makes it {' or '.join(sorted(may))}"
        ever = account.outcomes.get(node, ())
        if len(ever) > 1:
            yield f"{node} has {len(ever)} outcomes: {', '.join(ever)}"
        elif ever and ever[0] != it.state:
            yield f"{node} is {it.state}, and its outcome was told as {ever[0]}"
        did = {line.what for line in of_node.get(node, ())}
        if did and not plan.works(node):
            yield f"{node} is no work, and a worker ran it"
        if it.state == SUCCEEDED and plan.works(node) and ledger.END not in did:
            yield f"{node} is succeeded, and its task never came to its end"
        if it.state == FAILED and ledger.FAIL not in did:
            yield f"{node} is failed, and its task never failed"
        if it.state in ("upstream_failed", SKIPPED) and did:
            yield f"{node} is {it.state}, and it ran"
        if it.state not in (SUCCEEDED, FAILED) and not it.reason:
            yield f"{node} is {it.state}, and nothing says why"


def _failures(it: NodeAccount) -> int:
    """How many attempts of a node have failed, as the system tells it; lost ones are none."""
    return sum(tried.end == FAILED for tried in it.tries.values())


def _tries(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """A node was tried as often as it was declared to be, each time after its wait, the last time as it had to be.

    Rows with graphs of their own, without extras, judge the tries of these themselves.
    """
    extras = plan.extras
    if extras is NOTHING:
        return
    for node in plan.upstream:
        it = account.nodes.get(node)
        if it is None:
            continue
        failures, tries, flaky = _failures(it), extras.tries.get(node, 1), extras.flaky.get(node, 0)
        if it.state == FAILED and failures != tries:
            yield f"{node} is failed after {failures} failures, the graph has it tried {tries} times"
        if it.state == SUCCEEDED and node in extras.mended and failures != 1:
            yield f"{node} succeeded with inputs that come after one failure, and it has had {failures}"
        elif it.state == SUCCEEDED and node not in extras.mended and failures > flaky:
            yield f"{node} has {failures} failures, it was declared to have at most {flaky}"
        for line in of_node.get(node, ()):
            if line.what == ledger.END and line.attempt <= flaky:
                yield f"{node} came to its end in attempt {line.attempt}, which was declared to fail"
        for number, tried in it.tries.items():
            after = it.tries.get(number + 1)
            if after is None or not after.claimed_at_ms or tried.end != FAILED or node in extras.mended:
                continue  # changed inputs are tried at once
            waited = after.claimed_at_ms - tried.ended_at_ms
            if waited < RETRY_MS - GRAIN_MS:
                yield f"{node} was tried again {waited} ms after a failure, the graph makes it wait {RETRY_MS}"


def _waited(plan: Plan, account: Account) -> Iterator[str]:
    """Timers and delays took as long as they were to, from the last report of a parent to the end or the first claim.

    When a node is said to be ready is no measure: that is the instant of the scheduler's turn, which may have begun
    a moment before the timer was due.
    """
    recorded = _recorded(account)
    for node, parents in plan.upstream.items():
        it, wait = account.nodes.get(node), plan.extras.waits.get(node)
        if it is None or not parents or not all(plan.works(parent) for parent in parents):
            continue  # since when it waited, nobody tells
        since = max(recorded.get(parent, 0) for parent in parents)
        if wait is not None and wait.kind == TIMER and it.state == SUCCEEDED:
            least, until = wait.ms, account.ended_ms.get(node, 0)
        elif node in plan.extras.delays and (claims := [t.claimed_at_ms for t in it.tries.values() if t.claimed_at_ms]):
            least, until = plan.extras.delays[node], min(claims)
        else:
            continue
        if until - since < least - GRAIN_MS:
            yield f"{node} waited {until - since} ms, the graph makes it wait {least}"


def _recorded(account: Account) -> dict[str, int]:
    """Node -> when the report of its last attempt came; 0 without any."""
    return {node: max((t.ended_at_ms for t in it.tries.values()), default=0) for node, it in account.nodes.items()}


def _order(plan: Plan, of_node: Mapping[str, Sequence[ledger.Line]], account: Account) -> Iterator[str]:
    """No node started before all its parents had ended, by the ledger and by what is recorded.

    For a parent that is no work stand those before it. Parents that a merge does not need have no end of their own.
    """
    ended = {
        node: min((line.at for line in lines if line.what == ledger.END), default=None)
        for node, lines in of_node.items()
    }
    recorded, states = _recorded(account), account.states
    grounds: dict[str, frozenset[str]] = {}
    for node, parents in plan.upstream.items():
        needed = [it for it in parents if not (node in plan.extras.merges and states.get(it) == SKIPPED)]
        grounds[node] = frozenset().union(*({it} if plan.works(it) else grounds[it] for it in needed))
        first = min((line.at for line in of_node.get(node, ()) if line.what == ledger.START), default=None)
        it = account.nodes.get(node)
        sent = min((t.dispatched_at_ms for t in it.tries.values() if t.dispatched_at_ms), default=None) if it else None
        if first is not None:
            for parent in needed:
                if not plan.works(parent) and states.get(parent) != SUCCEEDED:
                    yield f"{node} started, and its parent {parent} is {states.get(parent)}"
        for parent in sorted(grounds[node]):
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
            elif not tried.claimed_at_ms and it.state != CANCELLED:
                yield f"{node} started attempt {number}, which never began, says the system (end: {tried.end})"
            if times > 1:
                yield f"{node} started attempt {number} {times} times"
        for number, tried in it.tries.items():
            if tried.end in ("succeeded", "failed") and number not in counted:
                yield f"{node} is said to have {tried.end} in attempt {number}, which never started"


def _data(plan: Plan, account: Account) -> Iterator[str]:
    """Every output is the one that follows from the outputs before it."""
    states = account.states
    for node in plan.upstream:
        if states.get(node) == SUCCEEDED and node not in account.outputs:
            yield f"{node} has no output"
    for node, output in account.outputs.items():
        if states.get(node) != SUCCEEDED or node not in plan.upstream:
            yield f"{node} has the output {output!r}, it should have none"
            continue
        try:
            wanted = plan.output(node, account.outputs)
        except KeyError:
            continue  # what it follows from is missing, which is told of that node
        if wanted is not None and output != wanted:
            yield f"{node} has the output {output!r}, it should be {wanted}"
        wait = plan.extras.waits.get(node)
        if wait is not None and wait.kind == APPROVAL and (output["choice"], output["by"]) != (APPROVED, APPROVER):
            yield f"{node} was answered {output['choice']} by {output['by']}, it was {APPROVED} by {APPROVER}"
