"""What a client is shown of a run: nodes with their timelines and reasons, and events.

The one place that says where a node stands, which class it belongs to and why it is not further; the command line
shows the same. Everything comes from a loaded run (core/run.py) and what workers have said of themselves. A reason is
read from what is recorded; where the store keeps none (a node that is ready stands there as pending, because that
follows from the rest), the rule is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..core.history import lines_of
from ..core.policies import BLOCKED
from ..core.rules import Answer
from ..core.run import Profile, Run, Try, work_of
from ..core.states import ENDED_RUNS, FIRST_ENDED, NodeState, RunState
from ..core.waiting import wait_of
from ..core.waits import Wait
from ..errors import SHOWN_CHARACTERS, escaped, shown
from ..store import scopes
from ..store.routes import Routes
from ..store.scopes import Paused
from ..store.workers import classes_of, silent_ms
from ..wire import RunId, capability_of, is_found_later, tool_of

if TYPE_CHECKING:
    from ..settings import QueueClass, Settings
    from ..store.capabilities import Binding
    from ..store.runs import Runs

SHOWN_NODES = 5


class Event(NamedTuple):
    """Something that happened in a run, as its log has it.

    Attributes:
        id: `events(after=id)` goes on behind it.
        at_ms: when, by Redis, ms since 1970.
        node: key of the node that moved; None for the run itself.
        move: ready, dispatch, succeed, fail, retry, wake, lose, skip, upstream_fail, cancel, decide (a choice is made),
            refuse (a guard has no value), reopen (a new epoch), complete (by hand), park, hand_over, resolve, expire
            (waits without a worker begin and end); wait, late, signal, ignored, refused and escalate are notes;
            for the run itself its new state, what somebody asked for (cancel, skip, complete, rerun, deadline,
            priority; refused), or a note: rewound, the store has lost commits of it; wait, why many of its nodes wait.
        attempt: of the node; of a request its number.
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
        queue_class: the node's own, else its executor's; None while nobody knows.
        open_upstream: keys of the upstream nodes that have not ended, while the node waits for them.
        cause: key of the upstream node for whose sake it was skipped or upstream_failed, or None.
        why: why it is not further, or why it never ran; "" when there is nothing to say.
        worker: where it runs or ran last, or "".
        fallback_from: the executor that was declared, when another one runs or ran the node in its place; else "".
        version: of its executor when the run was submitted; "" when that is not recorded. The log says so when an
            attempt was sent to another one.
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
    fallback_from: str = ""
    version: str = ""


