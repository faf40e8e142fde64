"""YAML text of graphs: what is read is YAML 1.2's core schema, so every JSON document is read as what it is.

Built on PyYAML's event stream alone. Its constructors are not used: no tag can make an object, `yes` and `on` are
text, 010 is ten, 2026-11-20 is text. Keys must be text and stand once in a mapping; aliases may repeat values, but
what they repeat is counted, because ten lines of aliases of aliases could unfold to a billion values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from ..errors import UnreadableDocument, escaped, shown
from .document import text_of

MAX_REPEATED = 1_000_000
"""Values that all aliases of a document may repeat together."""
MAX_LEVELS = 200
"""More than limits.MAX_DEPTH and what a document has around it; the reader's own protection."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAG = "tag:yaml.org,2002:"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Missing:
    """No key yet, or no value; None would be one."""


_MISSING = _Missing()


class _Level:
    """A list or mapping that is being read."""

    __slots__ = ("anchor", "count", "event", "items", "key")

    def __init__(self, items: Any, anchor: str | None, event: Any) -> None:
        self.items = items
        self.anchor = anchor
        self.event = event
        self.key: Any = _MISSING
        self.count = 1


class _Reader:
    """Builds one value from events, without recursion."""

    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.open: set[str] = set()
        self.repeated = 0
        self.result: Any = _MISSING
        self.documents = 0

    def read(self, events: Iterator[Any]) -> Any:
        """The one document of the stream."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise _problem("it holds more than one document", event, "Keep one document a file.")
            elif isinstance(event, yaml.ScalarEvent):
                value = _scalar(event)
                self._keep(event.anchor, value, 1)
                self._add(value, 1, event)
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                self._open(event)
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                self._close()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
        return None if self.result is _MISSING else self.result

    def _open(self, event: Any) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            raise _problem(f"the tag {shown(event.tag)} makes no JSON value", event, "Remove the tag.")
        if len(self.levels) >= MAX_LEVELS:
            raise _problem("it is nested too deeply", event, "Flatten it.")
        if self.levels and self.levels[-1].key is _MISSING and isinstance(self.levels[-1].items, dict):
            raise _problem("a key is a list or a mapping", event, "Keys are text.")
        if event.anchor is not None:
            self.open.add(event.anchor)
        self.levels.append(_Level({} if mapping else [], event.anchor, event))

    def _close(self) -> None:
        level = self.levels.pop()
        if level.anchor is not None:
            self.open.discard(level.anchor)
        self._keep(level.anchor, level.items, level.count)
        self._add(level.items, level.count, level.event)

    def _alias(self, event: Any) -> None:
        if event.anchor in self.open:
            raise _problem(f"the alias {shown(event.anchor)} stands inside of what it names", event, "Write it out.")
        if event.anchor not in self.anchors:
            raise _problem(f"the alias {shown(event.anchor)} has no anchor before it", event, "Add the anchor.")
        value, count = self.anchors[event.anchor]
        self.repeated += count
        if self.repeated > MAX_REPEATED:
            raise _problem(f"aliases repeat more than {MAX_REPEATED:,} values", event, "Write less by aliases.")
        self._add(value, count, event)

    def _keep(self, anchor: str | None, value: Any, count: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, count)

    def _add(self, value: Any, count: int, event: Any) -> None:
        if not self.levels:
            self.result = value
            return
        level = self.levels[-1]
        level.count += count
        if isinstance(level.items, list):
            level.items.append(value)
        elif level.key is _MISSING:
            if not isinstance(value, str):
                raise _problem(f"the key {shown(value)} is not text", event, "Put it in quotes.")
            if value in level.items:
                raise _problem(f"a mapping has the key {shown(value)} twice", event, "Keep one of the two.")
            level.key = value
        else:
            level.items[level.key] = value
            level.key = _MISSING


def _scalar(event: Any) -> Any:
    text: str = event.value
    tag = event.tag
    plain = event.implicit[0] and tag is None
    if not plain and tag in (None, "!", _TAG + "str"):
        return text
    if plain or (tag or "").removeprefix(_TAG) in ("null", "bool", "int", "float"):
        value = _resolved(text, event)
        if plain:
            return value
        wanted = {"null": type(None), "bool": bool, "int": int, "float": float}[tag.removeprefix(_TAG)]
        if type(value) is wanted:
            return value
        if wanted is float and type(value) is int:
            return float(value)
    raise _problem(f"the tag {shown(tag)} does not make a JSON value of {shown(text)}", event, "Remove the tag.")


def _resolved(text: str, event: Any) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 4_000 or text[:1] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
        raise _problem(f"the number {shown(text)} is too large", event, "Write it as text, in quotes.")
    if _NOT_FINITE.fullmatch(text):
        raise _problem(f"{shown(text)} is not a JSON value", event, "Write null, or put it in quotes.")
    return text


def _problem(problem: str, event: Any, remedy: str) -> UnreadableDocument:
    mark = event.start_mark
    return UnreadableDocument(problem, line=mark.line + 1, column=mark.column + 1, remedy=remedy)


def from_yaml(text: str | bytes) -> Any:
    r"""The value of a YAML text.

    Raises:
        UnreadableDocument: not UTF-8, not YAML, more than one document, a key twice, aliases without measure.

    >>> from_yaml("name: yes\nat: 2026-11-20\nsizes: [010, 1e3, 0.5]")
    {'name': 'yes', 'at': '2026-11-20', 'sizes': [10, 1000.0, 0.5]}
    """
    try:
        return _Reader().read(yaml.parse(text_of(text, "YAML"), Loader=_Loader))
    except yaml.MarkedYAMLError as broken:
        mark = broken.problem_mark or broken.context_mark
        problem = f"it is not YAML: {escaped(str(broken.problem or broken.context or 'unreadable'), 200)}"
        if mark is None:
            raise UnreadableDocument(problem) from None
        raise UnreadableDocument(problem, line=mark.line + 1, column=mark.column + 1) from None
    except (yaml.YAMLError, UnicodeError) as broken:
        raise UnreadableDocument(f"it is not YAML: {escaped(' '.join(str(broken).split()), 200)}") from None


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_SafeDumper):  # type: ignore[misc]  # PyYAML's fast dumper has no types
    """Writes text in quotes wherever YAML 1.1 or 1.2 would take it for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Writes equal values out, since readers of graphs need no anchors."""
        return True


for _pattern in (_INTEGER, _FLOAT):
    _Dumper.add_implicit_resolver(
        _TAG + ("int" if _pattern is _INTEGER else "float"),
        re.compile(f"^(?:{_pattern.pattern})$"),
        list("-+.0123456789"),
    )


def to_yaml(document: Any) -> str:
    """A document as YAML that reads back as the same values, here and with other YAML readers."""
    text: str = yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=100)
    return text
