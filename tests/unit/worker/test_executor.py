"""@executor without a worker: calls, checks, contracts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, assert_type

import pytest
from celery import Celery
from pydantic import BaseModel, Field

from scheduler.errors import ContractBroken, InvalidInput, InvalidValue
from scheduler.worker import Context, Executor, attempt, executor, install
from scheduler.worker.contracts import contract_of, contracts_of, is_plain
from scheduler.worker.installation import installed_on


class Topic(BaseModel):
    """A model."""

    name: str
    weight: float = Field(ge=0, le=1)


@dataclass
class Pair:
    """A dataclass."""

    a: int
    b: int


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app of this test's own."""
    it = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield it
    it.close()


def test_a_function_stays_a_function() -> None:
    """Calling it calls it, unchecked; it keeps its name, its docstring and, for mypy, its types."""

    @executor
    def double(a: int) -> int:
        """Twice."""
        return a * 2

    assert isinstance(double, Executor)
    assert_type(double(4), int)
    assert double(4) == 8
    assert double.name == f"{__name__}.double"
    assert double.__doc__ == "Twice."
    assert double.contract()["doc"] == "Twice."


def test_inputs_are_converted_and_refused() -> None:
    """By position or by name, with defaults; what is missing, too much or wrong is named without its value."""

    @executor
    def take(text: str, at: datetime, count: Annotated[int, Field(ge=1)] = 3, *, topic: Topic | None = None) -> str:
        return f"{text} {at.year} {count} {topic and topic.name}"

    assert take.run("a", "2030-01-01T00:00:00Z") == "a 2030 3 None"
    assert take.run(text="a", at="2030-01-01", count="4", topic={"name": "t", "weight": 1}) == "a 2030 4 t"
    for args, kwargs, part in (
        (["a"], {}, "at"),
        (["a", "2030-01-01", 0], {}, "greater than or equal to 1"),
        (["a", "2030-01-01"], {"more": 1}, "more"),
        (["a", "2030-01-01", 1, 2], {}, "positional"),
        (["a", "2030-01-01"], {"topic": {"name": "secret", "weight": 7}}, "topic.weight"),
        (["a", "2030-01-01"], {"text": "b"}, "multiple"),
    ):
        with pytest.raises(InvalidInput) as refused:
            take.run(*args, **kwargs)
        assert part.lower() in str(refused.value).lower()
        assert "secret" not in str(refused.value)


def test_outputs_are_checked_even_when_made_around_their_model() -> None:
    """A wrong value never leaves; a model that was changed after it was made is checked again."""

    @executor
    def give(what: str) -> list[Topic]:
        good = Topic(name="x", weight=0.5)
        bad = Topic(name="x", weight=0.5)
        bad.weight = 7
        made: dict[str, Any] = {
            "good": [good],
            "dict": [{"name": "y", "weight": 1}],
            "changed": [bad],
            "built": [Topic.model_construct(name="x", weight=-1)],
            "type": "text",
            "none": None,
        }
        return made[what]  # type: ignore[no-any-return]

    assert give.run("good") == [{"name": "x", "weight": 0.5}]
    assert give.run("dict") == [{"name": "y", "weight": 1.0}]
    for what in ("changed", "built", "type", "none"):
        with pytest.raises(ContractBroken, match="output of"):
            give.run(what)


def test_dataclasses_dates_and_nothing() -> None:
    """Outputs become JSON as pydantic says; without an annotation the value is left as it is."""

    @executor
    def pair() -> Pair:
        return Pair(1, 2)

    @executor
    def when() -> datetime:
        return datetime(2030, 1, 1)  # noqa: DTZ001  a naive one, as users write it

    @executor
    def nothing() -> None:
        return None

    @executor
    def anything(a):  # type: ignore[no-untyped-def]  # as users write it
        return a

    assert pair.run() == {"a": 1, "b": 2}
    assert when.run() == "2030-01-01T00:00:00"
    assert nothing.run() is None
    assert anything.run({1, 2}) == {1, 2}


def test_a_context_is_given_where_it_is_asked_for() -> None:
    """By annotation, under any name; outside an attempt it is an empty one, and a caller may bring its own."""

    @executor
    def knows(a: int, ctx: Context, b: int = 0) -> str:
        return f"{a} {ctx.node} {b}"

    @executor
    def may(*, me: Context | None = None) -> bool:
        return me is not None

    assert attempt() is None
    assert knows.run(1, 2) == knows.run(1, b=2) == knows.run(a=1, b=2) == "1  2"
    assert knows(1, Context(node="n"), 3) == "1 n 3"
    assert may.run() is True
    schema = knows.contract()["input_schema"]
    assert list(schema["properties"]) == ["a", "b"]
    assert schema["required"] == ["a"]


