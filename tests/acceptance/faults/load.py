"""The base load: random layered graphs, the same for the same seed.

Most nodes stand in layers and depend on one to three nodes of the layers before; one waits for 500 nodes at once;
chains run beside the layers. One node in a hundred is declared to fail, without a retry, and stands where little
hangs below it, so that most of the graph runs. A node's output is a checksum over its parents' outputs.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scheduler import CeleriacError, Client, Graph, Node, RunHandle, RunState

from .checksum import checksum

STEP = "faults.step"
MS = (1.0, 200.0)
FAN_IN = 500
CHAIN, CHAINS = 25, 4
LAYER = (40, 160)
FAILING_PART, LOST_PART = 0.01, 0.05


class Plan(NamedTuple):
    """What the checker has to know of a graph.

    Attributes:
        upstream: node -> its parents, in the order in which their outputs are handed over; every node, parents first.
        failing: nodes declared to fail.
        ms: node -> how long it works.
    """

    upstream: dict[str, tuple[str, ...]]
    failing: frozenset[str]
    ms: dict[str, float]

    def doomed(self) -> frozenset[str]:
        """What hangs below a failing node."""
        found: set[str] = set()
        for node, parents in self.upstream.items():
            if any(parent in found or parent in self.failing for parent in parents):
                found.add(node)
        return frozenset(found)

    def outputs(self) -> dict[str, int]:
        """Node -> output, of every node that ends well."""
        without = self.failing | self.doomed()
        found: dict[str, int] = {}
        for node, parents in self.upstream.items():
            if node not in without:
                found[node] = checksum(node, [found[parent] for parent in parents])
        return found


@dataclass
class Load:
    """A graph that was submitted, and somebody who waits for it.

    Attributes:
        plan: its nodes.
        handle: of the run.
        submitted_at, ended_at: s of the monotonic clock; ended_at is when the client was told.
        state: how the run ended, as the client was told.
        error: what ended the waiting instead.
    """

    plan: Plan
    handle: RunHandle
    submitted_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    state: RunState | None = None
    error: Exception | None = None
    waiter: threading.Thread | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.handle.id

    @property
    def done(self) -> bool:
        """Whether the waiting is over, one way or the other."""
        return self.waiter is not None and not self.waiter.is_alive()

    def watch(self, seconds: float) -> None:
        """Have a thread wait for the end, as a client does, through whatever happens meanwhile."""

        def wait() -> None:
            try:
                self.state = self.handle.wait(seconds)
                self.ended_at = time.monotonic()
            except CeleriacError as error:
                self.error = error

        self.waiter = threading.Thread(target=wait, name=f"waits for {self.id}", daemon=True)
        self.waiter.start()


def random_plan(rng: random.Random, nodes: int, ms: tuple[float, float] = MS) -> Plan:
    """A random layered graph; the fan-in and the chains shrink with small graphs.

    Args:
        ms: shortest and longest work of a node; log-uniform in between.
    """
    chains = min(CHAINS, nodes // 100)
    chain = min(CHAIN, nodes // 20)
    upstream: dict[str, tuple[str, ...]] = {}
    layers: list[list[str]] = []
    wide = min(FAN_IN, nodes // 4)
    layered = nodes - chains * chain - 1
    joined = False
    while layered > 0:
        width = min(layered, rng.randint(*LAYER), max(1, nodes // 10))
        layered -= width
        before = [name for layer in layers[-2:] for name in layer]
        layer = [f"n{len(upstream) + k}" for k in range(width)]
        for name in layer:
            upstream[name] = tuple(rng.sample(before, min(len(before), rng.randint(1, 3)))) if before else ()
        layers.append(layer)
        if not joined and sum(map(len, layers)) >= wide:
            joined = True
            every = [name for found in layers for name in found]
            upstream["join"] = tuple(rng.sample(every, min(wide, len(every))))
            layer.append("join")
    for number in range(chains):
        for link in range(chain):
            upstream[f"c{number}-{link}"] = (f"c{number}-{link - 1}",) if link else ()
    low, high = map(math.log, ms)
    work = {name: round(math.exp(rng.uniform(low, high)), 1) for name in upstream}
    return Plan(upstream, _failing(rng, upstream), work)


def _failing(rng: random.Random, upstream: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """One node in a hundred, as long as no more than one in twenty hangs below them."""
    down: dict[str, list[str]] = {name: [] for name in upstream}
    for name, parents in upstream.items():
        for parent in parents:
            down[parent].append(name)
    failing: set[str] = set()
    doomed: set[str] = set()
    names = list(upstream)
    rng.shuffle(names)
    for name in names:
        if len(failing) >= len(upstream) * FAILING_PART:
            break
        below: set[str] = set()
        stack = [name]
        while stack and len(below) <= len(upstream) * LOST_PART:
            for child in down[stack.pop()]:
                if child not in below:
                    below.add(child)
                    stack.append(child)
        if name in doomed or below & failing or len(doomed | below) > len(upstream) * LOST_PART:
            continue
        failing.add(name)
        doomed |= below
    return frozenset(failing)


def graph_of(plan: Plan, name: str = "base", executor: str = STEP, queue_class: str = "work") -> Graph:
    """The plan as a user writes it: a handle among the inputs is an edge."""
    graph = Graph(name, retry=1, queue_class=queue_class)
    made: dict[str, Node[Any]] = {}
    for key, parents in plan.upstream.items():
        made[key] = graph.add(
            executor,
            key=key,
            name=key,
            ms=plan.ms[key],
            parents=[made[parent] for parent in parents],
            fails=key in plan.failing,
        )
    return graph


def submit(client: Client, plan: Plan, seconds: float, *, key: str | None = None, queue_class: str = "work") -> Load:
    """Submit the plan's graph and wait for its end in the background."""
    load = Load(plan, client.submit(graph_of(plan, queue_class=queue_class), key=key, check=False))
    load.watch(seconds)
    return load


def ended(loads: Iterable[Load]) -> bool:
    """Whether nobody waits for any of them any more."""
    return all(load.done for load in loads)
