"""What a client is shown of a run: nodes with their timelines and reasons, and events.

Pure: everything comes from a loaded run (core/run.py) and what workers have said of themselves. A reason is
read from what is recorded; where the store keeps none (a node that is ready stands there as pending, because
that follows from the rest), the rule is asked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..core.rules import Answer
from ..core.run import Profile, Run, Try
from ..core.states import ENDED_RUNS, FIRST_ENDED, NodeState
from ..errors import SHOWN_CHARACTERS, escaped, shown

SHOWN_NODES = 5


class Event(NamedTuple):
    """Something that happened in a run, as its log has it.

    Attributes:
        id: `events(after=id)` goes on behind it.
        at_ms: when, by Redis, ms since 1970.
        node: key of the node that moved; None for the run itself.
        move: ready, dispatch, succeed, fail, retry, wake, lose, skip, upstream_fail, cancel; wait and late are notes;
            for the run itself its new state.
        attempt: of the node.
        cause: key of the upstream node that brought it about, or None.
        why: the reason, in words.
    """

    id: str
    at_ms: int
    node: str | None
    move: str
    attempt: int
    cause: str | None
    why: str


class NodeView(NamedTuple):
    """A node of a run, at one moment.

    Attributes:
        state: `running` when a worker has claimed its attempt.
        attempt: number of the current or last attempt, 0 before the first.
        tries: its attempts so far, with the instants of each.
        queue_class: the node's own, else its executor's; None while neither is known.
        open_upstream: keys of the upstream nodes that have not ended, while the node waits for them.
        cause: key of the upstream node for whose sake it was skipped or upstream_failed, or None.
        why: why it is not further, or why it never ran; "" when there is nothing to say.
        worker: where it runs or ran last, or "".
    """

    key: str
    state: NodeState
    attempt: int
    tries: tuple[Try, ...]
    executor: str
    queue_class: str | None
    trigger_rule: str
    labels: dict[str, str]
    open_upstream: tuple[str, ...]
    cause: str | None
    why: str
    worker: str


class Workers:
    """What workers have published: who serves which class, and which executors there are.

    Args:
        contracts: executor -> contract.
        workers: name -> description with queue_class.
        default: class of executors that declare none, when it is known.
    """

    def __init__(
        self, contracts: Mapping[str, Mapping[str, Any]], workers: Mapping[str, Mapping[str, Any]], default: str | None
    ) -> None:
        self.contracts = contracts
        self.default = default
        self.served = {str(it["queue_class"]) for it in workers.values() if it.get("queue_class")}

    def queue_class(self, profile: Profile) -> str | None:
        """Where nodes of this profile are sent."""
        declared = self.contracts.get(profile.executor, {}).get("queue_class")
        return profile.queue_class or declared or self.default

    def why_not_sent(self, profile: Profile) -> str:
        """Why a node that may start has not been sent."""
        if profile.executor not in self.contracts:
            return f"waits: no worker has published the executor {shown(profile.executor)}"
        name = self.queue_class(profile)
        if name is None:
            return "waits for the scheduler"
        if name not in self.served:
            return f"waits: no worker serves the queue class {shown(name)}"
        return f"waits for room in the queue class {shown(name)}, or for a scheduler"


def view_nodes(run: Run, claimed: Mapping[int, tuple[int, str]], workers: Workers) -> Iterator[NodeView]:
    """Every node of a run, in topological order.

    Args:
        claimed: node -> (claimed at, ms; worker), see Runs.claimed.
    """
    for node, number in enumerate(run.state):
        profile = run.profiles[run.profile[node]]
        state = NodeState(number)
        tries = tuple(run.tries(node))
        worker = tries[-1].worker if tries else ""
        if state is NodeState.PENDING and _may_start(run, node, profile):
            state = NodeState.READY
        elif state is NodeState.DISPATCHED and node in claimed:
            state = NodeState.RUNNING
            at_ms, worker = claimed[node]
            if tries:
                tries = (*tries[:-1], tries[-1]._replace(claimed_at_ms=at_ms, worker=worker))
        waits_for = () if state is not NodeState.PENDING else tuple(_open_upstream(run, node))
        cause = run.cause.get(node)
        yield NodeView(
            run.keys[node],
            state,
            run.attempt[node],
            tries,
            profile.executor,
            workers.queue_class(profile),
            profile.rule.name,
            run.labels.get(node, {}),
            waits_for,
            None if cause is None else run.keys[cause],
            _why(run, node, state, profile, waits_for, workers),
            worker,
        )


def root_cause(run: Run, node: int) -> int:
    """The node that began it: follows causes upstream, from a node that was skipped or upstream_failed."""
    for _ in range(run.n):
        if node not in run.cause:
            break
        node = run.cause[node]
    return node


def cause_text(key: str, state: NodeState) -> str:
    """Why a node was passed over, in words, from the node that began it."""
    return f"node {shown(key)} {_ENDED[state]}"


_ENDED = {
    NodeState.SUCCEEDED: "succeeded",
    NodeState.FAILED: "failed",
    NodeState.SKIPPED: "was skipped",
    NodeState.UPSTREAM_FAILED: "was upstream_failed",
    NodeState.CANCELLED: "was cancelled",
}


def _may_start(run: Run, node: int, profile: Profile) -> bool:
    if run.run_state in ENDED_RUNS:
        return False
    counts = run.counts(node)
    return not counts[0] or profile.rule.answer(*counts) is Answer.START


def _open_upstream(run: Run, node: int) -> Iterator[str]:
    return (run.keys[up] for up in run.upstream(node) if run.state[up] < FIRST_ENDED)


def _why(run: Run, node: int, state: NodeState, profile: Profile, waits_for: tuple[str, ...], workers: Workers) -> str:
    if state is NodeState.PENDING:
        names = ", ".join(shown(key, 60) for key in waits_for[:SHOWN_NODES])
        more = f" and {len(waits_for) - SHOWN_NODES} more" if len(waits_for) > SHOWN_NODES else ""
        count = f"{len(waits_for)} of {len(run.upstream(node))}"
        return f"{profile.rule.name} waits for {count} upstream nodes: {names}{more}"
    if state is NodeState.READY:
        return workers.why_not_sent(profile)
    if state is NodeState.DISPATCHED:
        name = workers.queue_class(profile)
        if name is not None and name not in workers.served:
            return f"sent; no worker serves the queue class {shown(name)}"
        return "sent; no worker has begun it yet"
    if state is NodeState.WAITING:
        return f"waits for its next try, failed {run.failures[node]} of at most {profile.max_attempts} times"
    if state in (NodeState.SKIPPED, NodeState.UPSTREAM_FAILED) and node in run.cause:
        root = root_cause(run, node)
        return f"{profile.rule.name}: {cause_text(run.keys[root], NodeState(run.state[root]))}"
    if state is NodeState.CANCELLED:
        return escaped(run.reason, SHOWN_CHARACTERS)
    return ""
