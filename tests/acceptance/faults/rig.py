"""The rig: one installation as real processes in a directory of its own, to be broken on purpose.

Processes are started by the commands that people use, and ended by their pids. All instants are seconds of the
machine's monotonic clock, as in the ledger.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from scheduler import Client
from scheduler.store.connection import connect
from scheduler.store.keys import Keys

from . import ledger
from .judge import Verdict, judge
from .load import Load, random_plan, submit
from .processes import Kill, Process, children, end, eventually, start
from .proxy import Proxy
from .server import FaultyRedis

__all__ = ["Kill", "Rig", "Verdict", "eventually"]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
KINDS = ("scheduler", "worker", "client", "broker")
WAIT_SECONDS = 300.0
"""How long whoever submitted waits for a run; rows have limits of their own."""


class Rig:
    """Redis, proxies, schedulers and workers.

    Args:
        directory: for data, logs and the ledger.
        seed: of everything that is left to chance.
        schedulers, workers: how many `start_all` starts: s1, s2, … and w1, w2, … (of the class `work`).
        proxied: which kinds of processes reach Redis through a proxy of their own: "scheduler", "worker", "client";
            "broker" is what Celery's side of schedulers and workers goes through.
        broker: "redis" for the same Redis, else a broker URL.
        redis_options: further words of redis-server's command line.
        settings: further environment, such as CELERIAC_SHARDS.
        app: import path of the workers' Celery app.
        nodes: of each graph of the base load.
        strikes: how many a killer makes at most.
        bundle_seconds: of work in one message, in every class; None for what the classes say. The tasks of the base
            load are too long for company unless it is a second or more.

    Attributes:
        random: what rows draw from.
        processes: by name; those that were killed too, until they are started again.
        kills: every kill so far.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        *,
        schedulers: int = 2,
        workers: int = 3,
        proxied: Collection[str] = (),
        broker: str = "redis",
        redis_options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        app: str = "tests.acceptance.faults.app:app",
        nodes: int = 2000,
        strikes: int = 12,
        bundle_seconds: float | None = None,
    ) -> None:
        if unknown := set(proxied) - set(KINDS):
            raise ValueError(f"there is no kind {unknown} to be proxied; there are {KINDS}")
        self.directory = directory
        self.seed = seed
        self.random = random.Random(seed)
        self.nodes = nodes
        self.strikes = strikes
        self.schedulers = [f"s{n + 1}" for n in range(schedulers)]
        self.workers = [f"w{n + 1}" for n in range(workers)]
        self.redis = FaultyRedis(directory / "redis", redis_options)
        self.proxies = {kind: Proxy(0, self.redis.socket, seed=seed) for kind in proxied}
        self.processes: dict[str, Process] = {}
        self.kills: list[Kill] = []
        self.ledger_path = directory / "ledger.jsonl"
        self.ledger_path.touch()
        self._queues = HERE / "queues.toml"
        if bundle_seconds is not None:
            tables = self._queues.read_text().replace("pool =", f"bundle_seconds = {bundle_seconds}\npool =")
            self._queues = directory / "queues_bundled.toml"
            self._queues.write_text(tables)
        self._broker = broker
        self._settings = dict(settings or {})
        self._app = app
        self._clients: list[Client] = []
        self._look: Any = None
        self.verdict: Verdict | None = None
        """What was judged last."""

    # -- life ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self.redis.thaw()
        for process in self.processes.values():
            end(process.running)
        for proxy in self.proxies.values():
            proxy.stop()
        if self._look is not None:
            self._look.close()
        self.redis.stop()

    def start_all(self) -> None:
        """Redis, proxies, schedulers and workers; returns when the workers have announced themselves."""
        self.start_redis()
        for begin, names in ((self.scheduler, self.schedulers), (self.worker, self.workers)):
            for name in names:
                begin(name)
        self.await_workers(len(self.workers))

    def start_redis(self) -> None:
        """For rows that start the rest themselves: Redis and the proxies."""
        self.redis.start()
        for proxy in self.proxies.values():
            proxy.start()

    def await_workers(self, count: int) -> None:
        """Wait until so many workers have announced themselves."""
        eventually(lambda: self.look().hlen(Keys().workers) >= count, f"{count} workers are there", 90)

    # -- processes ----------------------------------------------------------------------------------

    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `celeriac COMMAND` under a name; its output goes into <name>.log. Only the main thread may."""
        words = [sys.executable, "-m", "scheduler.cli", *command]
        known = {**self.env("worker" if command[:1] == ("worker",) else "scheduler"), **(env or {})}
        running = start(words, known, self.directory, self.directory / f"{name}.log")
        self.processes[name] = Process(command, env, running)
        return running

    def scheduler(self, name: str) -> None:
        """Start a scheduler."""
        self.start(name, "scheduler")

    def worker(self, name: str, queue_class: str = "work") -> None:
        """Start a worker of a class."""
        self.start(name, "worker", queue_class, "-n", f"{name}@%h")

    def again(self, name: str) -> None:
        """Start a process again that has ended, by its own command."""
        it = self.processes[name]
        self.start(name, *it.command, env=it.env)

    def pid(self, name: str) -> int:
        """Of the main process."""
        return self.processes[name].running.pid

    def alive(self, name: str) -> bool:
        """Whether the process runs."""
        return name in self.processes and self.processes[name].running.poll() is None

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to a process of ours and wait until it has ended. Returns the instant of the signal."""
        running = self.processes[name].running
        at = time.monotonic()
        if running.poll() is None:
            running.send_signal(how)
            self._note(at, name, how, running.pid)
        running.wait(120)
        return at

    def kill_redis(self) -> float:
        """SIGKILL for Redis, noted among the kills. Returns the instant."""
        pid = self.redis.pid or 0
        at = self.redis.kill()
        self._note(at, "redis", signal.SIGKILL, pid)
        return at

    def kill_child(self, name: str, pid: int | None = None) -> float | None:
        """SIGKILL for a pool process of a worker: the one named, else any. Returns the instant; None: it is gone."""
        living = children(self.pid(name))
        if pid is None:
            pid = self.random.choice(living) if living else 0
        if pid not in living:
            return None
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._note(at, f"child of {name}", signal.SIGKILL, pid)
        return at

    def _note(self, at: float, name: str, how: signal.Signals, pid: int) -> None:
        at_ms = round((time.time() - (time.monotonic() - at)) * 1000)
        self.kills.append(Kill(at, name, how.name, pid, at_ms))

    def freeze(self, name: str) -> float:
        """SIGSTOP; the process does nothing until `thaw`."""
        self.processes[name].running.send_signal(signal.SIGSTOP)
        return time.monotonic()

    def thaw(self, name: str) -> float:
        """SIGCONT."""
        self.processes[name].running.send_signal(signal.SIGCONT)
        return time.monotonic()

    # -- where things are -----------------------------------------------------------------------------

    def url(self, kind: str = "") -> str:
        """The Redis URL of a kind of process: through its proxy if it has one."""
        proxy = self.proxies.get(kind)
        return self.redis.url if proxy is None else f"redis://127.0.0.1:{proxy.url_port}/0"

    def broker_url(self) -> str:
        """The broker's URL, as Celery spells it."""
        if self._broker != "redis":
            return self._broker
        return self.url("broker") if "broker" in self.proxies else self.redis.broker_url

    def env(self, kind: str = "") -> dict[str, str]:
        """The environment of a kind of process."""
        return {
            **{name: text for name, text in os.environ.items() if not name.startswith("CELERIAC_")},
            "PYTHONPATH": str(ROOT),
            "CELERIAC_REDIS_URL": self.url(kind),
            "CELERIAC_BROKER_URL": self.broker_url(),
            "CELERIAC_QUEUES_FILE": str(self._queues),
            "CELERIAC_SHARD_LEASE_SECONDS": "5",
            "CELERIAC_APP": self._app,
            "FAULTS_LEDGER": str(self.ledger_path),
            **self._settings,
        }

    def client(self) -> Client:
        """A client of this installation; closed with the rig."""
        self._clients.append(Client(self.url("client")))
        return self._clients[-1]

    def look(self) -> Redis:
        """A direct connection of the test, for planting damage and reading."""
        found: Redis = self._look or connect(self.redis.url)
        self._look = found
        return found

    def ledger(self) -> list[ledger.Line]:
        """What the tasks have written so far."""
        return ledger.read(self.ledger_path)

    def says(self, name: str) -> str:
        """The log of a process so far."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    # -- the base load --------------------------------------------------------------------------------

    def submit_base(self, nodes: int | None = None, runs: int = 3, *, client: Client | None = None) -> list[Load]:
        """Submit random layered graphs, drawn from the rig's seed; somebody waits for each from now on.

        Args:
            nodes: of each graph; None means what the rig was made for (2,000; fewer in `make test`).
        """
        plans = [random_plan(self.random, nodes or self.nodes) for _ in range(runs)]
        client = client or self.client()
        return [submit(client, plan, WAIT_SECONDS) for plan in plans]

    def wait(self, loads: Sequence[Load], seconds: float) -> None:
        """Returns when every run has ended, or the time is up: then `judge` says which has not."""
        until = time.monotonic() + seconds
        for waiter in (load.waiter for load in loads if load.waiter is not None):
            waiter.join(max(0.0, until - time.monotonic()))

    def judge(
        self,
        loads: Sequence[Load],
        *,
        most_duplicates: int | None = None,
        notes: Mapping[str, object] | None = None,
        settle_seconds: float = 30.0,
        strangers: bool = False,
    ) -> Verdict:
        """What came of it, by the ledger, the graphs, and what the public client says.

        Args:
            most_duplicates: more repeated executions than this are a violation.
            notes: further facts for the table.
            settle_seconds: how long messages of repeated attempts may still be on their way when the runs have ended.
            strangers: the ledger may know other runs.
        """
        verdict = judge(self.look(), self.client(), loads, self.ledger(), settle_seconds, strangers=strangers)
        self.verdict = verdict
        if most_duplicates is not None:
            verdict.must(
                verdict.duplicates <= most_duplicates,
                f"{verdict.duplicates} duplicates, at most {most_duplicates} allowed",
            )
        if bundles := sum(self.says(name).count("Task celeriac.bundle[") for name in self.processes):
            verdict.facts["lines of bundles"] = bundles
        verdict.facts |= {name: round(it, 2) if isinstance(it, float) else it for name, it in (notes or {}).items()}
        return verdict
