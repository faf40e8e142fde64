"""The references and celeriac in turns: Celery, canvas, celeriac, Celery, canvas, celeriac, ... on one Redis.

One worker serves the references; another of the same pool, concurrency and prefetch has install(app) besides and
serves celeriac. Whichever has no turn waits for messages. A time begins just before the first message or the graph is
sent, with the graph or the canvas already built, and ends when the client knows that all is done.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from scheduler import Client, Graph

from . import celeriac, celery_runs, reference, shapes
from .figures import Spread, ratio, table
from .place import Child, Place
from .sections import Section


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is."""

    raw: int = 3000
    chain: int = 500
    fan: int = 5000
    rows: int = 50
    width: int = 50
    diamonds: int = 300


REST_SECONDS = 0.5
"""Between two turns."""
FULL = Sizes()
QUICK = Sizes(raw=1000, chain=200, fan=1000, rows=15, diamonds=100)


@dataclass(slots=True)
class Workload:
    """One kind of graph, with what was measured of it, one entry a turn.

    Attributes:
        graphs: what celeriac is given.
        canvas: runs the same on canvas and returns the seconds; None where there is nothing to compare with.
        together: the graphs are submitted, and waited for, by one call.
        ours, theirs: seconds.
        spent: process -> us of CPU a node, while celeriac ran it.
    """

    name: str
    graphs: list[Graph]
    canvas: Callable[[], float] | None = None
    together: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    spent: dict[str, list[float]] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """In all its graphs."""
        return sum(map(len, self.graphs))


def workloads(place: Place, sizes: Sizes, wanted: Sequence[str]) -> list[Workload]:
    """Those of the wanted names that run with real workers, built."""
    rows = shapes.stencil(sizes.rows, sizes.width)
    fan, chain = shapes.fan(sizes.fan), shapes.chain(sizes.chain)
    made: dict[str, Callable[[], Workload]] = {
        "chain": lambda: Workload(
            "chain", [celeriac.graph_of(chain, alone=True)], lambda: celery_runs.canvas_chain(sizes.chain)
        ),
        "chain-fused": lambda: Workload("chain-fused", _built(chain)),
        "chain-pure": lambda: Workload("chain-pure", [celeriac.graph_of(chain, executor=celeriac.PURE)]),
        "fan": lambda: Workload("fan", _built(fan), lambda: celery_runs.canvas_fan(sizes.fan)),
        "stencil": lambda: Workload(
            "stencil", _built(rows), lambda: celery_runs.canvas_rows(place, rows.up, sizes.width)
        ),
        "diamonds": lambda: Workload(
            "diamonds", _diamonds(sizes), lambda: celery_runs.canvas_diamonds(sizes.diamonds), together=True
        ),
        "diamonds-singly": lambda: Workload("diamonds-singly", _diamonds(sizes)),
        "flat": lambda: Workload("flat", _built(fan)),
        "layers-real": lambda: Workload("layers-real", _built(shapes.layers(100, 1000))),
    }
    return [make() for name, make in made.items() if name in wanted]


def turns(place: Place, sizes: Sizes, wanted: Sequence[str], repeats: int, *, shipped: bool = False) -> Section:
    """Everything wanted, `repeats` times in turn.

    Args:
        shipped: celeriac's worker with its own settings (late acknowledgement, events, prefetch of the class) instead
            of the reference's.
    """
    place.clear()
    reference.aim(place.redis.url)
    found = workloads(place, sizes, wanted)
    raw: list[float] = []
    hops: list[float] = []
    with ExitStack() as stack:

        def held(child: Child) -> Child:
            stack.callback(child.stop)
            return child

        theirs = held(place.start_worker("reference", reference.QUEUE))
        ours = held(
            place.start_worker("nodes", celeriac.queue_of(place), **({"BENCH_SHIPPED": "1"} if shipped else {}))
        )
        scheduler = held(place.start_scheduler())
        client = stack.enter_context(Client(place.redis.url))
        celery_runs.raw(place, 200, theirs)
        celery_runs.canvas_fan(50)
        celeriac.run_all(client, _built(shapes.fan(200)))
        for _ in range(repeats):
            raw.append(sizes.raw / celery_runs.raw(place, sizes.raw, theirs))
            hops.append(celery_runs.raw_hops(place, sizes.chain) / sizes.chain * 1e3)
            for it in found:
                if it.canvas is not None:
                    _rest(place)
                    it.theirs.append(it.canvas())
                _rest(place)
                _turn(place, client, it, {"scheduler": scheduler, "worker, main": ours})
    title = "In turns with celeriac's own worker settings" if shipped else "In turns, real workers, prefork -c 2"
    prefix = "shipped_" if shipped else ""
    values = {f"{prefix}raw_celery_hop_ms": Spread.of(hops).middle, **_values(found, raw, prefix)}
    return Section(title, _text(found, raw, hops), values)


