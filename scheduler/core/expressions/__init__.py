r"""Expressions: what guards of nodes and edges, branches of a choice and stop conditions are written in.

Pure: the standard library and scheduler.errors. A subset of CEL, the Common Expression Language
(https://github.com/google/cel-spec): what is written here parses in CEL, and where both have a value it is the same.
No side effects, no loops, no functions of one's own; text, nesting, parts and cost are bounded (operators.py).

::

    expression = infix [ "?" infix ":" expression ]
    infix      = prefix { operator prefix }            strengths in operators.py; all from left to right
    operator   = "||" | "&&" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "+" | "-" | "*" | "/" | "%"
    prefix     = "!" { "!" } member | "-" { "-" } member | member
    member     = primary { "." field | "[" expression "]" }
    primary    = literal | node | list | function "(" expression ")" | "(" expression ")"
    list       = "[" [ expression { "," expression } ] "]"
    node       = ( name | "nodes" "[" string "]" ) "." ( "output" | "error" | "state" | "attempts" )
    function   = "has" | "size"
    literal    = "true" | "false" | "null" | int | double | string
    int        = digits | "0x" hexdigits               int64
    double     = [ digits ] "." digits [ exponent ] | digits exponent
    string     = '"' characters '"' | "'" characters "'"       escapes: \\ \" \' \` \? \a \b \f \n \r \t \v
                                                       \x41 \u00e9 \U0001f600 \101
    name, field = letter or "_" { letter, digit or "_" }       no keyword; a name no reserved word either

A node is its key where that is a name and not reserved, else nodes["my-node"]. `output` and `error` are JSON (`error`
is null where there was none), `state` is a word such as "succeeded", `attempts` a number. An expression that is parsed
with names of values reads these and no nodes: `it.net * 1.2`.

>>> guard = parse("fetch.output.score >= 0.8 && 'new' in nodes['my-check'].output.tags")
>>> guard.text
'fetch.output.score >= 0.8 && "new" in nodes["my-check"].output.tags'
>>> guard.reads[0]
Read(node='fetch', what='output', path=('score',))
>>> outputs = {"fetch": {"score": 0.3}, "my-check": {"tags": []}}
>>> value, seen = evaluated(guard, lambda read: follow(outputs[read.node], read.path))
>>> value, seen
(False, (('fetch.output.score', '0.3'),))

Here and not in CEL: an int and a double may be added, subtracted, multiplied and divided; has() asks for a whole path
and is false wherever it ends. In CEL and an error here: doubles that are infinite or no number, since JSON has none.
Left out: uint, bytes, raw and triple-quoted strings, maps as literals, macros but has(), other functions, comments.
"""

from __future__ import annotations

from .checking import SchemaOf, check
from .errors import EvaluationError, Missing, Seen
from .evaluate import Look, Purse, follow
from .expression import (
    Expression,
    binary,
    call,
    conditional,
    constant,
    evaluated,
    item,
    listed,
    literal,
    parse,
    read,
    unary,
    worded,
)
from .tree import Read, draw

__all__ = [
    "EvaluationError",
    "Expression",
    "Look",
    "Missing",
    "Purse",
    "Read",
    "SchemaOf",
    "Seen",
    "binary",
    "call",
    "check",
    "conditional",
    "constant",
    "draw",
    "evaluated",
    "follow",
    "item",
    "listed",
    "literal",
    "parse",
    "read",
    "unary",
    "worded",
]
