"""The tree of an expression, and its canonical text.

Pure. Three kinds of parts: constants, reads of nodes, and calls. Operators are calls of a name, as in CEL's own tree:
`a + b` is Call("+", (a, b)), `-a` is Call("-_", (a,)), `c ? a : b` is Call("?:", (c, a, b)), `a[b]` is
Call("[]", (a, b)), `[a, b]` is Call("list", (a, b)). `&&` and `||` take any number of operands, for both are
associative, errors included. The functions here keep trees normal, so that equal text means equal trees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .operators import INFIX, LOGIC, MEMBER, PREFIX, TERNARY
from .values import Scalar, scalar_text

WHATS: Final = ("output", "error", "state", "attempts")
"""What may be read of a node."""
VALUE: Final = "value"
"""What is read of a name that is no node but a value itself, where `parse` was given such names."""

NODES: Final = "nodes"
KEYWORDS: Final = frozenset({"true", "false", "null", "in"})
"""Words that are no name of a field."""
RESERVED: Final = KEYWORDS | {
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"),
    *("package", "namespace", "return", "var", "void", "while"),
}
"""Words that are no name of a node, by CEL; such a node is written nodes["if"]."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: null, a bool, a number or a string."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a node.

    Attributes:
        node: its key.  what: "output", "error", "state" or "attempts"; VALUE if `node` is the name of a value.
        path: the steps that follow, as far as they are constant: names of fields, and indexes from 0.
    """

    node: str
    what: str = "output"
    path: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function, and what it is applied to."""

    name: str
    args: tuple[Tree, ...]


Tree = Constant | Read | Call


def is_field(name: object) -> bool:
    """Whether `.name` says it, so that `["name"]` is not needed."""
    return isinstance(name, str) and name not in KEYWORDS and _NAME.fullmatch(name) is not None


def draw(read: Read) -> str:
    """A read as expressions write it.

    >>> draw(Read("fetch", "output", ("items", 0, "a b"))), draw(Read("my-node", "state"))
    ('fetch.output.items[0]["a b"]', 'nodes["my-node"].state')
    """
    if read.what == VALUE:
        return f"{read.node}{''.join(map(_step, read.path))}"
    short = is_field(read.node) and read.node not in RESERVED and read.node != NODES
    node = read.node if short else f"{NODES}[{scalar_text(read.node)}]"
    return f"{node}.{read.what}{''.join(map(_step, read.path))}"


def _step(key: Scalar) -> str:
    return f".{key}" if is_field(key) else f"[{scalar_text(key)}]"


def infix(name: str, left: Tree, right: Tree) -> Tree:
    """`left name right`; operands of && and || that are such calls themselves are taken in."""
    if name not in LOGIC:
        return Call(name, (left, right))
    sides = (it.args if isinstance(it, Call) and it.name == name else (it,) for it in (left, right))
    return Call(name, tuple(operand for side in sides for operand in side))


def negated(tree: Tree) -> Tree:
    """`-tree`; of a positive number the negative number, so that -1 is a literal."""
    value = tree.value if isinstance(tree, Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_negative(value):
        return Constant(-value)
    return Call("-_", (tree,))


def indexed(tree: Tree, key: Tree) -> Tree:
    """`tree[key]`; a constant step from a read makes the path of the read longer."""
    if isinstance(tree, Read) and isinstance(key, Constant):
        step = key.value
        if isinstance(step, str) or (type(step) is int and step >= 0):
            return Read(tree.node, tree.what, (*tree.path, step))
    return Call("[]", (tree, key))


def parts(tree: Tree) -> Iterator[tuple[Tree, int]]:
    """Every part with its depth from 1, in the order of the text; however deep, without recursion."""
    todo: list[tuple[Tree, int]] = [(tree, 1)]
    while todo:
        part, depth = todo.pop()
        yield part, depth
        if isinstance(part, Call):
            todo.extend((it, depth + 1) for it in reversed(part.args))


def canonical(tree: Tree) -> tuple[str, dict[int, int]]:
    """The text of a tree with as few parentheses as can be, and where in it each part begins, by its id()."""
    printer = _Printer()
    printer.write(tree, TERNARY)
    return "".join(printer.out), printer.starts


def _strength(tree: Tree) -> int:
    if isinstance(tree, Constant):
        return PREFIX if _is_negative(tree.value) else MEMBER
    if isinstance(tree, Read):
        return MEMBER
    if tree.name == "?:":
        return TERNARY
    return PREFIX if tree.name in ("-_", "!_") else INFIX.get(tree.name, MEMBER)


def _is_negative(value: Scalar) -> bool:
    return isinstance(value, int | float) and math.copysign(1, value) < 0


class _Printer:
    """One printing of one tree."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.length = 0
        self.starts: dict[int, int] = {}

    def put(self, text: str) -> None:
        self.out.append(text)
        self.length += len(text)

    def write(self, tree: Tree, least: int) -> None:
        """A part that must bind at least that strongly, else in parentheses."""
        enclosed = _strength(tree) < least
        if enclosed:
            self.put("(")
        self.starts.setdefault(id(tree), self.length)
        if isinstance(tree, Constant):
            self.put(scalar_text(tree.value))
        elif isinstance(tree, Read):
            self.put(draw(tree))
        else:
            self.call(tree)
        if enclosed:
            self.put(")")

    def call(self, tree: Call) -> None:
        name, args = tree.name, tree.args
        if name in INFIX:
            strength = INFIX[name]
            self.write(args[0], strength)
            for arg in args[1:]:
                self.put(f" {name} ")
                self.write(arg, strength + 1)
        elif name == "?:":
            self.write(args[0], TERNARY + 1)
            self.put(" ? ")
            self.write(args[1], TERNARY + 1)
            self.put(" : ")
            self.write(args[2], TERNARY)
        elif name in ("-_", "!_"):
            self.put(name[0])
            self.write(args[0], PREFIX if _repeats(name, args[0]) else MEMBER)
        elif name == "[]":
            self.write(args[0], MEMBER)
            self.key(args[1])
        else:
            self.put("[" if name == "list" else f"{name}(")
            for number, arg in enumerate(args):
                self.put(", " if number else "")
                self.write(arg, TERNARY)
            self.put("]" if name == "list" else ")")

    def key(self, key: Tree) -> None:
        if isinstance(key, Constant) and is_field(key.value):
            self.starts.setdefault(id(key), self.length)
            self.put(_step(key.value))
        else:
            self.put("[")
            self.write(key, TERNARY)
            self.put("]")


def _repeats(name: str, operand: Tree) -> bool:
    """Whether an operand of ! or - begins with the same sign: CEL takes !!a and --a, but neither !-a nor -!a."""
    if isinstance(operand, Constant):
        return name == "-_"
    return isinstance(operand, Call) and operand.name == name
