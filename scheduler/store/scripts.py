"""Lua scripts: one file each in lua/, loaded once, called by the hash of their text.

After a restart or a failover Redis has forgotten them; a call then sends the text again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

Part = str | bytes | int | float


class Script:
    """One script. Call it with a client, the keys it names and its arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files(__package__).joinpath(f"lua/{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Redis, keys: Sequence[str], args: Sequence[Part]) -> Any:
        """Run it: one round trip, two when Redis does not know the text."""
        try:
            return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.execute_command("EVAL", self.text, len(keys), *keys, *args)

    def at_once(self, client: Redis, keys: Sequence[str], args: Sequence[Part]) -> Any:
        """The same past the layers of redis-py that watch and repeat commands: a third of their CPU, for who calls it
        thousands of times a second, one after the other.
        """
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("EVALSHA", self.sha, len(keys), *keys, *args)
            return connection.read_response()
        except NoScriptError:
            pass
        except ResponseError:
            raise
        except BaseException:  # its answer may still come, and would be taken for that of the next
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return self(client, keys, args)

    def many(self, client: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Part]]]) -> list[Any]:
        """Run it once for each (keys, arguments), all in one round trip; in three when Redis does not know the text.

        Raises:
            redis.exceptions.RedisError: the first that a call met; the other calls have been made all the same.
        """
        for _ in range(2):
            with client.pipeline(transaction=False) as pipe:
                for keys, args in calls:
                    pipe.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
                answers = pipe.execute(raise_on_error=False)
            broken = [answer for answer in answers if isinstance(answer, Exception)]
            if not broken:
                return answers
            if not all(isinstance(answer, NoScriptError) for answer in answers):
                raise broken[0]
            client.execute_command("SCRIPT", "LOAD", self.text)
        raise broken[0]


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
