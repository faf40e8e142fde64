"""What the hostile rows see from outside: what the store holds, who is well, how a node ended."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis

from scheduler import Graph, NodeFailed
from scheduler.store.connection import connect

from . import ledger
from .load import Load, Plan
from .rig import Rig, Verdict, eventually

QUEUES = ("faults.work", "faults.heavy")
DISPATCH_SECONDS = 17.0
"""How long a message may stay unclaimed before it is looked for: the class's target wait and 15 s."""


@contextmanager
def connected(rig: Rig) -> Iterator[Redis]:
    """A connection of a thread's own."""
    client = connect(rig.redis.url)
    try:
        yield client
    finally:
        client.close()


def submitted(rig: Rig, plan: Plan, graph: Graph, seconds: float = 300.0) -> Load:
    """Submit a graph that is no base load, and wait for its end in the background."""
    load = Load(plan, rig.client().submit(graph, check=False))
    load.watch(seconds)
    return load


def planned(
    name: str, upstream: Mapping[str, tuple[str, ...]], add: Callable[[Graph, str, list[Any]], Any]
) -> tuple[Plan, Graph]:
    """A plan of nodes and the graph that `add(graph, key, parents)` makes of it, node by node."""
    graph = Graph(name)
    made: dict[str, Any] = {}
    for key, parents in upstream.items():
        made[key] = add(graph, key, [made[parent] for parent in parents])
    return Plan(dict(upstream), frozenset(), dict.fromkeys(upstream, 0.0)), graph


# --- the store --------------------------------------------------------------------------------------------------


def keys(rig: Rig, pattern: str) -> list[str]:
    """Names of the keys that match."""
    return sorted(key.decode() for key in rig.look().scan_iter(pattern, 1000))


def inboxes(rig: Rig) -> list[str]:
    """Inboxes that hold something."""
    return [key for key in keys(rig, "{cel:*}:inbox") if rig.look().xlen(key)]


def taken(rig: Rig, seconds: float = 30.0) -> None:
    """Returns when nothing is left in any inbox."""
    eventually(lambda: not inboxes(rig), "the inboxes are empty", seconds)


def flying(rig: Rig) -> dict[str, str]:
    """Attempts in flight: id -> state."""
    found: dict[str, str] = {}
    look: Any = rig.look()
    for key in keys(rig, "{cel:*}:attempts"):
        found |= {id_.decode(): state.decode() for id_, state in look.hgetall(key).items()}
    return found


def stored(rig: Rig, load: Load) -> dict[str, Any]:
    """All that is recorded of a run but its log, and its attempts in flight. Leases move by themselves."""
    look: Any = rig.look()
    found = {key: look.hgetall(key) for key in keys(rig, f"*:run:{load.id}*") if not key.endswith(":log")}
    return found | {"in flight": {id_: state for id_, state in flying(rig).items() if load.id in id_}}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The first things that differ."""
    changed = [
        f"{key} {field!r}: {before.get(key, {}).get(field)!r} became {after.get(key, {}).get(field)!r}"
        for key in sorted({*before, *after})
        for field in sorted({*before.get(key, {}), *after.get(key, {})}, key=repr)
        if before.get(key, {}).get(field) != after.get(key, {}).get(field)
    ]
    return "; ".join(changed[:3])


def queued(rig: Rig) -> int:
    """Messages in the queues and with the workers, unacknowledged."""
    look: Any = rig.look()
    return int(sum(look.llen(queue) for queue in QUEUES) + look.hlen("unacked"))


def refused_claims(rig: Rig) -> Counter[str]:
    """What workers say they refused: claims by verdict, and messages."""
    look: Any = rig.look()
    found: Counter[str] = Counter()
    for description in look.hvals("cel:workers"):
        found.update(json.loads(description).get("refused", {}))
    return found


def dead_letters(rig: Rig, kind: str) -> list[dict[str, str]]:
    """Dead letters of a kind."""
    look: Any = rig.look()
    found = []
    for key in keys(rig, "{cel:*}:dead"):
        for _, fields in look.xrange(key):
            letter = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
            if letter.get("kind") == kind:
                found.append(letter)
    return found


# --- processes --------------------------------------------------------------------------------------------------


def still(rig: Rig, seconds: float = 60.0) -> None:
    """Returns when no task has started or ended for half a second."""
    seen, since = -1, time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        now = len(rig.ledger())
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    eventually(quiet, "the workers have nothing to do", seconds)


def began(rig: Rig, nodes: Sequence[str], attempt: int) -> bool:
    """Whether that attempt of each node has started."""
    starts = {(it.node, it.attempt) for it in rig.ledger() if it.what == ledger.START}
    return all((node, attempt) in starts for node in nodes)


def starts_of(rig: Rig, load: Load) -> Counter[str]:
    """Node -> how often it started."""
    return Counter(it.node for it in rig.ledger() if it.what == ledger.START and it.run == load.id)


def unharmed(rig: Rig, verdict: Verdict) -> Verdict:
    """Every process that the row did not end itself must still run, and no scheduler may have stumbled."""
    killed = {it.name for it in rig.kills}
    for name in rig.processes:
        if name not in killed:
            verdict.must(rig.alive(name), f"{name} has died: {rig.says(name)[-1000:]}")
    for name in rig.processes:
        if rig.processes[name].command[:1] == ("scheduler",):
            verdict.must("the loop stumbled" not in rig.says(name), f"the loop of {name} stumbled, see its log")
    return verdict


def error_of(load: Load, node: str) -> NodeFailed | None:
    """What ended a node, as the client is told; None when it did not fail."""
    try:
        load.handle.get(node, timeout=10)
    except NodeFailed as failed:
        return failed
    return None
