"""What there is to do, by queue class, and which of it has nobody to do it: for `doctor` and `run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..client.views import Workers, state_of
from ..core.run import Run
from ..core.states import IN_FLIGHT, NodeState
from ..settings import Settings
from ..store.runs import Runs
from ..wire import RunId


@dataclass
class Demand:
    """What waits and what is on its way.

    Attributes:
        ready, flying: class -> nodes that could be sent, and attempts that were.
        since_ms: class -> since when the longest waiting of its ready nodes has been ready, by Redis's clock.
        apart: why nodes can be sent to nobody, such as an executor that no worker has published -> nodes.
    """

    ready: dict[str, int] = field(default_factory=dict)
    flying: dict[str, int] = field(default_factory=dict)
    since_ms: dict[str, int] = field(default_factory=dict)
    apart: dict[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> set[str]:
        """Classes that have something to do."""
        return {*self.ready, *self.flying}


def demand_of(workers: Workers, loaded: Iterable[Run]) -> Demand:
    """What runs want of the workers now. O(nodes + edges into ready ones)."""
    demand = Demand()
    for run in loaded:
        places = [(workers.queue_class(it), workers.why_apart(it)) for it in run.profiles]
        for node in range(run.n):
            state = state_of(run, node)
            name, why = places[run.profile[node]]
            if node in run.rungs:
                name, why = workers.queue_class(run.way(node)), workers.why_apart(run.way(node))
            if state in IN_FLIGHT and name is not None:
                counted, key = demand.flying, name
            elif state is not NodeState.READY:
                continue
            elif name is None or why:
                counted, key = demand.apart, why
            else:
                counted, key = demand.ready, name
                since = ready_since_ms(run, node)
                demand.since_ms[name] = min(since, demand.since_ms.get(name, since))
            counted[key] = counted.get(key, 0) + 1
    return demand


def ready_since_ms(run: Run, node: int) -> int:
    """Since when a ready node has been ready, by the records: its own where it was ready before and was lost, else the
    end of the last node that it waited for, else the start of the run. O(in-edges).
    """
    if run.state[node] == NodeState.READY:
        return run.created_at_ms + run.ready_at[node]
    ends = [attempt.ended_at_ms for up in run.upstream(node) for attempt in run.tries(up)]
    return max(ends, default=run.created_at_ms)


def idle_classes(settings: Settings, runs: Runs, run_id: RunId) -> list[str]:
    """Classes for which a run has work and no worker is there."""
    workers = Workers.read(runs, settings)
    return sorted(demand_of(workers, [runs.load(run_id)]).classes - workers.serving.keys())
