"""Commands to Redis past the layers of redis-py that time, watch and repeat them: a third of their CPU.

For what is called at every turn of a scheduler and for every attempt of a worker. Its connections, its parser and its
errors are redis-py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
from redis import Redis
from redis.exceptions import ResponseError

Part = str | bytes | int | float
Command = tuple[Part, ...]


def exchange(client: Redis, commands: Sequence[Command], *, raising: bool = True) -> list[Any]:
    """Send commands and read their answers: one round trip, on a connection of the client's pool.

    Answers are as Redis gives them: bytes, numbers and lists; a hash is a flat list of fields and values.

    Args:
        raising: an error that Redis answers is raised, once all answers are read; else it stands among them.

    Raises:
        redis.exceptions.RedisError: no answer, and nothing is known of what was done; or, `raising`, the first error.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    answers: list[Any] = []
    broken: ResponseError | None = None
    try:
        packed = [hiredis.pack_command(it) for it in commands]  # type: ignore[arg-type]  # the stub means any length
        connection.send_packed_command([b"".join(packed)])
        for _ in commands:
            try:
                answers.append(connection.read_response())
            except ResponseError as error:
                broken = broken or error
                answers.append(error)
    except BaseException:  # an answer may still come, and would be taken for that of the next command
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
    if broken is not None and raising:
        raise broken
    return answers


def hashes(client: Any, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
    """What these keys hold, one HGETALL each, in one round trip; {} for one that is not there.

    Args:
        client: of Redis, or one that has an archived run in memory.
    """
    if not isinstance(client, Redis):
        return [client.hgetall(key) for key in keys]
    answers = exchange(client, [("HGETALL", key) for key in keys]) if keys else []
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in answers]
