"""The Celery app of celeriac's workers: the reference's settings and its task, and install().

With BENCH_SHIPPED in the environment the settings are those that `celeriac worker` starts with: late acknowledgement,
events for Flower, the class's own prefetch.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from scheduler.settings import Settings
from scheduler.worker import install

from . import reference
from .celeriac import BUSY, NODE, PURE, QUEUE_CLASS

settings = Settings.load(redis_url=os.environ.get("BENCH_REDIS"))
app = Celery("nodes", set_as_current=False)
app.conf.update(reference.app.conf.changes)
if os.environ.get("BENCH_SHIPPED"):
    app.conf.update(settings.celery_settings(settings.classes[QUEUE_CLASS]))
install(app, settings=settings, queue_class=QUEUE_CLASS)


@app.task(name=BUSY)
def busy(length_ms: float) -> None:
    """Work for so long."""
    until = time.perf_counter() + length_ms / 1e3
    while time.perf_counter() < until:
        pass


@app.task(name=PURE, purity="pure")
def pure(*_: Any) -> None:
    """Returns at once."""


@app.task(name=NODE)
def node(*_: Any) -> None:
    """Returns at once."""
