"""A connection kept in hand, for the two commands that every attempt costs.

redis-py takes a connection out of its pool for each command, looks whether it is alive, and puts it back; that costs
about as much as the command. Here each thread keeps one. Whatever goes wrong closes it, so no answer is ever
taken for another's; the caller asks again over a new one.
"""

from __future__ import annotations

import threading
from typing import Any

import hiredis


class Direct:
    """Looks like a redis-py client; `execute_command` is short, everything else is the client's own.

    Args:
        client: a client of this process. Threads may share this object; processes may not.

    Attributes:
        client: that one, for threads too short-lived to keep a connection.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._mine = threading.local()

    def execute_command(self, *args: Any) -> Any:
        """One command, whose name is one word, and one answer as Redis gave it.

        Raises:
            redis.exceptions.RedisError: as the client would, but a connection that died unnoticed is not replaced
                before the command; ask again.
        """
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._taken()
        try:
            connection.send_packed_command([hiredis.pack_command(args)])
            return connection.read_response()
        except BaseException:  # a time limit may strike between question and answer
            self._mine.connection = None  # the pool knows where the next one leads: after a failover not to the same
            connection.disconnect()
            self.client.connection_pool.release(connection)
            raise

    def _taken(self) -> Any:
        pool = self.client.connection_pool
        try:
            return pool.get_connection()
        except TypeError:  # redis-py before 5.3 wants to know for which command
            return pool.get_connection("EVALSHA")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)
