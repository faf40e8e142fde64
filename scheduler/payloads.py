"""Data that people and programs outside hand in, checked in full against the JSON Schema that a graph declares.

Pure. Contracts of executors are checked by contracts.py as far as a graph tells, and by workers in full; of a signal's
payload and of an answer there is no worker. The library `jsonschema` does it, loaded when there is something to check,
for that takes as long as many a command. Nothing is ever fetched for a schema, and patterns are refused in it, for one
that is slow to match would stop the scheduler that checks it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import InvalidValue, NotJson, TooLarge, escaped

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MAX_SCHEMA_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 64 * 1024
_BY_NAME = {"properties", "$defs", "definitions", "dependentSchemas"}
"""Words of a schema under which others have names of their own."""
_VALUES = {"const", "enum", "default", "examples", "required", "dependentRequired"}
_REFUSED = {"pattern", "patternProperties", "$dynamicRef", "$schema"}


def check_schema(schema: object, at: str) -> Any:
    """A schema that a graph declares, as plain JSON.

    Raises:
        InvalidValue: no JSON Schema of the draft of 2020-12, or one with a pattern or a reference to elsewhere.
    """
    if not isinstance(schema, Mapping | bool):
        raise InvalidValue(at, schema, "is no JSON Schema", 'Write {"type": "object", ...}.')
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    found = json.loads(_text(schema, at, MAX_SCHEMA_BYTES))
    try:
        Draft202012Validator.check_schema(found)
    except SchemaError as wrong:
        where = "".join(f"[{step!r}]" for step in wrong.absolute_path)
        raise InvalidValue(f"{at}{where}", wrong.instance, "is no JSON Schema", escaped(wrong.message, 200)) from None
    _check_words(found, at)
    return found


def check_payload(schema: Any, value: object, at: str) -> Any:
    """A value that is handed in, as plain JSON.

    Raises:
        NotJson, TooLarge, InvalidValue: it is no JSON, too large, or not as the schema says.
    """
    found = json.loads(_text(value, at, MAX_PAYLOAD_BYTES))
    if problem := problem_of(schema, found):
        raise InvalidValue(at, found, "does not fit its schema", f"{problem}.")
    return found


def problem_of(schema: Any, value: Any) -> str:
    """Why a value does not fit a schema, in words; "" when it does, or when there is none."""
    if schema is None:
        return ""
    from jsonschema.exceptions import best_match

    wrong = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value))
    if wrong is None:
        return ""
    where = "".join(f"[{step!r}]" for step in wrong.absolute_path)
    return escaped(f"{where}{': ' if where else ''}{wrong.message}", 300)


@lru_cache(500)
def _validator(schema: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(json.loads(schema), registry=Registry())


def _text(value: object, at: str, most: int) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as broken:
        raise NotJson(at, value, f"is not JSON: {escaped(str(broken), 200)}", "Write plain JSON values.") from None
    if size > most:
        remedy = "Store large data elsewhere and pass its address."
        raise TooLarge(at, size=size, limit=most, unit="bytes", remedy=remedy)
    return text


def _check_words(schema: Any, at: str) -> None:
    """No word in a schema that makes its check slow, or asks elsewhere."""
    if isinstance(schema, Mapping):
        for word, inner in schema.items():
            if word in _REFUSED:
                raise InvalidValue(f"{at}.{word}", inner, "is not taken in such a schema", "Check it in a node.")
            if word == "$ref" and not (isinstance(inner, str) and inner.startswith("#")):
                raise InvalidValue(f"{at}.{word}", inner, "refers to another document", "Write it out here.")
            if word in _BY_NAME and isinstance(inner, Mapping):
                for name, one in inner.items():
                    _check_words(one, f"{at}.{word}.{name}")
            elif word not in _VALUES:
                _check_words(inner, f"{at}.{word}")
    elif isinstance(schema, list):
        for inner in schema:
            _check_words(inner, at)
