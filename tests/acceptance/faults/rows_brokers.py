"""Row 32: what a broker has to do with, again with RabbitMQ as broker and Redis as store; classic and quorum queues.

Each row has a private node. The bars are those of the rows that are repeated. Where RabbitMQ is not installed a row
says so in its facts and finds nothing.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.acceptance.rabbit import Rabbit, rabbit, scripts

from .hostile import attempts_of
from .looking import QUEUES, refused_claims, unharmed
from .network import again_and_again, everywhere, part
from .rig import KINDS, Rig, eventually
from .rows import RigFactory, Verdict, row
from .rows_poison import poison
from .rows_processes import row_2, row_4, row_5

Body = Callable[[RigFactory, int], Verdict]
_TWICE = "x-sent-twice"


def on_rabbit(kind: str, body: Callable[[RigFactory, int, Rabbit], Verdict]) -> Body:
    """A row whose rigs have a RabbitMQ of their own, with queues of a kind."""

    def with_node(rigs: RigFactory, seed: int) -> Verdict:
        if scripts() is None:
            verdict = Verdict()
            verdict.facts["left out"] = "rabbitmq-server is not installed"
            return verdict
        with tempfile.TemporaryDirectory(prefix="faults-rabbit-") as home, rabbit(Path(home)) as node:

            def over_rabbit(**options: Any) -> Rig:
                settings = {"CELERIAC_BROKER_QUEUE_TYPE": kind, **(options.pop("settings", None) or {})}
                return rigs(broker=node.url, settings=settings, **options)

            return body(over_rabbit, seed, node)

    return with_node


def cut_everything(rigs: RigFactory, _seed: int, node: Rabbit) -> Verdict:
    """Row 10: connections to Redis are reset, those to RabbitMQ closed by the broker, every 5 s."""
    with rigs(proxied=[it for it in KINDS if it != "broker"]) as rig:
        rig.start_all()
        loads = rig.submit_base()

        def strike() -> None:
            everywhere(rig, "cut")
            node.cut()

        cuts = again_and_again(rig, loads, strike)
        return rig.judge(loads, most_duplicates=part(rig, loads, 2), notes={"cuts": cuts})


class Doubler:
    """Lays each message of Celery's into its queue a second time, from when it is entered until its block ends.

    The node's own trace shows it every message that is published, so no worker is too quick for it.

    Attributes:
        attempts: how many were doubled; a message may carry several.
    """

    def __init__(self, node: Rabbit) -> None:
        self.node = node
        self.attempts = 0
        self._stop, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="doubler", daemon=True)

    def __enter__(self) -> Self:
        self.node.ctl("trace_on")
        self._thread.start()
        if not self._ready.wait(30):
            raise AssertionError("not within 30 s: the doubler listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        self.node.ctl("trace_off")

    def _run(self) -> None:
        """Listen until the end, and then until nothing more comes."""
        with self.node.connection() as connection:
            channel = connection.default_channel
            queue = channel.queue_declare(exclusive=True).queue
            channel.queue_bind(queue, "amq.rabbitmq.trace", "publish.#")

            def double(message: Any) -> None:
                properties = message.headers["properties"]
                headers = properties.get("headers", {})
                (to,) = message.headers["routing_keys"]
                if to in QUEUES and _TWICE not in headers:
                    again = channel.prepare_message(
                        message.body,
                        content_type=properties["content_type"],
                        content_encoding=properties["content_encoding"],
                        headers={**headers, _TWICE: True},
                        properties={"correlation_id": properties["correlation_id"], "delivery_mode": 2},
                    )
                    channel.basic_publish(again, exchange="", routing_key=to)
                    self.attempts += attempts_of(headers)

            channel.basic_consume(queue, no_ack=True, callback=double)
            self._ready.set()
            idle = False
            while not (idle and self._stop.is_set()):
                try:
                    connection.drain_events(timeout=0.2)
                    idle = False
                except TimeoutError:
                    idle = True


def doubled(rigs: RigFactory, _seed: int, node: Rabbit) -> Verdict:
    """Row 18: messages are there twice; the second claim is refused."""
    with rigs() as rig:
        rig.start_all()
        with Doubler(node) as twice:
            loads = rig.submit_base()
            rig.wait(loads, 150)
        eventually(lambda: not any(node.depth(it) for it in QUEUES), "the workers have looked at every message", 60)
        verdict = rig.judge(loads, most_duplicates=0)
        verdict.facts["attempts sent twice"] = twice.attempts
        verdict.must(twice.attempts >= verdict.starts, f"only {twice.attempts} attempts were sent twice")
        eventually(lambda: sum(refused_claims(rig).values()) >= twice.attempts, "the workers tell of refused claims")
        return unharmed(rig, verdict)


def _same(body: Body) -> Callable[[RigFactory, int, Rabbit], Verdict]:
    return lambda rigs, seed, _node: body(rigs, seed)


for _kind in ("classic", "quorum"):
    for _title, _body in (
        ("2 scheduler kill -9", _same(row_2)),
        ("4 worker kill -9", _same(row_4)),
        ("5 pool child kill -9", _same(row_5)),
        ("10 connections closed", cut_everything),
        ("18 messages doubled", doubled),
        ("20 poison", _same(poison)),
    ):
        row(32, f"RabbitMQ {_kind}: row {_title}")(on_rabbit(_kind, _body))
