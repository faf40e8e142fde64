"""Outbox -> Celery. What an attempt looks like as a Celery message, made fast.

Celery and kombu make one sample message for each executor, class and time limit; its ids and
arguments are then open places, filled in per attempt and pushed with one command per queue and
batch. So the format stays Celery's and the price is a hundredth of `send_task`. A broker that is
not Redis gets the same messages through one kombu producer (transport.py).
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue

from ..settings import QueueClass, Settings
from ..wire import BUNDLE, VERSION, bundle_id, traceparent

EMBED = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
_tags = partial(next, count(time.time_ns()))
"""Delivery tags: kombu keeps unacknowledged messages under them, so one that is sent again gets another."""
_MARK = os.urandom(8).hex()
"""Names the open places of a sample: drawn by lot, so no executor's name can hold one."""
_OPEN = tuple(f"{_MARK}-{place}" for place in ("id", "run", "args", "kwargs", "celeriac", "trace"))


class Letter(NamedTuple):
    """What differs from one message to the next. Texts are the user's, unescaped.

    Attributes:
        id: of the attempt.  run: its run.  node: the user's key.  number: of the node.
        inputs: JSON text `[args…],{kwargs…}`.
        deferred: positions in [args, kwargs] of outputs that the worker has to fetch.
        secrets: positions of references to secrets, which the worker exchanges for their values.
        silence: ms that it may be silent for, and ms from its claim to its end whatever it says; None for no limit.
        then: the steps of its chain, each with its template.
        claim: of such a step: its "class|lease ms|timeout ms".
        holes: where in [args, kwargs] the output of the step before goes, each with a path into that.
    """

    id: str
    run: str
    node: str
    number: int
    attempt: int
    inputs: str
    deadline_at_ms: int | None
    correlation_id: str | None
    deferred: list[list[str | int]]
    secrets: Sequence[list[str | int]] = ()
    silence: tuple[int, int] | None = None
    then: Sequence[tuple[Template, Letter]] = ()
    claim: str = ""
    holes: Sequence[tuple[list[str | int], list[str | int]]] = ()


