"""Secrets in inputs: a name that the worker exchanges for the value, right before the task runs.

Pure. What is stored, hashed, sent and shown is the name alone: `{"$secret": "smtp-password"}` in a document. Where the
values are is the worker's affair (scheduler/worker/secrets.py).
"""

from __future__ import annotations

import re

from ..errors import InvalidValue
from .limits import kind_of

NAME_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}$"
"""As regular expressions of JSON Schema have it too: no name leads out of a directory of secrets."""
_NAME = re.compile(NAME_PATTERN[:-1] + r"\Z")


class Secret:
    """Stands for a text that only workers know. Give it to a node as an input, or as part of one.

        g.add("mail.send", to="ops@example.org", password=Secret("smtp-password"))

    Attributes:
        name: 1 to 128 letters, digits, dots, dashes and underscores.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = secret_name(name, "Secret(name)")

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Secret, self.name))


class SecretText(str):
    """Stands in checks for a text that is not known."""

    __slots__ = ()


def secret_name(value: object, at: str) -> str:
    """A secret's name, checked.

    Raises:
        InvalidValue: it is none.
    """
    if not isinstance(value, str):
        raise InvalidValue(at, value, f"is not text but {kind_of(value)}", 'Write {"$secret": "name"}.')
    if not _NAME.match(value):
        raise InvalidValue(
            at, value, "is no name of a secret", "Use 1 to 128 letters, digits, dots, dashes and underscores."
        )
    return str.__str__(value)
