"""The Redis of a rig: like the embedded one, and it can be killed, frozen and started again where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.ports import free_port


class FaultyRedis(EmbeddedRedis):
    """A private Redis on a unix socket and on a port of 127.0.0.1 that stays the same.

    Args:
        data_dir: see EmbeddedRedis.
        options: further words of the command line, such as ("--appendonly", "no"); they win over redis.conf.

    Attributes:
        options: may be changed between two starts.
        port: of 127.0.0.1.
    """

    def __init__(self, data_dir: Path, options: Sequence[str] = ()) -> None:
        super().__init__(data_dir)
        self.options = tuple(options)
        self.port = free_port()

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self.socket_path

    @property
    def tcp(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> float:
        """SIGKILL. Returns the instant, s of the monotonic clock; the port and the data stay for `start`."""
        process = self._process
        assert process is not None, "it has not been started"
        at = time.monotonic()
        process.kill()
        process.wait(60)
        return at

    def freeze(self) -> float:
        """SIGSTOP. Returns the instant."""
        assert self.pid is not None, "it does not run"
        os.kill(self.pid, signal.SIGSTOP)
        return time.monotonic()

    def thaw(self) -> float:
        """SIGCONT. Returns the instant."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)
        return time.monotonic()

    def _command(self) -> list[str]:
        return [*super()._command(), "--bind", "127.0.0.1", "--port", str(self.port), *self.options]
