"""Tells Flower what was sent: Celery's own task-sent events, so that waiting attempts show with their queue.

Only while somebody listens, in one message a batch; losing one costs a line on a page and nothing else.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Celery

from .transport import Outgoing, Transport

log = logging.getLogger("celeriac.scheduler")

LOOK_SECONDS = 5.0
"""How often to ask the broker whether anybody listens to events."""


class Announcer:
    """Publishes task-sent events.

    Args:
        app: of the scheduler.
        transport: knows whether anybody listens.
    """

    def __init__(self, app: Celery, transport: Transport) -> None:
        self._app = app
        self._transport = transport
        self._look_at = 0.0
        self._watched = False
        self._connection: Any = None
        self._events: Any = None

    def tell(self, sent: Outgoing) -> None:
        """These attempts have just been sent. Never raises."""
        try:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_SECONDS
                self._watched = self._transport.watched()
            if self._watched:
                self._publish(sent)
        except Exception as broken:  # noqa: BLE001  events are for the eye; nothing may depend on them
            log.debug("task-sent events were not published: %r", broken)
            self.close()

    def _publish(self, sent: Outgoing) -> None:
        if self._events is None:
            self._connection = self._app.connection_for_write()
            self._events = self._app.events.Dispatcher(
                self._connection, hostname="celeriac", buffer_group=frozenset({"task"}), buffer_limit=len(sent) + 10_000
            )
        for template, letter in sent:
            readable, searchable, _, _ = template.parts(letter)
            self._events.send(
                "task-sent",
                uuid=letter.id,
                root_id=letter.run,
                parent_id=letter.run,
                name=template.executor,
                args=readable,
                kwargs=searchable,
                retries=0,
                eta=None,
                expires=None,
                queue=template.queue,
                exchange="",
                routing_key=template.queue,
            )
        self._events.flush()

    def close(self) -> None:
        """Close the connection; the next batch opens another."""
        connection, self._connection, self._events = self._connection, None, None
        if connection is not None:
            connection.release()