def test_contracts_say_what_is_enforced() -> None:
    """JSON Schema of inputs by name and of the output as it travels, and the options as they were given."""

    @executor(name="n", queue_class="c", timeout=5, soft_timeout=4, cost=1.5, purity="keyed", version="v")
    def typed(text: str, limit: int = 5) -> dict[str, list[float]]:
        return {text: [limit]}

    assert typed.contract() == {
        "v": 1,
        "name": "n",
        "queue_class": "c",
        "input_schema": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "title": "Text"},
                "limit": {"type": "integer", "default": 5, "title": "Limit"},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
        "output_schema": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "number"}},
        },
        "timeout_seconds": 5,
        "soft_timeout_seconds": 4,
        "cost": 1.5,
        "purity": "keyed",
        "version": "v",
        "capabilities": [],
        "tools": [],
        "expected_seconds": None,
        "bundle": True,
        "doc": None,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": True},
        {"soft_timeout": 0},
        {"cost": float("nan")},
        {"cost": float("inf")},
        {"expected_seconds": 0},
        {"expected_seconds": "2s"},
        {"purity": "clean"},
        {"errors": {ValueError: "bad"}},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """At the decorator, naming the executor and the field."""

    def function() -> None:
        """Do nothing."""

    with pytest.raises(InvalidValue, match=r"@executor on .*function: "):
        executor(**options)(function)


def test_plain_annotations_are_json_annotations() -> None:
    """Anything that JSON does not carry as it is makes the schema unknown."""
    for plain in (int, str, float, bool, None.__class__, list, dict, list[int], dict[str, Any | None], int | None):
        assert is_plain(plain) is (plain != dict[str, Any | None])
    for other in (Any, set[int], tuple[int, int], dict[int, str], Topic, object, bytes, datetime):
        assert not is_plain(other)


def test_plain_tasks_have_schemas_only_when_sure(app: Celery) -> None:
    """Nobody enforces a plain task's annotations, so one doubt leaves the schema null."""
    install(app, redis_url="redis://nowhere")

    @app.task(name="sure", shared=False)
    def sure(a: int, b: list[str] | None = None) -> float:
        """Sure."""
        return a / len(b or "x")

    @app.task(name="unsure", shared=False)
    def unsure(a: int, *rest: Any) -> Any:
        return a

    @app.task(name="bound", bind=True, time_limit=9, shared=False)
    def bound(self: Any, a: str) -> dict[str, Any]:
        return {a: self}

    found = contracts_of(installed_on(app))
    assert not [name for name in found if name.startswith("celery.")]
    assert found["sure"]["input_schema"]["required"] == ["a"]
    assert found["sure"]["output_schema"] == {"type": "number"}
    assert found["sure"]["doc"] == "Sure."
    assert (found["unsure"]["input_schema"], found["unsure"]["output_schema"]) == (None, None)
    assert list(found["bound"]["input_schema"]["properties"]) == ["a"]
    assert found["bound"]["timeout_seconds"] == 9
    assert contract_of(app.tasks["sure"], "a-class")["queue_class"] == "a-class"


def test_what_a_task_tells_celery_of_retries_is_published(app: Celery) -> None:
    """So that people can be told that it counts for nothing in a graph; Celery's defaults tell nothing."""
    install(app, redis_url="redis://nowhere")

    def work() -> None:
        """Do nothing."""

    app.task(work, name="plain", shared=False)
    app.task(work, name="own", max_retries=10, autoretry_for=(KeyError,), retry_backoff=2, shared=False)

    @executor(name="ours")
    def ours() -> None:
        """Say nothing of retries."""

    found = contracts_of(installed_on(app))
    assert found["plain"]["celery_retries"] == found["ours"]["celery_retries"] == []
    assert found["own"]["celery_retries"] == [
        "autoretry_for=(<class 'KeyError'>,)",
        "max_retries=10",
        "retry_backoff=2",
    ]


def test_an_executor_is_a_task_of_every_installed_app(app: Celery) -> None:
    """Whether install() or the decorator comes first; apps without install() are left alone."""
    bare = Celery("bare", broker="memory://", set_as_current=False)

    @executor(name="early")
    def early(a: int) -> int:
        return a

    install(app, redis_url="redis://nowhere")

    @executor(name="late")
    def late(a: int) -> int:
        return a

    @executor(name="own", app=bare)
    def own(a: int) -> int:
        return a

    assert {"early", "late"} <= set(app.tasks)
    assert "own" not in app.tasks
    assert "own" in bare.tasks
    assert "early" not in bare.tasks
    bare.close()


def test_delay_is_an_ordinary_celery_call(app: Celery) -> None:
    """With checks on the worker's side, models sent as JSON, and Celery's own result."""
    app.conf.task_always_eager = True
    install(app, redis_url="redis://nowhere")

    @executor(name="eager", app=app)
    def eager(topic: Topic, count: int = 1) -> str:
        return topic.name * count

    assert eager.delay(Topic(name="x", weight=1), count=2).get() == "xx"
    assert eager.s(Topic(name="y", weight=1)).apply_async().get() == "y"
    with pytest.raises(InvalidInput):
        eager.apply_async((1,)).get()


def test_a_module_that_is_loaded_again_replaces_its_executors(app: Celery) -> None:
    """The newest definition counts, as after a reload in a notebook."""
    install(app, redis_url="redis://nowhere")

    @executor(name="again")
    def first() -> int:
        return 1

    assert app.tasks["again"].celeriac_executor is first

    @executor(name="again")
    def second() -> int:
        return 2

    assert app.tasks["again"].celeriac_executor is second
    assert app.tasks["again"].run() == 2


def test_an_executor_may_insist_on_messages_of_its_own() -> None:
    """`bundle=False` is published; anything but true and false is refused, with the place."""

    @executor(bundle=False)
    def lonely() -> None: ...

    assert lonely.contract()["bundle"] is False
    with pytest.raises(InvalidValue, match="bundle"):
        executor(bundle=1)(lambda: None)  # type: ignore[call-overload]  # what a user may write
