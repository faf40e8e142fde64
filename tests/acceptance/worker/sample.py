"""The Celery app that the workers of these tests run: one task per kind of ending, as a user would write them.

It knows nothing of graphs. What it is told comes by environment: broker, result backend, early or late acknowledgement.
"""

# ruff: noqa: D103  tasks as a user would write them, most without docstrings
from __future__ import annotations

import gc
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from billiard import einfo
from celery import Celery, Task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from pydantic import BaseModel, Field

from scheduler.worker import (
    BudgetExceeded,
    Cancelled,
    Context,
    InvalidInput,
    Permanent,
    RateLimited,
    SafetyRefused,
    TimedOut,
    Transient,
    attempt,
    executor,
    install,
)

app = Celery("sample", broker=os.environ["SAMPLE_BROKER"], backend=os.environ.get("SAMPLE_BACKEND"))
app.conf.update(
    task_acks_late=os.environ.get("SAMPLE_ACKS_LATE", "1") == "1",
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_soft_shutdown_timeout=float(os.environ.get("SAMPLE_SOFT_SHUTDOWN", "0")),
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 86400, "socket_timeout": 5},
    result_backend_max_retries=1,
    worker_hijack_root_logger=False,
    task_default_queue=os.environ.get("SAMPLE_QUEUE", "sample"),
)
if os.environ.get("SAMPLE_PLAIN") != "1":
    install(
        app,
        heartbeat_seconds=float(os.environ.get("SAMPLE_HEARTBEAT", "0.5")),
        errors={ZeroDivisionError: "permanent", "builtins.UnicodeError": ("rate_limited", "policy")},
    )
DIARY = Path(os.environ.get("SAMPLE_DIARY", os.devnull))


def note(line: str) -> None:
    """Write into the ledger outside the system: what really ran."""
    with DIARY.open("a") as diary:
        diary.write(line + "\n")


def _slow_handover(seconds: float) -> None:
    """Stretch the moment in which the main thread hands work to a pool of threads, holding its lock."""
    own: Any = ThreadPoolExecutor._adjust_thread_count

    def adjust(self: ThreadPoolExecutor) -> None:
        note("handing over")
        time.sleep(seconds)
        own(self)

    ThreadPoolExecutor._adjust_thread_count = adjust  # type: ignore[method-assign]  # the fault that is made here


if "SAMPLE_HANDOVER_SECONDS" in os.environ:
    _slow_handover(float(os.environ["SAMPLE_HANDOVER_SECONDS"]))


def _slow_reading(seconds: float) -> None:
    """Stretch the moment in which the main thread reads of a process that a task was refused."""
    own: Any = einfo.rebuild_exc

    def rebuild_exc(exc: BaseException, tb: str) -> Any:
        note("reading")
        time.sleep(seconds)
        return own(exc, tb)

    rebuild_exc.__module__, rebuild_exc.__qualname__ = einfo.__name__, own.__qualname__  # it is pickled by its name
    einfo.rebuild_exc = rebuild_exc


if "SAMPLE_READING_SECONDS" in os.environ:
    _slow_reading(float(os.environ["SAMPLE_READING_SECONDS"]))


@app.task
def add(a: int, b: int = 0) -> int:
    """Sum of two numbers.

    More is said here.
    """
    return a + b


def _slow_writing(seconds: float) -> None:
    """Stretch the moment in which a process may have begun a job and the main thread does not know of it."""
    from billiard.pool import Pool

    own: Any = Pool.apply_async

    def apply_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = own(self, *args, **kwargs)
        note("written")
        time.sleep(seconds)
        return result

    Pool.apply_async = apply_async


if "SAMPLE_WRITTEN_SECONDS" in os.environ:
    _slow_writing(float(os.environ["SAMPLE_WRITTEN_SECONDS"]))


@app.task
def echo(value: Any = None) -> Any:
    return value


@app.task
def kind(value: Any) -> str:
    return type(value).__name__


@app.task
def frozen() -> int:
    return gc.get_freeze_count()


@app.task
def facts() -> dict[str, Any]:
    it = attempt()
    assert it is not None
    return {
        "id": it.id,
        "run": it.run,
        "node": it.node,
        "number": it.number,
        "key": it.key,
        "correlation_id": it.correlation_id,
        "labels": dict(it.labels),
        "hard_end": it.hard_end_at_ms is not None,
    }


@app.task
def outside() -> Any:
    return attempt()


