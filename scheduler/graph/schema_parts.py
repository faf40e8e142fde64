"""Words of the published schema that many of its parts use."""

from __future__ import annotations

from typing import Any

from . import limits


def labels() -> dict[str, Any]:
    """Names and texts."""
    return {
        "type": "object",
        "maxProperties": limits.MAX_LABELS,
        "propertyNames": ref("name"),
        "additionalProperties": ref("name"),
        "default": {},
    }


def closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """An object that has these properties and no others."""
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def ref(name: str) -> dict[str, Any]:
    """One of the schema's definitions."""
    return {"$ref": f"#/$defs/{name}"}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def number(low: float, high: float) -> dict[str, Any]:
    """A number between two bounds."""
    return {"type": "number", "minimum": low, "maximum": high}


def whole(low: int, high: int) -> dict[str, Any]:
    """A whole number between two bounds."""
    return {"type": "integer", "minimum": low, "maximum": high}
