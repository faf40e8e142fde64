"""kombu's Redis transport inside a worker: it waits while Redis takes no writes, and outlives what is no message.

By itself a worker ends, with a message in its hands, when Redis is full or its disk fails (celery: "Unrecoverable
error"), and so it does over a queue entry that kombu did not make. Here a refused command is repeated, with growing
pauses, until Redis takes it; it has done nothing, so that is exact. An entry that cannot be a message is reported
and dropped. Leases are renewed meanwhile: the heartbeat has a thread and a connection of its own.

What kombu notes of a message, when it is taken and when it is acknowledged, is sent at once, and whether Redis has done
it is read a moment later: the message need not wait for that on its way to whoever runs it. Of a message with attempts
nothing is noted until it has been here for a moment; most are acknowledged by then. That costs no safety: kombu, too,
notes what it has already taken, and whatever became of the message of an attempt, the scheduler goes by the claim.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from queue import Empty
from typing import Any, TypeVar

from celery.worker import state
from kombu.asynchronous import get_event_loop

from ..store.connection import FULL, UNREACHABLE, refusal
from ..store.direct import Command, Sent, send

log = logging.getLogger(__name__)
T = TypeVar("T")

TRUSTED_SECONDS = 1.0
"""For so long a Redis that has taken a note is thought to take the next one."""
SETTLED_SECONDS = 0.02
"""A note on which no other has followed by then is settled, and one that was put off is made."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
Drop = Callable[[str, bytes, str], None]
"""Takes (queue, entry, what is wrong with it)."""
_NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_PLAIN = frozenset(("ZADD", "HSET", "ZREM", "HDEL"))
"""What kombu notes of a message that is taken, and of one that is acknowledged."""
_refused = ""


def survive(app: Any, drop: Drop) -> None:
    """Lay the protection around every channel that this process opens to a Redis broker; done again it changes nothing.

    Args:
        app: the Celery app of this worker.
        drop: told of entries that are no messages.
    """
    if app.connection_for_read().transport_cls not in ("redis", "rediss", "redis+socket", "sentinel"):
        return
    from kombu.transport import redis as transport

    channel: Any = transport.Channel  # Sentinel's channel is one too
    if not hasattr(channel, "_celeriac_drop"):
        channel._create_client = _patient_clients(channel._create_client)
        channel.Message = _message_class(channel.Message)
        channel.QoS = _qos_class(channel.QoS)
        channel._brpop_read = _surviving_read(channel._brpop_read)
        channel._receive_one = _surviving_receive(channel._receive_one)
        channel._connparams = _answering_connections(channel._connparams)
    channel._celeriac_drop = staticmethod(drop)


def stopping() -> bool:
    """Whether this worker has been told to stop."""
    return any(it is not None and it is not False for it in (state.should_stop, state.should_terminate))


def patiently(call: Callable[[], T]) -> T:
    """What `call` returns, as soon as Redis takes writes again. A worker that is told to stop waits no more."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            found = call()
        except Exception as trouble:
            if not noted(trouble) or stopping():
                raise
            time.sleep(pause)
            state.maybe_shutdown()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            if pause > FIRST_PAUSE_SECONDS:
                taken()
            return found


def noted(trouble: BaseException) -> str:
    """What keeps Redis from taking writes, said once for as long as it lasts; "" when this error is another."""
    global _refused  # noqa: PLW0603  a fact about the whole process
    why = refusal(trouble)
    if why and not _refused:
        what = "is full (maxmemory)" if why == FULL else "cannot write to its disk"
        log.warning("Redis %s; this worker waits and goes on when writes are taken again: %s", what, trouble)
    _refused = why or _refused
    return why


def taken() -> None:
    """Redis has taken a write."""
    global _refused  # noqa: PLW0603  the same
    if _refused:
        _refused = ""
        log.warning("Redis takes writes again")


def _patient_clients(create: Callable[..., Any]) -> Callable[..., Any]:
    def _create_client(channel: Any, asynchronous: bool = False) -> Any:
        """Kombu makes one for each command, which costs as much as the command; a channel's is as good for the next."""
        kept = None if asynchronous else channel.__dict__.get("_celeriac_client")
        if kept is not None and kept.connection_pool is channel.pool:
            return kept
        client = create(channel, asynchronous)
        if not asynchronous:
            channel._celeriac_client = client
        if not hasattr(client, "_celeriac"):
            client._celeriac = notes = _Notes(client)
            execute, pipeline, parse = client.execute_command, client.pipeline, client.parse_response

            def settled(call: Callable[[], T]) -> T:
                notes.settle()
                return patiently(call)

            client.execute_command = lambda *a, **k: settled(lambda: execute(*a, **k))
            client.pipeline = lambda *a, **k: _patient_pipeline(notes, pipeline(*a, **k))
            client.parse_response = lambda connection, command, **k: _parsed(channel, parse, connection, command, k)
        return client

    return _create_client


