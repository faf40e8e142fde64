"""Lua scripts: one file each in lua/, loaded once, called by the hash of their text.

After a restart or a failover Redis has forgotten them; a call then sends the text again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from .direct import Command, Part, Sent, exchange, send


class Script:
    """One script. Call it with a client, the keys it names and its arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files(__package__).joinpath(f"lua/{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Redis, keys: Sequence[str], args: Sequence[Part]) -> Any:
        """Run it: one round trip, two when Redis does not know the text."""
        told = (len(keys), *keys, *args)
        [answer] = exchange(client, [("EVALSHA", self.sha, *told)], raising=False)
        if isinstance(answer, NoScriptError):
            [answer] = exchange(client, [("EVAL", self.text, *told)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send(self, client: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Part]]]) -> Sent:
        """Run it once for each (keys, arguments), and do not wait for answers, which are errors when Redis does not
        know the text.
        """
        return send(client, self._commands(calls))

    def many(self, client: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Part]]]) -> list[Any]:
        """Run it once for each (keys, arguments), all in one round trip; in three when Redis does not know the text.

        Raises:
            redis.exceptions.RedisError: the first that a call met; the other calls have been made all the same.
        """
        for _ in range(2):
            answers = exchange(client, self._commands(calls), raising=False)
            broken = [answer for answer in answers if isinstance(answer, Exception)]
            if not broken:
                return answers
            if not all(isinstance(answer, NoScriptError) for answer in answers):
                raise broken[0]
            client.execute_command("SCRIPT", "LOAD", self.text)
        raise broken[0]

    def _commands(self, calls: Sequence[tuple[Sequence[str], Sequence[Part]]]) -> list[Command]:
        return [("EVALSHA", self.sha, len(keys), *keys, *args) for keys, args in calls]


BEAT = Script("beat")
CLAIM = Script("claim")
PROCEED = Script("proceed")
RENEW = Script("renew")
STAGE = Script("stage")
SUBMIT = Script("submit")
COMMIT = Script("commit")
DUE = Script("due")
TAKE = Script("take")
KEEP = Script("keep")
RELEASE = Script("release")
FENCE = Script("fence")
RAISE = Script("raise")
REWIND = Script("rewind")
TELL = Script("tell")
FORGET = Script("forget")
SWEEP = Script("sweep")
TIDY = Script("tidy")
REDRIVE = Script("redrive")
