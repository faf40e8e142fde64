"""Does a person notice that a batch is on? Single interactive nodes while bundles keep another class's workers busy.

Both classes have workers of their own; scheduler, Redis and the two cores are shared. What is measured is the time from
a submit to its end, as its client sees it, without the batch and beside it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from scheduler import Client, Graph
from scheduler.core.states import RunState

from . import celeriac, shapes
from .figures import Spread, table
from .place import Place
from .sections import Section

INTERACTIVE = "interactive-low"
SMALL = 100
PAUSE_SECONDS = 0.05


def mixed(place: Place, *, quick: bool) -> Section:
    """p50 and p95 of single nodes, alone and beside a batch of short tasks."""
    place.clear()
    flood = celeriac.graph_of(shapes.fan(10_000 if quick else 60_000))
    small = Graph("small")
    small.add(celeriac.NODE, queue_class=INTERACTIVE)
    threads = ("-P", "threads", "-c", "2", "--prefetch-multiplier", "4")
    with ExitStack() as stack:
        for child in (
            place.start_worker("nodes", celeriac.queue_of(place)),
            place.start_worker("nodes", place.settings.classes[INTERACTIVE].queue, *threads),
            place.start_scheduler(),
        ):
            stack.callback(child.stop)
        client = stack.enter_context(Client(place.redis.url))
        celeriac.run_all(client, [celeriac.graph_of(shapes.fan(500)), small])
        alone = [_one(client, small) for _ in range(SMALL)]
        begun = time.perf_counter()
        batch = client.submit(flood)
        beside: list[float] = []
        while batch.state is RunState.RUNNING:
            beside.append(_one(client, small))
        rate = len(flood) / (time.perf_counter() - begun)
    rows = []
    values: dict[str, float] = {"mixed_batch_nodes_per_second": rate}
    for name, found in (("alone", alone), ("beside the batch", beside)):
        ordered = sorted(found)
        p50, p95 = (ordered[int(part * (len(ordered) - 1))] * 1e3 for part in (0.5, 0.95))
        rows.append([name, str(len(found)), f"{p50:.1f}", f"{p95:.1f}"])
        values[f"interactive_p95_ms_{name.split()[0]}"] = p95
    text = table(["a single interactive node", "times", "p50 ms", "p95 ms"], rows)
    text += f"\n\nthe batch meanwhile: {Spread.of([rate])} nodes a second"
    return Section("Interactive nodes beside a batch", text, values)


def _one(client: Client, graph: Graph) -> float:
    start = time.perf_counter()
    if client.submit(graph).wait(60) is not RunState.SUCCEEDED:
        raise RuntimeError("a single node did not succeed")
    took = time.perf_counter() - start
    time.sleep(PAUSE_SECONDS)  # as people do
    return took
