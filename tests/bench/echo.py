"""An echo worker: `python -m tests.bench.echo QUEUE [NODES A SECOND]`. Takes messages, claims their attempts and
reports success, many at a time, over the store's own calls and without Celery. What it costs is not the scheduler's.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from typing import Any

from scheduler.store.attempts import Attempts, Verdict
from scheduler.store.connection import connect
from scheduler.wire import Report

AT_ONCE = 128
AT_MOST = 10
"""The same for a worker that can do only so much in a second."""
_ID = re.compile(rb'"id": "([^"]+)"')


def main() -> None:
    """Work until killed."""
    queue = sys.argv[1]
    pause = AT_MOST / float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    at_once = AT_MOST if pause else AT_ONCE
    client: Any = connect(os.environ["BENCH_REDIS"])
    attempts = Attempts(client)
    worker = f"echo-{os.getpid()}"
    for turn in itertools.count():
        first = client.brpop(queue, timeout=5)
        if first is None:
            continue
        messages = [first[1], *(client.rpop(queue, at_once - 1) or ())]
        ids = [found[1].decode() for it in messages if (found := _ID.search(it)) is not None]
        claims = attempts.claim(ids, worker, f"{os.getpid()}x{turn}")
        attempts.report(
            (Report(id_, "succeeded", worker, claim.now_ms, "none"), None)
            for id_, claim in zip(ids, claims, strict=True)
            if claim.verdict is Verdict.GRANTED
        )
        time.sleep(pause * len(messages) / at_once)  # the work


if __name__ == "__main__":
    main()
