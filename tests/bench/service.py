"""One scheduler process: `python -m tests.bench.service [--samples FILE] [--turns FILE]`, until SIGTERM.

With --samples it notes, at every tick of the CPU time that it uses, which functions are at work (sampler.py); with
--turns, of every turn that had something to do, how long it took and how old what it took up had become by its end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
from pathlib import Path

from scheduler.collector import spare
from scheduler.service.loop import Scheduler
from scheduler.settings import Settings
from scheduler.store.inboxes import Entry

from .sampler import Sampler


class Watched(Scheduler):
    """A scheduler that keeps (seconds of a turn, seconds from the arrival of its oldest entry to its end)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.noted: list[tuple[float, float]] = []
        self._began = (0.0, 0.0)

    def _read(self) -> tuple[dict[str, list[Entry]], int]:
        entries, now = super()._read()
        arrived = [found[0].at_ms for found in entries.values()]
        self._began = time.perf_counter(), max(now - min(arrived), 0) / 1000 if arrived else -1.0
        return entries, now

    def _turn(self) -> None:
        self._began = (0.0, 0.0)
        super()._turn()
        began, waited = self._began
        if began:
            took = time.perf_counter() - began
            if waited >= 0 or took > 0.001:
                self.noted.append((took, waited + took if waited >= 0 else -1.0))


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--turns", type=Path)
    asked = parser.parse_args()
    samples: Path | None = asked.samples
    logging.basicConfig(level=logging.INFO)
    scheduler = Watched(Settings.load(redis_url=os.environ["BENCH_REDIS"])) if asked.turns else _plain()
    signal.signal(signal.SIGTERM, scheduler.interrupt)
    spare()  # as `celeriac scheduler` does
    if samples is None:
        scheduler.run()
        if isinstance(scheduler, Watched):
            asked.turns.write_text(json.dumps(scheduler.noted))
        return
    with Sampler() as sampler:
        scheduler.run()
    sampler.write(samples)


def _plain() -> Scheduler:
    return Scheduler(Settings.load(redis_url=os.environ["BENCH_REDIS"]))


if __name__ == "__main__":
    main()
