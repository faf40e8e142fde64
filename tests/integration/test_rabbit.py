"""The transport to RabbitMQ, on a private node: nothing is taken for sent that the broker has not confirmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import NotFound
from kombu.connection import Connection

from scheduler.cli.doctor import Finding, examine
from scheduler.service import dispatch
from scheduler.service.broker import look
from scheduler.service.publisher import Letter, Template, scheduler_app
from scheduler.service.rabbit import NotTaken, RabbitTransport
from scheduler.settings import Settings
from scheduler.wire import AttemptId
from tests.acceptance.rabbit import Rabbit, rabbit
from tests.integration.echo import Echo, Task
from tests.integration.stage import Stage, eventually, idle, layers, settings_for

QUEUE = "work"
RUN = "01jd0c0000000000000000000a"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One broker for this file."""
    with rabbit(tmp_path_factory.mktemp("rabbit")) as it:
        yield it


@pytest.fixture
def broker(node: Rabbit) -> Iterator[Rabbit]:
    """The same without queues."""
    yield node
    with node.connection() as connection:
        for queue in (QUEUE, "celeriac.dead"):
            connection.default_channel.queue_delete(queue)


def settings_of(redis_url: str, broker: Rabbit, kind: str = "quorum", **changes: Any) -> Settings:
    """One class with that queue; the others keep theirs, which do not exist."""
    return settings_for(redis_url, broker_url=broker.url, standard_low={"queue": QUEUE, "queue_type": kind, **changes})


def letters(settings: Settings, count: int, inputs: str = "[],{}") -> list[tuple[Template, Letter]]:
    """Attempts to send."""
    made = Template(scheduler_app(settings), "echo", settings.default_class, (None, None))
    ids = [str(AttemptId(7, RUN, at, 1, 1)) for at in range(count)]  # type: ignore[arg-type]
    return [(made, Letter(it, RUN, f"n{at}", at, 1, inputs, None, None, [])) for at, it in enumerate(ids)]


def opened(settings: Settings) -> RabbitTransport:
    """A transport that declares as the settings say."""
    return RabbitTransport(
        scheduler_app(settings), {it.queue: settings.queue_arguments(it) for it in settings.classes.values()}
    )


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_batch_is_there_when_send_returns(redis_url: str, broker: Rabbit, kind: str) -> None:
    """All of it, in order, persistent, in a queue of the kind that the class says; the next send needs no new one."""
    settings = settings_of(redis_url, broker, kind)
    transport = opened(settings)
    transport.send(letters(settings, 300))
    transport.send(letters(settings, 3))
    assert transport.depth(QUEUE) == 303
    transport.close()
    assert broker.queues()[QUEUE][0] == kind
    with broker.connection() as connection:
        channel = connection.default_channel
        found = [channel.basic_get(QUEUE, no_ack=True) for _ in range(303)]
    assert [it.headers["id"] for it in found[:300]] == [letter.id for _, letter in letters(settings, 300)]
    assert {it.properties["delivery_mode"] for it in found} == {2}
    assert ("celeriac.dead" in broker.queues()) is (kind == "quorum")


def test_a_queue_that_vanished_is_noticed_by_the_batch_that_needs_it(redis_url: str, broker: Rabbit) -> None:
    """The broker confirms also what it routes nowhere; so such messages come back, and the batch counts as not sent."""
    settings = settings_of(redis_url, broker)
    transport = opened(settings)
    transport.send(letters(settings, 1))
    with broker.connection() as connection:
        connection.default_channel.queue_delete(QUEUE)
    with pytest.raises(NotTaken, match="queue work is gone"):
        transport.send(letters(settings, 5))
    transport.send(letters(settings, 5))
    assert transport.depth(QUEUE) == 5
    transport.close()


