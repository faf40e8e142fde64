"""A Redis that a test can fill, and whose disk a test can break, without being root and without filling a real disk.

A server whose files may not grow answers MISCONF exactly as one on a full disk does, and takes writes again by itself
when they may.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, Self

import redis

from scheduler.embedded import EmbeddedRedis, find_binary
from scheduler.store.connection import refusal


class Hurt:
    """A private server, as a context manager.

    Args:
        directory: for its data.
        binary: which server; the best there is when None.
    """

    def __init__(self, directory: Path, binary: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        script = directory / "redis-server"
        script.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{binary or find_binary()[0]}' \"$@\"\n")
        script.chmod(0o755)
        self.server = EmbeddedRedis(directory / "data", binary=script)

    def __enter__(self) -> Self:
        self.server.start()
        self.url = self.server.url
        self.client: Any = redis.Redis.from_url(self.url)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.mend()
        self.client.close()
        self.server.stop()

    def begin(self, how: str) -> None:
        """It takes no writes from now on: "full" or "disk"."""
        if how == "full":
            self.client.config_set("maxmemory", "1")
        else:
            pid = int(self.client.info("server")["process_id"])
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        for _ in range(1_000):
            try:
                self.client.set("hurt", "x")
            except redis.exceptions.ResponseError as refused:
                if refusal(refused) == how:
                    return
                raise
        raise AssertionError("it still takes writes")

    def mend(self) -> None:
        """It takes writes again."""
        pid = int(self.client.info("server")["process_id"])
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.client.config_set("maxmemory", "0")
        for _ in range(3_000):
            try:
                self.client.delete("hurt")
            except redis.exceptions.ResponseError:
                continue
            return
        raise AssertionError("it still takes no writes")
