"""How a worker learns with what its queue is declared, and what a closed channel costs it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import PreconditionFailed, RecoverableConnectionError
from celery import Celery
from kombu.entity import Queue

from scheduler.errors import SettingsError
from scheduler.settings import Settings
from scheduler.worker.options import worker_environment
from scheduler.worker.queues import ARGUMENTS, Patience, declare_as_told


def app_of(*queues: Queue, consume: str) -> Celery:
    """An app whose worker consumes from one queue."""
    app = Celery("queues", set_as_current=False)
    app.conf.task_queues = queues or None
    app.amqp.queues.select([consume])
    return app


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The environment that `celeriac worker` makes; returns the arguments in it."""
    settings = Settings.load(broker_url="amqp://host//", broker_queue_type="quorum")
    arguments = settings.queue_arguments(settings.default_class)
    environment = worker_environment(settings.default_class, arguments)
    monkeypatch.setenv(ARGUMENTS, environment[ARGUMENTS])
    return dict(arguments)


def test_a_worker_declares_as_the_scheduler_does(told: dict[str, Any]) -> None:
    """Also a queue that Celery makes up because -Q names it; an app without the variable is left alone."""
    name = Settings.load().default_class.queue
    app = app_of(consume=name)
    declare_as_told(app)
    assert app.amqp.queues[name].queue_arguments == told


def test_arguments_of_the_app_s_own_stay(told: dict[str, Any]) -> None:
    """And so do queues that the variable does not name."""
    name = Settings.load().default_class.queue
    own = app_of(Queue(name, queue_arguments={"x-max-priority": 3}), consume=name)
    declare_as_told(own)
    assert own.amqp.queues[name].queue_arguments == {"x-max-priority": 3}
    other = app_of(consume="other")
    declare_as_told(other)
    assert not other.amqp.queues["other"].queue_arguments


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "7"])
def test_a_variable_that_is_no_such_object_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Before the worker connects."""
    monkeypatch.setenv(ARGUMENTS, text)
    with pytest.raises(SettingsError, match=ARGUMENTS):
        declare_as_told(app_of(consume="a"))


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out", RecoverableConnectionError),
        ("PRECONDITION_FAILED - inequivalent arg 'x-queue-type'", PreconditionFailed),
    ],
)
def test_only_a_timed_out_acknowledgement_is_got_over(said: str, becomes: type[Exception]) -> None:
    """A queue declared otherwise still ends the worker, as Celery has it."""

    def loop() -> None:
        raise PreconditionFailed(said, (0, 0), "", 406)

    consumer = SimpleNamespace(loop=loop)
    step = Patience.__new__(Patience)
    step.start(consumer)
    step.start(consumer)  # at each new connection
    with pytest.raises(becomes) as raised:
        consumer.loop()
    assert type(raised.value) is becomes
