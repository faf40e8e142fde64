"""A connection kept in hand never gives one question's answer to another."""

from __future__ import annotations

import threading
from typing import Any

import hiredis
import pytest

from scheduler.worker.direct import Direct


class Connection:
    """Echoes commands; raises what it is told to, before or after the answer was read."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.trouble: BaseException | None = None
        self.closed = 0

    def send_packed_command(self, command: list[bytes]) -> None:
        self.asked.append(b"".join(command))

    def read_response(self) -> Any:
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        return self.asked.pop(0)

    def disconnect(self) -> None:
        self.closed += 1
        self.asked.clear()


class Client:
    """A client with a pool that remembers what it gave out."""

    def __init__(self, *, old: bool = False) -> None:
        self.connection_pool = self
        self.given: list[Connection] = []
        self.returned: list[Connection] = []
        self.old = old

    def get_connection(self, *command: str) -> Connection:
        if self.old and not command:
            raise TypeError("missing 1 required positional argument: 'command_name'")
        self.given.append(Connection())
        return self.given[-1]

    def release(self, connection: Connection) -> None:
        self.returned.append(connection)

    def get(self, key: str) -> str:
        return f"value of {key}"


def packed(*args: Any) -> bytes:
    """A command as it travels."""
    return bytes(hiredis.pack_command(args))


@pytest.mark.parametrize("old", [False, True])
def test_a_thread_keeps_its_connection(old: bool) -> None:
    """One for all its commands, none shared with another thread; what is no command is the client's own."""
    client = Client(old=old)
    direct = Direct(client)
    assert [direct.execute_command("A", 1), direct.execute_command("B")] == [packed("A", 1), packed("B")]
    other = threading.Thread(target=direct.execute_command, args=("C",))
    other.start()
    other.join()
    assert len(client.given) == 2
    assert direct.get("k") == "value of k"


@pytest.mark.parametrize("trouble", [ConnectionError("gone"), KeyboardInterrupt(), SystemExit(), ValueError("limit")])
def test_whatever_goes_wrong_closes_the_connection(trouble: BaseException) -> None:
    """A question whose answer was not read must not leave that answer for the next; the pool gives another one then."""
    client = Client()
    direct = Direct(client)
    direct.execute_command("A")
    client.given[0].trouble = trouble
    with pytest.raises(type(trouble)):
        direct.execute_command("B")
    assert client.given[0].closed == 1
    assert client.returned == client.given[:1]
    assert direct.execute_command("C") == packed("C")
