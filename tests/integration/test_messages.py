"""What a message contains: this node's inputs and ids, nothing of the graph, in the form that Celery gives it."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from scheduler.graph import Graph
from scheduler.service import dispatch, transport
from scheduler.service.publisher import Bundled, BundleTemplate, Letter, Template, scheduler_app
from scheduler.service.rabbit import RabbitTransport
from scheduler.service.transport import MemoryTransport, RedisTransport, Transport, open_transport
from scheduler.settings import QueueClass, Settings, broker_url_of
from scheduler.wire import AttemptId, carried
from scheduler.worker.entries import columns_of, entries_in
from tests.integration.echo import STANDARD, AtOnce, Echo, Task, value
from tests.integration.stage import Stage, diamond, eventually, layers, settings_for

RABBIT = "amqp://guest:guest@127.0.0.1:5672//"
RUN = "01jd0c0000000000000000000a"
ODD = [
    "plain",
    "%s %(id)s %% {} {0} {run}",
    "\"double\" 'single' `back` \\ / \\\\n",
    "Grüße, 你好, 🌱, \u202eright to left, e\u0301",
    '"id": "1.2", "task": "x"',
    "@@id@@ </script> $(ls) ; DROP",
    "[null,{}] \u2028 \u2029",
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "lang": {"const": "py"},
        "task": {"const": "echo"},
        "id": {"type": "string", "pattern": r"^\d+\.[0-9a-z]{26}\.\d+\.\d+\.\d+$"},
        "root_id": {"type": "string", "pattern": "^[0-9a-z]{26}$"},
        "parent_id": {"type": "string"},
        "ignore_result": {"const": True},
        "argsrepr": {"type": "string", "pattern": "^run=[0-9a-z]{26} node=.+ attempt=[0-9]+$"},
        "kwargsrepr": {"type": "string", "pattern": r"^\{'run': '[0-9a-z]{26}', 'node': .*'class': '[a-z-]+'\}$"},
        "traceparent": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-01$"},
        "timelimit": {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 2, "maxItems": 2},
        "retries": {"const": 0},
        "eta": {"type": "null"},
        "expires": {"type": "null"},
        "celeriac": {
            "type": "object",
            "properties": {
                "v": {"const": 1},
                "run": {"type": "string", "pattern": "^[0-9a-z]{26}$"},
                "node": {"type": "string"},
                "attempts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"id": {"type": "string"}},
                        "required": ["id"],
                        "additionalProperties": False,
                    },
                    "minItems": 1,
                    "maxItems": 1,
                },
                "attempt": {"type": "integer", "minimum": 1},
                "key": {"type": "string"},
                "deadline_at_ms": {"type": ["integer", "null"]},
                "correlation_id": {"type": ["string", "null"]},
                "deferred": {"type": "array"},
            },
            "required": [
                "v",
                "run",
                "node",
                "attempts",
                "attempt",
                "key",
                "deadline_at_ms",
                "correlation_id",
                "deferred",
            ],
            "additionalProperties": False,
        },
    },
    "required": ["task", "id", "root_id", "argsrepr", "kwargsrepr", "celeriac", "traceparent", "timelimit"],
}


def letter(node: str = "a", inputs: str = '[1],{"x":2}', **changes: Any) -> Letter:
    """An attempt to send."""
    number = changes.pop("number", 3)
    id_ = str(AttemptId(7, RUN, number, 1, 2))  # type: ignore[arg-type]
    return Letter(id_, RUN, node, number, 2, inputs, None, None, [])._replace(**changes)


def template(settings: Settings, executor: str = "echo", queue_class: QueueClass | None = None) -> Template:
    """Messages of an executor."""
    it = queue_class or settings.default_class
    return Template(scheduler_app(settings), executor, it, (60.0, None))


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Of an empty Redis, which is the broker too."""
    return settings_for(redis_url)


# -- content ------------------------------------------------------------------------------------------


