"""The way through the store from each step of a chain to the next.

What Attempts.send_proceed does for any steps is done here for one at a time: keys, script and connection are looked up
once for a bundle, for its chains pass here at every step.
"""

from __future__ import annotations

import select
import time
from typing import Any

import hiredis
from redis.exceptions import ResponseError

from .attempts import Attempts, Claim, Onward, claim_of
from .direct import Line
from .scripts import PROCEED

LOOK_SECONDS = 50e-6
"""So long an answer is looked for before its process goes to sleep. Where Redis runs on another core, to be woken takes
half as long as that, and a step up to a quarter more time for it.
"""
FEWEST_ASLEEP, MOST_ASLEEP = 8, 64
"""Answers that are waited for asleep after one that was looked for in vain: twice as many each time. Redis is far away,
or waits for this very core.
"""


class Passage:
    """For one thread, and to be closed.

    Args:
        attempts: the store.
        worker: who asks; the name under which it renews.
    """

    __slots__ = ("_asleep", "_attempts", "_commands", "_in_vain", "_is_awaited", "_line", "_worker")

    def __init__(self, attempts: Attempts, worker: str) -> None:
        self._attempts = attempts
        self._worker = worker
        self._commands: dict[int, tuple[str | int, ...]] = {}
        """By shard, up to where they differ from one step to the next."""
        self._line: Line | None = None
        self._is_awaited = False
        """An answer may be on its way."""
        self._asleep = 0
        """Answers that are not looked for."""
        self._in_vain = FEWEST_ASLEEP
        """So many, the next time that one was looked for in vain."""

    def send(self, onward: Onward) -> None:
        """Report an attempt that has ended well, and claim the next step of its chain, without waiting for the answer.

        Raises:
            WireError, redis.exceptions.RedisError: as Attempts.proceed.
        """
        shard = onward.shard()
        command = self._commands.get(shard)
        if command is None:
            keys = self._attempts.keys.shard(shard)
            command = ("EVALSHA", PROCEED.sha, 3, keys.attempts, keys.leases, keys.inbox, self._worker)
            self._commands[shard] = command
        if self._is_awaited:
            self._drop()
        line = self._line = self._line or Line(self._attempts.client.connection_pool)
        self._is_awaited = True
        try:
            packed = hiredis.pack_command((*command, *onward.arguments()))  # type: ignore[arg-type]  # the stub, see direct
            line.connection.send_packed_command([packed])
        except BaseException:
            self._drop()
            raise

    def answer(self) -> Claim:
        """What became of it. To be called once.

        Raises:
            redis.exceptions.RedisError: no answer, or an error, as where Redis does not know the script.
        """
        line: Any = self._line
        try:
            self._look(line.connection._sock)
            answer = line.connection.read_response()
        except ResponseError:
            self._is_awaited = False
            raise
        except BaseException:
            self._drop()
            raise
        self._is_awaited = False
        return claim_of(*answer)

    def _look(self, sock: Any) -> None:
        """Look for an answer for a moment, if that has been of use."""
        if self._asleep:
            self._asleep -= 1
            return
        look = select.poll()
        look.register(sock, select.POLLIN)
        if look.poll(0):
            return
        until = time.monotonic() + LOOK_SECONDS
        while not look.poll(0):
            if time.monotonic() >= until:
                self._asleep, self._in_vain = self._in_vain, min(2 * self._in_vain, MOST_ASLEEP)
                return
        self._in_vain = FEWEST_ASLEEP

    def close(self) -> None:
        """Nothing more is sent."""
        if self._is_awaited:
            self._drop()
        line, self._line = self._line, None
        if line is not None:
            line.keep()

    def _drop(self) -> None:
        line, self._line = self._line, None
        self._is_awaited = False
        if line is not None:
            line.drop()
