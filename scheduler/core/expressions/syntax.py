"""Syntax: from tokens to the tree, by recursive descent; operators between operands by a stack of them.

Pure. The grammar stands in the package's docstring; each of its rules is a method here. Text of any kind gives a tree
or an ExpressionError, and recursion is bounded by the nesting that is allowed.
"""

from __future__ import annotations

from collections.abc import Collection

from ...errors import ExpressionError, did_you_mean, shown
from .operators import FUNCTIONS, INFIX, MOST_NESTING
from .tokens import OTHER_LANGUAGES, Token, double_of, int_of, string_of, tokens_of
from .tree import KEYWORDS, NODES, RESERVED, VALUE, WHATS, Call, Constant, Read, Tree, draw, indexed, infix, negated

_LITERALS = {"true": True, "false": False, "null": None}


def tree_of(text: str, names: Collection[str] = ()) -> Tree:
    """The tree of an expression.

    Args:
        names: of values; without any, every name is that of a node.

    Raises:
        ExpressionError: the text is none, or is too long or nested too deep.
    """
    parser = _Parser(text, names)
    tree = parser.expression()
    if parser.token.kind != "end":
        raise parser.unexpected("an operator or the end")
    return tree


class _Parser:
    """One reading of one text."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self.text = text
        self.names = names
        self.tokens = tokens_of(text)
        self.next = 0
        self.open = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def error(self, problem: str, remedy: str, at: Token | None = None) -> ExpressionError:
        return ExpressionError(self.text, (at or self.token).at, problem, remedy)

    def unexpected(self, wanted: str) -> ExpressionError:
        found = self.token
        if found.kind == "end":
            return self.error(f"it ends where {wanted} should follow", "Complete it.")
        remedy = "Correct this place, or put what belongs together in parentheses."
        if other := OTHER_LANGUAGES.get(found.text):
            remedy = f"Write {other}."
        elif found.text == "(":
            remedy = "The only functions are has(x) and size(x)."
        elif found.text[:1] == ".":
            remedy = "Write a field as .name, an item as [0]."
        return self.error(f"{shown(found.text, 40)} stands where {wanted} should", remedy)

    def take(self, text: str) -> bool:
        """Whether this sign comes next; then it is behind us."""
        found = self.token.text == text
        if found:
            self.next += 1
        return found

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise self.unexpected(shown(text))

    def deeper(self, levels: int) -> None:
        self.open += levels
        if self.open > MOST_NESTING:
            raise self.error(f"it is nested more than {MOST_NESTING} deep", "Decide in an executor.")

    def expression(self) -> Tree:
        self.deeper(1)
        tree = self.infix()
        if self.take("?"):
            chosen = self.infix()
            self.expect(":")
            tree = Call("?:", (tree, chosen, self.expression()))
        self.open -= 1
        return tree

    def infix(self) -> Tree:
        """Operands and the operators between them; whatever binds at least as strongly as the next one is joined."""
        operands = [self.prefix()]
        names: list[str] = []
        while True:
            strength = INFIX.get(self.token.text, 0)
            while names and INFIX[names[-1]] >= strength:
                right = operands.pop()
                operands.append(infix(names.pop(), operands.pop(), right))
            if not strength:
                return operands[0]
            names.append(self.advance().text)
            operands.append(self.prefix())

    def prefix(self) -> Tree:
        sign = self.token.text
        count = 0
        while sign in ("!", "-") and self.take(sign):
            count += 1
        levels = max(0, count - 1)  # the last one may be the sign of a number
        self.deeper(levels)
        if sign == "-" and self.token.kind == "int" and self.tokens[self.next + 1].text not in (".", "["):
            tree: Tree = self.whole(-1)  # at once, for the smallest int64 has no positive
            count -= 1
        else:
            tree = self.member()
        for _ in range(count):
            tree = negated(tree) if sign == "-" else Call("!_", (tree,))
        self.open -= levels
        return tree

    def member(self) -> Tree:
        tree = self.primary()
        while True:
            if self.take("."):
                name = self.token
                if name.kind != "name" or name.text in KEYWORDS:
                    raise self.unexpected("the name of a field")
                self.next += 1
                tree = indexed(tree, Constant(name.text))
            elif self.take("["):
                tree = indexed(tree, self.key())
                self.expect("]")
            else:
                return tree

    def key(self) -> Tree:
        """What stands in brackets; a literal step makes a path longer and not the nesting deeper."""
        ahead = self.tokens[self.next : self.next + 2]
        literal = ahead[0].kind in ("int", "string") and ahead[-1].text == "]"
        return self.primary() if literal else self.expression()

    def primary(self) -> Tree:
        kind = self.token.kind
        if kind == "int":
            return self.whole()
        if kind == "double":
            return Constant(double_of(self.text, self.advance()))
        if kind == "string":
            return Constant(string_of(self.text, self.advance()))
        if kind == "name" and self.token.text != "in":
            return self.named()
        if self.take("["):
            return self.listed()
        if not self.take("("):
            raise self.unexpected("a value")
        tree = self.expression()
        self.expect(")")
        return tree

    def advance(self) -> Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def whole(self, sign: int = 1) -> Constant:
        return Constant(int_of(self.text, self.advance(), sign))

    def listed(self) -> Tree:
        items: list[Tree] = []
        while not self.take("]"):
            if items:
                self.expect(",")
            items.append(self.expression())
        return Call("list", tuple(items))

    def named(self) -> Tree:
        """A literal, a function, or a node: `true`, `size(x)`, `fetch.output`, `nodes["my-node"].output`."""
        token = self.advance()
        if token.text in _LITERALS:
            return Constant(_LITERALS[token.text])
        if token.text in self.names:
            return Read(token.text, VALUE)
        if token.text in RESERVED:
            spelling = draw(Read(token.text))
            raise self.error(f"{shown(token.text)} is a reserved word", f"Write {spelling} for that node.", token)
        if self.take("("):
            return self.function(token)
        if self.names:
            hint = did_you_mean(token.text, self.names)
            known = ", ".join(self.names)
            raise self.error(f"there is no value {shown(token.text)} here", f"Known: {known}.{hint}", token)
        if token.text != NODES:
            return self.node(token.text, token)
        self.expect("[")
        if self.token.kind != "string":
            raise self.unexpected("the key of a node in quotes")
        key = string_of(self.text, self.advance())
        self.expect("]")
        return self.node(key, token)

    def function(self, name: Token) -> Tree:
        if name.text not in FUNCTIONS:
            hint = did_you_mean(name.text, FUNCTIONS)
            raise self.error(f"there is no function {shown(name.text)}", f"Write has(x) or size(x).{hint}", name)
        argument = self.expression()
        self.expect(")")
        return Call(name.text, (argument,))

    def node(self, key: str, at: Token) -> Tree:
        if not key:
            raise self.error("no node has an empty key", "Name a node of the graph.", at)
        named = self.token.text == "." and self.tokens[self.next + 1].kind == "name"
        what = self.tokens[self.next + 1] if named else at
        if named and what.text in WHATS:
            self.next += 2
            return Read(key, what.text)
        if other := OTHER_LANGUAGES.get(at.text):
            raise self.error(f"{shown(at.text)} is no value", f"Write {other}.", at)
        *most, last = (draw(Read(key, it)) for it in WHATS)
        remedy = f"Write {', '.join(most)} or {last}."
        if named:
            hint = did_you_mean(what.text, WHATS)
            raise self.error(f"a node has no {shown(what.text)}", f"{remedy}{hint}", what)
        raise self.error(f"{shown(key)} names a node, which itself is no value", remedy, at)
