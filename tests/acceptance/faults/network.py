"""What the network's rows have in common: how much is at stake, who is connected, and when the load is under way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from scheduler.settings import read_queues

from .load import Load
from .rig import HERE, Rig, eventually

WORK = read_queues(HERE / "queues.toml")["work"]
SLOTS = 3 * WORK.concurrency
"""Attempts that can run at one time, with three workers."""
UNDER_WAY = 300
"""Nodes that have started before anything is broken."""


def under_way(rig: Rig, starts: int | None = None) -> None:
    """Returns when the load is running."""
    wanted = min(UNDER_WAY, rig.nodes // 4) if starts is None else starts
    eventually(lambda: len(rig.ledger()) >= wanted, f"{wanted} lines in the ledger")


def part(rig: Rig, loads: Sequence[Load], percent: float) -> int:
    """So many per cent of all nodes."""
    return int(sum(len(load.plan.upstream) for load in loads) * percent / 100)


def links(rig: Rig) -> dict[str, tuple[int, int]]:
    """Every connection that somebody listens on: who, and through which proxy."""
    ports = {kind: proxy.url_port for kind, proxy in rig.proxies.items()}
    found = {f"{name} store": (rig.pid(name), ports["scheduler"]) for name in rig.schedulers}
    found |= {f"{name} store": (rig.pid(name), ports["worker"]) for name in rig.workers}
    found |= {f"{name} broker": (rig.pid(name), ports["broker"]) for name in rig.workers}
    return found | {"client": (os.getpid(), ports["client"])}


def everywhere(rig: Rig, verb: str, *args: object) -> None:
    """The same verb to every proxy."""
    for proxy in rig.proxies.values():
        getattr(proxy, verb)(*args)


def again_and_again(rig: Rig, loads: Sequence[Load], strike: Callable[[], object], every_seconds: float = 5) -> int:
    """Strike until the last run has ended, for three minutes at most; how often that was."""
    strikes = 0
    until = time.monotonic() + 180
    while not all(load.done for load in loads) and time.monotonic() < until:
        rig.wait(loads, every_seconds)
        strike()
        strikes += 1
    return strikes