def test_a_message_holds_this_node_s_inputs_and_nothing_of_the_graph(stage: Stage) -> None:
    """Ids, inputs, trace, deadline and correlation; no other node's name, no edges, no counts."""
    stage.publish("echo")
    memory = MemoryTransport()
    graph = Graph("secret name of the graph")
    first = graph.add("echo", key="first", url="https://example.org")
    second = graph.add("echo", key="second", page=first.out.url)
    graph.add("echo", key="third", after=second)
    worker = Echo(stage.attempts)
    with stage.scheduler(memory):
        run = stage.submit(graph, correlation_id="order 66", deadline_ms=3_600_000)
        for done in range(3):
            eventually(lambda: len(memory.sent) > done)  # noqa: B023  waited for at once
            worker.take([Task.from_parts(*memory.sent[done][1:])])
        assert stage.ended(run) == ["succeeded"]
    created = stage.runs.summary(run).created_at_ms
    for node, (queue, body, headers) in enumerate(memory.sent):
        assert queue == STANDARD
        jsonschema.validate(headers, SCHEMA)
        args, kwargs, embed = json.loads(body)
        assert args == []
        assert kwargs == [{"url": "https://example.org"}, {"page": "https://example.org"}, {}][node]
        assert not any(embed.values())
        mine = headers["celeriac"]
        assert mine == {
            "v": 1,
            "run": run,
            "node": ["first", "second", "third"][node],
            "attempts": [{"id": headers["id"]}],
            "attempt": 1,
            "key": f"{run}.{node}.1",
            "deadline_at_ms": created + 3_600_000,
            "correlation_id": "order 66",
            "deferred": [],
        }
        text = body + json.dumps(headers)
        others = {"first", "second", "third", "secret name"} - {mine["node"]}
        assert not [word for word in others if word in text]
    traces = [headers["traceparent"].split("-") for _, _, headers in memory.sent]
    assert len({trace[1] for trace in traces}) == 1
    assert len({trace[2] for trace in traces}) == 3


