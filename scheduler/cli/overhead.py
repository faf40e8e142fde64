"""Where a graph's work costs less than carrying it, and what to do about it. Pure, on a compiled graph.

What executors take is known from their contracts and from what schedulers have measured; of others nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.run import Run
from ..errors import shown
from ..service.bundling import expected_us, why_alone
from ..settings import QueueClass

MESSAGE_US = 1_000
"""What one message costs its worker, whatever it carries; its hop costs scheduler and Redis about as much again."""
STEP_US = 100
"""What a step of a chain costs its worker that comes in the message of the one before."""
LONG_WAIT_MS = 100
"""A wait of this length is for workers; a shorter one is what carrying costs."""
LONG_CHAIN = 3


def advice(
    shape: Run,
    contracts: Mapping[str, Mapping[str, Any]],
    paces: Mapping[str, int],
    classes: Mapping[str, QueueClass],
    default: str,
) -> list[str]:
    """Sentences, the most expensive waste first. O(nodes).

    Args:
        shape: of the graph.
        contracts: executor -> contract, as published; empty when nobody knows.
        paces: executor -> us, as measured.
        default: the class of executors that name none.
    """
    return [*_chain(shape, contracts, default), *_short(shape, contracts, paces, classes, default)]


def _class_of(shape: Run, profile: int, contracts: Mapping[str, Mapping[str, Any]], default: str) -> str:
    way = shape.profiles[profile]
    return way.queue_class or str(contracts.get(way.executor, {}).get("queue_class") or default)


def _chain(shape: Run, contracts: Mapping[str, Mapping[str, Any]], default: str) -> Iterator[str]:
    """The whole graph is one line of work in one class."""
    line = all(list(shape.upstream(node)) == [node - 1][: node > 0] for node in range(shape.n))
    work = all(shape.profiles[it].executor for it in shape.profile)
    if shape.n < LONG_CHAIN or not line or not work:
        return
    if len({_class_of(shape, it, contracts, default) for it in set(shape.profile)}) == 1:
        yield (
            f"all {shape.n} nodes are one chain in one class: each hop costs its worker a message of some "
            f"{MESSAGE_US / 1000:g} ms, and the scheduler about as much; steps that are known to be short share "
            f"one, at some {STEP_US / 1000:g} ms each. One task that calls the steps would save that, unless you want "
            "their records, retries or waits apart."
        )


def of_node(
    run: Run,
    node: int,
    contracts: Mapping[str, Mapping[str, Any]],
    paces: Mapping[str, int],
    classes: Mapping[str, QueueClass],
    default: str,
) -> str:
    """Where the time of a node went that has taken longer to get to its worker than to be done, and what to do about
    it; "" when it has not.

    Args:
        contracts, paces, default: as for `advice`.
    """
    way = run.way(node)
    last = next((it for it in reversed(list(run.tries(node))) if it.claimed_at_ms and it.ended_at_ms), None)
    if last is None or not way.executor:
        return ""
    work = last.ended_at_ms - last.claimed_at_ms
    room, worker = last.dispatched_at_ms - last.ready_at_ms, last.claimed_at_ms - last.dispatched_at_ms
    if room + worker <= work:
        return ""
    name = _class_of(run, run.profile[node], contracts, default)
    told = (
        f"attempt {last.attempt} worked for {work} ms, after {room} ms for room in class {shown(name)} and {worker} ms "
        "on its way to a worker."
    )
    if room + worker >= LONG_WAIT_MS:
        return f"{told} More workers of that class would shorten the wait; `celeriac status` shows how busy they are."
    contract = contracts.get(way.executor, {})
    us = expected_us(way, contract, paces.get(way.executor))
    why = why_alone(way, contract, classes[name]) if name in classes else ""
    if us is not None and us < MESSAGE_US and why:
        return f"{told} It shares no message with others, for {why}. Change that, or do several in one call."
    return f"{told} That is what a message costs; what takes less may be a part of the task before or after it."


def _short(
    shape: Run,
    contracts: Mapping[str, Mapping[str, Any]],
    paces: Mapping[str, int],
    classes: Mapping[str, QueueClass],
    default: str,
) -> Iterator[str]:
    """Work that is shorter than its message, and shares none."""
    for profile, count in Counter(shape.profile).most_common():
        way, name = shape.profiles[profile], _class_of(shape, profile, contracts, default)
        if not way.executor or name not in classes:
            continue
        contract = contracts.get(way.executor, {})
        us = expected_us(way, contract, paces.get(way.executor))
        why = why_alone(way, contract, classes[name])
        if us is not None and us < MESSAGE_US and why:
            said = "measured" if way.executor in paces else "as declared"
            nodes = "1 node" if count == 1 else f"{count} nodes"
            yield (
                f"{nodes} of {shown(way.executor)}: an attempt takes {us / 1000:g} ms ({said}), its message "
                f"{MESSAGE_US / 1000:g} ms, and it shares none, for {why}. Change that, or do several in one call."
            )
