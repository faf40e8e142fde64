"""Celery's stacks in fewer steps: whoever asks gets what Celery would have answered."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, current_task
from celery.utils import threads

from scheduler.worker.stacks import _Quick, quicken

pytestmark = pytest.mark.skipif(
    threads.LocalStack is not threads._LocalStack, reason="USE_FAST_LOCALS has Celery use others, which are left alone"
)
STEPS: tuple[Callable[[Any], Any], ...] = (
    lambda stack: stack.push(7),
    lambda stack: stack.push(None),
    lambda stack: stack.pop(),
    lambda stack: stack.top,
    lambda stack: list(stack.stack),
    len,
    bool,
)


def quick() -> Any:
    """A stack of Celery's, as it is in a worker."""
    stack = threads.LocalStack()
    stack.__class__ = _Quick
    return stack


@pytest.mark.parametrize("seed", range(20))
def test_a_quick_stack_answers_like_celery_s(seed: int) -> None:
    """Whatever is asked in whatever order, also when it becomes quick in between."""
    drawn = random.Random(seed)
    theirs, ours, later = threads.LocalStack(), quick(), threads.LocalStack()
    for number in range(200):
        step = drawn.choice(STEPS)
        assert step(theirs) == step(ours) == step(later), number
        if number == 100:
            later.__class__ = _Quick


def test_every_thread_has_a_stack_of_its_own() -> None:
    """What one pushes no other sees, and methods taken before the change go to the same place."""
    stack = threads.LocalStack()
    push, seen = stack.push, []
    stack.__class__ = _Quick
    push("here")
    other = threading.Thread(target=lambda: seen.extend([stack.top, stack.push("there"), stack.top, stack.pop()]))
    other.start()
    other.join()
    assert seen == [None, ["there"], "there", "there"]
    assert stack.top == "here"


def test_a_worker_s_tasks_find_their_requests() -> None:
    """The app's tasks, called inside each other, see their own requests and which task is current."""
    app = Celery("quick", set_as_current=False)

    @app.task(bind=True)
    def inner(self: Any) -> Any:
        return self.request.id, current_task.name

    @app.task(bind=True)
    def outer(self: Any) -> Any:
        found = inner.apply(task_id="b").get(disable_sync_subtasks=False)
        return found, self.request.id, current_task.name

    app.finalize()
    quicken(app)
    quicken(app)
    assert type(outer.request_stack) is type(inner.request_stack) is _Quick
    assert outer.apply(task_id="a").get() == (("b", inner.name), "a", outer.name)
    assert not outer.request_stack
    assert not inner.request_stack
