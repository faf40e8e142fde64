"""METG(50 %) after Task Bench: how short may tasks be so that half of the workers' time is still theirs?

A stencil of busy tasks, of shorter and shorter ones, on two worker processes. The efficiency of a length is the work
that there was by what two processes could have done meanwhile; where it falls below one half is the figure. A lower one
is better. What raw Celery could have at most is beside it: two processes by its rate of empty tasks.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from math import exp, log

from scheduler import Client, Graph, Node

from . import celeriac, celery_runs, reference, shapes
from .figures import Spread, shown, table
from .place import Place
from .sections import Section

SLOTS = 2
LENGTHS_MS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06)
HALF = 0.5


def metg(place: Place, repeats: int, *, quick: bool) -> Section:
    """Run stencils of all lengths in turn, `repeats` times."""
    shape = shapes.stencil(15 if quick else 40, 50)
    place.clear()
    reference.aim(place.redis.url)
    found: dict[float, list[float]] = {length: [] for length in LENGTHS_MS}
    raw: list[float] = []
    with ExitStack() as stack:
        theirs = place.start_worker("reference", reference.QUEUE)
        stack.callback(theirs.stop)
        for child in (place.start_worker("nodes", celeriac.queue_of(place)), place.start_scheduler()):
            stack.callback(child.stop)
        client = stack.enter_context(Client(place.redis.url))
        celeriac.run_all(client, [_busy(shapes.fan(200), LENGTHS_MS[-1])])
        for _ in range(repeats):
            raw.append(SLOTS / (1000 / celery_runs.raw(place, 1000, theirs)) * 1e3)
            for length in LENGTHS_MS:
                seconds = celeriac.run_all(client, [_busy(shape, length)]).total
                found[length].append(len(shape) * length / 1e3 / SLOTS / seconds)
    middle = {length: Spread.of(values).middle for length, values in found.items()}
    value = crossing(middle)
    rows = [[shown(length), str(Spread.of(found[length]))] for length in LENGTHS_MS]
    text = table(["ms of work a task", "efficiency"], rows)
    most = Spread.of(raw)
    text += f"\n\nMETG(50 %): {shown(value)} ms   (wanted <= 0.4); raw Celery at most {most} ms, {shape.name}"
    return Section("METG(50 %), real workers, prefork -c 2", text, {"metg_ms": value, "metg_raw_ms": most.middle})


def crossing(efficiency: dict[float, float]) -> float:
    """The length at which efficiency is one half, between two lengths by their logarithms.

    >>> round(crossing({4.0: 0.8, 1.0: 0.5, 0.25: 0.2}), 3)
    1.0
    >>> round(crossing({4.0: 0.8, 1.0: 0.2}), 3)
    2.0
    """
    lengths = sorted(efficiency, reverse=True)
    for longer, shorter in pairwise(lengths):
        above, below = efficiency[longer], efficiency[shorter]
        if above >= HALF > below:
            part = (above - HALF) / (above - below)
            return exp(log(longer) + part * (log(shorter) - log(longer)))
    return lengths[-1] if efficiency[lengths[-1]] >= HALF else lengths[0]


def _busy(shape: shapes.Shape, length_ms: float) -> Graph:
    """The shape with busy tasks."""
    graph = Graph(shape.name)
    nodes: list[Node[None]] = []
    for up in shape.up:
        nodes.append(graph.add(celeriac.BUSY, after=[nodes[at] for at in up], args=[length_ms]))
    return graph
