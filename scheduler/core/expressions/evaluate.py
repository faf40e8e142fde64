"""Evaluation: the value of a tree, given what the nodes gave.

Pure. CEL's semantics: an error in one operand of && or || is nothing where the other one decides, in either order;
?: evaluates the branch it takes; a condition is a bool and nothing else. Every step costs, by the size of what it
touches, so one evaluation ends soon whatever it is given; comparison walks without recursion.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from .arithmetic import computed, opposite
from .errors import EvaluationError, Failure, Missing, Seen
from .operators import COMPARISON, MOST_COST, NUMBERS, ORDER, SIZED, result_of
from .tree import Call, Constant, Read, Tree, draw
from .values import brief, word_of

Look = Callable[[Read], Any]
"""What answers reads: the value, or it raises `Missing`."""

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SHORT = 40


def follow(value: Any, path: tuple[str | int, ...]) -> Any:
    """What stands at a path into a value, for those who write a `look`.

    Raises:
        Missing: a step is not there; says which one and what is there instead.

    >>> follow({"items": [{"n": 1}]}, ("items", 0, "n"))
    1
    """
    for number, step in enumerate(path):
        if isinstance(step, str):
            there = type(value) is dict and step in value
        else:
            there = type(value) is list and 0 <= step < len(value)
        if not there:
            raise Missing(number, value)
        value = value[step]
    return value


class Purse:
    """What evaluations may spend, in units of `MOST_COST`; those that share one are bounded together.

    Attributes:
        left: units; once it is below 0 nothing more is evaluated.
    """

    __slots__ = ("left",)

    def __init__(self, units: int = MOST_COST) -> None:
        self.left = units


def valued(text: str, tree: Tree, look: Look, purse: Purse | None = None) -> tuple[Any, Seen]:
    """The value of an expression, and what was read for it.

    Raises:
        EvaluationError: it has none.
    """
    run = _Evaluation(look, Purse() if purse is None else purse)
    try:
        return run.value(tree), run.seen
    except Failure as failure:
        raise EvaluationError(text, failure.kind, failure.problem, run.seen) from None


class _Evaluation:
    """One evaluation: what it has read, and what it may still spend."""

    def __init__(self, look: Look, purse: Purse) -> None:
        self.look = look
        self.purse = purse
        self.answers: dict[Read, Any] = {}
        self.shown: dict[str, str] = {}

    @property
    def seen(self) -> Seen:
        return tuple(self.shown.items())

    def spend(self, units: int) -> None:
        self.purse.left -= units
        if self.purse.left < 0:  # stays so: whatever comes next fails too, and no && hides it
            raise Failure("limit", f"it costs more than the {MOST_COST:,} units that are allowed")

    def value(self, tree: Tree) -> Any:
        self.spend(1)
        if isinstance(tree, Constant):
            return tree.value
        if isinstance(tree, Read):
            return self.read(tree)
        if tree.name in ("&&", "||"):
            return self.decided(tree, decisive=tree.name == "||")
        if tree.name == "?:":
            condition, chosen, otherwise = tree.args
            return self.value(chosen if self.truth(condition) else otherwise)
        if tree.name == "has":
            return self.has(tree)
        return self.applied(tree.name, [self.value(arg) for arg in tree.args])

    def truth(self, tree: Tree) -> bool:
        value = self.value(tree)
        if isinstance(value, bool):
            return value
        raise Failure("type", f"a condition is bool, and {brief(value, _SHORT)} is {word_of(value)}")

    def decided(self, tree: Call, *, decisive: bool) -> bool:
        """`decisive` if any operand is, whatever is wrong with the others."""
        first: Failure | None = None
        for arg in tree.args:
            try:
                if self.truth(arg) is decisive:
                    return decisive
            except Failure as failure:
                first = first or failure
        if first:
            raise first
        return not decisive

    def has(self, tree: Call) -> bool:
        try:
            self.value(tree.args[0])
        except Failure as failure:
            if failure.kind == "limit":
                raise
            return False
        return True

    def read(self, tree: Read) -> Any:
        if tree not in self.answers:
            try:
                self.answers[tree] = self.answer(tree)
            except Failure as failure:
                self.answers[tree] = failure
        answer = self.answers[tree]
        if isinstance(answer, Failure):
            raise answer
        return answer

    def answer(self, tree: Read) -> Any:
        try:
            value = self.look(tree)
        except Missing as missing:
            raise self.missing(tree, missing) from None
        self.shown[draw(tree)] = brief(value)
        word_of(value)
        return value

    def missing(self, tree: Read, missing: Missing) -> Failure:
        step, met = missing.step, missing.met
        if met is ... or not 0 <= step < len(tree.path):
            return Failure("missing", f"there is no {draw(tree)}")
        there = draw(Read(tree.node, tree.what, tree.path[:step]))
        self.shown.setdefault(there, brief(met))
        return _not_there(there, met, tree.path[step])

    def applied(self, name: str, args: list[Any]) -> Any:
        match name:
            case "list":
                return args
            case "==":
                return self.equal(*args)
            case "!=":
                return not self.equal(*args)
            case "in":
                return self.within(*args)
            case "[]":
                return self.item(*args)
            case "size" | "-_" | "!_":
                return self.single(name, args[0])
        return self.binary(name, *args)

    def single(self, name: str, value: Any) -> Any:
        word = word_of(value)
        if name == "size" and word in SIZED:
            return len(value)
        if name == "-_" and word in NUMBERS:
            return opposite(value)
        if name == "!_" and word == "bool":
            return not value
        drawn = f"size({word})" if name == "size" else f"{name[0]}{word}"
        raise Failure("type", f"{drawn} is not defined, and met {brief(value, _SHORT)}")

    def binary(self, name: str, left: Any, right: Any) -> Any:
        word = word_of(left)
        if result_of(name, word, word_of(right)) is None:
            raise _undefined(name, left, right)
        if name in ORDER:
            self.spend(min(len(left), len(right)) if word == "string" else 1)
            return _COMPARE[name](left, right)
        if word in ("string", "list"):
            self.spend(len(left) + len(right))
            return left + right
        return computed(name, left, right)

    def equal(self, left: Any, right: Any) -> bool:
        """Whether two values are the same JSON; numbers by value, NaN equal to nothing, true not equal to 1."""
        self.spend(COMPARISON)
        todo = [(left, right)]
        while todo:
            one, other = todo.pop()
            word, other_word = word_of(one), word_of(other)
            if word in NUMBERS and other_word in NUMBERS:
                same = one == other
            elif word != other_word or (word in SIZED and len(one) != len(other)):
                same = False
            elif word == "list":
                self.spend(COMPARISON * len(one))
                todo.extend(zip(one, other, strict=True))
                same = True
            elif word == "map":
                self.spend(COMPARISON * len(one))
                same = all(type(key) is str and key in other for key in one)
                todo.extend((one[key], other[key]) for key in one if same)
            else:
                self.spend(len(one) if word == "string" else 0)
                same = one == other
            if not same:
                return False
        return True

    def within(self, item: Any, container: Any) -> bool:
        word = word_of(container)
        if word == "list":
            return any(self.equal(item, it) for it in container)
        if word == "map":
            return word_of(item) == "string" and item in container
        raise _undefined("in", item, container)

    def item(self, base: Any, key: Any) -> Any:
        word, key_word = word_of(base), word_of(key)
        if word == "map" and key_word == "string" and key in base:
            return base[key]
        if word == "list" and key_word in NUMBERS and key == key // 1 and 0 <= key < len(base):
            return base[int(key)]
        raise _not_there(brief(base, _SHORT), base, key)


def _undefined(name: str, left: Any, right: Any) -> Failure:
    words = f"{word_of(left)} {name} {word_of(right)}"
    return Failure("type", f"{words} is not defined, and met {brief(left, _SHORT)} {name} {brief(right, _SHORT)}")


def _not_there(what: str, met: Any, key: Any) -> Failure:
    """Why `met`, which is called `what`, has no `key`."""
    word, key_word = word_of(met), word_of(key)
    step = f"{'field' if key_word == 'string' else 'item'} {brief(key, _SHORT)}"
    if word != {"string": "map", "int": "list", "double": "list"}.get(key_word):
        return Failure("type", f"{what} is {word} and has no {step}")
    size = f"{len(met)} items and " if word == "list" else ""
    return Failure("missing", f"{what} has {size}no {step}")
