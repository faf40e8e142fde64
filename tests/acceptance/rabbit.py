"""A private RabbitMQ node for tests: a process of our own on a free loopback port.

It is up in two or three seconds and may be killed, restarted and cut off without disturbing any other broker of the
machine. Where RabbitMQ is not installed, a test that asks for one is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu.connection import Connection

from tests.acceptance.ports import free_port

HOST = "127.0.0.1"
PLACES = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"), Path("/usr/local/sbin"))
"""Where the scripts themselves are: what a package lays on PATH changes to a user of its own first."""


def scripts() -> Path | None:
    """The directory of rabbitmq-server, or None when there is none."""
    found = shutil.which("rabbitmq-server")
    places = [*PLACES, *([Path(found).parent] if found else [])]
    return next((it for it in places if (it / "rabbitmq-server").is_file() and (it / "rabbitmqctl").is_file()), None)


class Rabbit:
    """One node.

    Args:
        directory: for its data and log.
        config: lines of rabbitmq.conf.
        tick_ms: how often channels look whether a consumer's time is over.
    """

    def __init__(self, directory: Path, *, tick_ms: int = 1000, config: Mapping[str, str] | None = None) -> None:
        found = scripts()
        if found is None:
            pytest.skip("rabbitmq-server is not installed")
        self.directory = directory
        self.port = free_port()
        self._scripts = found
        self._process: subprocess.Popen[bytes] | None = None
        cookie = uuid4().hex
        self._env = {
            **os.environ,
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"celeriac-{uuid4().hex[:8]}@localhost",
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ERLANG_COOKIE": cookie,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+sbwt none +S 1:1 -rabbit channel_tick_interval {tick_ms}",
        }
        lines = {"listeners.tcp.default": f"{HOST}:{self.port}", **(config or {})}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (directory / "plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        """In Celery's spelling."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def connection(self) -> Connection:
        """A connection of the test's own."""
        return Connection(self.url, connect_timeout=5)

    def start(self) -> None:
        """Start it, on the data of the last time, and wait until it takes connections."""
        with (self.directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [str(self._scripts / "rabbitmq-server")],
                env=self._env,
                cwd=self.directory,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        until = time.monotonic() + 60
        while True:
            try:
                with Connection(self.url, connect_timeout=1) as it:
                    it.ensure_connection(max_retries=0)
                return
            except Exception:  # noqa: BLE001  not there yet, whatever the client library calls that
                assert self._process.poll() is None, (self.directory / "out").read_text()[-3000:]
                assert time.monotonic() < until, (self.directory / "out").read_text()[-3000:]
                time.sleep(0.1)  # between two looks

    def kill(self) -> None:
        """SIGKILL to the node and all that it started."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)

    def ctl(self, *command: str) -> str:
        """rabbitmqctl; returns what it printed."""
        done = subprocess.run(
            [str(self._scripts / "rabbitmqctl"), "--quiet", *command],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {command[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def cut(self) -> None:
        """Close every connection, as an operator or a node that leaves its cluster does."""
        self.ctl("close_all_connections", "a test")

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue, 0 when there is no such queue."""
        return self.queues().get(queue, ("", 0))[1]

    def queues(self) -> dict[str, tuple[str, int]]:
        """Queue -> its type, and its messages, those with a worker included."""
        lines = self.ctl("list_queues", "--no-table-headers", "name", "type", "messages").splitlines()
        rows: list[Any] = [line.split("\t") for line in lines if line.count("\t") == 2]
        return {name: (type_.removeprefix("rabbit_").removesuffix("_queue"), int(n or 0)) for name, type_, n in rows}


@contextmanager
def rabbit(directory: Path, **options: Any) -> Iterator[Rabbit]:
    """A node that is up; gone with the block."""
    it = Rabbit(directory, **options)
    it.start()
    try:
        yield it
    finally:
        it.kill()
