"""Who is there to work, and what there is to do: workers and nodes by class, for `doctor`, `run` and `runs show`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core.rules import Answer
from ..core.run import Run
from ..core.states import NodeState
from ..service.admission import Admission
from ..settings import Settings
from ..store.runs import Runs
from ..wire import RunId

SILENT_BEATS = 4
"""A worker that has missed so many heartbeats is not counted on."""


@dataclass
class Demand:
    """What waits and what is on its way.

    Attributes:
        ready, flying: class -> nodes that could be sent, and attempts that were.
        apart: why nodes belong to no class at all -> nodes, such as an executor that nobody has published.
    """

    ready: dict[str, int] = field(default_factory=dict)
    flying: dict[str, int] = field(default_factory=dict)
    apart: dict[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> set[str]:
        """Classes that have something to do."""
        return {*self.ready, *self.flying}


def live_workers(runs: Runs) -> dict[str, dict[str, Any]]:
    """Workers that were heard of lately: name -> description."""
    now = runs.now_ms()
    return {
        name: it
        for name, it in runs.workers().items()
        if now - it.get("seen_at_ms", 0) <= SILENT_BEATS * 1000 * float(it.get("heartbeat_seconds") or 5)
    }


def served_classes(settings: Settings, workers: Iterable[dict[str, Any]]) -> set[str]:
    """Classes that these workers serve: as they were told, else by the queues they read."""
    found = set()
    for worker in workers:
        if worker.get("queue_class"):
            found.add(worker["queue_class"])
        queues = worker.get("queues") or ()
        found.update(it.name for it in settings.classes.values() if it.queue in queues)
    return found


def demand_of(settings: Settings, runs: Runs, loaded: Iterable[Run]) -> Demand:
    """What runs want of the workers now. O(nodes)."""
    admission = Admission(settings.classes, settings.default_class.name)
    admission.learn(runs.contracts())
    demand = Demand()
    for run in loaded:
        for node, state in enumerate(run.state):
            flying = state in (NodeState.DISPATCHED, NodeState.RUNNING)
            if not flying and not (state == NodeState.READY or (state == NodeState.PENDING and is_ready(run, node))):
                continue
            name, why = admission.place(run.profiles[run.profile[node]])
            counted, key = (demand.apart, why) if name is None else (demand.flying if flying else demand.ready, name)
            counted[key] = counted.get(key, 0) + 1
    return demand


def is_ready(run: Run, node: int) -> bool:
    """Whether a pending node could start: the store does not keep that, for it follows from what it keeps."""
    counts = run.counts(node)
    return counts[0] == 0 or run.profiles[run.profile[node]].rule.answer(*counts) == Answer.START


def idle_classes(settings: Settings, runs: Runs, run_id: RunId) -> list[str]:
    """Classes for which a run has work and no worker is there."""
    demand = demand_of(settings, runs, [runs.load(run_id)])
    return sorted(demand.classes - served_classes(settings, live_workers(runs).values()))
