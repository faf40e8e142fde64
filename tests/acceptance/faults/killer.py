"""The killer: strikes at processes of a rig at random instants, drawn from its seed, and starts them again.

A loop in the row's own thread, for what it starts again would end with any other. It signals only pids that the rig has
started, or pool processes of a worker that the rig has started.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from .rig import Rig

REDIS = "redis"
CHILD = "child of "
LAST_WORDS = 4_000
"""Characters of the log of what ended by itself that are kept."""
Span = tuple[float, float]


class Killer:
    """Kills and restarts until somebody says it is enough.

    Args:
        rig: everything random is drawn from its seed.
        targets: names of processes, "redis", or "child of NAME" for any pool process of a worker.
        every: shortest and longest time between two strikes, s.
        down: shortest and longest time until what was killed is started again, s.
        at_once: how many of the targets one strike hits at most; at least one.
        supervised: what ended by itself is started again too, as whoever runs a worker does, and noted in `fallen`
            with the end of its log.
        most: no more strikes than these, so that a busy machine is not kept from its end; None means the rig's.
        how: the signal; one that lets a process finish is waited for.
        before: called with the name of what is about to be killed.
        after: called with the name of what has been started again.
    """

    def __init__(
        self,
        rig: Rig,
        targets: Sequence[str],
        *,
        every: Span,
        down: Span = (0.0, 0.0),
        at_once: int = 1,
        most: float | None = None,
        supervised: bool = False,
        how: signal.Signals = signal.SIGKILL,
        before: Callable[[str], object] = str,
        after: Callable[[str], object] = str,
    ) -> None:
        self.rig = rig
        self.targets = list(targets)
        self.every = every
        self.down = down
        self.at_once = at_once
        self.most = rig.strikes if most is None else most
        self.supervised = supervised
        self.fallen: list[tuple[str, str]] = []
        self.how = how
        self.before = before
        self.after = after
        self.strikes = 0
        self.killed: dict[str, int] = {}
        self._again: dict[str, float] = {}
        self._written = -1

    def until(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Strike until it is enough or the time is up; then everything runs again. Returns whether it was enough."""
        end = time.monotonic() + seconds
        due = time.monotonic() + self.rig.random.uniform(*self.every)
        while not enough() and time.monotonic() < end:
            self._start_again(time.monotonic())
            if time.monotonic() >= due and self.strikes < self.most and self._went_on():
                self.strike()
                due = time.monotonic() + self.rig.random.uniform(*self.every)
            time.sleep(0.02)  # between two looks
        self._start_again(float("inf"))
        return enough()

    def _went_on(self) -> bool:
        """Whether any task has begun or ended since the last strike; one that hits what is not up yet tests nothing."""
        written = self.rig.ledger_path.stat().st_size
        if written == self._written:
            return False
        self._written = written
        return True

    def strike(self) -> None:
        """Kill one target, or several together; those that are down already stay so."""
        count = self.rig.random.randint(1, self.at_once)
        chosen = self.rig.random.sample(self.targets, min(count, len(self.targets)))
        downs = [self.rig.random.uniform(*self.down) for _ in chosen]
        self.strikes += 1
        for name, down in zip(chosen, downs, strict=True):
            if self._kill(name):
                self.killed[name] = self.killed.get(name, 0) + 1
                if not name.startswith(CHILD):
                    self._again[name] = time.monotonic() + down

    def _kill(self, name: str) -> bool:
        if name.startswith(CHILD):
            worker = name.removeprefix(CHILD)
            return self.rig.alive(worker) and self.rig.kill_child(worker) is not None
        if name == REDIS:
            return self.rig.redis.pid is not None and self.rig.kill_redis() > 0
        if not self.rig.alive(name):
            return False
        self.before(name)
        return self.rig.kill(name, self.how) > 0

    def _start_again(self, now: float) -> None:
        for name in self.targets if self.supervised else ():
            if name in self.rig.processes and name not in self._again and not self.rig.alive(name):
                self.fallen.append((name, self.rig.says(name)[-LAST_WORDS:]))
                self._again[name] = 0.0
        # Redis first: what starts while it is away only waits for it
        for name in sorted(self._again, key=lambda it: it != REDIS):
            if self._again[name] <= now:
                del self._again[name]
                if name == REDIS:
                    self.rig.redis.start()
                else:
                    self.rig.again(name)
                self.after(name)
