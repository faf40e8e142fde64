"""One scheduler process: `python -m tests.bench.service [--samples FILE]`, until SIGTERM.

With --samples it notes, at every tick of the CPU time that it uses, which functions are at work (sampler.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path

from scheduler.service.loop import Scheduler
from scheduler.settings import Settings

from .sampler import Sampler


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=Path)
    samples: Path | None = parser.parse_args().samples
    logging.basicConfig(level=logging.INFO)
    scheduler = Scheduler(Settings.load(redis_url=os.environ["BENCH_REDIS"]))
    signal.signal(signal.SIGTERM, scheduler.interrupt)
    if samples is None:
        scheduler.run()
        return
    with Sampler() as sampler:
        scheduler.run()
    sampler.write(samples)


if __name__ == "__main__":
    main()
