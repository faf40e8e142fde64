"""Tells Flower what was sent: Celery's own task-sent events, so that waiting attempts show with their queue.

Only while somebody listens, one message a batch; losing one costs a line on a page and nothing else.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from .publisher import Letter, Template
from .transport import Outgoing, Transport

log = logging.getLogger("celeriac.scheduler")

LOOK_SECONDS = 5.0
"""How often to try whether somebody listens by now."""


class Announcer:
    """Publishes task-sent events, as long as the transport finds listeners."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._look_at = 0.0
        self._heard = False

    def tell(self, sent: Outgoing) -> None:
        """These attempts have just been sent. Never raises."""
        now = time.monotonic()
        if not self._heard and now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            self._heard = self._transport.announce([_sent(*it) for it in sent])
        except Exception as broken:  # noqa: BLE001  events are for the eye; nothing may depend on them
            self._heard = False
            log.debug("task-sent events were not published: %r", broken)


def _sent(template: Template, letter: Letter) -> dict[str, Any]:
    """One event, with the fields that Celery's own producer gives it."""
    readable, searchable, _, _ = template.parts(letter)
    return {
        "type": "task-sent",
        "uuid": letter.id,
        "root_id": letter.run,
        "parent_id": letter.run,
        "name": template.executor,
        "args": readable,
        "kwargs": searchable,
        "retries": 0,
        "eta": None,
        "expires": None,
        "queue": template.queue,
        "exchange": "",
        "routing_key": template.queue,
    }