class Template:
    """Messages of one executor in one class with one time limit."""

    def __init__(
        self, app: Celery, executor: str, queue_class: QueueClass, limits: tuple[float | None, float | None]
    ) -> None:
        """Let Celery and kombu make the sample.

        Args:
            app: of the scheduler; it knows no tasks.
            limits: hard and soft time limit of an attempt, seconds.
        """
        self.executor = executor
        self.queue_class = queue_class
        self.queue = queue_class.queue
        id_, run, args, kwargs, celeriac, trace = _OPEN
        message = app.amqp.as_task_v2(
            id_,
            executor,
            args=(),
            kwargs={},
            time_limit=limits[0],
            soft_time_limit=limits[1],
            root_id=run,
            parent_id=run,
            argsrepr=args,
            kwargsrepr=kwargs,
            ignore_result=not queue_class.store_results,
            origin="celeriac",
        )
        self.headers: dict[str, Any] = {**message.headers, "celeriac": celeriac, "traceparent": trace}
        self.properties: dict[str, Any] = dict(message.properties)
        made = as_kombu_lays_it(self.queue, self.headers, self.properties)
        self.alike: dict[str, Any] = {"task": executor}
        if limits != (None, None):
            self.alike["timelimit"] = limits
        if queue_class.store_results:
            self.alike["ignore_result"] = False
        made["body"] = f"{_MARK}-body"
        made["properties"]["delivery_tag"] = f"{_MARK}-tag"
        self._wire = _as_format(json.dumps(made))

    def parts(self, letter: Letter) -> tuple[str, str, str, str]:
        """argsrepr, kwargsrepr, the celeriac header as JSON, and traceparent."""
        readable = f"run={letter.run} node={letter.node} attempt={letter.attempt}"
        searchable = (
            f"{{'run': '{letter.run}', 'node': {letter.node!r}, 'attempt': {letter.attempt}, "
            f"'class': '{self.queue_class.name}'}}"
        )
        deadline = "null" if letter.deadline_at_ms is None else letter.deadline_at_ms
        correlation = "null" if letter.correlation_id is None else quoted(letter.correlation_id)
        epoch = letter.id.rsplit(".", 2)[1]
        header = (
            f'{{"v":{VERSION},"run":"{letter.run}","node":{quoted(letter.node)},"attempts":[{{"id":"{letter.id}"}}],'
            f'"attempt":{letter.attempt},"key":"{letter.run}.{letter.number}.{epoch}","deadline_at_ms":{deadline},'
            f'"correlation_id":{correlation},"deferred":{json.dumps(letter.deferred) if letter.deferred else "[]"}}}'
        )
        if letter.secrets:
            header = f'{header[:-1]},"secrets":{json.dumps(letter.secrets)}}}'
        if letter.silence is not None:
            header = f'{header[:-1]},"silence":{json.dumps(letter.silence)}}}'
        return readable, searchable, header, traceparent(letter.run, letter.number, letter.attempt)

    def on_redis(self, letter: Letter) -> bytes:
        """The message as bytes for LPUSH."""
        readable, searchable, header, trace = self.parts(letter)
        body = base64.b64encode(f"[{letter.inputs},{EMBED}]".encode()).decode()
        return (
            self._wire
            % {
                "id": letter.id,
                "run": letter.run,
                "args": quoted(readable)[1:-1],
                "kwargs": quoted(searchable)[1:-1],
                "celeriac": header,
                "trace": trace,
                "tag": f"{letter.id}~{_tags()}",
                "body": body,
            }
        ).encode()

    def for_kombu(self, letter: Letter) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Body text, headers and properties for a kombu producer."""
        readable, searchable, header, trace = self.parts(letter)
        headers = self.headers | {
            "id": letter.id,
            "root_id": letter.run,
            "parent_id": letter.run,
            "argsrepr": readable,
            "kwargsrepr": searchable,
            "celeriac": json.loads(header),
            "traceparent": trace,
        }
        return f"[{letter.inputs},{EMBED}]", headers, self.properties | {"correlation_id": letter.id}


def as_kombu_lays_it(routing_key: str, headers: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    """A message with an empty body as kombu lays it into Redis, taken from a queue of its in-memory transport."""
    with Connection("memory://") as connection:
        channel = connection.channel()
        connection.Producer(channel).publish(
            "",
            exchange="",
            routing_key=routing_key,
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
            **{"delivery_mode": 2, **properties},
        )
        made: dict[str, Any] = channel._get(routing_key)
    return made


def _as_format(sample: str) -> str:
    """The sample with its open places as %-format fields. The header of ours is JSON, so its quotes go."""
    text = sample.replace("%", "%%").replace(f'"{_MARK}-celeriac"', "%(celeriac)s")
    for place in ("id", "run", "args", "kwargs", "trace", "tag", "body"):
        text = text.replace(f"{_MARK}-{place}", f"%({place})s")
    return text


class Bundled(NamedTuple):
    """Several attempts of one class on their way in one message; for a template it is a letter like another.

    Attributes:
        id: Celery's, of the message.  run: of the first.
        letters: each with its own template; one alone has steps that follow it.
        inputs: JSON text `[args],{kwargs}` of the task that carries them: all attempts as one JSON text, because Celery
            gives each object of what it reads itself to a function, three times on an attempt's way.
    """

    id: str
    run: str
    letters: Sequence[tuple[Template, Letter]]
    inputs: str

    @classmethod
    def of(cls, letters: Sequence[tuple[Template, Letter]]) -> Bundled:
        """Put letters into one."""
        first = letters[0][1]
        columns = _Columns()
        for template, letter in every(letters):
            columns.add(template, letter)
        return cls(bundle_id(first.id, len(columns.of)), first.run, letters, f"[{quoted(columns.text())}],{{}}")


class _Columns:
    """Attempts as they stand in one message: what its worker can't find out by itself; see worker/entries.py."""

    def __init__(self) -> None:
        self.of: list[int] = []
        self._known: dict[tuple[Template, str, str, int | None, str | None], int] = {}
        self._kinds: list[dict[str, Any]] = []
        self._places: list[str] = []
        self._nodes: list[str] = []
        self._inputs: list[str] = []
        self._more: dict[int, dict[str, Any]] = {}

    def add(self, template: Template, letter: Letter) -> None:
        """One more."""
        kind = template, letter.run, letter.claim, letter.deadline_at_ms, letter.correlation_id
        number = self._known.get(kind)
        if number is None:
            number = self._known[kind] = len(self._kinds)
            self._kinds.append(_alike(template, letter))
        if letter.deferred or letter.secrets or letter.holes:
            more = {"deferred": letter.deferred, "secrets": letter.secrets, "holes": letter.holes}
            self._more[len(self.of)] = {name: it for name, it in more.items() if it}
        self.of.append(number)
        self._places.append(letter.id.split(".", 2)[2])
        self._nodes.append(quoted(letter.node))
        self._inputs.append(letter.inputs)

    def text(self) -> str:
        """All of them, as JSON."""
        kinds, places = json.dumps(self._kinds), json.dumps(self._places)
        nodes, inputs = ",".join(self._nodes), ",".join(self._inputs)
        more = f',"more":{json.dumps(self._more)}' if self._more else ""
        return f'{{"kinds":{kinds},"of":{self.of},"places":{places},"nodes":[{nodes}],"inputs":[{inputs}]{more}}}'