def _rest(place: Place) -> None:
    """What is left of the turn before goes now: results, their handles, which unsubscribe, what Redis still frees."""
    celery_runs.forget_results(place)
    gc.collect()
    time.sleep(REST_SECONDS)


def _turn(place: Place, client: Client, it: Workload, children: dict[str, Child]) -> None:
    """One turn of celeriac, with what it cost."""
    redis, client_cpu = place.usage().cpu_seconds, time.process_time()
    before = {name: child.cpu_seconds() for name, child in children.items()}
    it.ours.append(celeriac.run_all(client, it.graphs, together=it.together).total)
    spent = {name: child.cpu_seconds() - before[name] for name, child in children.items()}
    spent["client"] = time.process_time() - client_cpu
    spent["Redis"] = place.usage().cpu_seconds - redis
    for name, seconds in spent.items():
        it.spent.setdefault(name, []).append(seconds / it.nodes * 1e6)


_HOPS = {"chain": "chain_hop_ms", "chain-fused": "chain_hop_fused_ms", "chain-pure": "chain_hop_pure_ms"}
_WANTED = {"chain": "<= 0.5", "fan": ">= 5", "stencil": ">= 1.5"}


def _text(found: list[Workload], raw: list[float], raw_hops: list[float]) -> str:
    rate = Spread.of(raw)
    rows = []
    for it in found:
        ours = Spread.of(it.nodes / seconds for seconds in it.ours)
        theirs = str(Spread.of(it.nodes / seconds for seconds in it.theirs)) if it.theirs else ""
        by_raw = ratio([it.nodes / seconds for seconds in it.ours], raw)
        against = str(_against(it)) if it.theirs else ""
        rows.append(
            [f"{it.name} ({it.nodes:,} nodes)", str(ours), theirs, against, _WANTED.get(it.name, ""), str(by_raw)]
        )
        if it.name in _HOPS:
            hops = [str(Spread.of(s / it.nodes * 1e3 for s in seconds)) for seconds in (it.ours, it.theirs) if seconds]
            rows.append(["    ms a hop", *hops, *[""] * (5 - len(hops))])
    head = ["nodes a second", "celeriac", "canvas", "against it", "wanted", "by raw Celery"]
    spent = [[it.name, *(str(Spread.of(us)) for us in it.spent.values())] for it in found]
    costs = table(["us of CPU a node", *(found[0].spent if found else ())], spent)
    note = (
        "against it: chain as time a hop, ours by theirs; the others as speed. chain: a message for each node, as in "
        "canvas; chain-fused: as users write it; chain-pure: the same of pure executors. Diamonds are submitted, and "
        "waited for, by one call, diamonds-singly by one each. Raw: flat, no edges, worker alone."
    )
    hop = f"one message after the other {Spread.of(raw_hops)} ms each"
    return f"raw Celery: {rate} tasks a second; {hop}\n\n{table(head, rows)}\n\n{note}\n\n{costs}"


def _against(it: Workload) -> Spread:
    return ratio(it.ours, it.theirs) if it.name == "chain" else ratio(it.theirs, it.ours)


_NAMES = {
    "chain": "chain_hop_vs_canvas",
    "fan": "fanin_vs_canvas",
    "stencil": "stencil_vs_canvas",
    "diamonds": "diamonds_vs_canvas",
}


def _values(found: list[Workload], raw: list[float], prefix: str) -> dict[str, float]:
    values = {f"{prefix}raw_celery_per_second": Spread.of(raw).middle}
    for it in found:
        rates = [it.nodes / seconds for seconds in it.ours]
        values[f"{prefix}{it.name.replace('-', '_')}_nodes_per_second"] = Spread.of(rates).middle
        if it.name in ("fan", "stencil"):
            values[f"{prefix}{'fanin' if it.name == 'fan' else it.name}_tasks_per_second"] = Spread.of(rates).middle
        if it.name in ("diamonds", "diamonds-singly"):
            values[f"{prefix}{it.name.replace('-', '_')}_per_second"] = Spread.of(
                len(it.graphs) / s for s in it.ours
            ).middle
        if it.theirs:
            values[prefix + _NAMES[it.name]] = _against(it).middle
        if it.name in ("fan", "flat"):
            values[f"{prefix}flat_vs_celery"] = ratio(rates, raw).middle
        if it.name in _HOPS:
            values[f"{prefix}{_HOPS[it.name]}"] = Spread.of(seconds / it.nodes * 1e3 for seconds in it.ours).middle
    return values


def _diamonds(sizes: Sizes) -> list[Graph]:
    return [celeriac.graph_of(shapes.diamond()) for _ in range(sizes.diamonds)]


def _built(shape: shapes.Shape) -> list[Graph]:
    return [celeriac.graph_of(shape)]
