"""How a Celery worker for a queue class is started: arguments, environment, settings.

Pure, but for reading celery.toml. `celeriac worker CLASS` uses it; so may a process manager of yours.

Warm and soft shutdown: SIGTERM is remapped to SIGQUIT, so a worker finishes what it can within the class's
`shutdown_seconds` and reports the rest as lost at once. Without the remapping it would wait for a long attempt until
somebody kills it, and the lease would have to run out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

BEATS_PER_LEASE = 4
EXECUTORS = "CELERIAC_EXECUTORS"
"""Patterns of what a worker may run, separated by commas; read by survival.py."""


class QueueClassLike(Protocol):
    """What is needed of settings.QueueClass."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def queue(self) -> str:
        """Its Celery queue."""

    @property
    def pool(self) -> str:
        """Celery's name of the pool."""

    @property
    def concurrency(self) -> int:
        """Slots of one worker."""

    @property
    def prefetch(self) -> int:
        """Messages a worker holds per slot."""

    @property
    def lease_seconds(self) -> float:
        """How long an attempt may stay silent."""


def worker_argv(
    queue_class: QueueClassLike,
    *,
    hostname: str | None = None,
    concurrency: int | None = None,
    loglevel: str = "INFO",
) -> list[str]:
    """Arguments of Celery, from the word "worker" on: `celery -A MODULE:APP *worker_argv(...)`.

    They hold for any app, also one that does not read our settings. Without mingle and gossip a worker is
    ready in 0.4 s instead of 1.4 s; nothing here needs them.

    Args:
        queue_class: what the worker serves.
        hostname: name of the worker as Celery takes it, such as "w1@%h"; default CLASS@%h.
        concurrency: slots, instead of what the class says.
        loglevel: Celery's.
    """
    argv = [
        "worker",
        f"--queues={queue_class.queue}",
        f"--pool={queue_class.pool}",
        f"--concurrency={concurrency or queue_class.concurrency}",
        f"--prefetch-multiplier={queue_class.prefetch}",
        f"--hostname={hostname or f'{queue_class.name}@%h'}",
        f"--loglevel={loglevel}",
        "--without-mingle",
        "--without-gossip",
    ]
    patience = getattr(queue_class, "shutdown_seconds", None)
    return argv if patience is None else [*argv, "--", f"worker.soft_shutdown_timeout={float(patience)}"]


def worker_environment(
    queue_class: QueueClassLike, queue_arguments: Mapping[str, str | int] | None = None
) -> dict[str, str]:
    """Environment variables that the worker process needs besides where the store is.

    Args:
        queue_class: what the worker serves.
        queue_arguments: with what its queue is declared (Settings.queue_arguments).
    """
    found = {
        EXECUTORS: ",".join(getattr(queue_class, "executors", ("*",))),
        "CELERIAC_QUEUE_CLASS": queue_class.name,
        "CELERIAC_HEARTBEAT_SECONDS": f"{heartbeat_seconds(queue_class.lease_seconds):g}",
        "REMAP_SIGTERM": "SIGQUIT",
    }
    if queue_arguments:
        found["CELERIAC_QUEUE_ARGUMENTS"] = json.dumps({queue_class.queue: dict(queue_arguments)})
    return found


def heartbeat_seconds(lease_seconds: float) -> float:
    """The interval between heartbeats for a lease: three may get lost before it runs out.

    >>> heartbeat_seconds(20), heartbeat_seconds(60), heartbeat_seconds(2)
    (5.0, 5.0, 0.5)
    """
    return min(5.0, lease_seconds / BEATS_PER_LEASE)


def worker_config(queue_class: QueueClassLike, broker_url: str) -> dict[str, Any]:
    """Celery settings for `app.conf.update`, of an app that serves this class: celery.toml and what the class says.

    Raises:
        SettingsError: celery.toml is missing or cannot be read.
    """
    from ..settings import Settings

    conf = dict(Settings.load(broker_url=broker_url).celery_settings())
    conf["worker_pool"] = queue_class.pool
    conf["worker_concurrency"] = queue_class.concurrency
    conf["worker_prefetch_multiplier"] = queue_class.prefetch
    conf["task_default_queue"] = queue_class.queue
    patience = getattr(queue_class, "shutdown_seconds", None)
    if patience is not None:
        conf["worker_soft_shutdown_timeout"] = patience
    return conf
