"""The Celery app of the references: raw tasks and canvas, no celeriac. Results in Redis, early acknowledgement.

`next_row` is what canvas lacks for layered graphs: the body of one row's chord starts the chord of the next. The
dependency lists stand in Redis, one field per row.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from celery import Celery, chord
from celery.signals import worker_ready
from redis import Redis

from scheduler.settings import broker_url_of

QUEUE = "reference"

app = Celery("reference", set_as_current=False)
app.conf.update(
    task_default_queue=QUEUE,
    result_expires=3600,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
)


def aim(redis_url: str) -> None:
    """Use this Redis for everything."""
    app.conf.broker_url = app.conf.result_backend = broker_url_of(redis_url)


if "BENCH_REDIS" in os.environ:  # in a worker
    aim(os.environ["BENCH_REDIS"])


@worker_ready.connect
def _say_ready(sender: Any, **_: Any) -> None:
    """place.py waits for this line: at log level WARNING Celery says nothing itself, which is what is measured."""
    print(f"{sender.hostname} ready")


@app.task(name="bench.node")
def node(*_: Any) -> None:
    """Returns at once."""


@app.task(name="bench.bell", ignore_result=True)
def bell(key: str) -> None:
    """Ring: whoever waits for it need not ask a result backend."""
    _client().rpush(key, "rung")


@cache
def _client() -> Any:
    """One connection for each process of a worker."""
    return Redis.from_url(os.environ["BENCH_REDIS"])


@app.task(name="bench.next_row", ignore_result=True)
def next_row(_results: Any, graph: str, row: int) -> None:
    """Start a row of the graph, or tell that there is none left."""
    with Redis.from_url(os.environ["BENCH_REDIS"]) as client:
        lists: Any = client.hget(graph, str(row))
        if lists is None:
            client.rpush(f"{graph}:over", "over")
            return
    chord([node.si(needs) for needs in json.loads(lists)])(next_row.s(graph, row + 1))
