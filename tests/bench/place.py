"""Where it is measured: one private Redis, and the processes that share it, each ended with the place.

CPU time comes from the kernel's own count in nanoseconds where it has one (Linux), else from psutil in ticks of 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

from scheduler.embedded import EmbeddedRedis
from scheduler.settings import Settings
from scheduler.store.connection import connect
from scheduler.store.owners import Owners

ROOT = Path(__file__).resolve().parents[2]


class Usage(NamedTuple):
    """What Redis has used up to an instant."""

    cpu_seconds: float
    commands: int
    memory_bytes: int


class Child:
    """A process of ours, in a session of its own."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, env={**os.environ, **env}, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._facts = psutil.Process(self.process.pid)

    def cpu_seconds(self) -> float:
        """CPU that the process itself has used; its children are not in it."""
        try:
            tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
            return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
        except (OSError, ValueError, IndexError):
            times = self._facts.cpu_times()
            return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(self._facts.memory_info().rss)

    def says(self, text: str) -> bool:
        """Whether its log has this text."""
        return text in self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raises:
        RuntimeError: the process has ended; tells the end of its log.
        """
        status = self.process.poll()
        if status is not None:
            raise RuntimeError(f"{self.name} ended with status {status}; its log ends:\n{self.log.read_text()[-3000:]}")

    def stop(self, seconds: float = 15.0) -> None:
        """Ask it to end; after a while end it and what it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(seconds)


class Place:
    """The private Redis and what runs on it.

    Attributes:
        client: for looking at Redis; not used by what is measured.
        settings: the scheduler's, with the shipped queue classes.
    """

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="celeriac-bench-")
        self.home = Path(self._home.name)
        self.redis = EmbeddedRedis(self.home / "redis")
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        self.redis.start()
        self.client: Any = connect(self.redis.url)
        self.settings = Settings.load(redis_url=self.redis.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.stop()
        self.client.close()
        self.redis.stop()
        self._home.cleanup()

    def start(self, name: str, *argv: str, **env: str) -> Child:
        """Start `python ARGV`; it finds the place in its environment."""
        known = {"BENCH_REDIS": self.redis.url, "CELERIAC_REDIS_URL": self.redis.url, "PYTHONPATH": str(ROOT)}
        child = Child(name, [sys.executable, *argv], {**known, **env}, self.home / f"{name}-{len(self._children)}.log")
        self._children.append(child)
        return child

    def stop(self, *children: Child) -> None:
        """End some before the place ends."""
        for child in children:
            child.stop()

    def start_scheduler(self, *options: str) -> Child:
        """A scheduler process that owns every shard."""
        [child] = self.start_schedulers(1, *options)
        return child

    def start_schedulers(self, count: int, *options: str) -> list[Child]:
        """Scheduler processes that have shared all shards out among themselves."""
        children = [self.start("scheduler", "-m", "tests.bench.service", *options) for _ in range(count)]
        owners = Owners(self.client, self.settings.namespace, "bench", 1000)

        def shared_out() -> bool:
            rows = [row for row in owners.table().values() if row.lease_end_ms > 0]
            mine = [sum(f":{it.process.pid}:" in row.scheduler for row in rows) for it in children]
            return sum(mine) == self.settings.shards and max(mine) - min(mine) <= 1

        self.until(shared_out, "schedulers that own every shard", *children)
        return children

    def start_worker(self, app: str, queue: str, *options: str, **env: str) -> Child:
        """A Celery worker as the peers were measured with: prefork -c 2, -O fair, prefetch 64, no chatter."""
        name = f"{app}.{queue}@bench"
        chatter = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        pool = ["-P", "prefork", "-c", "2", "-O", "fair", "--prefetch-multiplier", "64"]
        argv = ["-m", "celery", "-A", f"tests.bench.{app}", "worker", "-Q", queue, "-n", name, "-l", "WARNING"]
        child = self.start(app, *argv, *chatter, *(options or pool), **env)
        self.until(lambda: child.says(f"{name} ready"), f"the worker {name}", child)
        return child

    def until(
        self, there: Callable[[], object], what: str, *needed: Child, seconds: float = 60.0, pause: float = 0.02
    ) -> None:
        """Look again and again until something is there.

        Raises:
            RuntimeError: it did not come, or a process that it needs has ended.
        """
        end = time.monotonic() + seconds
        while not there():
            for child in needed:
                child.check()
            if time.monotonic() > end:
                logs = "".join(f"\n{child.name}: {child.log.read_text()[-1500:]}" for child in needed)
                raise RuntimeError(f"{what}: nothing after {seconds:.0f} s{logs}")
            time.sleep(pause)  # between two looks

    def usage(self) -> Usage:
        """Redis's own account of itself. One command, which is in the account of the next."""
        info: dict[str, Any] = self.client.info("everything")
        cpu = info["used_cpu_user"] + info["used_cpu_sys"]
        return Usage(float(cpu), int(info["total_commands_processed"]), int(info["used_memory"]))

    def others(self) -> Callable[[], float]:
        """Begin to watch what other processes of the machine use; the answer is their share of all cores since now.

        A figure that was taken while it was high says more about them than about us.
        """
        start, busy, ours = time.monotonic(), _busy_seconds(), _tree_seconds()

        def share() -> float:
            passed = (time.monotonic() - start) * (os.cpu_count() or 1)
            return max(_busy_seconds() - busy - (_tree_seconds() - ours), 0.0) / max(passed, 0.001)

        return share

    def clear(self) -> None:
        """An empty Redis. Only while nothing runs on it."""
        self.client.flushall()


def _busy_seconds() -> float:
    """CPU that everything on the machine has used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "softirq", 0.0))


def _tree_seconds() -> float:
    """CPU that this process, its descendants, and those of them that have ended have used."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # its own, and of children it has waited for
    return total
