"""Tasks that are given secrets and handle them badly: they fail with them in the text, in every way there is."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import Celery

from scheduler.worker import executor, install

app = Celery("vault", broker=os.environ["CELERIAC_BROKER_URL"])
install(app, secrets={"vault.key": os.environ["VAULT_WORD"]}.get)
log = logging.getLogger("vault")


class Refused(Exception):
    """Keeps what it was given."""

    def __init__(self, token: str) -> None:
        super().__init__(f"refused: {token}")
        self.token = token


@app.task(name="vault.measure")
def measure(token: str, other: Any = None) -> int:
    """Use a secret as it should be."""
    log.warning("careless: %s", token)
    print(f"more careless: {token}")  # noqa: T201  what careless people do
    return len(token)


@app.task(name="vault.fail")
def fail(how: str, auth: dict[str, Any]) -> None:
    """Fail with the secret in the error."""
    token = auth["token"][0]
    if how == "cause":
        try:
            raise KeyError(token)
        except KeyError as cause:
            raise ValueError(f"no such thing as {token!r}") from cause
    if how == "url":
        raise ConnectionError(f"cannot reach postgres://app:{os.environ['VAULT_WORD']}@db/x")
    if how == "decode":
        raise UnicodeDecodeError("utf-8", token.encode(), 0, 1, token)
    raise Refused(token)


@app.task(name="vault.again", bind=True, max_retries=5)
def again(self: Any, token: str) -> None:
    """Ask for another try, with the secret in the reason."""
    raise self.retry(exc=Refused(token), countdown=0)


@executor(name="vault.checked", app=app)
def checked(token: str) -> int:
    """An executor with a contract."""
    return len(token)