@app.task
def fails(name: str = "ValueError", text: str = "broken") -> None:
    known: dict[str, BaseException] = {
        "ValueError": ValueError(text),
        "ZeroDivisionError": ZeroDivisionError(text),
        "Transient": Transient(text),
        "Permanent": Permanent(text),
        "InvalidInput": InvalidInput(text),
        "RateLimited": RateLimited(text, 2.5),
        "TypeError": TypeError(text),
        "MemoryError": MemoryError(text),
        "ConnectionError": ConnectionError(text),
        "UnicodeError": UnicodeError(text),
        "SafetyRefused": SafetyRefused(text),
        "BudgetExceeded": BudgetExceeded(text),
        "Cancelled": Cancelled(text),
        "TimedOut": TimedOut(text, origin="external"),
        "Ignore": Ignore(text),
        "Reject": Reject(text, requeue=False),
        "SystemExit": SystemExit(3),
    }
    raise known[name]


class Unpicklable(ValueError):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.keep = lambda: a + b


@app.task
def raises_unpicklable() -> None:
    raise Unpicklable(1, 2)


@app.task
def returns(what: str) -> Any:
    cycle: list[Any] = []
    cycle.append(cycle)
    return {
        "nan": float("nan"),
        "infinity": [float("inf")],
        "object": object(),
        "surrogate": "\ud800",
        "cycle": cycle,
        "dates": {"at": datetime(2030, 1, 2, tzinfo=UTC), "id": UUID(int=5)},
        "large": "x" * 300_000,
        "exact": "é" * 10,
    }[what]


@app.task
def sleeps(seconds: float, caught: bool = False) -> str:
    it = attempt() or Context(id="-")
    note(f"start {it.id} {os.getpid()}")
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)  # the work itself, in slices that a time limit can interrupt
    except SoftTimeLimitExceeded:
        if not caught:
            raise
        return "caught"
    note(f"end {it.id}")
    return "slept"


@app.task
def stubborn(seconds: float) -> str:
    """Does not heed SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return str(sleeps(seconds))


@app.task(bind=True, max_retries=2, default_retry_delay=7)
def retries(self: Any, how: str = "plain") -> Any:
    if how == "plain":
        raise self.retry()
    if how == "countdown":
        raise self.retry(countdown=1.5, exc=ValueError("not yet"))
    if how == "exceeded":
        raise self.retry(exc=ValueError("gave up"), max_retries=0)
    if how == "caught":
        try:
            self.retry(max_retries=0)
        except self.MaxRetriesExceededError:
            return "fallback"
    if how == "quietly":
        self.retry(throw=False, countdown=3)
        return "went on"
    if how == "arguments":
        raise self.retry(args=("other",))
    return self.request.retries


@app.task(autoretry_for=(KeyError,), retry_backoff=2, retry_jitter=False, max_retries=5)
def autoretries() -> None:
    raise KeyError("later")


@app.task(bind=True)
def replaces(self: Any, how: str = "one") -> Any:
    if how == "chain":
        raise self.replace(add.s(1, 1) | add.s(10))
    raise self.replace(add.s(20, 3))


@app.task(bind=True)
def requeues(self: Any) -> str:
    seen = DIARY.with_suffix(f".{self.request.id}")
    if not seen.exists():
        seen.touch()
        raise Reject("once more", requeue=True)
    return "second delivery"


@app.task
def dies(how: str) -> None:
    note(f"dies {how}")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(4)
    sys.exit(5)


class Careful(Task):  # a base class of the user's, with hooks of its own
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"before_start {task_id}")
        super().before_start(task_id, args, kwargs)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"on_retry {task_id}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return {"wrapped": super().__call__(*args, **kwargs)}


@app.task(base=Careful, bind=True)
def careful(self: Any, again: bool = False) -> str:
    if again:
        raise self.retry(countdown=1)
    return "done"


class Older(Task):
    name = "sample.older"

    def run(self, a: int) -> int:
        return a * 2


app.register_task(Older())


@shared_task(name="sample.shared")
def shared(a: int) -> int:
    return a + 100


class Topic(BaseModel):
    name: str
    weight: float = Field(ge=0, le=1)


@executor(
    queue_class="standard-low",
    timeout=60,
    soft_timeout=50,
    cost=0.5,
    purity="pure",
    version="3",
    errors={KeyError: "invalid_input"},
)
def topics(text: str, limit: int = 2, at: datetime | None = None) -> list[Topic]:
    """Find topics."""
    if text == "key":
        raise KeyError(text)
    if text == "wrong":
        return [Topic.model_construct(name="x", weight=7)]
    if text == "type":
        return "no list"  # type: ignore[return-value]
    assert at is None or isinstance(at, datetime)
    return [Topic(name=word, weight=0.5) for word in text.split()][:limit]


@executor(name="sample.knows")
def knows(topic: Topic, ctx: Context) -> str:
    return f"{topic.name} in attempt {ctx.number} of {ctx.node}"


@executor
def plain(a: int) -> int:
    return a + 1


@app.task(purity="pure")
def pure(value: int = 0, seconds: float = 0.0, wrong: bool = False) -> int:
    """One more than it got, after a while."""
    if seconds:
        sleeps(seconds)
    if wrong:
        raise ValueError("wrong")
    return value + 1
