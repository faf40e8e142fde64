"""Rows 20 and 21: tasks that kill, exhaust or exit their own process, and ends that nobody can carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scheduler import Graph, Node, Retry

from .harm import BROKEN, ENDS, FAILED, HARM, LOST, STARVED
from .load import Load, Plan
from .looking import error_of, starts_of, submitted, unharmed
from .rig import Rig
from .rows import RigFactory, Verdict, row

APP = "tests.acceptance.faults.app_hostile:app"
LOSSES, TRIES = 2, 2
"""Caps of the poisonous nodes: losses to infrastructure, and attempts that may fail."""
HEALTHY = 40
HUNGRY = ("eats", "eats natively", STARVED)
IN_THREADS = ("MemoryError", "sys.exit", "KeyboardInterrupt", "CancelledError", "BaseException")
"""Harm that a thread survives to tell of; the rest ends the whole worker, which is what process pools are for."""


@row(20, "poison: tasks that kill their process", fast=True)
def poison(rigs: RigFactory, seed: int) -> Verdict:
    """Each ends failed after its cap; all others run; no worker dies, in a pool of processes and in one of threads."""
    with rigs(app=APP) as rig:
        _start(rig)
        loads = [*rig.submit_base(), _submit(rig, sorted(LOST), "heavy"), _submit(rig, IN_THREADS, "work")]
        rig.wait(loads, 150)
        return _judged(rig, loads, loads[3:])


@row(20, "ends that nobody can carry")
def hostile_ends(rigs: RigFactory, seed: int) -> Verdict:
    """Outputs that are no JSON fail at once, odd exceptions fail like any, huge outputs arrive."""
    with rigs(app=APP) as rig:
        _start(rig)
        kinds = [*BROKEN, *FAILED]
        loads = [_submit(rig, kinds, "heavy"), _submit(rig, kinds, "work")]
        good = rig.client().submit(_good_ends(), check=False)
        rig.wait(loads, 150)
        verdict = _judged(rig, loads, loads)
        verdict.must(str(good.wait(60)) == "succeeded", "large and odd outputs did not arrive")
        wanted = {f"{name} in {place}": make() for name, make in ENDS.items() for place in ("heavy", "work")}
        verdict.must(good.results(60) == wanted, "large and odd outputs arrived changed")
        return verdict


@row(21, "a pool process out of memory")
def starved(rigs: RigFactory, seed: int) -> Verdict:
    """As for poison, where memory is truly gone: to the last bytes, and as a native library dies of it."""
    with rigs(app=APP) as rig:
        _start(rig)
        loads = [*rig.submit_base(), *(_submit(rig, HUNGRY, "heavy") for _ in range(2))]
        rig.wait(loads, 150)
        return _judged(rig, loads, loads[3:])


def _start(rig: Rig) -> None:
    rig.start_all()
    rig.worker("h1", "heavy")
    rig.worker("h2", "heavy")
    rig.await_workers(len(rig.workers) + 2)


def _submit(rig: Rig, kinds: Iterable[str], queue_class: str) -> Load:
    """One run: a node that does harm for each kind, one that waits for it, and healthy ones in the same class."""
    graph = Graph(f"harm in {queue_class}", queue_class=queue_class)
    retry = Retry(TRIES, base_seconds=0, cap_seconds=0, max_losses=LOSSES)
    upstream: dict[str, tuple[str, ...]] = {}
    made: dict[str, Node[Any]] = {}

    def add(key: str, *parents: str, how: str = "") -> None:
        upstream[key] = parents
        above = [made[it] for it in parents]
        ms = rig.random.uniform(1, 100)
        made[key] = graph.add(HARM, key=key, name=key, how=how, ms=ms, parents=above, retry=retry)

    for n in range(HEALTHY):
        add(f"well-{n}", *([f"well-{n - 5}"] if n >= 5 else []))
    for kind in kinds:
        add(kind, "well-0", how=kind)
        add(f"after {kind}", kind)
    plan = Plan(upstream, frozenset(kinds), dict.fromkeys(upstream, 0.0))
    return submitted(rig, plan, graph)


def _good_ends() -> Graph:
    graph = Graph("ends")
    for name in ENDS:
        for place in ("heavy", "work"):
            key = f"{name} in {place}"
            graph.add(HARM, key=key, name=key, how=name, quiet=True, queue_class=place)
    return graph


def _judged(rig: Rig, loads: list[Load], harmed: list[Load]) -> Verdict:
    """Each kind of harm must have the number of starts and the kind of error that it should."""
    repeats = sum(max(_starts(kind)) - 1 for load in harmed for kind in load.plan.failing)
    verdict = rig.judge(loads, most_duplicates=repeats, notes={"repeats by caps": repeats})
    for load in harmed:
        starts = starts_of(rig, load)
        for kind in sorted(load.plan.failing):
            allowed = _starts(kind)
            verdict.must(starts[kind] in allowed, f"{kind}: {starts[kind]} starts, {allowed} allowed")
            found = getattr(error_of(load, kind), "kind", None)
            verdict.must(found in _kinds(kind), f"{kind}: ended as {found}, {_kinds(kind)} allowed")
    return unharmed(rig, verdict)


def _starts(kind: str) -> range:
    """How often a node that does such harm may start: as often as its cap says."""
    if kind == STARVED:
        return range(min(LOSSES + 1, TRIES), LOSSES + TRIES + 1)
    starts = LOSSES + 1 if kind in LOST else 1 if kind in BROKEN else TRIES
    return range(starts, starts + 1)


def _kinds(kind: str) -> tuple[str, ...]:
    """What its error may be."""
    if kind == STARVED:
        return "lost", "transient"
    return ("lost",) if kind in LOST else ("contract",) if kind in BROKEN else ("transient",)
