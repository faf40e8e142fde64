"""Who is sent next? Ready nodes wait here, per queue class, until their class has room.

A class has room for its window of attempts in flight (windows.py), the declared one at most, which is shared out among
schedulers by the shards that they own. Within a class ready nodes of the runs with the highest priority go first, those
of others only into room that these leave. Runs of the same priority take turns, so a wide run does not hold up a narrow
one, and a full class does not hold up another. A node whose executor or class nobody knows yet waits apart, with its
reason.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..core.run import Profile, Run
from ..core.states import NodeState, RunState
from ..settings import QueueClass
from ..store.capabilities import Binding
from ..wire import capability_of
from .windows import Window

_READY, _RUNNING = int(NodeState.READY), RunState.RUNNING
MOST_BOUND = 1_000
"""Profiles with a bound executor that are remembered."""
LIMIT_GRACE_MS = 5_000
"""A lease outlives a time limit that Celery was told by this, so that a pool that enforces it reports first."""
TURN = 16
"""Nodes of one run that are sent before the next run has its turn."""


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
        self.bindings: Mapping[str, Binding] = {}
        """Capability -> the executor that it is bound to now."""
        self._bound: dict[tuple[Profile, str], Profile] = {}
        self.flying: dict[str, int] = dict.fromkeys(classes, 0)
        self.windows = {name: Window(it) for name, it in classes.items()}
        self._ready: dict[str, dict[int, OrderedDict[str, tuple[Run, deque[int]]]]] = {name: {} for name in classes}
        """Class -> priority -> the runs that have ready nodes; a priority without runs is left out."""
        self._waiting: dict[str, dict[str, tuple[Run, list[int]]]] = {}
        self._paused: Mapping[tuple[str, str], str] = {}
        self.again: list[tuple[Run, int]] = []
        """Ready nodes that are to be added once more, for what is paused has changed."""
        self.refused: list[tuple[Run, int, str]] = []
        """Ready nodes whose executor may not run in their class, with that class; they are to fail."""
        self._fitting: dict[tuple[str, str], bool] = {}
        self._placed: dict[tuple[str, str | None], tuple[str | None, str]] = {}

    def learn(self, contracts: Mapping[str, Mapping[str, Any]], bindings: Mapping[str, Binding] | None = None) -> None:
        """Executors and bindings as they are now: nodes that waited for one of them become ready to send, and those
        that ask for a capability are placed anew.
        """
        self.contracts = contracts
        self._placed.clear()
        if bindings is not None and bindings != self.bindings:
            self.bindings = bindings
            self._place_again()
        waiting, self._waiting = self._waiting, {}
        for runs in waiting.values():
            for run, nodes in runs.values():
                for node in nodes:
                    self.add(run, node)

    def _place_again(self) -> None:
        """Ready nodes that ask for a capability may belong into another class now. O(ready nodes)."""
        asking = [
            (run, node) for _, run, nodes in self.waiting() for node in nodes if capability_of(run.way(node).executor)
        ]
        for levels in self._ready.values():
            for priority, queue in list(levels.items()):
                for id_, (run, nodes) in list(queue.items()):
                    queue[id_] = (run, deque(it for it in nodes if not capability_of(run.way(it).executor)))
                    if not queue[id_][1]:
                        del queue[id_]
                if not queue:
                    del levels[priority]
        for run, node in asking:
            self._waiting.setdefault("", {}).setdefault(run.id, (run, []))[1].append(node)

    def bound(self, profile: Profile, executor: str = "") -> Profile:
        """How a node is run whose capability is bound to an executor: to this one, or as bindings are now."""
        wanted = capability_of(profile.executor)
        if not wanted:
            return profile
        if not executor:
            binding = self.bindings.get(wanted)
            executor = binding.executor if binding is not None else profile.executor
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
        """Which rule names the executor of a node that asks for a capability, in the words of the log; else ""."""
        wanted = capability_of(profile.executor)
        binding = self.bindings.get(wanted) if wanted else None
        return f"capability {wanted}: executor {binding.executor}, {binding.words}" if binding is not None else ""

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
        if wanted := capability_of(executor):
            binding = self.bindings.get(wanted)
            if binding is None:
                return None, f"the capability {wanted!r} is bound to no executor (celeriac capabilities bind)"
            executor = binding.executor
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

    def add(self, run: Run, node: int) -> str:
        """A node became ready. Returns why it must wait apart, or "" when it waits for room, or is refused."""
        profile = run.way(node)
        name, why = self.place(profile)
        if name is not None and self._paused:
            why = self._why_paused(run, self.bound(profile).executor, name)
        if why:
            self._waiting.setdefault(why, {}).setdefault(run.id, (run, []))[1].append(node)
            return why
        assert name is not None  # noqa: S101  else there was a reason
        if not self._fits(self.bound(profile).executor, name):
            self.refused.append((run, node, name))
            return ""
        levels = self._ready[name]
        runs = levels.get(run.priority)
        if runs is None:
            runs = levels[run.priority] = OrderedDict()
        queue = runs.get(run.id)
        if queue is None:
            runs[run.id] = (run, deque((node,)))
        else:
            queue[1].append(node)
        return ""

    def forget(self, runs: Iterable[str]) -> None:
        """These runs have ended, or belong to another scheduler now."""
        runs = set(runs)
        self.refused = [it for it in self.refused if it[0].id not in runs]
        self.again = [it for it in self.again if it[0].id not in runs]
        for run in runs:
            for levels in self._ready.values():
                for priority in [it for it, queue in levels.items() if queue.pop(run, None) and not queue]:
                    del levels[priority]
            for waiting in self._waiting.values():
                waiting.pop(run, None)
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

    def take(self, share: float, limit: int) -> list[tuple[str, Run, list[int]]]:
        """Nodes to send now: (class, run, nodes), at most `limit` in all.

        Args:
            share: our part of every window, 0 to 1.
            limit: most nodes for one commit.
        """
        taken = []
        for name, levels in self._ready.items():
            window = self.windows[name]
            if not levels:
                window.short = False
                continue
            left = window.size(share) - self.flying[name]
            room = min(left, limit)
            left -= room
            while room > 0 and levels:
                priority = max(levels)
                queue = levels[priority]
                id_, (run, nodes) = queue.popitem(last=False)
                turn = [nodes.popleft() for _ in range(min(TURN if queue else room, len(nodes), room))]
                if nodes:
                    queue[id_] = (run, nodes)
                elif not queue:
                    del levels[priority]
                turn = [node for node in turn if run.state[node] == _READY] if run.run_state is _RUNNING else []
                room -= len(turn)
                limit -= len(turn)
                if turn:
                    taken.append((name, run, turn))
            window.short = bool(levels) and room + left <= 0
        return taken

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
