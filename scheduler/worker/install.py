"""install(app): the one line that makes a Celery app's workers execute nodes.

    from celery import Celery
    from scheduler.worker import install

    app = Celery("shop", broker="redis://localhost")
    install(app)

Tasks stay as they are, and so does everything sent to them by delay(). Attempts are recognised by
their task id alone.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import signals
from celery.utils.imports import symbol_by_name

from ..collector import spare
from ..errors import InvalidValue, SettingsError
from .adopt import adopt_all
from .afterwards import after_run, on_internal_error
from .attempt_events import AttemptEvents
from .broker import survive
from .bundle import register_bundles
from .contracts import contracts_of
from .early import serves
from .endings import ErrorTable, check_errors
from .executor import register_all
from .installation import Installation, installation_of, installed_on, new_start, spell_broker
from .pools import pool_of
from .progress import Progress
from .queues import Patience, declare_as_told
from .reconnect import come_back_soon, guard_channels, guard_pool
from .rejects import not_a_message, surviving_consumer
from .report import Courier
from .stacks import quicken
from .tee import tee_app

log = logging.getLogger(__name__)

_UID = "celeriac"


def install(
    app: Any,
    *,
    redis_url: str | None = None,
    namespace: str | None = None,
    queue_class: str | None = None,
    settings: Any = None,
    errors: ErrorTable | None = None,
    heartbeat_seconds: float | None = None,
    attempt_events: bool | None = None,
    secrets: Callable[[str], str | None] | None = None,
) -> None:
    """Let the workers of a Celery app execute nodes. Calling it again only updates what is given.

    Args:
        app: the Celery app, before or after its tasks are defined.
        redis_url: the scheduler's Redis; default CELERIAC_REDIS_URL, else the app's broker when that is Redis.
        namespace: of the installation; default CELERIAC_NAMESPACE, else "cel".
        queue_class: what the workers of this app serve; default CELERIAC_QUEUE_CLASS.
        settings: celeriac's Settings, for what is not given here.
        errors: what exceptions of any task mean that are not ours, such as {ValueError: "permanent"}; see `executor`,
            whose own word comes first.
        heartbeat_seconds: how often leases are renewed; default CELERIAC_HEARTBEAT_SECONDS, else 5.
            At most a third of the shortest lease.
        attempt_events: whether each attempt of a bundle has Celery's events of its own (received, started and so on),
            while the worker's are on, so that Flower shows it; default CELERIAC_ATTEMPT_EVENTS, else False.
        secrets: where the values of `Secret` inputs are: called with a name right before a task runs, gives its value
            or None. Asked before the environment (CELERIAC_SECRET_NAME) and the files in CELERIAC_SECRETS_DIR.

    Raises:
        SettingsError: an error kind that does not exist, or an interval that is not positive.
    """
    if errors is not None:
        try:
            check_errors(errors, "install(errors=...)")
        except InvalidValue as wrong:
            raise SettingsError(wrong.at, f"found {wrong.found}, which {wrong.problem}", wrong.remedy) from None
    if heartbeat_seconds is not None and not heartbeat_seconds > 0:
        raise SettingsError("install(heartbeat_seconds=...)", f"found {heartbeat_seconds!r}", "Give seconds above 0.")
    known = installation_of(app) is not None
    it = installed_on(app)
    it.redis_url = redis_url or getattr(settings, "redis_url", None) or it.redis_url
    it.namespace = namespace or getattr(settings, "namespace", None) or it.namespace
    it.queue_class = queue_class or it.queue_class
    it.heartbeat_seconds = heartbeat_seconds or it.heartbeat_seconds
    it.attempt_events = it.attempt_events if attempt_events is None else attempt_events
    it.errors.update(errors or {})
    it.secrets = secrets or it.secrets
    if known:
        return
    _installed.append(it)
    _connect_signals()
    tee_app(it)
    register_all(it)
    register_bundles(it)
    if it.app.finalized:
        adopt_all(it)
    it.app.steps["consumer"].add(Patience)
    it.app.on_after_finalize.connect(_on_finalize, weak=False, dispatch_uid=_UID)
    if it.app.configured:
        spell_broker(it.app)
    else:
        it.app.on_after_configure.connect(_on_configure, weak=False, dispatch_uid=_UID)


def _on_configure(sender: Any, **_: Any) -> None:
    spell_broker(sender)


def _on_finalize(sender: Any, **_: Any) -> None:
    installation = installation_of(sender)
    if installation is not None:
        adopt_all(installation)


def _connect_signals() -> None:
    for celery_signal, receiver in (
        (signals.worker_init, _on_worker_init),
        (signals.worker_ready, _on_worker_ready),
        (signals.worker_process_init, _on_pool_process),
        (signals.worker_shutting_down, _on_shutting_down),
        (signals.worker_shutdown, _on_shutdown),
        (signals.task_postrun, after_run),
        (signals.task_internal_error, on_internal_error),
    ):
        celery_signal.connect(receiver, weak=False, dispatch_uid=_UID)


_installed: list[Installation] = []
_working: list[Installation] = []


def _on_worker_init(sender: Any, **_: Any) -> None:
    """Before the pool starts: all tasks are registered by now, and pool processes inherit what is set here."""
    installation = installation_of(sender.app)
    if installation is None:
        return
    installation.url()  # a worker that cannot know its store says so now
    installation.interval()
    installation.output_limit()
    tells = installation.sends_events()
    sender.app.finalize()
    adopt_all(installation)
    quicken(sender.app)
    guard_channels()
    guard_pool()
    come_back_soon(sender.app)
    new_start()
    declare_as_told(sender.app)
    installation.courier = Courier(installation)
    installation.progress = Progress()
    installation.events = AttemptEvents(sender.app, installation.class_name()) if tells else None
    serves(installation, sender.hostname)
    survive(sender.app, partial(not_a_message, installation))
    sender.pool_cls = pool_of(sender.pool_cls)
    sender.consumer_cls = surviving_consumer(symbol_by_name(sender.consumer_cls))
    _spare_collections()  # Celery collects before each process that it forks


def _spare_collections() -> None:
    """What is loaded is gone through for the last time; unless the process is somebody else's, a test's perhaps."""
    if threading.current_thread() is threading.main_thread():
        gc.collect()
        spare()


def _on_worker_ready(sender: Any, **_: Any) -> None:
    from .heartbeat import Heartbeat  # imports Celery's worker, which only workers need

    installation = installation_of(sender.app)
    if installation is None or installation.heartbeat is not None:
        return
    beat = installation.heartbeat = Heartbeat(installation, sender)
    beat.contracts = contracts_of(installation)
    for name, contract in beat.contracts.items():
        if told := contract["celery_retries"]:
            warned = "%s declares %s to Celery: in a graph the scheduler's retry policy counts instead"
            log.warning(warned, name, ", ".join(told))
    beat.start()
    _working.append(installation)
    atexit.register(_goodbye, installation, os.getpid())
    _spare_collections()


def _on_pool_process(**_: Any) -> None:
    """A pool process has begun: threads and connections stayed with its parent."""
    spare()  # with what its own start has brought
    for installation in _installed:
        installation.courier = None
        installation.in_pool_process = True


def _on_shutting_down(how: str = "", **_: Any) -> None:
    """Runs in a signal handler. After a cold shutdown Celery has cancelled what ran: tell before the process ends."""
    if how == "Cold":
        for installation in _working:
            if installation.heartbeat is not None:
                installation.heartbeat.note_abandoned()
            _flush(installation)


def _on_shutdown(sender: Any, **_: Any) -> None:
    installation = installation_of(getattr(sender, "app", None))
    if installation is not None:
        _goodbye(installation, os.getpid())


def _flush(installation: Installation) -> None:
    if installation.courier is not None:
        installation.courier.flush()


def _goodbye(installation: Installation, pid: int) -> None:
    """The worker ends: send what is queued and take it off the list. Does nothing the second time."""
    beat = installation.heartbeat
    if beat is None or pid != os.getpid():
        return
    installation.heartbeat = None
    beat.tell_abandoned()
    _flush(installation)
    beat.stop()


__all__ = ["install"]
