"""What runs an attempt of a bundle is Celery's own tracer; only words that nobody reads are left out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery, signals
from celery.app import trace

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


def test_nothing_is_left_out_where_all_is_to_be_said(echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the level DEBUG the line of a success names its result."""
    monkeypatch.setattr(trace.logger, "level", logging.DEBUG)
    assert tracer(echo, "there", told=False)("3", [7], {}, dict(REQUEST)).retstr == "7"


def test_a_tracer_is_made_once_for_each_task(echo: Any) -> None:
    """And anew when another task has taken its name."""
    made = tracer(echo, "here", told=False)
    assert tracer(echo, "here", told=False) is made
    assert tracer(echo, "here", told=True) is not made