def test_celery_itself_would_write_the_same_headers(settings: Settings) -> None:
    """Header for header what `app.amqp` makes, and two of ours; likewise the properties and the body's three parts."""
    app = Celery("reference", set_as_current=False)
    theirs = app.amqp.as_task_v2(str(uuid4()), "echo", args=(1,), kwargs={"x": 2}, time_limit=60.0)
    body, headers, properties = template(settings).for_kombu(letter())
    assert set(headers) == set(theirs.headers) | {"celeriac", "traceparent"}
    same = set(theirs.headers) - {"id", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result"}
    assert {name: headers[name] for name in same} == {name: theirs.headers[name] for name in same}
    assert json.loads(body) == json.loads(json.dumps(theirs.body))
    assert set(properties) == set(theirs.properties)


def test_the_template_and_kombu_make_the_same_message(settings: Settings) -> None:
    """What goes straight into Redis is what kombu would have put there, but for the delivery tag."""
    made = template(settings)
    given = letter("ä%s", inputs='["ü"],{"k":[1,null]}', correlation_id="c", deadline_at_ms=5)
    with Connection("memory://") as connection:
        channel = connection.channel()
        body, headers, properties = made.for_kombu(given)
        connection.Producer(channel).publish(
            body,
            exchange="",
            routing_key=made.queue,
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            **properties,
        )
        theirs = channel._get(made.queue)
    ours = json.loads(made.on_redis(given))
    ours["properties"].pop("delivery_tag")
    theirs["properties"].pop("delivery_tag")
    assert base64.b64decode(ours.pop("body")) == base64.b64decode(theirs.pop("body"))
    assert ours == json.loads(json.dumps(theirs))


def bundled(settings: Settings, *letters: Letter) -> tuple[BundleTemplate, Any]:
    """Letters in one message."""
    it = settings.default_class
    of = [Template(scheduler_app(settings), f"echo.{one.node}", it, (60.0, None)) for one in letters]
    return BundleTemplate(scheduler_app(settings), it), Bundled.of(list(zip(of, letters, strict=True)))


def test_a_bundle_is_a_message_of_celery_s_too(settings: Settings) -> None:
    """Header for header what `app.amqp` makes of the task that carries them, and the same on Redis and through kombu;
    it names the runs, how many attempts there are and their executors, and lists all attempts.
    """
    letters = [letter(text, inputs=f"[{json.dumps(text)}],{{}}", number=at) for at, text in enumerate(ODD)]
    made, given = bundled(settings, *letters)
    body, headers, properties = made.for_kombu(given)
    theirs = Celery("reference", set_as_current=False).amqp.as_task_v2(str(uuid4()), "celeriac.bundle", args=([],))
    assert set(headers) == set(theirs.headers) | {"celeriac", "traceparent"}
    assert set(properties) == set(theirs.properties)
    assert headers["id"] == f"{letters[0].id}x{len(ODD)}"
    assert headers["argsrepr"] == f"run={RUN} attempts={len(ODD)}"
    assert all(f"echo.{text} x1" in eval(headers["kwargsrepr"])["executors"] for text in ODD)
    assert carried(headers["id"], headers["celeriac"]) == [it.id for it in letters]
    ours = json.loads(made.on_redis(given))
    assert base64.b64decode(ours["body"]).decode() == body
    assert ours["headers"] == json.loads(json.dumps(headers))
    [told], kwargs, _ = json.loads(body)
    entries = entries_in(told)
    assert kwargs == {}
    assert [it["id"] for it in entries] == [it.id for it in letters]
    assert [it["task"] for it in entries] == [f"echo.{text}" for text in ODD]
    assert [it["celeriac"]["node"] for it in entries] == ODD
    assert [it["inputs"] for it in entries] == [[[text], {}] for text in ODD]
    assert all(it["timelimit"] == [60.0, None] for it in entries)


def test_a_bundle_s_entry_says_what_its_worker_cannot_know(settings: Settings) -> None:
    """Deadline, correlation, places of large outputs and secrets: only where there are such."""
    plain = letter("a")
    full = letter("b", number=4, deadline_at_ms=5, correlation_id="ü", deferred=[[0, 1]], secrets=[[1, "key"]])
    made, given = bundled(settings, plain, full)
    [told], _, _ = json.loads(made.for_kombu(given)[0])
    [first, second] = entries_in(told)
    assert first["celeriac"] == {"v": 1, "node": "a"}
    assert second["celeriac"] == {
        "v": 1,
        "node": "b",
        "deadline_at_ms": 5,
        "correlation_id": "ü",
        "deferred": [[0, 1]],
        "secrets": [[1, "key"]],
    }


def test_what_attempts_have_in_common_stands_in_a_bundle_once(settings: Settings) -> None:
    """A hundred of one executor and run: one kind, and some thirty letters more for each attempt."""
    made = template(settings)
    letters = [(made, letter("n", number=at, inputs="[],{}")) for at in range(101)]
    [one], [all_of_them] = ([json.loads(f"[{Bundled.of(letters[:count]).inputs}]")[0][0]] for count in (1, 101))
    assert len(columns_of(all_of_them).kinds) == 1
    assert len(all_of_them) - len(one) < 100 * 35
    other = letters[0][1]._replace(correlation_id="another")
    [[told], _] = json.loads(f"[{Bundled.of([*letters, (made, other)]).inputs}]")
    assert len(columns_of(told).kinds) == 2


def test_the_steps_of_a_chain_stand_in_the_entry_of_the_first(settings: Settings) -> None:
    """Each with what its claim needs and where the output before it goes; the header names what the message is for, and
    a reader of Flower sees how many attempts there are.
    """
    one = letter("c", number=5, claim="standard-low|20000|60000", holes=[([1, "x"], ["rows", 0])])
    two = letter('"d"', number=6, inputs="[],{}", claim="standard-low|20000|60000")
    steps = [(template(settings, "echo.c"), one), (template(settings, "echo.d"), two)]
    plain, head = letter("a"), letter("b", number=4, then=steps)
    made, given = bundled(settings, plain, head)
    body, headers, _ = made.for_kombu(given)
    [told], _, _ = json.loads(body)
    [first, second] = entries_in(told)
    assert first.keys() == {"id", "task", "timelimit", "celeriac", "inputs"}
    [third, fourth] = second.pop("then")
    assert second.keys() == first.keys()
    assert (third["id"], third["task"], third["celeriac"]["node"]) == (one.id, "echo.c", "c")
    assert third["inputs"] == [[1], {"x": 2}]
    assert (third["claim"], third["holes"]) == (one.claim, [[[1, "x"], ["rows", 0]]])
    assert (fourth["id"], fourth["celeriac"]["node"], fourth["claim"]) == (two.id, '"d"', two.claim)
    assert "holes" not in fourth
    assert carried(headers["id"], headers["celeriac"]) == [plain.id, head.id]
    assert headers["id"] == f"{plain.id}x4"
    assert headers["argsrepr"] == f"run={RUN} attempts=4"
    assert "echo.d x1" in eval(headers["kwargsrepr"])["executors"]


def test_what_waits_in_a_bundle_waits(settings: Settings) -> None:
    """The broker's queue knows every attempt of a message, and lets go of it by the first."""
    lone = letter("a", number=1)
    made, given = bundled(settings, letter("b", number=2), letter("c", number=3))
    redis = RedisTransport(settings)
    redis.send([(template(settings), lone), (made, given)])
    ids = frozenset(str(AttemptId(7, RUN, number, 1, 2)) for number in (1, 2, 3))  # type: ignore[arg-type]
    assert redis.waiting(made.queue) == ids
    memory = MemoryTransport()
    memory.send([(template(settings), lone), (made, given)])
    assert memory.waiting(made.queue) == ids
    message = json.loads(redis.client.lindex(made.queue, 0))
    tag = message["properties"]["delivery_tag"]
    redis.client.hset("unacked", tag, b"x")
    redis.client.zadd("unacked_index", {tag: 1})
    asked: list[str] = []
    assert redis.sweep(lambda id_: not asked.append(id_)) == 1  # type: ignore[func-returns-value]  # it notes and agrees
    assert asked == [str(AttemptId(7, RUN, 2, 1, 2))]  # type: ignore[arg-type]
    redis.close()


def test_a_message_sent_twice_has_two_delivery_tags(settings: Settings) -> None:
    """Kombu keeps what is unacknowledged under them: a repeat must not hide the first."""
    made = template(settings)
    tags = {json.loads(made.on_redis(letter()))["properties"]["delivery_tag"] for _ in range(10)}
    assert len(tags) == 10


@pytest.mark.parametrize(
    ("executor", "contract", "timeout", "wants"),
    [
        ("a", {}, None, [None, None]),
        ("b", {"timeout_seconds": 7.0, "soft_timeout_seconds": 5.0}, None, [7.0, 5.0]),
        ("c", {"timeout_seconds": 7.0, "soft_timeout_seconds": 5.0}, 9.0, [9.0, None]),
    ],
)
def test_celery_is_told_the_node_s_time_limits_else_the_executor_s(
    stage: Stage, executor: str, contract: dict[str, Any], timeout: float | None, wants: list[float | None]
) -> None:
    """So its pool enforces them. The class's limit is kept by the lease alone."""
    stage.publish(executor, **contract)
    memory = MemoryTransport()
    graph = Graph("limits")
    graph.add(executor, timeout=timeout)
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: memory.sent)
        stage.runs.cancel(run, "seen")
        stage.ended(run)
    assert list(memory.sent[0][2]["timelimit"]) == wants


