"""From a policy's document to the record that is deployed; whatever is wrong is told with its place.

Pure. TOML, YAML and JSON say the same; config/policy.toml shows all of it::

    version = "7"
    adopt = "running"
    [executors."llm.*"]
    retry = { max_attempts = 5 }
    checks = ["short-prompt"]
    [checks.short-prompt]
    before = "size(input.prompt) <= 4000"

Another value that a layer may set is one row of _SET, and one of core.policies.GOVERNED.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from ..core.expressions import check, parse
from ..core.mappers import duplicates, mappers_of
from ..core.policies import NEW, RUNNING, SHARED_LAYERS
from ..core.safety import AFTER, BEFORE, FAIL, HOLD
from ..errors import ExpressionError, InvalidValue, SettingsError, UnreadableDocument, did_you_mean, quoted
from ..graph.ladder import kinds_of
from ..graph.limits import (
    MAX_ATTEMPTS,
    MAX_FACTOR,
    MAX_LOSSES,
    count_of,
    kind_of,
    name_of,
    number_of,
    only_fields,
    plain_seconds,
)
from ..graph.yamltext import from_yaml

MAX_LAYERS = 1_000
MAX_CHECKS = 200
MAX_BYTES = 1_048_576
VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIELDS = ("version", "adopt", "system", "classes", "executors", "workflows", "checks", "mappers")
_LAYER_OF = {"classes": "class", "executors": "executor", "workflows": "workflow"}
_LAYER_FIELDS = ("retry", "timeout_seconds", "soft_timeout_seconds", "silence_seconds", "locked", "checks")
_CHECK_FIELDS = ("before", "after", "deny", "message")


def _ms(low: float) -> Callable[[object, str], int]:
    return lambda value, at: round(plain_seconds(value, at, low) * 1000)


def _never(value: object, at: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidValue(at, value, f"is not a list but {kind_of(value)}", "Write [...].")
    return sorted(kinds_of(value, "", at))


_SET: Mapping[str, tuple[str, Callable[[object, str], Any]]] = {
    "retry.max_attempts": ("max_attempts", lambda value, at: count_of(value, at, 1, MAX_ATTEMPTS)),
    "retry.base_seconds": ("base_ms", _ms(0)),
    "retry.factor": ("factor", lambda value, at: number_of(value, at, 1.0, MAX_FACTOR)),
    "retry.cap_seconds": ("cap_ms", _ms(0)),
    "retry.max_losses": ("max_losses", lambda value, at: count_of(value, at, 0, MAX_LOSSES)),
    "retry.never": ("never", _never),
    "timeout_seconds": ("timeout_ms", _ms(0.001)),
    "soft_timeout_seconds": ("soft_timeout_ms", _ms(0.001)),
    "silence_seconds": ("silence_ms", _ms(0.001)),
}
"""What a layer may set, by the document's name -> the record's name, and what checks and converts it."""
NAMES = {record: document for document, (record, _) in _SET.items()}
"""The document's name of each value, by the record's."""


def read_policy(text: bytes, suffix: str) -> dict[str, Any]:
    """The record of a document.

    Args:
        text: TOML, YAML or JSON.
        suffix: of its file: ".toml", ".json", else YAML, which is JSON too.

    Raises:
        SettingsError: it is none of these.
        InvalidValue, ExpressionError: what it says cannot be; names the place.
    """
    if len(text) > MAX_BYTES:
        remedy = "Use patterns, such as llm.*, for what is alike."
        raise SettingsError("the policy", f"has {len(text):,} bytes, at most {MAX_BYTES:,} are taken", remedy)
    try:
        document = tomllib.loads(text.decode()) if suffix == ".toml" else from_yaml(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise SettingsError("the policy", f"is no TOML: {broken}", "Correct this place") from None
    except UnreadableDocument as broken:
        where = "" if broken.line is None else f", line {broken.line}, column {broken.column}"
        raise SettingsError(f"the policy{where}", broken.problem, "Correct this place") from None
    return policy_of(document)


def policy_of(document: object) -> dict[str, Any]:
    """The record of a policy (core/policies.py has its form), from the values of its document.

    Raises:
        InvalidValue, ExpressionError: what it says cannot be; names the place.
    """
    found = only_fields(_object(document, "the policy"), _FIELDS, "the policy")
    version, adopt = found.get("version"), found.get("adopt", NEW)
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        remedy = 'Write a text of 1 to 64 letters, digits, and the characters _ . -, such as "2026-11-28".'
        raise InvalidValue("version", version, "names no version", remedy)
    if adopt not in (NEW, RUNNING):
        hint = f'Write "{NEW}", for runs that begin from now on, or "{RUNNING}", for those under way too.'
        raise InvalidValue("adopt", adopt, "says nothing of which runs take the policy up", hint)
    checks = _checks(found.get("checks", {}))
    layers = []
    if "system" in found:
        layers.append(_layer("system", "*", found["system"], "system", checks))
    for table, layer in _LAYER_OF.items():
        for match, said in _object(found.get(table, {}), table).items():
            at = f"{table}[{quoted(str(match))}]"
            layers.append(_layer(layer, name_of(match, at), said, at, checks))
    if len(layers) > MAX_LAYERS:
        raise InvalidValue("the policy", len(layers), f"has more than {MAX_LAYERS} layers", "Use patterns: llm.*")
    layers.sort(key=lambda it: SHARED_LAYERS.index(it["layer"]))
    return {
        "v": 1,
        "version": version,
        "adopt": adopt,
        "layers": layers,
        "checks": checks,
        "mappers": _mappers(found.get("mappers", {})),
    }


def _layer(layer: str, match: str, said: object, at: str, checks: Mapping[str, Any]) -> dict[str, Any]:
    """One layer, by the record's names."""
    found = only_fields(_object(said, at), _LAYER_FIELDS, at)
    flat = {name: found[name] for name in _LAYER_FIELDS if name in found and name in _SET}
    if "retry" in found:
        retry = _object(found["retry"], f"{at}.retry")
        known = tuple(name.partition(".")[2] for name in _SET if name.startswith("retry."))
        flat |= {f"retry.{name}": value for name, value in only_fields(retry, known, f"{at}.retry").items()}
    values = {_SET[name][0]: _SET[name][1](value, f"{at}.{name}") for name, value in flat.items()}
    hard, soft = values.get("timeout_ms"), values.get("soft_timeout_ms")
    if hard is not None and soft is not None and soft >= hard:
        raise InvalidValue(
            f"{at}.soft_timeout_seconds", soft / 1000, "is not shorter than the hard limit", "Make it shorter."
        )
    used = _names(found.get("checks", []), f"{at}.checks")
    for name in used:
        if name not in checks:
            hint = did_you_mean(name, checks)
            raise InvalidValue(f"{at}.checks", name, "is no check of this policy", f"Write [checks.{name}].{hint}")
    return {"layer": layer, "match": match, "set": values, "locked": _locked(found, flat, at), "checks": used}


