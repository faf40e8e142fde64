"""How long until it went on? Recovery times of each kind of kill, from the ledger and from what the client tells.

Instants of kills and of the ledger are those of one clock. What the system itself tells has Redis's wall clock, which
on this one machine is the clock of the kill's `at_ms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from . import ledger
from .processes import Kill


def reruns(lines: Sequence[ledger.Line], kills: Sequence[Kill]) -> list[float]:
    """For each attempt of a killed process whose node was begun again: seconds from the kill to that start.

    One that failed by itself is begun again for that reason, so it is left out.
    """
    killed = {it.pid: it.at for it in kills}
    failed = {(line.run, line.node, line.attempt) for line in lines if line.what == ledger.FAIL}
    starts: dict[tuple[str, str], list[ledger.Line]] = {}
    for line in lines:
        if line.what == ledger.START:
            starts.setdefault((line.run, line.node), []).append(line)
    found = []
    for mine in starts.values():
        for one, following in pairwise(mine):
            at = killed.get(one.pid)
            if at is not None and following.at > at and (one.run, one.node, one.attempt) not in failed:
                found.append(following.at - at)
    return found


def cut_short(lines: Sequence[ledger.Line], kills: Sequence[Kill]) -> int:
    """How many attempts were at work in processes when these were killed."""
    killed = {it.pid for it in kills}
    open_: dict[tuple[str, str, int, int], int] = {}
    for line in lines:
        if line.pid in killed:
            at = (line.run, line.node, line.attempt, line.pid)
            open_[at] = open_.get(at, 0) + (1 if line.what == ledger.START else -1)
    return sum(count for count in open_.values() if count > 0)


def next_start(lines: Sequence[ledger.Line], instants: Iterable[float]) -> list[float]:
    """For each instant: seconds until any node started, if one did."""
    starts = sorted(line.at for line in lines if line.what == ledger.START)
    found = []
    for instant in instants:
        after = next((at for at in starts if at > instant), None)
        if after is not None:
            found.append(after - instant)
    return found


def next_dispatch(dispatched_ms: Mapping[str, Sequence[int]], kills: Mapping[int, Iterable[str]]) -> list[float]:
    """For each kill: seconds until the last of its runs had a node sent again.

    Args:
        dispatched_ms: run -> instants at which its nodes were sent, in order.
        kills: instant of the kill, ms -> runs that the killed scheduler wrote for.
    """
    found = []
    for at_ms, runs in kills.items():
        gaps = [next((it - at_ms for it in dispatched_ms.get(run, ()) if it > at_ms), None) for run in runs]
        known = [gap for gap in gaps if gap is not None]
        if known:
            found.append(max(known) / 1000)
    return found


def told(seconds: Sequence[float]) -> str:
    """As the table shows it."""
    if not seconds:
        return "none"
    return f"{median(seconds):.1f} s (longest {max(seconds):.1f}, of {len(seconds)})"