class _Notes:
    """What is noted in Redis of messages: while it takes notes, sent and not waited for.

    A note is settled before the next one is sent and before any other command, and at the latest SETTLED_SECONDS later.
    The first one in a while is waited for, as kombu does. One that is put off is made by then, unless it is dropped.

    Args:
        client: over which it is sent.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = threading.RLock()  # threads of a pool acknowledge what they have run
        self._sent: Sent | None = None
        self._again: Callable[[], Any] = list
        self._due_at = 0.0
        """When the loop was last asked to settle, by time.monotonic(); one that ends forgets that."""
        self._put_off: dict[str, Callable[[], Any]] = {}
        self._taken_at = -inf
        """When Redis was last known to have taken one, by time.monotonic()."""

    def put_off(self, tag: str, note: Callable[[], Any]) -> bool:
        """Note later that a message was taken; False where there is no loop that would do it.

        Args:
            note: does it.
        """
        with self._lock:
            if (loop := _loop_here()) is None:
                return False
            self._put_off[tag] = note
            self._settle_soon(loop)
        return True

    def drop(self, tag: str) -> bool:
        """Nothing needs to be noted of a message any more; whether nothing was."""
        with self._lock:
            return self._put_off.pop(tag, None) is not None

    def send(self, commands: Sequence[Command], again: Callable[[], Any]) -> None:
        """A transaction.

        Args:
            again: does the same, and waits for it; called when Redis refused it or did not answer, for doing it twice
                changes nothing.
        """
        with self._lock:
            self.settle()
            try:
                sent = send(self._client, [("MULTI",), *commands, ("EXEC",)])
            except UNREACHABLE:  # redis-py tries again over a new connection, and so it does here
                log.debug("Redis did not answer", exc_info=True)
                again()
                return
            self._sent, self._again = sent, again
            loop = _loop_here()
            if loop is None or time.monotonic() - self._taken_at > TRUSTED_SECONDS:
                self.settle()
            else:
                self._settle_soon(loop)

    def _settle_soon(self, loop: Any) -> None:
        now = time.monotonic()
        if now >= self._due_at:
            self._due_at = now + SETTLED_SECONDS
            loop.call_later(SETTLED_SECONDS, self.settle)

    def settle(self) -> None:
        """What was put off has been sent when this returns, and what was sent last has been done.

        Raises:
            redis.exceptions.RedisError: Redis does not answer, also not when asked again; or this worker is told to
                stop while it refuses.
        """
        with self._lock:
            self._make()
            sent, self._sent = self._sent, None
            if sent is None:
                return
            try:
                sent.answers()
            except Exception as trouble:
                if not (isinstance(trouble, UNREACHABLE) or noted(trouble)):
                    raise
                self._again()
            self._taken_at = time.monotonic()

    def _make(self) -> None:
        """The notes that were put off. Each of them comes back here, and finds none."""
        left, self._put_off = self._put_off, {}
        try:
            while left:
                tag = next(iter(left))
                left[tag]()
                del left[tag]
        finally:
            self._put_off = left | self._put_off


def _loop_here() -> Any:
    """The worker's loop, where this thread runs it; else None."""
    return get_event_loop() if threading.current_thread() is threading.main_thread() else None