def _alike(template: Template, letter: Letter) -> dict[str, Any]:
    """What an attempt has in common with others of one message."""
    header: dict[str, Any] = {"v": VERSION}
    if letter.deadline_at_ms is not None:
        header["deadline_at_ms"] = letter.deadline_at_ms
    if letter.correlation_id is not None:
        header["correlation_id"] = letter.correlation_id
    found = {"run": letter.id.rsplit(".", 3)[0], **template.alike, "celeriac": header}
    return found | {"claim": letter.claim} if letter.claim else found


def every(letters: Sequence[tuple[Template, Letter]]) -> Iterator[tuple[Template, Letter]]:
    """All attempts of a message, those that follow others in chains among them."""
    for pair in letters:
        yield pair
        yield from pair[1].then


class BundleTemplate(Template):
    """Messages of one class that carry several attempts."""

    def __init__(self, app: Celery, queue_class: QueueClass) -> None:
        super().__init__(app, BUNDLE, queue_class, (None, None))

    def parts(self, letter: Any) -> tuple[str, str, str, str]:
        """As Template.parts; what Flower shows names the runs, the number of attempts and the executors."""
        letters: Sequence[tuple[Template, Letter]] = letter.letters
        runs = {it.run for _, it in letters}
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        names = Counter(it.executor for it, _ in every(letters))
        executors = ", ".join(f"{name} x{n}" for name, n in names.items())
        readable = f"run={letter.run}{more} attempts={names.total()}"
        searchable = (
            f"{{'run': '{letter.run}', 'attempts': {names.total()}, 'executors': {executors!r}, "
            f"'class': '{self.queue_class.name}'}}"
        )
        ids = " ".join(it.id for _, it in letters)
        first = letters[0][1]
        header = f'{{"v":{VERSION},"attempts":"{ids}"}}'
        return readable, searchable, header, traceparent(first.run, first.number, first.attempt)


class Templates:
    """Templates by executor, class and time limits, each made by Celery the first time it is asked for."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._made: dict[tuple[str, str, int | None, int | None], Template] = {}
        self._bundles: dict[str, BundleTemplate] = {}

    def bundle(self, queue_class: QueueClass) -> BundleTemplate:
        """The template for messages of a class that carry several attempts."""
        found = self._bundles.get(queue_class.name)
        if found is None:
            found = self._bundles[queue_class.name] = BundleTemplate(self.app, queue_class)
        return found

    def get(
        self, executor: str, queue_class: QueueClass, timeout_ms: int | None, soft_timeout_ms: int | None
    ) -> Template:
        """The template for attempts of `executor` in a class, with time limits in ms."""
        wanted = (executor, queue_class.name, timeout_ms, soft_timeout_ms)
        found = self._made.get(wanted)
        if found is None:
            limits = (_seconds(timeout_ms), _seconds(soft_timeout_ms))
            found = self._made[wanted] = Template(self.app, executor, queue_class, limits)
        return found


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def scheduler_app(settings: Settings) -> Celery:
    """The Celery app of the scheduler process: the broker's settings, and no tasks."""
    conf = settings.celery_settings()
    app = Celery("celeriac", broker=conf.get("broker_url"), set_as_current=False)
    app.conf.update(conf)
    app.conf.task_queues = [Queue(it.queue, routing_key=it.queue) for it in settings.classes.values()]
    return app
