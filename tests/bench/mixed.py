"""Does a person notice that a batch is on? Single interactive nodes while bundles keep another class's workers busy.

Both classes have workers of their own; scheduler, Redis and the two cores are shared. Measured without the batch and
beside it: the time from a submit to its end, as its client sees it; and how much of that its node has waited, from when
Redis has taken the submit until a worker has begun it, by their records, which are in ms. And the same beside graphs
that come at a steady pace, which is less than the machine can do. For comparison: beside a batch whose nodes have a
message each, and beside processes that have nothing to do with any of this and keep all cores busy.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from scheduler import Client, Graph, RunHandle
from scheduler.core.states import RunState

from . import celeriac, shapes
from .figures import table
from .place import Place
from .sections import Section

INTERACTIVE = "interactive-low"
SMALL = 100
PAUSE_SECONDS = 0.05
BURST, PER_SECOND, BURST_SECONDS = 500, 20, 12.0
"""Graphs of so many nodes, so many of them a second, for so long."""
_SHOWN = {
    "alone": "alone",
    "busy": "beside busy processes",
    "beside": "beside the batch",
    "singly": "beside one without bundles",
    "bursts": "beside bursts",
}


def mixed(place: Place, *, quick: bool) -> Section:
    """p50 and p95 of single nodes, alone and beside a batch of short tasks."""
    place.clear()
    flood = celeriac.graph_of(shapes.fan(10_000 if quick else 60_000))
    unbundled = celeriac.graph_of(shapes.fan(2_000 if quick else 12_000), alone=True)
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
        others = [place.start("busy", "-c", "while True: pass") for _ in range((os.cpu_count() or 1) + 1)]
        busy = [_one(client, small) for _ in range(SMALL)]
        place.stop(*others)
        beside, rate = _beside(client, flood, small)
        singly, single_rate = _beside(client, unbundled, small)
        bursts = _beside_bursts(place, client, small, 3.0 if quick else BURST_SECONDS)
        measured = {"alone": alone, "busy": busy, "beside": beside, "singly": singly, "bursts": bursts}
        waits = {name: [_wait_ms(it.run) for it in found] for name, found in measured.items()}
    rows = []
    values: dict[str, float] = {"mixed_batch_nodes_per_second": rate}
    for name, found in measured.items():
        p50, p95 = _parts([it.seconds * 1e3 for it in found])
        wait50, wait95 = _parts(waits[name])
        rows.append([_SHOWN[name], str(len(found)), f"{p50:.1f}", f"{p95:.1f}", f"{wait50:.0f}", f"{wait95:.0f}"])
        values[f"interactive_p95_ms_{name}"] = p95
        values[f"interactive_wait_p95_ms_{name}"] = wait95
    head = ["a single interactive node", "times", "p50 ms", "p95 ms", "its wait, p50 ms", "p95 ms"]
    text = table(head, rows)
    text += (
        f"\n\nthe batch meanwhile: {rate:,.0f} nodes a second; a message for each of its nodes: {single_rate:,.0f}; "
        f"bursts: {BURST} nodes, {PER_SECOND} times a second"
    )
    return Section("Interactive nodes beside a batch", text, values)


def _beside(client: Client, batch: Graph, small: Graph) -> tuple[list[_One], float]:
    """Single nodes until a batch has ended, and the nodes of the batch a second."""
    begun, run, found = time.perf_counter(), client.submit(batch), list[_One]()
    while run.state is RunState.RUNNING:
        found.append(_one(client, small))
    return found, len(batch) / (time.perf_counter() - begun)


def _beside_bursts(place: Place, client: Client, small: Graph, seconds: float) -> list[_One]:
    """Single nodes, while somebody else submits graphs at a steady pace."""
    burst, over = celeriac.graph_of(shapes.fan(BURST - 2)), threading.Event()
    runs: list[RunHandle] = []

    def submits() -> None:
        with Client(place.redis.url) as other:
            due = time.perf_counter()
            while not over.wait(max(0.0, due - time.perf_counter())):
                runs.append(other.submit(burst))
                due += 1 / PER_SECOND

    thread = threading.Thread(target=submits, name="bursts", daemon=True)
    thread.start()
    until, found = time.perf_counter() + seconds, list[_One]()
    while time.perf_counter() < until:
        found.append(_one(client, small))
    over.set()
    thread.join()
    if set(client.wait_many(runs, 60)) != {RunState.SUCCEEDED}:
        raise RuntimeError("a burst did not succeed")
    return found


class _One(NamedTuple):
    """A single node that has ended: its run, and seconds from its submit until its client knew."""

    run: RunHandle
    seconds: float


def _one(client: Client, graph: Graph) -> _One:
    start = time.perf_counter()
    run = client.submit(graph)
    if run.wait(60) is not RunState.SUCCEEDED:
        raise RuntimeError("a single node did not succeed")
    took = time.perf_counter() - start
    time.sleep(PAUSE_SECONDS)  # as people do
    return _One(run, took)


def _wait_ms(run: RunHandle) -> int:
    """From submitted to begun."""
    [attempt] = run.nodes()[0].tries
    return attempt.claimed_at_ms - run.summary().created_at_ms


def _parts(found: Sequence[float]) -> tuple[float, float]:
    """p50 and p95."""
    ordered = sorted(found)
    return ordered[int(0.5 * (len(ordered) - 1))], ordered[int(0.95 * (len(ordered) - 1))]
