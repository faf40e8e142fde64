"""Sends attempts to a real worker as the scheduler would, and reads what it reports, without a scheduler.

The scheduler's side is played by hand: an attempt is two entries in Redis, a report is one stream entry.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

import redis
from celery import Celery
from kombu import pools
from kombu.entity import Queue
from kombu.messaging import Producer

from scheduler.store.keys import Keys
from scheduler.wire import BUNDLE, bundle_id, new_run_id
from tests import waiting

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GENEROUS_SECONDS = 20.0
T = TypeVar("T")
until = waiting.eventually


class Told(NamedTuple):
    """One report as it stands in the inbox."""

    report: dict[str, Any]
    output: Any

    @property
    def short(self) -> tuple[str, str | None, str | None]:
        """(end, error kind, error type)."""
        error = self.report.get("error") or {}
        return self.report["end"], error.get("kind"), error.get("type")


class Post:
    """The scheduler's side of one queue."""

    opened: ClassVar[list[Post]] = []

    def __init__(self, url: str, queue: str) -> None:
        self.url = url
        self.broker = broker_url(url)
        self.queue = queue
        self.client: Any = redis.Redis.from_url(url)
        self.app = Celery("post", broker=self.broker, set_as_current=False)
        self.keys = Keys("cel").shard(0)
        self.run = new_run_id(round(time.time() * 1000))
        self._numbers = itertools.count()
        newest: Any = self.client.xrevrange(self.keys.inbox, count=1)  # what came before is about others
        self._last: str = newest[0][0].decode() if newest else "0-0"
        self._entries: list[list[bytes]] = []
        self.opened.append(self)

    @classmethod
    def close_all(cls) -> None:
        """Close the connections of every instance."""
        while cls.opened:
            it = cls.opened.pop()
            it.client.close()
            it.app.pool.force_close_all()
            it.app.close()
        pools.reset()

    def seed(self, *, attempt: int = 1, lease_ms: int = 20_000, timeout_ms: int = 60_000) -> str:
        """An attempt that has just been sent, as a commit writes it; returns its id."""
        id_ = f"0.{self.run}.{next(self._numbers)}.1.{attempt}"
        self.client.hset(self.keys.attempts, id_, f"s|some|{lease_ms}|{timeout_ms}")
        self.client.zadd(self.keys.leases, {id_: round(time.time() * 1000) + 60_000})
        return id_

    def send(self, task: str, *args: Any, id_: str | None = None, headers: Any = None, **options: Any) -> str:
        """Send one attempt; returns its id. Options are those of Celery's send_task."""
        id_ = id_ or self.seed()
        options.setdefault("ignore_result", True)
        kwargs = options.pop("kwargs", {})
        self.app.send_task(task, args, kwargs, task_id=id_, queue=self.queue, headers=headers, **options)
        return id_

    def send_raw(self, body: Any, id_: str | None = None, task: str = "sample.add", **headers: Any) -> str:
        """Send a message of any shape with the headers of an attempt; a header given as ... is left out."""
        id_ = id_ or self.seed()
        merged = {"lang": "py", "task": task, "id": id_, "root_id": id_, "ignore_result": True, **headers}
        kept = {key: value for key, value in merged.items() if value is not ...}
        options: dict[str, Any] = {"serializer": "json"}
        if isinstance(body, bytes):
            options = {"content_type": "application/json", "content_encoding": "utf-8"}
        with self.app.connection_for_write() as connection:
            Producer(connection).publish(
                body,
                routing_key=self.queue,
                declare=[Queue(self.queue, routing_key=self.queue)],
                headers=kept,
                correlation_id=id_,
                **options,
            )
        return id_

    def told(self, id_: str) -> list[Told]:
        """All reports about an attempt so far. An entry may carry several, so its fields are no mapping."""
        found = []
        for fields in self._heard():
            pairs = [*zip(fields[::2], fields[1::2], strict=True), (b"", b"")]
            for (name, value), (next_name, next_value) in itertools.pairwise(pairs):
                if name == b"report" and id_.encode() in value and (report := json.loads(value))["id"] == id_:
                    found.append(Told(report, json.loads(next_value) if next_name == b"output" else None))
        return found

    def dead(self) -> list[dict[str, Any]]:
        """What the inbox has been told of rejected messages since this began to listen."""
        return [json.loads(fields[1]) for fields in self._heard() if fields[0] == b"dead"]

    def _heard(self) -> list[list[bytes]]:
        """Fields of all entries since this began to listen; only what has come since the last look is read."""
        read = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+')"
        for entry, fields in self.client.eval(read, 1, self.keys.inbox, f"({self._last}"):
            self._last = entry.decode()
            self._entries.append(fields)
        return self._entries

    def wait(self, id_: str, seconds: float = GENEROUS_SECONDS) -> Told:
        """The first report about an attempt."""
        return until(lambda: self.told(id_), f"report of {id_}", seconds)[0]

    def settled(self) -> None:
        """Everything sent so far was taken and has left the worker: one more attempt went through after it."""
        assert self.wait(self.send("sample.echo", "fence")).output == "fence"
        until(lambda: self.client.llen(self.queue) == 0, "an empty queue")

    def unacknowledged(self, id_: str) -> bool:
        """Whether a worker still holds the attempt's message."""
        return any(id_.encode() in message for message in self.client.hvals("unacked"))

    def state(self, id_: str) -> str | None:
        """What the store says of an attempt."""
        found = self.client.hget(self.keys.attempts, id_)
        return None if found is None else str(found, "utf-8")

    def forget(self, id_: str) -> None:
        """The scheduler ended or cancelled the attempt."""
        self.client.hdel(self.keys.attempts, id_)
        self.client.zrem(self.keys.leases, id_)