def _patient_pipeline(notes: _Notes, pipe: Any) -> Any:
    """A transaction that is refused has done nothing, and its commands are kept for the next try.

    Those that every message costs are not waited for.
    """
    execute = pipe.execute
    notes.settle()

    def again(*args: Any, **kwargs: Any) -> Any:
        commands = list(pipe.command_stack)

        def once() -> Any:
            pipe.command_stack = list(commands)
            return execute(*args, **kwargs)

        if pipe.transaction and not pipe.watching and all(it[0][0] in _PLAIN for it in commands):
            pipe.reset()
            notes.send([it[0] for it in commands], lambda: patiently(once))
            return []
        return patiently(once)

    pipe.execute = again
    return pipe


def _parsed(channel: Any, parse: Callable[..., Any], connection: Any, command: str, options: dict[str, Any]) -> Any:
    """The answer to a blocking pop; none when it was refused, and then kombu asks again."""
    if command != "BRPOP":
        return parse(connection, command, **options)
    try:
        found = parse(connection, command, **options)
    except Exception as trouble:
        if not noted(trouble) or stopping():
            raise
        time.sleep(LONGEST_PAUSE_SECONDS / 2)
        return None
    channel._celeriac_popped = found
    return found


def _qos_class(own: Any) -> Any:
    class QoS(own):
        """What kombu keeps of messages until they are acknowledged."""

        def append(self, message: Any, delivery_tag: str) -> None:
            note, headers = super().append, message.headers
            ours = isinstance(headers, dict) and "celeriac" in headers
            if ours and self._notes().put_off(delivery_tag, lambda: note(message, delivery_tag)):
                super(own, self).append(message, delivery_tag)
            else:
                note(message, delivery_tag)

        def ack(self, delivery_tag: str) -> None:
            if self._notes().drop(delivery_tag):
                super(own, self).ack(delivery_tag)
            else:
                super().ack(delivery_tag)

        def restore_unacked(self, client: Any = None) -> Any:
            self._notes().settle()
            return super().restore_unacked(client)

        def _notes(self) -> _Notes:
            found: _Notes = self.channel._create_client()._celeriac
            return found

    QoS.__name__, QoS.__qualname__ = own.__name__, own.__qualname__
    return QoS


def _message_class(own: Any) -> Any:
    class Message(own):
        """kombu's message; that it could be made at all is noted."""

        def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
            super().__init__(payload, channel=channel, **kwargs)
            info = self.delivery_info
            if not (isinstance(info, dict) and "exchange" in info and "routing_key" in info):
                raise KeyError("properties.delivery_info")
            if not isinstance(self.delivery_tag, str):
                raise TypeError(f"properties.delivery_tag is {self.delivery_tag!r:.100}")
            if channel is not None:
                channel._celeriac_popped = None

    Message.__name__, Message.__qualname__ = own.__name__, own.__qualname__
    return Message


def _surviving_read(read: Callable[..., Any]) -> Callable[..., Any]:
    def _brpop_read(channel: Any, **options: Any) -> Any:
        channel._celeriac_popped = None
        try:
            return read(channel, **options)
        except _NO_MESSAGE as problem:
            popped, channel._celeriac_popped = channel._celeriac_popped, None
            if popped is None:  # it was a message, and what failed came after it
                raise
            queue, entry = popped
            what = f"{type(problem).__name__}: {problem}"
            log.error("An entry of queue %r is no message and is put aside: %s", queue, what)
            channel._celeriac_drop(_text(queue), entry if isinstance(entry, bytes) else str(entry).encode(), what)
            raise Empty from problem

    return _brpop_read


def _surviving_receive(receive: Callable[..., Any]) -> Callable[..., Any]:
    def _receive_one(channel: Any, *args: Any, **kwargs: Any) -> Any:
        """What came for subscribers; nothing when it is a refused ping, for a failing disk refuses these too."""
        try:
            return receive(channel, *args, **kwargs)
        except Exception as trouble:
            if not noted(trouble) or stopping():
                raise
            return None

    return _receive_one


def _answering_connections(parameters: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Connections that know that a server which refuses a ping has answered it."""

    def _connparams(channel: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = parameters(channel, *args, **kwargs)
        own: Any = found["connection_class"]

        class Connection(own):
            def _send_ping(self) -> None:
                try:
                    super()._send_ping()
                except Exception as trouble:
                    if not noted(trouble):
                        raise

        Connection.__name__, Connection.__qualname__ = own.__name__, own.__qualname__
        return found | {"connection_class": Connection}

    return _connparams


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
