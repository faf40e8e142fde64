"""What a node may ask for instead of an executor: a capability or a tool, for which one is found when the node is sent.

Pure. In a document, and wherever an executor's name stands, a capability is written `capability:generate`, a tool
`tool:search@2`, or `tool:search` for its newest version; no executor may have such a name.
"""

from __future__ import annotations

import re

from ..errors import InvalidValue
from ..wire import CAPABILITY, CAPABILITY_NAME, TOOL, read_tool, tool_of
from .limits import At, kind_of, name_of, place

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


class Tool:
    """Stands where an executor could: `g.add(tool("search", "2"), q=...)`.

    Attributes:
        name: as documents write it.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"tool({', '.join(map(repr, filter(None, self.name.removeprefix(TOOL).partition('@')[::2])))})"


def tool(name: str, version: str | None = None) -> Tool:
    """Whatever executor offers this tool in this version when the node is sent.

    Args:
        name: 1 to 100 letters, digits, and the characters _ . -
        version: "2" or "2.1", and exactly that one; None for the newest that is registered then.

    Raises:
        InvalidValue: no such name, or no such version.

    >>> tool("search", "2"), tool("search")
    (tool('search', '2'), tool('search'))
    """
    found = name_of(name, "tool")
    if "@" in found:
        raise InvalidValue("tool", found, "names no tool", 'Write tool("search", "2").')
    if version is None:
        return Tool(executor_of(TOOL + found, "tool"))
    if not isinstance(version, str):
        raise InvalidValue("tool", version, f"is no version but {kind_of(version)}", 'Write it as text: "2" or "2.1".')
    return Tool(executor_of(f"{TOOL}{found}@{version}", "tool"))


def executor_of(value: object, at: At) -> str:
    """The name of an executor, or of a capability or tool as documents write it, checked.

    Raises:
        InvalidValue: neither.
    """
    name = name_of(value, at)
    if name.startswith(CAPABILITY) and not _NAME.fullmatch(name.removeprefix(CAPABILITY)):
        raise InvalidValue(
            place(at), name, "names no capability", "Write 1 to 100 letters, digits, and the characters _ . -"
        )
    if name.startswith(TOOL) and read_tool(tool_of(name)) is None:
        remedy = 'Write "tool:search@2", "tool:search@2.1", or "tool:search" for the newest version.'
        raise InvalidValue(place(at), name, "names no tool", remedy)
    return name
