"""celeriac as a user drives it: a Graph, Client.submit, RunHandle.wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from scheduler import Client, Graph, Node, Timing
from scheduler.core.states import RunState
from scheduler.store.attempts import Attempts

from .place import Child, Place
from .shapes import Shape

NODE = "bench.node"
"""The executor: returns at once, with nothing."""
PURE = "bench.pure"
"""The same, which says that it is pure: in a chain it may begin ahead of the record of what comes before it."""
BUSY = "bench.busy"
"""Another: keeps its process busy for some milliseconds."""
QUEUE_CLASS = "standard-low"


def graph_of(shape: Shape, *, alone: bool = False, executor: str = NODE) -> Graph:
    """The shape as a user would write it.

    Args:
        alone: each node asks for a message of its own.
        executor: of all nodes.
    """
    graph = Graph(shape.name)
    nodes: list[Node[None]] = []
    for up in shape.up:
        nodes.append(graph.add(executor, after=[nodes[at] for at in up], timing=Timing(alone=True) if alone else None))
    return graph


class Timed(NamedTuple):
    """Seconds of one measurement: until submitted, and in all."""

    submit: float
    total: float


def run_all(client: Client, graphs: list[Graph], timeout_seconds: float = 300.0, *, together: bool = False) -> Timed:
    """Submit graphs, then wait for all of them.

    Args:
        together: by one call each; else one after the other.

    Raises:
        RuntimeError: one did not succeed.
    """
    start = time.perf_counter()
    runs = client.submit_many(graphs) if together else [client.submit(graph) for graph in graphs]
    submitted = time.perf_counter()
    states = client.wait_many(runs, timeout_seconds) if together else [run.wait(timeout_seconds) for run in runs]
    end = time.perf_counter()
    _all_succeeded(states)
    return Timed(submitted - start, end - start)


def run_watched(
    place: Place, client: Client, graph: Graph, *needed: Child, look: Callable[[], object] = int, timeout: float = 300.0
) -> Timed:
    """The same for one graph, waiting by a look at its state 50 times a second.

    A waiting handle reads the run's whole log, on the same cores as the scheduler that is being measured; this
    costs the same whatever the run does. `look` is called each time too.
    """
    start = time.perf_counter()
    run = client.submit(graph)
    submitted = time.perf_counter()

    def ended() -> bool:
        look()
        return run.state is not RunState.RUNNING

    place.until(ended, f"the end of run {run.id}", *needed, seconds=timeout)
    end = time.perf_counter()
    _all_succeeded([run.state])
    return Timed(submitted - start, end - start)


def publish_contract(place: Place) -> None:
    """Make the executor known without a worker, for the echo workers."""
    contract = {"v": 1, "name": NODE, "queue_class": QUEUE_CLASS}
    Attempts(place.client, place.settings.namespace).publish_contracts({NODE: contract})


def queue_of(place: Place) -> str:
    """The queue that workers of the class listen to."""
    return place.settings.classes[QUEUE_CLASS].queue


def _all_succeeded(states: list[RunState]) -> None:
    if set(states) != {RunState.SUCCEEDED}:
        raise RuntimeError(f"{len(states)} runs ended as {sorted(set(states))}; all should have succeeded")
