"""What a system is asked to run, as JSON from the driver to a peer's own Python and back. Standard library only.

A peer's program gets a list of works as its one argument. It starts its workers, warms them up, runs one work after the
other and prints `{"name": ..., "seconds": ...}` for each, a line each, as soon as it is done.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from . import shapes

WORKERS = 2
TIMEOUT_SECONDS = 300.0
_SHAPES: dict[str, Callable[..., shapes.Shape]] = {
    "chain": shapes.chain,
    "fan": shapes.fan,
    "stencil": shapes.stencil,
    "diamond": shapes.diamond,
}


@dataclass(frozen=True, slots=True)
class Work:
    """One graph, once or several times at once.

    Attributes:
        shape: a function of shapes.py.
        sizes: its arguments.
        times: how many of them are sent before the first is waited for.
        task_us: how long each task keeps its process busy, microseconds; 0 returns at once.
    """

    name: str
    shape: str
    sizes: tuple[int, ...] = ()
    times: int = 1
    task_us: float = 0.0

    def graph(self) -> shapes.Shape:
        """One of its graphs."""
        return _SHAPES[self.shape](*self.sizes)

    def ends(self) -> range:
        """The nodes of a graph after which all others have ended too: its last row or its last node."""
        shape = self.graph()
        return range(len(shape) - (self.sizes[-1] if self.shape == "stencil" else 1), len(shape))


def dumps(works: Iterable[Work]) -> str:
    """The argument of a peer's program."""
    return json.dumps([asdict(work) for work in works])


def asked() -> list[Work]:
    """What this program was asked to run. From now on SIGTERM is an exception, so that children are ended too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return [Work(**{**fields, "sizes": tuple(fields["sizes"])}) for fields in json.loads(sys.argv[1])]


def say(work: Work, seconds: float) -> None:
    """Tell the driver."""
    print(json.dumps({"name": work.name, "seconds": seconds}), flush=True)


def work_for(task_us: float) -> None:
    """Keep this process busy."""
    until = time.perf_counter() + task_us / 1e6
    while time.perf_counter() < until:
        pass