# -- the user's text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ODD)
def test_any_text_survives_byte_for_byte(settings: Settings, text: str) -> None:
    """As key, as executor, as correlation id and in inputs; argsrepr shows it, the id never holds it."""
    inputs = json.dumps([text], ensure_ascii=False) + "," + json.dumps({"k": {text: text}}, ensure_ascii=False)
    given = letter(text, inputs=inputs, correlation_id=text)
    raw = template(settings, executor=text).on_redis(given)
    task = Task.from_redis(raw)
    assert (task.executor, task.node, task.id) == (text, text, given.id)
    assert (task.args, task.kwargs) == ([text], {"k": {text: text}})
    assert task.headers["celeriac"]["correlation_id"] == text
    assert task.headers["argsrepr"] == f"run={RUN} node={text} attempt=2"
    assert re.fullmatch(r"\{'run': .*\}", task.headers["kwargsrepr"], re.DOTALL)
    assert base64.b64decode(json.loads(raw)["body"]).startswith(f"[{inputs},".encode())
    body, headers, _ = template(settings, executor=text).for_kombu(given)
    assert Task.from_parts(body, headers).headers["celeriac"] == task.headers["celeriac"]


def test_odd_texts_go_through_a_whole_run(stage: Stage) -> None:
    """Keys and values of any kind, from node to node, by way of Redis's queue."""
    graph = Graph("odd")
    for text in ODD:
        first = graph.add("echo", key=text, value=text)
        graph.add("echo", key=f"after {text}", args=[first], inputs={text: first.out.value})
    stage.publish("echo")
    worker = Echo(stage.attempts)
    with stage.scheduler(AtOnce(worker)):
        run = stage.submit(graph, correlation_id=ODD[3])
        assert stage.ended(run) == ["succeeded"]
    done = {task.node: task for task in worker.done}
    for text in ODD:
        after = done[f"after {text}"]
        assert (after.args, after.kwargs) == ([{"value": text}], {text: text})
    assert set(stage.states(run)) == {*ODD, *(f"after {text}" for text in ODD)}