def test_a_connection_that_the_broker_closed_costs_one_try(redis_url: str, broker: Rabbit) -> None:
    """The send that finds it closed fails at once, the next one works."""
    settings = settings_of(redis_url, broker)
    transport = opened(settings)
    transport.send(letters(settings, 1))
    broker.cut()
    with pytest.raises(Exception, match=r"(?i)connection|forced|closed"):
        transport.send(letters(settings, 1))
    transport.send(letters(settings, 1))
    assert transport.waiting(QUEUE) is None
    transport.close()


def test_a_message_delivered_too_often_is_laid_aside(redis_url: str, broker: Rabbit) -> None:
    """A quorum queue gives up after the delivery limit; the message lies in the dead-letter queue, and is counted."""
    settings = settings_of(redis_url, broker)
    transport = opened(settings)
    transport.send(letters(settings, 1))
    with broker.connection() as connection:
        channel = connection.channel()

        def returned() -> bool:
            message = channel.basic_get(QUEUE)
            if message is not None:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return bool(transport.depth("celeriac.dead"))

        eventually(returned, "a dead letter")
    transport.close()
    found = look(settings)
    assert (found.dead_letters, found.depths["standard-low"], found.differing) == (1, 0, [])
    assert found.product.startswith("RabbitMQ ")


def _doctor(settings: Settings) -> dict[str, Finding]:
    return {it.subject: it for it in examine(settings)}


def test_doctor_tells_what_waits_and_what_does_not_fit(redis_url: str, broker: Rabbit) -> None:
    """Depths by class, a queue declared otherwise, a task that may outlast the broker's patience, a broker away."""
    settings = settings_of(redis_url, broker, "classic")
    transport = opened(settings)
    transport.send(letters(settings, 2))
    transport.close()
    ok = _doctor(settings)
    assert ok["broker"].state == "ok"
    assert "standard-low 2" in ok["broker"].found
    assert "queue of standard-low" not in ok
    assert "batch-high" in ok["consumer_timeout"].found
    assert set(broker.queues()) == {QUEUE}  # it has created none
    other = _doctor(settings_of(redis_url, broker, "quorum"))
    assert other["queue of standard-low"].state == "wrong"
    away = _doctor(settings_for(redis_url, broker_url="amqp://guest:secret@127.0.0.1:9//"))
    assert away["broker"].state == "wrong"
    assert "secret" not in str(away)


def test_a_message_lost_from_a_queue_that_never_empties_is_missed(
    stage: Stage, broker: Rabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ says how many wait and not which; what was sent after it having ended tells that one is gone."""
    monkeypatch.setattr(dispatch, "CLAIM_GRACE_MS", 100)
    stage.publish("echo")
    worker = Echo(stage.attempts)
    with (
        stage.scheduler(broker_url=broker.url, standard_low={"queue": QUEUE, "window": 6, "target_wait_seconds": 0.1}),
        Connection(broker.url) as connection,
    ):
        channel = connection.channel()
        run = stage.submit(layers(200))

        def next_message() -> Any:
            nonlocal channel
            try:
                return channel.basic_get(QUEUE, no_ack=True)
            except NotFound:  # no queue yet
                channel = connection.channel()
                return None

        gone = eventually(next_message).headers["celeriac"]["node"]

        def one_more() -> bool:
            """Never takes the last message, but at the end."""
            if channel.queue_declare(QUEUE, passive=True).message_count > (1 if len(worker.done) < 190 else 0):
                message = next_message()
                worker.take([Task.from_parts(message.body, message.headers)])
            return len({task.node for task in worker.done}) == 200

        eventually(one_more, "every node")
        assert stage.ended(run) == ["succeeded"]
    number = stage.load(run).keys.index(gone)
    moves = [(node, word) for node, word, *_ in stage.moves(run)]
    missed = moves.index((number, "lose"))
    assert sum(word == "succeed" for _, word in moves[:missed]) < 190, "only after the queue had emptied"
    assert Counter(word for _, word in moves)["lose"] == 1, "one that waited was taken for lost"
    idle(stage)
