"""The base load: random layered graphs, the same for the same seed.

Most nodes stand in layers and depend on one to three nodes of the layers before; one waits for 500 nodes at once;
chains run beside the layers. One node in a hundred is declared to fail, after one attempt or two, and stands where
little hangs below it, so that most of the graph runs. A node's output is a checksum over its parents' outputs. What
else there is, retries, waits, conditions, cancels, is drawn in seasoning.py and done by the client in world.py.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler import CeleriacError, Choice, Client, Graph, Node, Retry, RunHandle, RunState, Timing
from scheduler.graph.ladder import again, changed

from .plan import APPROVED, APPROVER, HIGH, LOW, RETRY_MS, SIGNAL, TIMER, Plan
from .seasoning import seasoned
from .world import World

__all__ = ["MS", "STEP", "Load", "Plan", "ended", "graph_of", "random_plan", "submit"]

STEP = "faults.step"
MS = (1.0, 200.0)
FAN_IN = 500
CHAIN, CHAINS = 25, 4
LAYER = (40, 160)
FAILING_PART, LOST_PART = 0.01, 0.05
ALWAYS = 99
"""More failures than any node has attempts."""


@dataclass
class Load:
    """A graph that was submitted, and somebody who waits for it.

    Attributes:
        plan: its nodes.
        handle: of the run.
        submitted_at, ended_at: s of the monotonic clock; ended_at is when the client was told.
        state: how the run ended, as the client was told.
        error: what ended the waiting instead.
        waiter: the thread that waits.
        world: what the client does meanwhile.
    """

    plan: Plan
    handle: RunHandle
    submitted_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    state: RunState | None = None
    error: Exception | None = None
    waiter: threading.Thread | None = None
    world: World | None = None

    @property
    def wrong(self) -> list[str]:
        """What the client was told that cannot be, while it acted."""
        return [] if self.world is None else self.world.wrong

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
    return seasoned(rng, Plan(upstream, _failing(rng, upstream), work))


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
    made: dict[str, Node[Any] | Choice] = {}
    for key in plan.upstream:
        made[key] = (
            _wait(graph, plan, key, made) or _choice(graph, plan, key, made) or _work(graph, plan, key, made, executor)
        )
    return graph


def _work(graph: Graph, plan: Plan, key: str, made: Mapping[str, Any], executor: str) -> Node[Any]:
    it = plan.extras
    fails: bool | int = it.flaky.get(key, False)
    if key in plan.failing:
        fails = ALWAYS if it.tries.get(key, 1) > 1 else True
    return graph.add(
        executor,
        key=key,
        name=key,
        ms=plan.ms[key],
        parents=[made[parent] for parent in plan.handed(key)],
        fails=True if key in it.mended else fails,
        retry=_retry(plan, key),
        timing=Timing(delay=it.delays[key] / 1000) if key in it.delays else None,
        **_before(plan, key, made),
    )


def _retry(plan: Plan, key: str) -> Retry | int | None:
    it, wait = plan.extras, RETRY_MS / 1000
    if key in it.mended:
        mending = changed({"fails": False}, 1, base_seconds=wait, cap_seconds=wait, jitter="none")
        return Retry(steps=[again(1), mending])
    tries = it.flaky.get(key, it.tries.get(key, 1) - 1) + 1
    if tries == 1:
        return None
    return Retry(steps=[again(tries, base_seconds=wait, cap_seconds=wait, factor=1.0, jitter="none")])


def _wait(graph: Graph, plan: Plan, key: str, made: Mapping[str, Any]) -> Node[Any] | None:
    wait = plan.extras.waits.get(key)
    if wait is None:
        return None
    before = _before(plan, key, made)
    if wait.kind == TIMER:
        return graph.timer(key, wait.ms / 1000, **before)
    if wait.kind == SIGNAL:
        return graph.signal(key, name=wait.name, schema={"type": "integer"}, **before)
    return graph.approval(key, "Go on?", choices=[APPROVED, "reject"], who=[APPROVER], **before)


def _choice(graph: Graph, plan: Plan, key: str, made: Mapping[str, Any]) -> Choice | None:
    if key not in plan.extras.choices:
        return None
    parent, least = plan.extras.choices[key]
    return graph.choice(key, {HIGH: made[parent].out >= least}, otherwise=LOW, **_before(plan, key, made))


def _before(plan: Plan, key: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """Edges that hand nothing over, with their conditions; the node's own condition; its rule."""
    it, handed = plan.extras, plan.handed(key)
    after: list[Any] = []
    for parent in plan.upstream[key]:
        gate = it.gates.get((parent, key))
        if isinstance(gate, str):
            after.append(made[parent][gate])
        elif gate is not None:
            after.append(made[parent].when(made[parent].out >= gate))
        elif parent not in handed:
            after.append(made[parent])
    found: dict[str, Any] = {"after": after} if after else {}
    if key in it.guards:
        parent, least = it.guards[key]
        found["when"] = made[parent].out >= least
    if key in it.merges:
        found["trigger_rule"] = "none_failed_min_one_success"
    return found


def submit(client: Client, plan: Plan, seconds: float, *, key: str | None = None, queue_class: str = "work") -> Load:
    """Submit the plan's graph and wait for its end in the background."""
    load = Load(plan, client.submit(graph_of(plan, queue_class=queue_class), key=key, check=False))
    load.watch(seconds)
    if plan.extras.acts:
        load.world = World(plan, load.handle, lambda: load.done)
    return load


def ended(loads: Iterable[Load]) -> bool:
    """Whether nobody waits for any of them any more."""
    return all(load.done for load in loads)
