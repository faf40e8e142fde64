"""A Redis server on a TCP port of its own, started with options of the test's choice, and ended by pid."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.embedded import die_with_parent
from scheduler.settings import default_file

from .ports import free_port

ADMIN = "admin"


def users_file(path: Path, passwords: Mapping[str, str]) -> Path:
    """The shipped users.acl with users switched on, the way SECURITY.md tells it: the hash instead of `off`."""
    text = default_file("users.acl").read_text(encoding="utf-8")
    for user, password in passwords.items():
        digest = hashlib.sha256(password.encode()).hexdigest()
        text, found = re.subn(rf"(?m)^user {user} off ", f"user {user} on #{digest} ", text)
        assert found == 1, user
    path.write_text(text, encoding="utf-8")
    return path


class Server:
    """A redis-server with config/redis.conf on 127.0.0.1.

    Args:
        directory: for its data and log.
        binary: which server.
        options: of its command line, after ours.
        check: how to connect for the first answer; None means plainly.
    """

    def __init__(self, directory: Path, binary: Path, *options: str, check: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self._command = [str(binary), str(default_file("redis.conf")), "--dir", str(directory)]
        self._command += ["--bind", "127.0.0.1", "--port", "{port}", *options]  # a later --port wins
        self._check = dict(check or {})

    def __enter__(self) -> Self:
        log = self.directory / "redis.log"
        self.process = subprocess.Popen(
            [word.replace("{port}", str(self.port)) for word in [*self._command, "--logfile", str(log)]],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  prepared before the fork
        )
        until = time.monotonic() + 30
        while True:
            try:
                with redis.Redis(
                    host="127.0.0.1", port=self.port, retry=Retry(NoBackoff(), 0), **self._check
                ) as client:
                    client.ping()
                return self
            except redis.exceptions.AuthenticationError:
                return self  # it answers
            except redis.exceptions.RedisError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.02)  # between two looks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(20)
