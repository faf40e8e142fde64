"""A network that misbehaves on demand: a proxy between processes and their Redis, or their broker.

It runs in the test's process, in a thread with an event loop of its own; its verbs are methods, and a verb has
taken effect when its call returns. It knows one thing of the protocol: a command has been done when its
answer comes back.

    with Proxy(0, "/tmp/x/redis.sock") as proxy:
        url = f"redis://127.0.0.1:{proxy.url_port}/0"
        proxy.cut()
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .links import OTHER, TO_CLIENT, TO_SERVER, ClientEnd, Conditions, Loss

BOTH: Final = "both"
_VERB_SECONDS = 10.0

__all__ = ["BOTH", "TO_CLIENT", "TO_SERVER", "Proxy"]


class Proxy:
    """Forwards TCP connections to one address, and breaks them as told.

    Args:
        listen: a port of 127.0.0.1, 0 for any free one, or (host, port). The port stays ours while we refuse.
        to: "host:port", (host, port), or the path of a unix socket.
        seed: of the jitter.
    """

    def __init__(self, listen: int | tuple[str, int], to: str | Path | tuple[str, int], *, seed: int = 0) -> None:
        self.host, self._port = ("127.0.0.1", listen) if isinstance(listen, int) else listen
        self.to = to
        self._loop = asyncio.new_event_loop()
        self.now = Conditions(self._loop, random.Random(seed))
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._place: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def url_port(self) -> int:
        """The port to connect to; known once it has been started."""
        return self._port

    @property
    def counts(self) -> Counter[str]:
        """What has happened so far: see Conditions."""
        return self.now.counts

    # -- life ---------------------------------------------------------------------------------------

    def __enter__(self) -> Proxy:  # noqa: PYI034  a proxy, whoever may subclass it
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. A socket that never listens keeps the port for us, so that down() and up() cannot lose it."""
        self._place = _bound(self.host, self._port)
        self._port = self._place.getsockname()[1]
        self._thread.start()
        self.up()

    def stop(self) -> None:
        """Reset what is open and end the thread. Nothing the second time."""
        if not self._thread.is_alive():
            return
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_VERB_SECONDS)
        if self._place is not None:
            self._place.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    # -- verbs --------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection that is open; new ones work."""
        self._do(self._reset_all)

    def down(self) -> None:
        """Reset every connection, and refuse new ones."""

        def act() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            self._reset_all()

        self._do(act)

    def up(self) -> None:
        """Accept again."""

        async def act() -> None:
            if self._server is None:
                sock = _bound(self.host, self._port)
                make = self._loop.create_server(lambda: ClientEnd(self.now, self._connect), sock=sock, backlog=512)
                self._server = await make

        self._do(act)

    def freeze(self, direction: str = BOTH) -> None:
        """Forward nothing, lose nothing: what arrives waits for thaw(), on new connections too."""
        self._hold("freeze", direction)

    def drop(self, direction: str = BOTH) -> None:
        """Half-open: take the bytes and throw them away. thaw() resets the connections that lost some."""
        self._hold("drop", direction)

    def thaw(self) -> None:
        """End freeze() and drop()."""

        def act() -> None:
            self.now.holding = dict.fromkeys(OTHER)
            for link in list(self.now.links):
                link.thawed()

        self._do(act)

    def deaf(self) -> None:
        """The connections open now are silent for good, without a reset, as after a forgotten NAT entry."""

        def act() -> None:
            for link in self.now.links:
                link.deaf = True

        self._do(act)

    def delay(self, ms: float, jitter: float = 0.0) -> None:
        """Every chunk comes `ms` +- `jitter` milliseconds later, each way and in order; 0 ends it."""

        def act() -> None:
            self.now.delay_seconds, self.now.jitter_seconds = ms / 1000, jitter / 1000

        self._do(act)

    def rate(self, bytes_per_second: int) -> None:
        """At most so many bytes a second, for each connection and direction; 0 ends it."""

        def act() -> None:
            self.now.bytes_per_second = bytes_per_second

        self._do(act)

    def cutreply(self, n: int, match: bytes) -> Loss:
        """The next `n` commands with `match` in them are done, but nobody hears: the reply is lost, the connection cut.

        A script that Redis did not know has not been done: that answer passes, and does not count.

        Returns:
            What tells how many have been cut so far.
        """
        return self._lose(Loss(n, match))

    def deafreply(self, n: int, match: bytes) -> Loss:
        """The next `n` commands with `match` are done, the answer is lost, and the connection is deaf from then on.

        That is deaf() at the worst moment. An empty answer passes, and does not count.

        Returns:
            What tells how many answers have been lost so far.
        """
        return self._lose(Loss(n, match, silent=True))

    def _lose(self, loss: Loss) -> Loss:
        self._do(lambda: self.now.losses.append(loss))
        return loss

    def clear(self) -> None:
        """Forward everything, accept everyone: the start state."""

        def act() -> None:
            self.now.delay_seconds = self.now.jitter_seconds = 0.0
            self.now.bytes_per_second = 0
            self.now.losses.clear()

        self._do(act)
        self.thaw()
        self.up()

    # -- in the loop ---------------------------------------------------------------------------------

    def _do(self, act: Callable[[], Any]) -> None:
        async def call() -> None:
            found = act()
            if asyncio.iscoroutine(found):
                await found

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(_VERB_SECONDS)

    def _hold(self, how: str, direction: str) -> None:
        def act() -> None:
            for each in OTHER if direction == BOTH else (direction,):
                self.now.holding[each] = how

        self._do(act)

    def _reset_all(self) -> None:
        for link in list(self.now.links):
            link.reset()

    async def _connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        if isinstance(self.to, Path) or (isinstance(self.to, str) and self.to.startswith("/")):
            await self._loop.create_unix_connection(protocol, str(self.to))
        else:
            host, port = self.to.rsplit(":", 1) if isinstance(self.to, str) else self.to
            await self._loop.create_connection(protocol, host, int(port))


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock
