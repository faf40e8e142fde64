"""How long may reports gather before a turn, without any worker waiting for it? And how much may a turn take up?

A turn costs the same for one report as for fifty: three round trips. While workers have more than enough to do,
reports are let gather for a small part of the time that the attempts in flight will keep them busy; so are those of
chains with which workers go on by themselves. Others of chains, and a class whose pace is not known, never wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping

HURRIED = 0.2
"""Of the nodes that a turn opens and admits, while interactive workers live: a person's node that has just missed it
waits for all of them."""
PRESSED = 0.1
"""While an interactive node is out, and more of others: its report may come at any moment."""
PART = 0.015
"""Of the time for which a class has work out there. More spares the scheduler turns, and costs the workers time: where
they share two cores with it, a tenth and 10 ms made wide graphs 6 % slower, and no pause at all made small ones 8 %.
"""
LONGEST_SECONDS = 0.004
SHORTEST_SECONDS = 0.001
"""Less is not worth the wake-up."""
CHAINED_SECONDS = 0.005
"""How long reports gather, since the last were read, when each worker has gone on by itself with the next step."""
_REMEMBERED_SECONDS = 0.1
_SAMPLE_SECONDS = 0.02


def part_of_turn(flying: Mapping[str, int], interactive: Collection[str]) -> float:
    """Part of the nodes that a turn usually opens and admits, while interactive workers live.

    Args:
        flying: queue class -> messages in flight.
        interactive: classes whose nodes somebody waits for.

    >>> part_of_turn({"people": 1, "batch": 3}, ["people"]), part_of_turn({"people": 0, "batch": 3}, ["people"])
    (0.1, 0.2)
    """
    awaited = sum(flying[name] for name in interactive)
    return PRESSED if 0 < 2 * awaited < sum(flying.values()) else HURRIED


def chained_pause(steps: int, in_seconds: float, left: int, passed: float) -> float:
    """How long to wait before reports of chains are read, seconds: never longer than until their last step has ended.

    Args:
        steps: that were reported last, in so many seconds.
        left: that may follow.
        passed: seconds since these were read.

    >>> chained_pause(50, 0.005, 400, 0.001), chained_pause(50, 0.005, 10, 0.0), chained_pause(50, 0.005, 1, 0.1)
    (0.004, 0.001, 0.0)
    """
    return max(0.0, min(CHAINED_SECONDS, left * in_seconds / max(steps, 1)) - passed)


def give_way() -> None:
    """Let whoever waits for this core have it for a moment. Costs nothing where nobody does.

    That may be Redis, which was woken here and which a worker between two steps of a chain waits for; Linux lets it
    wait until we have had our slice, of up to 3 ms.
    """
    os.sched_yield()


class Pacing:
    """The pace of each queue class: attempts that ended in a second, the latest counting most."""

    def __init__(self, now: float | None = None) -> None:
        self._at = time.monotonic() if now is None else now
        self._pace: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def pause_seconds(self, flying: Mapping[str, int], landed: Mapping[str, int], now: float) -> float:
        """How long to wait before the next read; 0 for not at all.

        Args:
            flying: queue class -> attempts in flight.
            landed: queue class -> attempts that have ended since the start.
            now: of this process's clock, seconds.
        """
        passed = now - self._at
        if passed >= _SAMPLE_SECONDS:
            kept = 0.5 ** (passed / _REMEMBERED_SECONDS)
            for name, count in landed.items():
                fresh = (count - self._seen.get(name, 0)) / passed
                self._pace[name] = kept * self._pace.get(name, 0.0) + (1 - kept) * fresh
                self._seen[name] = count
            self._at = now
        longest = 0.0
        for name, count in flying.items():
            if count == 1:  # perhaps of a chain: what its worker does next is found when it has ended
                return 0.0
            if count:
                pace = self._pace.get(name, 0.0)
                if not pace:
                    return 0.0
                part = PART * count / pace
                longest = min(longest, part) if longest else min(part, LONGEST_SECONDS)
        return longest if longest >= SHORTEST_SECONDS else 0.0
