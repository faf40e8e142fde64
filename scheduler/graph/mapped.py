"""Mappers in a graph: which ones its references name, whether there are such, and whether what they read may be there.

Pure. For compile.py. What a mapper is stands in core/mappers.py. Where nobody knows the definitions, nothing is
checked: the compiled graph's header lists the names, and whoever stores the run pins what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.expressions import Expression, check
from ..core.mappers import Mapper
from ..errors import ExpressionError, UnknownMapper
from .contracts import Contracts
from .guards import decision_schema
from .handles import Reference, drawn
from .places import references_at
from .spec import Spec


def mappers_used(specs: Sequence[Spec]) -> list[str]:
    """Names of the mappers that references go through, sorted. O(references)."""
    return sorted({r.via for spec in specs for r in spec.references if r.via is not None})


def known_mappers(specs: Sequence[Spec], used: Sequence[str], given: Mapping[str, Any] | None) -> dict[str, Mapper]:
    """The mappers that a graph uses; {} when nobody knows the definitions.

    Args:
        used: their names.
        given: name -> definition, of all that are deployed; None for unknown.

    Raises:
        UnknownMapper: there is none of a name.
        InvalidValue, ExpressionError: a definition is none.
    """
    if given is None:
        return {}
    if any(name not in given for name in used):
        raise next(UnknownMapper(it.via or "", at(), given) for it, at in _mapped(specs) if it.via not in given)
    return {name: Mapper.from_record(name, given[name]) for name in used}


def check_reads(
    specs: Sequence[Spec],
    index: Mapping[str, int],
    mappers: Mapping[str, Mapper],
    contracts: Mapping[str, Mapping[str, Any]],
) -> None:
    """What mappers read of the outputs that go through them can be there, as far as the published schemas tell.

    Args:
        index: key -> position in `specs`.
        contracts: executor -> contract, as published; empty when nobody knows any.

    Raises:
        ExpressionError: an expression of a mapper can have no value there.
    """
    if not mappers:
        return
    published = Contracts(contracts)
    seen: set[tuple[str, str, tuple[str | int, ...], str]] = set()
    for reference, at in _mapped(specs):
        mapper = mappers[reference.via or ""]
        asked = (reference.key, reference.what, reference.path, mapper.name)
        if asked in seen:
            continue
        seen.add(asked)
        for alternatives in _schemas(specs[index[reference.key]], reference.what, published):
            for field, expression in mapper.fields:
                wrong = _wrong(expression, alternatives, reference.path)
                if wrong is not None:
                    where = f"mapper {mapper.name}{f', field {field}' if field else ''}, of {drawn(reference)}"
                    problem = f"{wrong.problem} ({where})"
                    raise ExpressionError(wrong.text, wrong.position, problem, wrong.remedy, at=f'{at()}["via"]')


def _wrong(expression: Expression, schemas: Sequence[Any], path: tuple[str | int, ...]) -> ExpressionError | None:
    """Why an expression fits none of some schemas; None when it fits one."""
    first = None
    for schema in schemas:
        try:
            check(expression, lambda _name, _what, it=schema: it, inside=path)  # type: ignore[misc]  # bound at once
        except ExpressionError as wrong:
            first = first or wrong
        else:
            return None
    return first


def _schemas(spec: Spec, what: str, contracts: Contracts) -> Iterator[Sequence[Any]]:
    """What a node may give: for each executor that may do it, the schemas of which one holds."""
    if what == "error":
        return  # a record of which some fields are known, and others may come
    known = decision_schema(spec)
    if known is not None:
        yield [known]
    elif spec.policy.executor and not spec.policy.timing.outside:
        for executor in (spec.policy.executor, *(it.executor for it in spec.policy.retry.steps)):
            if executor is not None:
                yield contracts.outputs(executor)


def _mapped(specs: Sequence[Spec]) -> Iterator[tuple[Reference, Any]]:
    """(reference, what makes its place) of every reference that goes through a mapper."""
    for spec in specs:
        for number, reference in enumerate(spec.references):
            if reference.via is not None:
                yield reference, lambda spec=spec, number=number: references_at(spec)[number]
