"""Contracts: the same cases for every implementation of one executor, run in this process as a worker runs them.

    contract = Contract(
        "ask",
        [
            Case({"q": "2 + 2"}, expect={"answer": "4"}),
            Case({"q": ""}, raises="invalid_input"),
            Case({"q": "why"}, expect=lambda output: len(output["answer"]) > 10),
        ],
        reference=provider_a,
    )
    contract.check(provider_b)

Each case goes through the executor's real path: inputs validated, function called, output validated and encoded, what
it raises mapped to a kind. With a reference the published schemas are compared too: an implementation must take all
that the reference takes, and what it gives must be what the reference gives, though objects may have more fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ERROR_KINDS, InvalidValue, did_you_mean, escaped, shown
from ..worker.context import Context
from .errors import ContractFailed
from .executing import AnyExecutor, Ran, as_json, checked_executor, run_executor
from .outcomes import UNSET
from .schemas import misfits


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what is to come of it; without `expect` and `raises` any valid output will do.

    Attributes:
        inputs: by name, as a graph would hand them over.
        expect: the output as JSON (a model stands for its JSON), or a function of it that says whether it is right.
        raises: the kind of error that ends it, one of errors.ERROR_KINDS.
        args: positional inputs.
        name: of the case; default: its inputs.
        key: the idempotency key that it runs under.

    Raises:
        InvalidValue: both or an unknown kind.
    """

    inputs: Mapping[str, Any]
    expect: Any = UNSET
    raises: str | None = None
    args: Sequence[Any] = ()
    name: str = ""
    key: str = "contract"

    def __post_init__(self) -> None:
        if self.raises is not None:
            if self.expect is not UNSET:
                raise InvalidValue("Case", self.raises, "stands beside expect", "Say one of the two.")
            if self.raises not in ERROR_KINDS:
                hint = did_you_mean(str(self.raises), ERROR_KINDS)
                remedy = f"Use one of {', '.join(ERROR_KINDS)}.{hint}"
                raise InvalidValue("Case(raises)", self.raises, "is not an error kind", remedy)

    @property
    def shown(self) -> str:
        """Its name, for messages."""
        return f"case {self.name!r}" if self.name else f"case {shown(dict(self.inputs))}"

    def problem(self, ran: Ran) -> str:
        """What a call that has ended did not do, in words; "" when it is right."""
        if self.raises is not None:
            wanted = f"expected an error of kind {self.raises}"
            if ran.ending is None:
                return f"{wanted}, found output {shown(ran.output)}"
            return "" if ran.ending.error["kind"] == self.raises else f"{wanted}, found {ran.words}"
        if ran.ending is not None:
            return f"expected an output, found {ran.words}"
        if callable(self.expect):
            return _judged(self.expect, ran.output)
        if self.expect is UNSET:
            return ""
        wanted = as_json(self.expect, "Case(expect)")
        return "" if ran.output == wanted else f"expected {shown(wanted)}, found {shown(ran.output)}"


def _judged(predicate: Callable[[Any], object], output: Any) -> str:
    """What a predicate says of an output; one that asserts says why."""
    name = getattr(predicate, "__name__", repr(predicate))
    try:
        right = predicate(output)
    except (AssertionError, LookupError, TypeError, ValueError) as raised:
        why = escaped(f"{type(raised).__name__}: {raised}", 300)
        return f"expected what {name} wants, found {shown(output)} ({why})"
    return "" if right else f"expected what {name} wants, found {shown(output)}"


@dataclass(frozen=True, slots=True)
class ContractReport:
    """What became of one implementation.

    Attributes:
        contract, implementation: their names.
        cases: how many were run.
        problems: what is wrong, in words; empty when it keeps the contract.
    """

    contract: str
    implementation: str
    cases: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it keeps the contract."""
        return not self.problems


class Contract:
    """What every implementation of an executor must do.

    Args:
        name: of the contract.
        cases: calls and what is to come of them.
        reference: an executor, or a contract as it publishes one, whose schemas an implementation must fit.

    Raises:
        InvalidValue: no case, or something that is none.
    """

    def __init__(
        self, name: str, cases: Iterable[Case], *, reference: AnyExecutor | Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.cases = tuple(cases)
        for number, case in enumerate(self.cases):
            if not isinstance(case, Case):
                raise InvalidValue(f"cases[{number}]", case, "is no case", "Write Case(inputs, expect=...).")
        if not self.cases and reference is None:
            raise InvalidValue("cases", [], "holds no case", "Write at least one, or give a reference.")
        self._reference: Mapping[str, Any] | None = None
        if reference is not None:
            published = reference if isinstance(reference, Mapping) else None
            self._reference = published or checked_executor(reference, "reference").contract()

    def run(self, implementation: AnyExecutor) -> ContractReport:
        """Try an implementation.

        Returns:
            What was found, and nothing raised for it.

        Raises:
            InvalidValue: it is no executor.
            NotJson: inputs or an expected output that could not travel.
        """
        it = checked_executor(implementation, "implementation")
        problems = [f"schemas: {problem}" for problem in self._against_reference(it)]
        for number, case in enumerate(self.cases, 1):
            args, inputs = as_json(list(case.args), "Case(args)"), as_json(dict(case.inputs), "Case(inputs)")
            context = Context(id=f"contract.{number}", node=self.name, key=case.key, worker="contract")
            if problem := case.problem(run_executor(it, args, inputs, context)):
                problems.append(f"{case.shown}: {problem}")
        return ContractReport(self.name, it.name, len(self.cases), tuple(problems))

    def check(self, implementation: AnyExecutor) -> ContractReport:
        """The same, and an AssertionError unless it keeps the contract.

        Raises:
            ContractFailed: names the implementation, each case, what was expected and what was found.
        """
        report = self.run(implementation)
        if report.problems:
            raise ContractFailed(self.name, report.implementation, report.problems)
        return report

    def _against_reference(self, it: AnyExecutor) -> list[str]:
        """Where an implementation's published schemas do not fit those of the reference."""
        if self._reference is None:
            return []
        mine = it.contract()
        found = []
        takes, gives = self._reference.get("input_schema"), self._reference.get("output_schema")
        for word, wanted in (("input", takes), ("output", gives)):
            own = mine[f"{word}_schema"]
            if wanted is not None and own is None:
                found.append(f"{word}: it publishes no schema, the reference does")
            elif wanted is not None:
                unlike = misfits(wanted, own) if word == "input" else misfits(own, wanted, others=True)
                found += [f"{word}{it}" if it.startswith((".", "[")) else f"{word}: {it}" for it in unlike]
        return found