# -- real brokers -------------------------------------------------------------------------------------


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, redis_url: str) -> str:
    """URL of each broker, in Celery's spelling."""
    if request.param == "redis":
        return broker_url_of(redis_url)
    if not answers("127.0.0.1", 5672):
        pytest.skip("no RabbitMQ answers at 127.0.0.1:5672")
    return RABBIT


@pytest.fixture
def own_queue(broker: str) -> Iterator[str]:
    """A queue of this test alone, gone afterwards."""
    name = f"celeriac.test-{uuid4().hex}"
    yield name
    with Connection(broker) as connection:
        Queue(name).bind(connection.default_channel).delete()


def opened(redis_url: str, broker: str, queue: str) -> tuple[QueueClass, Transport, Celery]:
    """A transport to a broker for one class with a queue of its own."""
    settings = settings_for(redis_url, broker_url=broker, standard_low={"queue": queue})
    app = scheduler_app(settings)
    transport = open_transport(settings, app)
    assert type(transport) is (RabbitTransport if broker == RABBIT else RedisTransport)
    return settings.default_class, transport, app


def test_kombu_reads_what_was_sent(redis_url: str, broker: str, own_queue: str) -> None:
    """A consumer of kombu's gets bodies and headers as any Celery worker would, and can acknowledge them."""
    queue_class, transport, app = opened(redis_url, broker, own_queue)
    made = Template(app, "echo", queue_class, (60.0, 50.0))
    texts = [letter(text, inputs=f"[{json.dumps(text)}],{{}}", number=at) for at, text in enumerate(ODD)]
    transport.send([(made, it) for it in texts])
    transport.close()

    found: list[tuple[Any, Any]] = []

    def take(body: Any, message: Any) -> None:
        found.append((body, message))
        message.ack()

    with Connection(broker) as connection, Consumer(connection, [Queue(own_queue)], callbacks=[take], accept=["json"]):

        def all_there() -> bool:
            if len(found) < len(ODD):
                connection.drain_events(timeout=10)
            return len(found) == len(ODD)

        eventually(all_there)
    for (body, message), sent in zip(found, texts, strict=True):
        assert body[0] == [sent.node]
        assert message.headers["id"] == message.properties["correlation_id"] == sent.id
        assert message.headers["celeriac"]["node"] == sent.node
        assert message.content_type == "application/json"
        jsonschema.validate(json.loads(json.dumps(message.headers)), SCHEMA)


