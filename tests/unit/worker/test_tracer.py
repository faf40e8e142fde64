"""What runs an attempt of a bundle is Celery's own tracer, but for words that nobody reads and ways cut short."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.app import trace

from scheduler.wire import AttemptId, RunId
from scheduler.worker.afterwards import after_run
from scheduler.worker.context import HELD, Held
from scheduler.worker.tracer import tracer

REQUEST: dict[str, Any] = {"id": "1", "task": "echo", "is_eager": True, "args": [], "kwargs": {}}


@pytest.fixture
def echo() -> Any:
    """A task that gives back what it is given."""
    app = Celery("echoing", set_as_current=False)

    @app.task(name="echo", shared=False)
    def echo(value: Any) -> Any:
        return value

    app.finalize()
    return app.tasks["echo"]


def test_a_result_is_put_into_words_for_those_who_hear_of_it(echo: Any) -> None:
    """For others it is not, however large it is; the result is the same, and signals come as ever."""
    value = {"rows": list(range(50))}
    heard: list[Any] = []

    def hear(result: Any = None, **_: Any) -> None:
        heard.append(result)

    signals.task_success.connect(hear, sender=echo)
    told = tracer(echo, "here", told=True)("1", [value], {}, dict(REQUEST))
    quiet = tracer(echo, "here", told=False)("2", [value], {}, dict(REQUEST))
    signals.task_success.disconnect(hear, sender=echo)
    assert told.retval == quiet.retval == value
    assert heard == [value, value]
    assert "'rows'" in told.retstr
    assert quiet.retstr == ""
    assert (told.info, quiet.info) == (None, None)
    assert trace.saferepr(None) == "None", "Celery itself is as it was"


@pytest.fixture
def ours() -> Iterator[None]:
    """Nobody listens to the end of tasks but we."""
    before, signals.task_postrun.receivers = signals.task_postrun.receivers, []
    signals.task_postrun.connect(after_run, weak=False)
    yield
    signals.task_postrun.receivers = before


def test_whoever_listens_hears_of_the_end_of_attempts(echo: Any, ours: None) -> None:
    """Celery's signal comes for those in bundles too, from the moment that somebody listens until nobody does; we hear
    of each end, whoever listens beside us.
    """
    heard: list[tuple[Any, ...]] = []

    def hear(sender: Any = None, task_id: str = "", state: str = "", retval: Any = None, **_: Any) -> None:
        heard.append((sender.name, task_id, state, retval, HELD.get()))

    run = tracer(echo, "here", told=False)
    for number in range(3):
        it = Held(None, echo, None, str(number), AttemptId(0, RunId("r"), 0, 0, 0), "", "here")  # type: ignore[arg-type]
        it.settled = True
        HELD.set(it)
        if number == 1:
            signals.task_postrun.connect(hear)
        run(str(number), [number], {}, dict(REQUEST))
        assert HELD.get() is None, "we were not told"
        signals.task_postrun.disconnect(hear)
    assert heard == [("echo", "1", "SUCCESS", 1, None)]


def test_an_end_that_cannot_be_told_is_logged(
    echo: Any, ours: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Celery's signal does with whatever a receiver raises: the attempt has ended all the same."""

    def after_run(**_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("scheduler.worker.tracer.after_run", after_run)
    signals.task_postrun.receivers[:] = []
    signals.task_postrun.connect(after_run, weak=False)
    assert tracer(echo, "here", told=False)("5", [5], {}, dict(REQUEST)).retval == 5
    assert "raised: RuntimeError('no')" in caplog.text


def test_nothing_is_left_out_where_all_is_to_be_said(echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the level DEBUG the line of a success names its result."""
    monkeypatch.setattr(trace.logger, "level", logging.DEBUG)
    assert tracer(echo, "there", told=False)("3", [7], {}, dict(REQUEST)).retstr == "7"


def test_a_tracer_is_made_once_for_each_task(echo: Any) -> None:
    """And anew when another task has taken its name."""
    made = tracer(echo, "here", told=False)
    assert tracer(echo, "here", told=False) is made
    assert tracer(echo, "here", told=True) is not made