class Workers:
    """What workers have published: which executors there are, and who serves which queue class.

    Args:
        contracts: executor -> contract.
        workers: name -> description.
        now_ms: by Redis.
        classes: the declared queue classes, where they are known.
        bindings: asked once, when a node asks for a capability or a tool: that -> binding; None where that may not be
            read.
        paused: what is paused.

    Attributes:
        live: workers that were heard of lately: name -> description.
        silent: the others: name -> ms since.
        serving: class -> the live workers that serve it, by their class or by the queues they read.
    """

    def __init__(
        self,
        contracts: Mapping[str, Mapping[str, Any]],
        workers: Mapping[str, Mapping[str, Any]],
        now_ms: int,
        classes: Mapping[str, QueueClass] | None = None,
        bindings: Callable[[], Mapping[str, Binding] | None] = dict,
        paused: Sequence[Paused] = (),
    ) -> None:
        self._contracts = contracts
        self._paused = {(it.kind, it.name): it.why for it in paused}
        self._classes = classes
        self._routes = cache(lambda: None if (bound := bindings()) is None else Routes(contracts, bound))
        self._default = next((name for name, it in (classes or {}).items() if it.default), None)
        self.live: dict[str, Mapping[str, Any]] = {}
        self.silent: dict[str, int] = {}
        self.serving: dict[str, list[Mapping[str, Any]]] = {}
        of_queue = {it.queue: name for name, it in (classes or {}).items()}
        for worker, it in workers.items():
            silent = silent_ms(it, now_ms)
            if silent is not None:
                self.silent[worker] = silent
                continue
            self.live[worker] = it
            for name in classes_of(it, of_queue):
                self.serving.setdefault(name, []).append(it)

    @classmethod
    def read(cls, runs: Runs, settings: Settings | None) -> Self:
        """As published now; the declared classes are those of the settings."""
        from ..store.capabilities import Capabilities  # the module is for whoever reads a store

        classes, default = (None, None) if settings is None else (settings.classes, settings.capabilities)
        bindings = Capabilities(runs.client, runs.namespace, default).visible
        return cls(runs.contracts(), runs.workers(), runs.now_ms(), classes, bindings, scopes.paused(runs))

    def why_paused(self, graph: str, profile: Profile) -> str:
        """What is paused that holds nodes of this profile back, in a run of a graph of this name; "" for nothing."""
        if not self._paused:
            return ""
        executor = self.executor(profile) or profile.executor
        scope = (("graph", graph), ("class", str(self.queue_class(profile))), ("executor", executor))
        why = next((self._paused[it] for it in scope if it in self._paused), "")
        return escaped(f"waits: {why}", SHOWN_CHARACTERS) if why else ""

    def contract(self, executor: str) -> Mapping[str, Any]:
        """What an executor has published; nothing for an unknown one."""
        return self._contracts.get(executor, {})

    def class_timeout_ms(self, queue_class: str) -> int | None:
        """The time limit that a class has for those who declare none; None where it is not known."""
        found = (self._classes or {}).get(queue_class)
        return None if found is None else found.timeout_ms

    def celery_retries(self, profile: Profile) -> list[str]:
        """What the executor declares to Celery about retries, which count for nothing here."""
        return list(self.contract(self.executor(profile) or "").get("celery_retries") or ())

    def executor(self, profile: Profile) -> str | None:
        """Who does nodes of this profile: its executor, or who does what it asks for by capability or tool; "" for
        nobody, None when that may not be read.
        """
        if not is_found_later(profile.executor):
            return profile.executor
        routes = self._routes()
        if routes is None:
            return None
        route = routes.find(profile.executor)
        return "" if route is None else route.executor

    def queue_class(self, profile: Profile) -> str | None:
        """Where nodes of this profile are sent; None while nobody knows."""
        executor = self.executor(profile)
        if profile.queue_class is not None or executor is None or executor not in self._contracts:
            return profile.queue_class
        return self._contracts[executor].get("queue_class") or self._default

    def why_apart(self, profile: Profile) -> str:
        """Why nodes of this profile can be sent to nobody, whatever room there is; "" when they can."""
        executor = self.executor(profile)
        if executor is None:
            return ""
        if not executor and (wanted := capability_of(profile.executor)):
            return f"the capability {shown(wanted)} is bound to no executor (celeriac capabilities bind)"
        if not executor and (tool := tool_of(profile.executor)):
            return f"no worker has published the tool {shown(tool)}"
        if executor not in self._contracts:
            return f"no worker has published the executor {shown(executor)}"
        name = self.queue_class(profile)
        if name is None or self._classes is None or name in self._classes or name in self.serving:
            return ""
        return f"no queue class {shown(name)} is declared here"

    def why_not_sent(self, profile: Profile) -> str:
        """Why a node that may start has not been sent."""
        if why := self.why_apart(profile):
            return f"waits: {why}"
        name = self.queue_class(profile)
        if name is None:
            return "waits for the scheduler"
        if name not in self.serving:
            return f"waits: no worker serves the queue class {shown(name)}"
        return f"waits for room in the queue class {shown(name)}, or for a scheduler"

    def why_not_begun(self, profile: Profile) -> str:
        """Why a node that was sent does not run."""
        name = self.queue_class(profile)
        if name is not None and name not in self.serving:
            return f"sent, and no worker serves the queue class {shown(name)}"
        return "sent, and no worker has begun it yet"