def test_a_transport_knows_what_waits(redis_url: str, broker: str, own_queue: str) -> None:
    """Redis tells which attempts wait, another broker only whether any does; none means none."""
    queue_class, transport, app = opened(redis_url, broker, own_queue)
    assert transport.waiting(own_queue) == frozenset()
    made = Template(app, 'e"\\cho', queue_class, (60.0, None))
    transport.send([(made, letter(number=1)), (made, letter(number=2))])

    def seen() -> bool:
        waiting = transport.waiting(own_queue)
        ids = frozenset({letter(number=1).id, letter(number=2).id})
        return waiting is None if broker == RABBIT else waiting == ids

    eventually(seen)
    transport.close()


def test_what_a_killed_worker_took_is_let_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of attempts that are over, once they have lain long enough; nothing else: no attempt in flight, no stranger's
    message, none of another installation, none that was just taken.
    """
    monkeypatch.setattr(dispatch, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(transport, "UNACKED_AT_ONCE", 2)
    stage.publish("echo")
    with stage.scheduler() as scheduler:
        done, flying = stage.submit(layers(1)), stage.submit(layers(1))
        eventually(lambda: len(stage.in_flight()) == 2, "both are out")
        stage.attempts.report([Echo(stage.attempts).report(stage.attempt(done), value(1), 1)])
        assert eventually(lambda: stage.runs.summary(done).state == "succeeded", "the end of one")
        old, new = time.time() - 2 * transport.UNACKED_SECONDS, time.time()
        elsewhere = f"{stage.runs.shard(stage.new_id(0))}.{stage.new_id(0)}.0.1.1"
        kept = {
            f"{stage.attempt(flying)}~a": old,
            "8b0b3a4e": old,
            f"{elsewhere}~b": old,
            f"{stage.attempt(done)}~c": new,
        }
        gone = {f"{stage.attempt(done)}~{n}": old - n for n in range(5)}
        stage.client.zadd("unacked_index", {**kept, **gone})
        stage.client.hset("unacked", mapping=dict.fromkeys({**kept, **gone}, "a message"))
        eventually(lambda: scheduler.counts["unacknowledged"] == len(gone), "the sweep")
        assert {it.decode() for it in stage.client.hkeys("unacked")} == kept.keys()
        assert {it.decode() for it in stage.client.zrange("unacked_index", 0, -1)} == kept.keys()
        stage.attempts.report([Echo(stage.attempts).report(stage.attempt(flying), value(1), 1)])
        assert stage.ended(done, flying) == ["succeeded"] * 2


def test_a_run_goes_over_rabbitmq(stage: Stage, broker: str, own_queue: str) -> None:
    """The broker is a pipe: the same run, by a kombu consumer that claims and reports."""
    stage.publish("echo")
    worker = Echo(stage.attempts)

    def take(body: Any, message: Any) -> None:
        worker.take([Task.from_parts(json.dumps(body), message.headers)])
        message.ack()

    with (
        stage.scheduler(broker_url=broker, standard_low={"queue": own_queue}),
        Connection(broker) as connection,
        Consumer(connection, [Queue(own_queue)], callbacks=[take], accept=["json"]),
    ):
        run = stage.submit(diamond())

        def over() -> bool:
            if len(worker.done) < 4:
                connection.drain_events(timeout=10)
            return len(worker.done) == 4

        eventually(over)
        assert stage.ended(run) == ["succeeded"]
