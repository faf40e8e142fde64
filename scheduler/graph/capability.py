"""What a node may ask for instead of an executor: a capability, which is bound to an executor when the node is sent.

Pure. In a document, and wherever an executor's name stands, a capability is written `capability:generate`; no executor
may have such a name.
"""

from __future__ import annotations

import re

from ..errors import InvalidValue
from ..wire import CAPABILITY, CAPABILITY_NAME
from .limits import At, name_of, place

_NAME = re.compile(CAPABILITY_NAME)


class Capability:
    """Stands where an executor could: `g.add(capability("generate"), prompt=...)`.

    Attributes:
        name: as documents write it.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"capability({self.name.removeprefix(CAPABILITY)!r})"


def capability(name: str) -> Capability:
    """Whatever executor is bound to this capability when the node is sent.

    Args:
        name: 1 to 100 letters, digits, and the characters _ . -

    Raises:
        InvalidValue: no such name.

    >>> capability("generate")
    capability('generate')
    """
    return Capability(executor_of(CAPABILITY + name_of(name, "capability"), "capability"))


def executor_of(value: object, at: At) -> str:
    """The name of an executor, or of a capability as documents write it, checked.

    Raises:
        InvalidValue: neither.
    """
    name = name_of(value, at)
    if name.startswith(CAPABILITY) and not _NAME.fullmatch(name.removeprefix(CAPABILITY)):
        raise InvalidValue(
            place(at), name, "names no capability", "Write 1 to 100 letters, digits, and the characters _ . -"
        )
    return name
