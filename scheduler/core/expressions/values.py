"""Values: the types of JSON, and values as text, in full for expressions and in brief for messages.

Pure. A value's type is looked up by its exact class, as parsers of JSON make them, so that no foreign method ever runs.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, Final

from ...errors import escaped
from .errors import Failure

Scalar = bool | int | float | str | None

BRIEF: Final = 80
_WORDS: Final[dict[type, str]] = {
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
    type(None): "null",
}
# ranges and not str.isprintable(), which changes with the Unicode of each Python: canonical text must not
_ESCAPED: Final = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def word_of(value: Any) -> str:
    """The type of a value.

    Raises:
        Failure: it is no JSON value.

    >>> word_of(True), word_of(1), word_of({})
    ('bool', 'int', 'map')
    """
    word = _WORDS.get(type(value))
    if word is None:
        raise Failure("type", f"{brief(value)} is no JSON value")
    return word


def scalar_text(value: Scalar) -> str:
    r"""A scalar as expressions write it: one spelling for each value.

    >>> scalar_text("say \"hi\"\n"), scalar_text(1e16), scalar_text(None)
    ('"say \\"hi\\"\\n"', '1e+16', 'null')
    """
    if isinstance(value, str):
        return '"' + _ESCAPED.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", value) + '"'
    return "null" if value is None else repr(value).lower()


class _Raw(str):
    """Text of its own, beside strings that are values."""

    __slots__ = ()


def brief(value: Any, limit: int = BRIEF) -> str:
    """A value as JSON for a message, at most `limit` characters; the cost does not grow with the value.

    >>> brief({"total": 3, "rows": [1, 2.5, None]}), brief("x" * 1_000_000, 10)
    ('{"total": 3, "rows": [1, 2.5, null]}', '"xxxxxx...')
    """
    out: list[str] = []
    length = 0
    todo: list[Any] = [value]
    while todo and length <= limit:
        item = todo.pop()
        if type(item) is list:
            todo.extend(reversed([_Raw("["), *_apart([[it] for it in item[:limit]]), _Raw("]")]))
        elif type(item) is dict:
            entries = [[_Raw(f"{_brief_scalar(k, limit)}: "), it] for k, it in islice(item.items(), limit)]
            todo.extend(reversed([_Raw("{"), *_apart(entries), _Raw("}")]))
        else:
            piece = item if type(item) is _Raw else _brief_scalar(item, limit)
            out.append(piece)
            length += len(piece)
    text = "".join(out)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _apart(entries: list[list[Any]]) -> list[Any]:
    return [it for number, entry in enumerate(entries) for it in ([_Raw(", "), *entry] if number else entry)]


def _brief_scalar(value: Any, limit: int) -> str:
    if type(value) is str:
        return escaped(json.dumps(value[: limit + 1], ensure_ascii=False))
    if type(value) is int and value.bit_length() > 256:
        return f"<int of {value.bit_length()} bits>"
    if type(value) in _WORDS:
        return json.dumps(value)
    return f"<{escaped(type(value).__name__, 40)}>"