class BundledPost(Post):
    """Sends every attempt in one message with two others, one before it and one behind it."""

    def send(self, task: str, *args: Any, id_: str | None = None, headers: Any = None, **options: Any) -> str:
        """Send one attempt, and an echo on either side; returns its id."""
        id_ = id_ or self.seed()
        entry = self.entry(task, *args, id_=id_, headers=headers, **options)
        self.send_bundle([self.entry("sample.echo", 1), entry, self.entry("sample.echo", 2)])
        return id_

    def entry(
        self,
        task: str,
        *args: Any,
        id_: str | None = None,
        headers: Any = None,
        kwargs: Any = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        ignore_result: bool = True,
    ) -> dict[str, Any]:
        """An attempt as it stands in a bundle."""
        id_ = id_ or self.seed()
        return {
            "id": id_,
            "task": task,
            "inputs": [list(args), kwargs or {}],
            "celeriac": (headers or {}).get("celeriac") or {"v": 1},
            "timelimit": [time_limit, soft_time_limit],
            "ignore_result": ignore_result,
        }

    def step(
        self, task: str, *args: Any, into: Any = ((0, 0),), lease_ms: int = 20_000, **options: Any
    ) -> dict[str, Any]:
        """A next step of a chain, of which the store knows nothing yet.

        Args:
            into: places in [args, kwargs] that the output before it goes into as a whole.
        """
        id_ = f"0.{self.run}.{next(self._numbers)}.1.1"
        found = self.entry(task, *args, id_=id_, **options)
        return {**found, "claim": f"some|{lease_ms}|60000", "holes": [[list(place), []] for place in into]}

    def send_bundle(self, entries: list[dict[str, Any]]) -> str:
        """Send attempts in one message; returns its Celery id."""
        return self.send_columns([it["id"] for it in entries], json.dumps(columns(entries)))

    def send_columns(self, ids: list[str], told: Any) -> str:
        """The same of what stands in the message, whatever it is."""
        id_, header = bundle_id(ids[0], len(ids)), {"v": 1, "attempts": " ".join(ids)}
        self.app.send_task(
            BUNDLE, [told], task_id=id_, queue=self.queue, headers={"celeriac": header}, ignore_result=True
        )
        return id_


def columns(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Attempts, each perhaps with steps in its `then`, as they stand in a message (worker/entries.py): a kind each."""
    found: dict[str, Any] = {"kinds": [], "of": [], "places": [], "nodes": [], "inputs": [], "more": {}}
    for number, it in enumerate(step for entry in entries for step in (entry, *entry.get("then", ()))):
        shard, run, place = it["id"].split(".", 2)
        kind = {name: it[name] for name in ("task", "celeriac", "timelimit", "ignore_result", "claim") if name in it}
        found["kinds"].append({"run": f"{shard}.{run}", **kind})
        found["of"].append(number)
        found["places"].append(place)
        found["nodes"].append(it["celeriac"].get("node", place.split(".")[0]))
        found["inputs"] += it["inputs"]
        if "holes" in it:
            found["more"][str(number)] = {"holes": it["holes"]}
    return found


def broker_url(url: str) -> str:
    """A Redis URL in Celery's spelling."""
    return f"redis+socket://{quote(url.removeprefix('unix://').split('?')[0])}"


class Worker:
    """A Celery worker as a process of its own, running the sample app.

    Args:
        url: the private Redis.
        home: where its log and ledger are kept.
        queue: what it listens to, and its name.
        options: more of Celery's worker options.
        env: more environment.
    """

    def __init__(self, url: str, home: Path, queue: str, *options: str, **env: str) -> None:
        self.queue = queue
        self.diary = home / f"{queue}.diary"
        self.log = home / f"{queue}.log"
        self.heartbeat_file = home / f"{queue}.beat"
        self.hostname = f"{queue}@here"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "SAMPLE_BROKER": broker_url(url),
            "SAMPLE_DIARY": str(self.diary),
            "SAMPLE_QUEUE": queue,
            "CELERIAC_REDIS_URL": url,
            "CELERIAC_QUEUE_CLASS": "sample-class",
            "CELERIAC_HEARTBEAT_FILE": str(self.heartbeat_file),
            **env,
        }
        argv = [sys.executable, "-m", "celery", "-A", "sample", "worker", "-Q", queue, "-n", self.hostname]
        argv += ["-l", "INFO", "--without-mingle", "--without-gossip", *(options or ("-P", "prefork", "-c", "2"))]
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(argv, env=environment, cwd=home, stdout=self._log, stderr=subprocess.STDOUT)

    def ready(self) -> Worker:
        """Wait until it takes messages."""
        until(lambda: self.process.poll() is not None or f"{self.hostname} ready" in self.text(), f"{self.log}", 60)
        assert self.alive(), self.text()[-4000:]
        return self

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def notes(self) -> list[str]:
        """Its ledger so far."""
        return self.diary.read_text().splitlines() if self.diary.exists() else []

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to its main process."""
        self.process.send_signal(number)

    def ended(self, seconds: float = GENEROUS_SECONDS) -> int:
        """Wait for its end; its exit status. One that does not end is asked by Celery's own signal what it is at."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGUSR1)
            with contextlib.suppress(AssertionError):
                until(lambda: "MainThread" in self.text(), "its stacks in the log", 5)
            raise AssertionError(f"not ended after {seconds:.0f} s:\n{self.text()[-12_000:]}") from None

    def close(self) -> None:
        """End it at once; its pool processes die with it."""
        if self.alive():
            self.process.kill()
            self.process.wait(GENEROUS_SECONDS)
        self._log.close()