def _locked(found: Mapping[str, Any], flat: Mapping[str, Any], at: str) -> list[str]:
    """Which values of a layer no inner one may change, by the record's names."""
    said = found.get("locked", [])
    if isinstance(said, bool):
        return [_SET[name][0] for name in flat] if said else []
    locked = []
    for name in _names(said, f"{at}.locked"):
        mine = [it for it in flat if it == name or it.startswith(f"{name}.")]
        if not mine:
            hint = did_you_mean(name, flat)
            raise InvalidValue(f"{at}.locked", name, "is not set by this layer", f"Set it here, or leave it out.{hint}")
        locked += [_SET[it][0] for it in mine]
    return locked


def _checks(said: object) -> dict[str, Any]:
    """The checks, by name, with their expressions in canonical form."""
    checks: dict[str, Any] = {}
    for name, value in _object(said, "checks").items():
        at = f"checks[{quoted(str(name))}]"
        if not VERSION.fullmatch(str(name)):
            raise InvalidValue(at, name, "names no check", "Write letters, digits, and the characters _ . -")
        found = only_fields(_object(value, at), _CHECK_FIELDS, at)
        if not {"before", "after"} & found.keys():
            raise InvalidValue(at, dict(found), "asks nothing", 'Write before = "..." or after = "...".')
        if found.get("deny", FAIL) not in (FAIL, HOLD):
            remedy = f'Write "{FAIL}": the node fails as safety; or "{HOLD}": it stays blocked.'
            raise InvalidValue(f"{at}.deny", found["deny"], "is nothing that can be done", remedy)
        if found.get("deny") == HOLD and "before" not in found:
            raise InvalidValue(f"{at}.deny", HOLD, "holds nothing back", "Only what is asked before can be held.")
        checks[name] = {key: _asked(found, key, at) for key in ("before", "after") if key in found}
        checks[name] |= {"deny": found.get("deny", FAIL), "message": _text(found.get("message", ""), f"{at}.message")}
    if len(checks) > MAX_CHECKS:
        raise InvalidValue("checks", len(checks), f"are more than {MAX_CHECKS}", "Join some of them.")
    return checks


def _mappers(said: object) -> dict[str, Any]:
    """The mappers as they are written down, each checked."""
    mappers_of(_object(said, "mappers"))
    return dict(_object(said, "mappers"))


def remarks(policy: Mapping[str, Any]) -> list[str]:
    """What is allowed and not likely meant: mappers that say the same, checks that nothing uses."""
    used = {name for layer in policy["layers"] for name in layer["checks"]}
    found = [f"nothing uses the check {name}" for name in policy["checks"] if name not in used]
    twice = duplicates(mappers_of(policy["mappers"]).values())
    return found + [f"the mappers {' and '.join(names)} say the same: keep one" for names in twice]


def _asked(found: Mapping[str, Any], when: str, at: str) -> str:
    """An expression that is true or false, as its canonical text."""
    text = _text(found[when], f"{at}.{when}")
    try:
        asked = parse(text, BEFORE if when == "before" else AFTER)
        check(asked, lambda _name, _what: None, "bool")
    except ExpressionError as broken:
        raise InvalidValue(f"{at}.{when}", text, f"cannot be asked: {broken}", "Correct the expression.") from None
    return asked.text


def _object(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", "Write a table.")
    return value


def _names(value: object, at: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(it, str) for it in value):
        raise InvalidValue(at, value, "is not a list of names", 'Write ["a", "b"].')
    return list(dict.fromkeys(value))


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise InvalidValue(at, value, f"is not text but {kind_of(value)}", "Write a text.")
    return value
