"""Dead letters back to where they came from: a record into its inbox, a message onto its queue, a node's run retried.

A letter goes only after what it held has been put back, so a crash between the two puts it back twice and never not at
all: records, messages and retries that come twice change nothing.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from kombu.messaging import Producer

from ..core.states import ENDED_RUNS
from ..errors import NotRedriven, WireError
from ..settings import Settings
from ..store.dead import DeadLetter, DeadLetters
from ..wire import DeadMessage, RunId, is_run_id
from .publisher import scheduler_app

_BAD = ("failed", "upstream_failed", "cancelled")


class Redrive:
    """Puts letters back, for as long as one command takes.

    Args:
        letters: the store's.
        settings: name the broker; needed for messages alone.
    """

    def __init__(self, letters: DeadLetters, settings: Settings) -> None:
        self.letters = letters
        self.settings = settings
        self._producer: Any = None
        self._retried: set[str] = set()

    def __call__(self, letter: DeadLetter) -> str:
        """Puts one letter back; returns where to, in words.

        Raises:
            NotRedriven: it cannot be; it stays.
        """
        if letter.kind == "record":
            where = self._record(letter)
        elif letter.kind == "message":
            where = self._message(letter)
        elif letter.kind == "node":
            where = self._node(letter)
        else:
            raise NotRedriven(letter.id, f"its kind {letter.kind!r} is not known to this version")
        return where

    def close(self) -> None:
        """Let go of the broker."""
        if self._producer is not None:
            self._producer.connection.release()

    def _record(self, letter: DeadLetter) -> str:
        if letter.cut:
            raise NotRedriven(letter.id, f"only a part of its {letter.size:,} bytes was kept")
        self.letters.back_into_inbox(letter)
        return f"inbox of shard {letter.shard}"

    def _message(self, letter: DeadLetter) -> str:
        try:
            message = DeadMessage.from_json(dict(letter.parts).get(b"message", b""))
            body = base64.b64decode(message.body, validate=True)
        except (WireError, binascii.Error):
            raise NotRedriven(letter.id, "the worker's record of it cannot be read") from None
        if message.form != "kombu":
            raise NotRedriven(letter.id, "it is an entry of a Redis list that no broker client made, not a message")
        if message.cut or letter.cut:
            raise NotRedriven(letter.id, f"only a part of its {message.size:,} bytes was kept")
        if not message.queue:
            raise NotRedriven(letter.id, "its queue is not known")
        if self._producer is None:
            connection = scheduler_app(self.settings).connection_for_write()
            connection.ensure_connection(max_retries=2, timeout=10)
            self._producer = Producer(connection)
        self._producer.publish(
            body,
            exchange="",
            routing_key=message.queue,
            content_type=message.content_type or "application/data",
            content_encoding=message.content_encoding or "binary",
            headers=message.headers,
            delivery_mode=2,
            **message.properties,
        )
        self.letters.take(letter)
        return f"queue {message.queue}"

    def _node(self, letter: DeadLetter) -> str:
        run = str(letter.facts.get("run", ""))
        if not is_run_id(run):
            raise NotRedriven(letter.id, "it names no run")
        if run not in self._retried:
            runs = self.letters.runs
            [summary] = runs.summaries([run])
            if summary is None:
                raise NotRedriven(letter.id, f"run {run} is not here any more; submit its graph again")
            if summary.state not in ENDED_RUNS:
                raise NotRedriven(letter.id, f"run {run} is {summary.state} and can be retried once it has ended")
            if not any(summary.progress.get(state) for state in _BAD):
                raise NotRedriven(letter.id, f"nothing in run {run} failed; drop the letter")
            runs.retry(RunId(run), f"dead letter {letter.id} redriven")
            self._retried.add(run)
        self.letters.take(letter)
        return f"run {run}, retried from what failed"
