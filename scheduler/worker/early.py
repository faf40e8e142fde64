"""The claim of a lone attempt, asked for as its message reaches whoever runs it.

Celery's tracer takes about as long to make a task ready as Redis to answer. So the question is sent before, and the
answer read where the attempt would begin (claim.py). The claim itself is what it would have been: whoever asks runs the
attempt at once, or is refused. Where anything goes wrong it is asked again there, with the same token.
"""

from __future__ import annotations

import logging
import secrets
from contextvars import ContextVar
from typing import Any, NamedTuple

from celery.exceptions import SoftTimeLimitExceeded

from ..store.attempts import Asked, Claim
from .context import is_attempt
from .installation import Installation, claimant

log = logging.getLogger(__name__)


class _Worker(NamedTuple):
    """The worker of this process and of its pool's."""

    installation: Installation
    hostname: str


class _Waiting:
    """A claim that was asked for, until somebody wants to know the answer."""

    __slots__ = ("asked", "id", "token")

    def __init__(self, id_: str, token: str, asked: Asked) -> None:
        self.id = id_
        self.token = token
        self.asked: Asked | None = asked

    def answer(self) -> Claim | None:
        """None when there was none, or somebody has had it."""
        asked, self.asked = self.asked, None
        if asked is None:
            return None
        try:
            return asked.answers()[0]
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # whatever it was, the same question once more will meet it
            log.debug("the claim of attempt %s was not answered", self.id, exc_info=True)
            return None


_worker: _Worker | None = None
_waiting: ContextVar[_Waiting | None] = ContextVar("celeriac_waiting", default=None)


def serves(installation: Installation, hostname: str) -> None:
    """What this process and those of its pool run is this worker's."""
    global _worker  # noqa: PLW0603  a fact about the whole process, which those of the pool inherit
    _worker = _Worker(installation, hostname)


def asking(target: Any, args: Any) -> tuple[Any, Any]:
    """What a pool is to call instead of one of Celery's tracers with these arguments: a name, an id, and more."""
    ours = _worker is not None and args is not None and len(args) > 1 and is_attempt(args[1])
    return (ask_and_run, (target, *args)) if ours else (target, args)


def ask_and_run(trace: Any, name: str, id_: str, *rest: Any) -> Any:
    """Celery's tracer, with the claim of its attempt on its way."""
    if _worker is None:
        return trace(name, id_, *rest)
    token = secrets.token_hex(8)
    try:
        asked = _worker.installation.attempts().send_claim(id_, claimant(_worker.hostname), token)
    except Exception:  # it will be asked for patiently
        log.debug("attempt %s could not be claimed yet", id_, exc_info=True)
        return trace(name, id_, *rest)
    waiting = _Waiting(id_, token, asked)
    before = _waiting.set(waiting)
    try:
        return trace(name, id_, *rest)
    finally:
        _waiting.reset(before)
        waiting.answer()


def answered(id_: str) -> tuple[str, Claim | None]:
    """The token with which an attempt is claimed, and the answer if it has been asked for and given already."""
    waiting = _waiting.get()
    if waiting is None or waiting.id != id_:
        return secrets.token_hex(8), None
    return waiting.token, waiting.answer()