def state_of(run: Run, node: int, claimed: Container[int] = ()) -> NodeState:
    """The state of a node; ready, and running if it is claimed, also where that is not recorded but follows."""
    state = NodeState(run.state[node])
    if state is NodeState.PENDING and run.run_state not in ENDED_RUNS:
        counts = run.counts(node)
        if not counts[0] or run.profiles[run.profile[node]].rule.answer(*counts) is Answer.START:
            return NodeState.READY
    elif state is NodeState.DISPATCHED and node in claimed:
        return NodeState.RUNNING
    return state


def reasons_of(runs: Runs, run: Run) -> dict[int, str]:
    """Why nodes were cancelled or skipped by themselves, in the words of whoever asked, or are blocked by a policy.

    One round trip, if any were; and the run's log, if its policy has safety checks and it goes on.
    """
    return _passed_over(runs, run) | _blocked(runs, run)


def _blocked(runs: Runs, run: Run) -> dict[int, str]:
    """Ready nodes that the run's policy holds, by the notes of its log."""
    if run.policy is None or not run.policy.record["attached"] or run.run_state in ENDED_RUNS:
        return {}
    found: dict[int, str] = {}
    for line in lines_of(runs.history(RunId(run.id))):
        if line.word == "wait" and line.why.startswith(BLOCKED):
            found[line.node] = line.why
        elif line.is_move:
            found.pop(line.node, None)
        elif line.word == "policy":
            found.clear()
    return found


def _passed_over(runs: Runs, run: Run) -> dict[int, str]:
    ended = (NodeState.CANCELLED, NodeState.SKIPPED)
    if not any(run.by_state[state] for state in ended):
        return {}
    nodes = [node for node in range(run.n) if run.state[node] in ended and run.output_kind[node]]
    found = runs.values(RunId(run.id), nodes) if nodes else {}
    return {node: str(json.loads(raw).get("message", "")) for node, raw in found.items()}


def view_nodes(
    run: Run,
    claimed: Mapping[int, tuple[int, str]],
    workers: Workers,
    reasons: Mapping[int, str] | None = None,
) -> Iterator[NodeView]:
    """Every node of a run, in topological order. O(nodes + edges).

    Args:
        claimed: node -> (claimed at, ms; worker), see Runs.claimed.
        reasons: node -> why it was cancelled or skipped by itself, or is blocked, see `reasons_of`.
    """
    classes = [workers.queue_class(profile) for profile in run.profiles]
    roots: dict[int, int] = {}
    for node in range(run.n):
        profile = run.way(node)
        state = state_of(run, node, claimed)
        tries = tuple(run.tries(node))
        worker = tries[-1].worker if tries else ""
        if node in claimed:
            at_ms, worker = claimed[node]
            if tries:
                tries = (*tries[:-1], tries[-1]._replace(claimed_at_ms=at_ms, worker=worker))
        cause = run.cause.get(node)
        if cause is not None:  # a cause is upstream, so the node that began it is known already
            roots[node] = roots.get(cause, cause)
        waits_for = tuple(_open_upstream(run, node)) if state is NodeState.PENDING else ()
        if state is NodeState.PENDING:
            why = _why_pending(profile, waits_for, len(run.upstream(node)))
        elif state is NodeState.READY:
            paused = run.run_state is RunState.PAUSED
            why = escaped(f"the run is {run.reason}", SHOWN_CHARACTERS) if paused else ""
            why = why or escaped((reasons or {}).get(node, ""), 2 * SHOWN_CHARACTERS)
            why = why or workers.why_paused(run.name, profile) or workers.why_not_sent(profile)
        elif state is NodeState.DISPATCHED:
            why = workers.why_not_begun(profile)
        elif reasons and node in reasons:
            why = escaped(reasons[node], SHOWN_CHARACTERS)
        elif state is NodeState.SUCCEEDED and tries and tries[-1].end == "completed":
            why = f"completed by {escaped(worker, SHOWN_CHARACTERS) or 'hand'}"
        else:
            why = _why(run, node, state, worker, roots.get(node))
        if node in run.leaving:
            why = escaped(f"is being {run.leaving[node]}", SHOWN_CHARACTERS)
        yield NodeView(
            run.keys[node],
            state,
            run.attempt[node],
            tries,
            work_of(run, node),
            workers.queue_class(profile) if node in run.rungs else classes[run.profile[node]],
            profile.rule.name,
            run.labels.get(node, {}),
            waits_for,
            None if cause is None else run.keys[cause],
            why,
            worker,
            run.fallback_from(node),
            run.versions.get(profile.executor, ""),
        )


def cause_text(key: str, state: NodeState) -> str:
    """Why a node was passed over, in words, from the node that began it."""
    return f"node {shown(key)} {_ENDED.get(state, f'is {state.word}')}"


_ENDED = {
    NodeState.SUCCEEDED: "succeeded",
    NodeState.FAILED: "failed",
    NodeState.SKIPPED: "was skipped",
    NodeState.UPSTREAM_FAILED: "was upstream_failed",
    NodeState.CANCELLED: "was cancelled",
}


def _closed_text(run: Run, node: int, root: int) -> str:
    """That an edge was closed to a node, in words; "" when that is not why it was passed over."""
    upstream = [up for up in run.upstream(node) if node in run.closed.get(up, ())]
    if root not in upstream:
        return ""
    return f"the edge from {shown(run.keys[root])} is closed"


def _open_upstream(run: Run, node: int) -> Iterator[str]:
    return (run.keys[up] for up in run.upstream(node) if run.state[up] < FIRST_ENDED)


def _why_pending(profile: Profile, waits_for: tuple[str, ...], upstream: int) -> str:
    if not waits_for:
        return "waits for the scheduler"
    names = ", ".join(shown(key, 60) for key in waits_for[:SHOWN_NODES])
    more = f" and {len(waits_for) - SHOWN_NODES} more" if len(waits_for) > SHOWN_NODES else ""
    return f"{profile.rule.name} waits for {len(waits_for)} of {upstream} upstream nodes: {names}{more}"


def _why_it_waits(run: Run, node: int, wait: Wait) -> str:
    """Of nodes that are parked, or whose job somebody outside ends."""
    if node in run.handed:
        return "its job is begun; waits for somebody outside to end it"
    since_ms = run.created_at_ms + run.parked[node]
    if wait.puts_off:
        return f"waits until {instant_text(wait.due_ms(since_ms))}"
    until = "" if wait.within_ms is None else f", until {instant_text(since_ms + wait.within_ms)} at most"
    if wait.kind == "signal":
        return f"waits for the signal {shown(wait.name)}{until}"
    return f"waits for an answer{until}: {escaped(wait.question, SHOWN_CHARACTERS)}"


def instant_text(at_ms: int) -> str:
    """An instant in UTC, to the second.

    >>> instant_text(1_700_000_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _why(run: Run, node: int, state: NodeState, worker: str, root: int | None) -> str:
    """Of nodes that run, wait for their next try, or have ended."""
    profile = run.profiles[run.profile[node]]
    if state is NodeState.RUNNING:
        return f"on {escaped(worker, SHOWN_CHARACTERS)}" if worker else ""
    if state is NodeState.WAITING:
        if (wait := wait_of(run, node)) is not None:
            return _why_it_waits(run, node, wait)
        rung = f" on {escaped(run.rung_words(node), SHOWN_CHARACTERS)}" if node in run.rungs else ""
        return f"waits for its next try{rung}, failed {run.failures[node]} of at most {profile.max_attempts} times"
    if state in (NodeState.SKIPPED, NodeState.UPSTREAM_FAILED):
        name = profile.rule.name
        if root is not None:
            return f"{name}: {_closed_text(run, node, root) or cause_text(run.keys[root], NodeState(run.state[root]))}"
        guard = None if run.guards is None else run.guards.when.get(node)
        if run.reason.startswith("stopped: "):
            return escaped(run.reason, SHOWN_CHARACTERS)
        return name if guard is None else f"its condition is false: {escaped(guard.text, SHOWN_CHARACTERS)}"
    return escaped(run.reason, SHOWN_CHARACTERS) if state is NodeState.CANCELLED else ""
