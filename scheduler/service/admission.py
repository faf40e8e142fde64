"""Who is sent next? Ready nodes wait here, per queue class, until their class has room.

A class has room for its window of attempts in flight (windows.py), the declared one at most, which is shared out among
schedulers by the shards that they own. Within a class ready nodes of the runs with the highest priority go first, those
of others only into room that these leave. Runs of the same priority take turns, so a wide run does not hold up a narrow
one, and a full class does not hold up another. A node whose executor or class nobody knows yet waits apart, with its
reason. One that asks for a tool which nobody has published is refused.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..core.policies import BLOCKED
from ..core.run import Profile, Run
from ..core.safety import Finding
from ..core.states import NodeState, RunState
from ..settings import QueueClass
from ..store.capabilities import Binding
from ..store.routes import Routes
from ..versions import fits, is_compatible, version_of
from ..wire import capability_of, is_found_later
from .bundling import Bundling, Draft, Taken, has_been_tried
from .chains import WorkOf, may_chain, steps_after
from .refusals import Refusal, denied, not_allowed, other_version, too_late, unknown_tool
from .windows import Window

_READY, _RUNNING = int(NodeState.READY), RunState.RUNNING
MOST_BOUND = 1_000
"""Profiles with an executor that was found for them, that are remembered."""
LIMIT_GRACE_MS = 5_000
"""A lease outlives a time limit that Celery was told by this, so that a pool that enforces it reports first."""
UNKNOWN = "unknown tool"
"""In place of a reason to wait: a node asks for a tool that nobody is known to offer."""
TURN = 16
"""Nodes of one run that are sent before the next run has its turn."""


Gate = Callable[[Run, int, str, str], Finding | None]
"""(run, node, executor, queue class) -> what a policy has against the node, for runs that have one."""


class Admission:
    """Ready nodes by class.

    Args:
        classes: the declared queue classes.
        default: the class of executors that declare none.
    """

    def __init__(self, classes: Mapping[str, QueueClass], default: str) -> None:
        self.classes = classes
        self.default = default
        self.contracts: Mapping[str, Mapping[str, Any]] = {}
        self.bundling = Bundling(classes)
        self.routes = Routes({}, {})
        """Who does what nodes ask for by capability or tool now."""
        self._versions: dict[str, str] = {}
        """Executor -> its version now, of those that have one."""
        self._expected_ms: dict[str, int] = {}
        """Executor -> how long one call usually takes, of those that say so."""
        self._bound: dict[tuple[Profile, str], Profile] = {}
        self.flying: dict[str, int] = dict.fromkeys(classes, 0)
        self.windows = {name: Window(it) for name, it in classes.items()}
        in_order = sorted(classes, key=lambda name: classes[name].latency != "interactive")
        self._ready: dict[str, dict[int, OrderedDict[str, tuple[Run, deque[int]]]]] = {name: {} for name in in_order}
        """Class -> priority -> the runs that have ready nodes; a priority without runs is left out. Interactive classes
        come first, so that others never use up what a turn may send."""
        self._waiting: dict[str, dict[str, tuple[Run, list[int]]]] = {}
        self._paused: Mapping[tuple[str, str], str] = {}
        self.again: list[tuple[Run, int]] = []
        """Ready nodes that are to be added once more, for what is paused has changed."""
        self.refused: list[Refusal] = []
        """Ready nodes that are not to be sent; their attempts are to fail."""
        self.lane: deque[int] | None = None
        """Where the node went that was added last, if all of its run and profile go there now; else None."""
        self.gate: Gate | None = None
        self._blocked: dict[str, dict[int, str]] = {}
        """Run -> ready nodes that its policy holds, with the reasons. They are no more waited for: whoever changes the
        policy has all of the run's ready nodes added anew."""
        self._fitting: dict[tuple[str, str], bool] = {}
        self._placed: dict[tuple[str, str | None], tuple[str | None, str]] = {}

    def learn(self, contracts: Mapping[str, Mapping[str, Any]], bindings: Mapping[str, Binding] | None = None) -> None:
        """Executors and bindings as they are now: nodes that waited for one of them become ready to send, and those
        that ask for a capability or a tool are placed anew.
        """
        self.contracts = contracts
        self.bundling.learn(contracts)
        self._versions = {name: found for name, it in contracts.items() if (found := version_of(it))}
        self._expected_ms = {name: ms for name, it in contracts.items() if (ms := _expected_ms(it))}
        self._placed.clear()
        routes = Routes(contracts, self.routes.bindings if bindings is None else bindings)
        if routes != self.routes:
            self.routes = routes
            self._place_again()
        waiting, self._waiting = self._waiting, {}
        for runs in waiting.values():
            for run, nodes in runs.values():
                for node in nodes:
                    if run.policy is None:
                        self.add(run, node, sure=True)
                    else:
                        self.again.append((run, node))  # where a policy's word goes into the log

    def _place_again(self) -> None:
        """Ready nodes that ask for a capability or a tool may belong into another class now. O(ready nodes)."""
        asking = [
            (run, node) for _, run, nodes in self.waiting() for node in nodes if is_found_later(run.way(node).executor)
        ]
        for levels in self._ready.values():
            for priority, queue in list(levels.items()):
                for id_, (run, nodes) in list(queue.items()):
                    queue[id_] = (run, deque(it for it in nodes if not is_found_later(run.way(it).executor)))
                    if not queue[id_][1]:
                        del queue[id_]
                if not queue:
                    del levels[priority]
        for run, node in asking:
            self._waiting.setdefault("", {}).setdefault(run.id, (run, []))[1].append(node)

    def bound(self, profile: Profile, executor: str = "") -> Profile:
        """How a node is run that asks for a capability or a tool: by this executor, or by who does that now."""
        if not is_found_later(profile.executor):
            return profile
        if not executor:
            route = self.routes.find(profile.executor)
            executor = route.executor if route is not None else profile.executor
        found = self._bound.get((profile, executor))
        if found is None:
            if len(self._bound) >= MOST_BOUND:
                self._bound.clear()
            found = self._bound[profile, executor] = replace(profile, executor=executor)
        return found

    def is_unsafe(self, profile: Profile, executor: str = "") -> bool:
        """Whether the executor of such a node says that what may have begun must not be repeated unasked.

        Args:
            executor: that a capability was bound to when the attempt was sent; "" for none.
        """
        return self.contracts.get(self.bound(profile, executor).executor, {}).get("purity") == "unsafe"

    def rule(self, profile: Profile) -> str:
        """Which rule names the executor of a node that asks for a capability or tool, in the log's words; else ""."""
        route = self.routes.find(profile.executor) if is_found_later(profile.executor) else None
        return route.rule if route is not None else ""

    def may_object(self, run: Run) -> bool:
        """Whether anything can speak against sending nodes of a run: a deadline, or versions. Most have neither."""
        return bool(self._versions) or run.deadline_at_ms is not None

    def objection(self, run: Run, node: int, now: int) -> Refusal | None:
        """Why a node must not be sent now, although there is room; None when it may.

        Args:
            now: by Redis, ms since 1970.
        """
        way = run.way(node)
        executor = self.bound(way).executor
        if run.deadline_at_ms is not None:
            expected = self._expected_ms.get(executor, 0) if way.expected_ms is None else way.expected_ms
            if expected and now + expected > run.deadline_at_ms:
                return too_late(run, node, executor, expected, run.deadline_at_ms - now)
        version = self._versions.get(executor)
        if version is None:
            return None
        if way.executor_version is not None and not fits(version, way.executor_version):
            return other_version(run, node, executor, version, asked=way.executor_version)
        before = run.versions.get(way.executor)
        if before is not None and not is_compatible(before, version):
            return other_version(run, node, executor, version, before=before)
        return None

    def told(self, run: Run, way: Profile, executor: str) -> str:
        """What the log says of an attempt that goes out: the rule that has found its executor, and its version unless
        that is the one which the run has recorded.
        """
        rule, version = self.rule(way), self._versions.get(executor)
        if version is None or (before := run.versions.get(way.executor, "")) == version:
            return rule
        was = f", {before} at submit" if before else ""
        return f"{rule}{'; ' if rule else ''}version {version} of {executor}{was}"

    def heed(self, paused: Mapping[tuple[str, str], str]) -> None:
        """What is paused now: (graph, class or executor; its name) -> why. O(ready nodes)."""
        self._paused = paused
        for levels in self._ready.values():
            for queue in levels.values():
                self.again += ((run, node) for run, nodes in queue.values() for node in nodes)
            levels.clear()
        waiting, self._waiting = self._waiting, {}
        self.again += ((run, node) for runs in waiting.values() for run, nodes in runs.values() for node in nodes)

    def _why_paused(self, run: Run, executor: str, queue_class: str) -> str:
        scopes = (("graph", run.name), ("class", queue_class), ("executor", executor))
        return next((self._paused[it] for it in scopes if it in self._paused), "")

    def place(self, profile: Profile) -> tuple[str | None, str]:
        """(queue class, "") for a node of this profile, or (None, why it must wait)."""
        wanted = (profile.executor, profile.queue_class)
        found = self._placed.get(wanted)
        if found is None:
            found = self._placed[wanted] = self._place(*wanted)
        return found

    def _place(self, executor: str, queue_class: str | None) -> tuple[str | None, str]:
        if is_found_later(executor):
            route = self.routes.find(executor)
            if route is None:
                wanted = capability_of(executor)
                unbound = f"the capability {wanted!r} is bound to no executor (celeriac capabilities bind)"
                return None, unbound if wanted else UNKNOWN
            executor = route.executor
        contract = self.contracts.get(executor)
        if contract is None:
            return None, f"no worker has published the executor {executor!r}"
        name = queue_class or contract.get("queue_class") or self.default
        if name not in self.classes:
            return None, f"no queue class {name!r} is declared here"
        return name, ""

    def _fits(self, executor: str, queue_class: str) -> bool:
        asked = (executor, queue_class)
        if asked not in self._fitting:
            self._fitting[asked] = self.classes[queue_class].allows(executor)
        return self._fitting[asked]

    def add(self, run: Run, node: int, *, sure: bool = False) -> str:
        """A node became ready. Returns why it must wait apart, or "" when it waits for room, or is refused.

        Args:
            sure: what is known has just been read, so a tool that is not known is refused. Else UNKNOWN is returned for
                it, and nothing is done.
        """
        self.lane = None
        profile = run.way(node)
        name, why = self.place(profile)
        if why == UNKNOWN:
            if not sure:
                return why
            self.refused.append(unknown_tool(run, node, profile.executor, self.routes))
            return ""
        if name is not None and self._paused:
            why = self._why_paused(run, self.bound(profile).executor, name)
        if why:
            self._waiting.setdefault(why, {}).setdefault(run.id, (run, []))[1].append(node)
            return why
        assert name is not None  # noqa: S101  else there was a reason
        executor = self.bound(profile).executor
        if not self._fits(executor, name):
            self.refused.append(not_allowed(run, node, executor, self.classes[name]))
            return ""
        if run.policy is not None:
            stopped = self._stopped(run, node, executor, name)
            if stopped is not None:
                return stopped
        levels = self._ready[name]
        runs = levels.get(run.priority)
        if runs is None:
            runs = levels[run.priority] = OrderedDict()
        queue = runs.get(run.id)
        if queue is None:
            queue = runs[run.id] = (run, deque())
        queue[1].append(node)
        if not run.rungs and run.policy is None:
            self.lane = queue[1]
        return ""

    def _stopped(self, run: Run, node: int, executor: str, queue_class: str) -> str | None:
        """What the run's policy says: why the node is held, "" when it is to fail, None when it may go out."""
        finding = None if self.gate is None else self.gate(run, node, executor, queue_class)
        if finding is None:
            return None
        if not finding.holds:
            self.refused.append(denied(run, node, finding))
            return ""
        self._blocked.setdefault(run.id, {})[node] = finding.words
        return f"{BLOCKED}{run.policy.version if run.policy else ''}: {finding.words}"

    def is_blocked(self, run: Run, node: int) -> bool:
        """Whether a node is held by its run's policy."""
        return node in self._blocked.get(run.id, ())

    def forget(self, runs: Iterable[str]) -> None:
        """These runs have ended, or belong to another scheduler now."""
        runs = set(runs)
        self.refused = [it for it in self.refused if it.run.id not in runs]
        self.again = [it for it in self.again if it[0].id not in runs]
        for run in runs:
            for levels in self._ready.values():
                for priority in [it for it, queue in levels.items() if queue.pop(run, None) and not queue]:
                    del levels[priority]
            for waiting in self._waiting.values():
                waiting.pop(run, None)
            self._blocked.pop(run, None)
        if self._waiting:
            self._waiting = {why: waiting for why, waiting in self._waiting.items() if waiting}

    def busy(self) -> list[str]:
        """Classes that have ready nodes."""
        return [name for name, levels in self._ready.items() if levels]

    def waiting(self) -> list[tuple[str, Run, deque[int]]]:
        """What waits for room: (class, run, its nodes in the order in which they came)."""
        return [
            (name, run, nodes)
            for name, levels in self._ready.items()
            for runs in levels.values()
            for run, nodes in runs.values()
            if nodes
        ]

    def take(self, share: float, limit: int, classes: Collection[str] | None = None) -> list[Taken]:
        """Nodes to send now, at most `limit` in all.

        Args:
            share: our part of every window, 0 to 1.
            limit: most nodes for one commit.
            classes: theirs; None for any.
        """
        taken: list[Taken] = []
        for name, levels in self._ready.items():
            if classes is not None and name not in classes:
                continue
            window, flying = self.windows[name], self.flying[name]
            if not levels:
                window.short = False
                continue
            slots = self.bundling.slots(name, share)
            draft = Draft(name, window.size(share) - flying, slots, flying, self.classes[name].bundle_us)
            while limit > 0 and levels and not draft.is_full:
                priority = max(levels)
                queue = levels[priority]
                id_, (run, nodes) = queue.popitem(last=False)
                alone = len(nodes) == 1 and not queue and len(levels) == 1
                turn, steps = self._turn(draft, name, run, nodes, min(TURN, limit) if queue else limit, alone=alone)
                if nodes:
                    queue[id_] = (run, nodes)
                    queue.move_to_end(id_, last=bool(turn))
                elif not queue:
                    del levels[priority]
                limit -= len(turn)
                if turn:
                    taken.append(draft.took(run, turn, steps))
            draft.share_out()
            window.short = bool(levels) and draft.room <= 0
        return taken

    def _turn(
        self, draft: Draft, queue_class: str, run: Run, nodes: deque[int], most: int, *, alone: bool
    ) -> tuple[list[int], dict[int, list[int]]]:
        """The next nodes of a run that there is room for, at most so many; they leave the queue. And for those that
        begin a chain the steps that follow in the same message.
        """
        turn: list[int] = []
        steps: dict[int, list[int]] = {}
        shares, going = draft.slots > 0, run.run_state is _RUNNING
        chains = shares and not self._paused and not self.may_object(run) and may_chain(run)
        step_us = self._step_us(queue_class)
        works: dict[int, int | None] = {}  # by profile, for nodes that have not been tried before
        while nodes and len(turn) < most:
            node = nodes[0]
            if going and run.state[node] == _READY:
                number = -1 if not shares or run.rungs or has_been_tried(run, node) else run.profile[node]
                if number in works:
                    work = works[number]
                else:
                    work = self.bundling.work_us(run, node, self.bound(run.way(node)), queue_class) if shares else None
                    if number >= 0:
                        works[number] = work
                follow: list[int] = []
                if chains and work is not None:
                    follow, work = steps_after(run, node, work, draft.left_us(alone=alone), step_us)
                if not draft.takes(work):
                    break
                turn.append(node)
                if follow:
                    steps[node] = follow
            nodes.popleft()
        return turn, steps

    def _step_us(self, queue_class: str) -> WorkOf:
        """What a next step adds to the work of a message of this class."""

        def work_us(run: Run, node: int) -> int | None:
            way = run.way(node)
            fits = not is_found_later(way.executor) and self.place(way)[0] == queue_class
            if not fits or not self._fits(way.executor, queue_class):
                return None
            return self.bundling.work_us(run, node, way, queue_class)

        return work_us

    def waits(self) -> dict[str, int]:
        """Why nodes wait apart: reason -> how many. For people."""
        return {why: sum(len(nodes) for _, nodes in runs.values()) for why, runs in self._waiting.items()}

    def timeout_ms(self, profile: Profile) -> int | None:
        """The hard limit that the node or its executor declares, which Celery is told too; None for neither.

        The class's limit is the lease's affair alone: Celery would keep a timer for each message, and kombu keeps
        timers that were cancelled until they would have been due (some 500 bytes a task, for an hour).
        """
        if profile.timeout_ms is not None:
            return profile.timeout_ms
        declared = self.contracts.get(profile.executor, {}).get("timeout_seconds")
        return round(declared * 1000) if declared else None

    def limit_ms(self, profile: Profile, queue_class: QueueClass) -> int:
        """How long after its claim an attempt counts as over, whatever its worker says."""
        told = self.timeout_ms(profile)
        return queue_class.timeout_ms if told is None else told + LIMIT_GRACE_MS

    def soft_timeout_ms(self, profile: Profile) -> int | None:
        """Soft limit of an attempt: the node's, else the executor's, else none."""
        if profile.soft_timeout_ms is not None:
            return profile.soft_timeout_ms
        declared = self.contracts.get(profile.executor, {}).get("soft_timeout_seconds")
        return round(declared * 1000) if declared and profile.timeout_ms is None else None


def _expected_ms(contract: Mapping[str, Any]) -> int:
    """How long one call usually takes, ms; 0 when the contract does not say it, or not as a number."""
    found = contract.get("expected_seconds")
    return round(found * 1000) if isinstance(found, int | float) and 0 < found < math.inf else 0
