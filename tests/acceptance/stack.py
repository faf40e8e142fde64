"""A whole installation as real processes, each started by the command that people use, and killed on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from click.testing import CliRunner, Result

from scheduler.cli import main
from scheduler.client import Client
from scheduler.embedded import EmbeddedRedis
from tests import waiting

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
eventually = waiting.eventually


class Stack:
    """Redis, schedulers, workers and Flower in a directory of their own.

    Args:
        directory: for data, logs and the ledger.
        settings: further environment, such as CELERIAC_SHARD_LEASE_SECONDS.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.ledger_path = directory / "ledger.jsonl"
        self.ledger_path.touch()
        self.redis = EmbeddedRedis(directory)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._settings = settings

    def __enter__(self) -> Self:
        self.redis.start()
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'acceptance'}",
            "CELERIAC_REDIS_URL": self.redis.url,
            "CELERIAC_BROKER_URL": self.redis.broker_url,
            "SHOP_LEDGER": str(self.ledger_path),
            **self._settings,
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.redis.stop()
        if kind is not None:
            for log in sorted(self.directory.glob("*.log")):
                sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")

    # -- processes ----------------------------------------------------------------------------------

    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `celeriac …` under a name, with some environment of its own; its output goes into <name>.log."""
        words = [sys.executable, "-m", "scheduler.cli", *command]
        with (self.directory / f"{name}.log").open("ab") as log:
            own = {**self.env, **(env or {})}
            self.processes[name] = subprocess.Popen(words, env=own, cwd=self.directory, stdout=log, stderr=log)
        return self.processes[name]

    def scheduler(self, name: str = "scheduler", env: Mapping[str, str] | None = None) -> None:
        """Start a scheduler."""
        self.start(name, "scheduler", env=env)

    def worker(
        self, queue_class: str = "standard-low", name: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start a worker of the shop's app."""
        mine = name or queue_class
        self.start(mine, "worker", queue_class, "--app", "app.shop:app", "--hostname", f"{mine}@%h", env=env)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """End a process of ours, by pid; returns its exit status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(how)
        return process.wait(60)

    # -- looking ------------------------------------------------------------------------------------

    def client(self) -> Client:
        """A client of this installation."""
        return Client(self.redis.url)

    def celeriac(self, *command: str, expect: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *command],
            env=self.env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == expect, (
            f"celeriac {' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def invoke(self, *command: str) -> Result:
        """The same in this process, which takes a tenth of the time; what became of it, whatever that was."""
        return CliRunner().invoke(main, command, env={**self.env, "CELERIAC_LOG_LEVEL": "error", "COLUMNS": "200"})

    def told(self, *command: str) -> str:
        """What such a command printed that has gone well."""
        done = self.invoke(*command)
        assert done.exit_code == 0, f"{command}: {done.output}\n{done.exception!r}"
        return done.stdout

    def ledger(self, what: str = "end") -> list[dict[str, Any]]:
        """Lines that tasks have left outside the system."""
        lines = [json.loads(line) for line in self.ledger_path.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]
