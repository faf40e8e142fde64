"""What one proxied connection does with the bytes that arrive at it, as the conditions of the moment have it.

The mechanics under proxy.py, all in the proxy's event loop. A link has two ends; what one end reads waits in the
queue of its direction until it may go out at the other.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

TO_SERVER: Final = "to_server"
TO_CLIENT: Final = "to_client"
OTHER: Final = {TO_SERVER: TO_CLIENT, TO_CLIENT: TO_SERVER}

_HELD_BYTES = 1 << 20
"""What one direction of a link holds back before it stops reading; then the sender's own buffers fill."""
_LONGEST_MATCH = 64

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""Opens the connection to the server for a protocol."""


@dataclass
class Loss:
    """Replies to be lost: of commands with `match` in them.

    Attributes:
        left: how many commands are still to be met.
        silent: whether the connection is deaf from then on, instead of being reset; then only what holds something
            counts, an empty answer passes.
        cut: how many replies were lost.
    """

    left: int
    match: bytes
    silent: bool = False
    cut: int = 0

    def passes(self, answer: bytes) -> bool:
        """Whether nothing is lost with this answer: the command has not been done, or has found nothing."""
        return answer.startswith(b"-NOSCRIPT") or (self.silent and answer.startswith((b"*-1", b"$-1", b"_")))


@dataclass
class Conditions:
    """How the network is now; all links read it, the proxy's verbs write it."""

    loop: asyncio.AbstractEventLoop
    random: random.Random
    holding: dict[str, str | None] = field(default_factory=lambda: {TO_SERVER: None, TO_CLIENT: None})
    """Direction -> None, "freeze" or "drop"."""
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    bytes_per_second: int = 0
    losses: list[Loss] = field(default_factory=list)
    links: set[Link] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    """accepted, unreachable, resets, replies_cut, bytes_dropped, and bytes by direction."""

    def loss(self, data: bytes) -> Loss | None:
        """Takes one off the first loss that these bytes match."""
        for loss in self.losses:
            if loss.left and loss.match in data:
                loss.left -= 1
                return loss
        return None


class Link:
    """One connection of a client and its other half to the server."""

    def __init__(self, now: Conditions, client: asyncio.Transport) -> None:
        self.now = now
        self.ends: dict[str, asyncio.Transport | None] = {TO_CLIENT: client, TO_SERVER: None}
        self.queues = {direction: Queue(self, direction) for direction in (TO_SERVER, TO_CLIENT)}
        self.lost = self.deaf = self.gone = False
        self.loss: Loss | None = None
        self.tail = b""
        now.links.add(self)
        now.counts["accepted"] += 1

    def arrived(self, direction: str, data: bytes) -> None:
        """Bytes that go in this direction, as far as they get."""
        now = self.now
        if self.gone:
            return
        if self.deaf or now.holding[direction] == "drop":
            self.lost = True
            now.counts["bytes_dropped"] += len(data)
            return
        loss = self._lost_with(direction, data) if now.losses else None
        if loss is not None:
            loss.cut += 1
            now.counts["replies_cut"] += 1
            if loss.silent:
                self.deaf = True
            else:
                self.reset()
            return
        now.counts[direction] += len(data)
        self.queues[direction].put(data)

    def _lost_with(self, direction: str, data: bytes) -> Loss | None:
        """The loss that these bytes are for, when they answer a command whose answer is to be lost."""
        if direction == TO_SERVER and self.loss is None:
            self.loss = self.now.loss(self.tail + data)
            self.tail = b"" if self.loss else data[-_LONGEST_MATCH:]
        elif direction == TO_CLIENT and self.loss is not None:
            if not self.loss.passes(data):
                return self.loss
            self.loss.left += 1
            self.loss = None
        return None

    def ended(self, direction: str) -> None:
        """The end that sends in this direction has closed: so does the other, unless it cannot know."""
        if not self.gone and not self.deaf:
            self.queues[direction].put(b"")

    def thawed(self) -> None:
        """Nothing is held any more: what has lost bytes cannot go on, what waits goes out."""
        if self.lost and not self.deaf:
            self.reset()
        for queue in self.queues.values():
            queue.run()

    def reset(self) -> None:
        """Close both ends so that each sees an error and not an end."""
        self.now.counts["resets"] += 1
        for transport in self.ends.values():
            sock = None if transport is None else transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0 and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close(abort=True)

    def close(self, *, abort: bool = False) -> None:
        """Both ends; what has been handed to the system still goes out, unless `abort`."""
        self.gone = True
        self.now.links.discard(self)
        for transport in self.ends.values():
            if transport is not None:
                transport.abort() if abort else transport.close()


class Queue:
    """What waits to go out in one direction; an empty chunk is the end."""

    def __init__(self, link: Link, direction: str) -> None:
        self.link, self.direction = link, direction
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.free_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.slow_reader = False

    def put(self, data: bytes) -> None:
        """Take a chunk, and decide when it may go."""
        now, at = self.link.now, 0.0
        if now.delay_seconds or now.bytes_per_second:
            late = now.delay_seconds + now.random.uniform(-1, 1) * now.jitter_seconds
            at = max(now.loop.time() + late, self.free_at)
            if now.bytes_per_second:
                at += len(data) / now.bytes_per_second
            self.free_at = at
        self.chunks.append((at, data))
        self.size += len(data)
        self.run()

    def run(self) -> None:
        """Send what is due; come back for the rest."""
        link, now = self.link, self.link.now
        transport = link.ends[self.direction]
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        while self.chunks and transport is not None and not (link.gone or link.deaf or now.holding[self.direction]):
            at, data = self.chunks[0]
            if at > now.loop.time():
                self.timer = now.loop.call_at(at, self.run)
                break
            self.chunks.popleft()
            self.size -= len(data)
            if not data:
                link.close()
                return
            transport.write(data)
        self.pace()

    def pace(self) -> None:
        """Read from the sender only while there is room."""
        sender = self.link.ends[OTHER[self.direction]]
        if sender is None or sender.is_closing():
            return
        if self.size > _HELD_BYTES or self.slow_reader:
            sender.pause_reading()
        else:
            sender.resume_reading()


class _End(asyncio.Protocol):
    """One end of a link: what it reads goes in `sends`, what is written to it comes from the other direction."""

    sends: str
    link: Link

    def data_received(self, data: bytes) -> None:
        self.link.arrived(self.sends, data)

    def connection_lost(self, _: Exception | None) -> None:
        self.link.ended(self.sends)

    def pause_writing(self) -> None:
        self._slow(True)

    def resume_writing(self) -> None:
        self._slow(False)

    def _slow(self, slow: bool) -> None:
        queue = self.link.queues[OTHER[self.sends]]
        queue.slow_reader = slow
        queue.pace()


class ClientEnd(_End):
    """The end that a client has connected to; it makes the link and asks for the other end."""

    sends = TO_SERVER

    def __init__(self, now: Conditions, connect: Connect) -> None:
        self.now, self.connect = now, connect

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link = Link(self.now, cast(asyncio.Transport, transport))
        self.connecting = self.now.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self.connect(lambda: _ServerEnd(self.link))
        except OSError:
            self.now.counts["unreachable"] += 1
            self.link.reset()


class _ServerEnd(_End):
    """The end towards the server."""

    sends = TO_CLIENT

    def __init__(self, link: Link) -> None:
        self.link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link.ends[TO_SERVER] = cast(asyncio.Transport, transport)
        if self.link.gone:
            self.link.close(abort=True)
        else:
            self.link.queues[TO_SERVER].run()
