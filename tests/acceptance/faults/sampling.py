"""What a long run uses, sample by sample, and whether that stays flat."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import psutil
from redis.exceptions import RedisError

from .rig import Rig

SETTLED_PART = 0.2
"""The first part of the samples is left out: processes grow to their size, caches fill."""

YOUNG_SECONDS = 10.0


def drift(points: Sequence[tuple[float, float]]) -> float:
    """Growth over the whole time as a part of the mean, by least squares; 0 for flat.

    >>> round(drift([(0, 10), (1, 11), (2, 12)]), 2), drift([(0, 5), (9, 5)])
    (0.18, 0.0)
    """
    if len(points) < 2:
        return 0.0
    at, of = mean(x for x, _ in points), mean(y for _, y in points)
    square = sum((x - at) ** 2 for x, _ in points)
    if not square or not of:
        return 0.0
    slope = sum((x - at) * (y - of) for x, y in points) / square
    return slope * (points[-1][0] - points[0][0]) / of


@dataclass
class Samples:
    """Memory over time.

    Attributes:
        points: name of what is measured -> (s since the start, bytes).
    """

    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def take(self, rig: Rig, seconds: float, kept_nodes: int) -> None:
        """One sample of every process that runs now, by what kind it is; of Redis what it uses for data too.

        Args:
            seconds: since the start.
            kept_nodes: nodes of all runs that Redis keeps.
        """
        found: dict[str, list[int]] = {}
        for name, it in rig.processes.items():
            if it.running.poll() is None:
                kind = {"s": "scheduler", "w": "worker", "h": "prefork worker"}[name[0]]
                found.setdefault(kind, []).extend(_resident(it.running.pid))
        for kind, sizes in found.items():
            if sizes:
                self._add(f"{kind} RSS", seconds, median(sizes))
        try:
            info: Mapping[str, Any] = rig.look().info("memory")
        except (RedisError, OSError):
            return
        self._add("Redis RSS", seconds, float(info["used_memory_rss"]))
        self._add("Redis used", seconds, float(info["used_memory"]))
        empty = self.points["Redis used"][0][1]  # before the first run
        if kept_nodes:
            self._add("Redis used per kept node", seconds, (info["used_memory"] - empty) / kept_nodes)

    def last(self, name: str) -> float:
        """The newest value, 0 when there is none."""
        points = self.points.get(name)
        return points[-1][1] if points else 0.0

    def drifts(self) -> dict[str, float]:
        """Name -> drift once things have settled."""
        return {name: drift(every[int(len(every) * SETTLED_PART) :]) for name, every in self.points.items()}

    def _add(self, name: str, seconds: float, value: float) -> None:
        self.points.setdefault(name, []).append((round(seconds, 1), value))


def _resident(pid: int) -> list[int]:
    """Of one that has grown up: a process that was just started again is still importing."""
    try:
        it = psutil.Process(pid)
        return [int(it.memory_info().rss)] if time.time() - it.create_time() > YOUNG_SECONDS else []
    except psutil.NoSuchProcess:
        return []
