"""A master, a replica and three sentinels as processes on loopback ports of their own, and an installation on them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from scheduler.client import Client
from scheduler.embedded import find_binary
from scheduler.settings import default_file

from .ports import free_ports
from .stack import ROOT, Stack, eventually

NAME = "mymaster"
DOWN_AFTER_MS = 600


class Watched:
    """Two Redis servers, the second a replica, and three sentinels that will make it the master.

    Attributes:
        url: for CELERIAC_REDIS_URL and, as it is, for CELERIAC_BROKER_URL.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = free_ports(2)
        self.sentinel_ports = free_ports(3)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        hosts = ";".join(f"sentinel://127.0.0.1:{port}" for port in self.sentinel_ports)
        self.url = f"{hosts}/0?master_name={NAME}"

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        self.binary, _ = find_binary()
        master, replica = self.ports
        self._server(master)
        self._server(replica, "--replicaof", "127.0.0.1", str(master))
        eventually(lambda: self.look(replica).info("replication")["master_link_status"] == "up", "replication")
        for port in self.sentinel_ports:
            self._sentinel(port, master)
        eventually(lambda: all(map(self._ready, self.sentinel_ports)), "the sentinels know each other and the replica")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for port in list(self.processes):
            self.kill(port)

    def look(self, port: int) -> Any:
        """A connection of the test's own."""
        return Redis(port=port, socket_timeout=5)

    def master(self) -> int:
        """Port of the server that says it is the master now; 0 when none does."""
        for port in self.ports:
            with contextlib.suppress(RedisError, OSError):
                if self.look(port).info("replication")["role"] == "master":
                    return port
        return 0

    def kill(self, port: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process of ours, by pid."""
        process = self.processes.pop(port)
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        process.wait(20)

    def cut_replication(self) -> None:
        """From now on the replica hears nothing: what the master acknowledges is lost with it."""
        master = self.look(self.ports[0])
        master.execute_command("ACL", "SETUSER", "copies", "off")
        master.execute_command("CLIENT", "KILL", "TYPE", "replica")
        replica = self.look(self.ports[1])
        eventually(lambda: replica.info("replication")["master_link_status"] == "down", "the replica is cut off")

    def _server(self, port: int, *options: str) -> None:
        home = self.directory / f"redis-{port}"
        home.mkdir()
        conf = home / "redis.conf"  # of its own: sentinels let servers rewrite theirs
        conf.write_bytes(default_file("redis.conf").read_bytes())
        words = [str(self.binary), str(conf), "--port", str(port), "--bind", "127.0.0.1"]
        words += ["--dir", str(home), "--repl-diskless-sync-delay", "0", "--save", "", *options]
        words += ["--user", "copies", "on", ">copies", "+@all", "~*", "&*", "--masteruser", "copies"]
        self._start(port, [*words, "--masterauth", "copies"])

    def _sentinel(self, port: int, master: int) -> None:
        conf = self.directory / f"sentinel-{port}.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} 4000\n"
        )
        self._start(port, [str(self.binary), str(conf), "--sentinel"])

    def _start(self, port: int, words: list[str]) -> None:
        with (self.directory / f"{port}.log").open("ab") as log:
            self.processes[port] = subprocess.Popen(words, stdout=log, stderr=log)

        def answers() -> bool:
            with contextlib.suppress(RedisError, OSError):
                return bool(self.look(port).ping())
            return False

        eventually(answers, f"the server on port {port}")

    def _ready(self, port: int) -> bool:
        found = self.look(port).sentinel_masters()[NAME]
        return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == 1


class WatchedStack(Stack):
    """A Stack whose store and broker are what the sentinels say."""

    def __init__(self, directory: Path, watched: Watched, **settings: str) -> None:
        super().__init__(directory, **settings)
        self.watched = watched

    def __enter__(self) -> Self:
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'acceptance'}",
            "CELERIAC_REDIS_URL": self.watched.url,
            "CELERIAC_BROKER_URL": self.watched.url,
            "SHOP_LEDGER": str(self.ledger_path),
            **self._settings,
        }
        return self

    def client(self) -> Client:
        """A client of this installation."""
        return Client(self.watched.url)

    def said(self, name: str) -> str:
        """What a process has logged."""
        return (self.directory / f"{name}.log").read_text(errors="replace")
