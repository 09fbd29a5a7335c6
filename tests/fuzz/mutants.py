"""
Small wrong changes to a file, one at a time: what `scripts/mutate` expects the tests to notice.

They are made in the syntax tree. Beside the usual ones (a comparison turned round, a condition that always holds, a
statement left out) there are those that matter to code which reads bytes: every part of a regular expression or of a
set of characters left out, and text, bytes and keyword arguments changed, at the top of a module as well as inside of
functions. The words of error messages, annotations and docstrings stay as they are.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

CALLS = {
    "strip": ("lstrip", "rstrip"),
    "rstrip": ("strip",),
    "split": ("rsplit",),
    "partition": ("rpartition",),
    "startswith": ("endswith",),
    "fullmatch": ("match",),
    "search": ("match",),
    "match": ("search",),
    "min": ("max",),
    "max": ("min",),
    "any": ("all",),
    "all": ("any",),
    "intersection": ("union",),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
PART = re.compile(r"\\x..|\\u....|\\.|\[\^|.-.|.", re.DOTALL)
"""One member of a character class, or another piece of a regular expression that may be left out."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong change: where it stands, what it does, and the whole file with it."""

    function: str
    line: int
    before: str
    """The line as it stands, without its indentation."""
    change: str
    source: str = field(repr=False)


Change = tuple[str, Callable[[], object]]
"""What a mutant is called, and how to make the node (or list of nodes) that takes the place of the old one."""


def mutants(source: str, *, within: Collection[str] = ()) -> Iterator[Mutant]:
    """Make all mutants of *source*, or those of the functions, methods and constants called *within*."""
    tree = ast.parse(source)
    lines = source.splitlines()
    seen = {ast.unparse(tree)}
    for site in list(_sites(tree, function="", pattern=False)):
        if within and not set(within).intersection(site.function.split(".")):
            continue
        for change, make in _changes(site):
            with site.replaced(make()):
                text = ast.unparse(tree)
            if text in seen:
                continue
            seen.add(text)
            yield Mutant(site.function, site.line, lines[site.line - 1].strip(), change, text)


@dataclass(frozen=True, slots=True)
class _Site:
    """A node, and where it hangs."""

    parent: ast.AST
    name: str
    index: int | None
    node: ast.AST
    function: str
    line: int
    pattern: bool
    """Whether it is part of a regular expression, or a set of characters."""

    def replaced(self, new: object) -> _Replaced:
        return _Replaced(self, new)

    def put(self, new: object) -> None:
        if self.index is None:
            setattr(self.parent, self.name, new)
        else:
            getattr(self.parent, self.name)[self.index] = new


class _Replaced:
    def __init__(self, site: _Site, new: object) -> None:
        self._site, self._new = site, new

    def __enter__(self) -> None:
        self._site.put(self._new)

    def __exit__(self, *_: object) -> None:
        self._site.put(self._site.node)


def _sites(parent: ast.AST, *, function: str, pattern: bool) -> Iterator[_Site]:
    for name, value in ast.iter_fields(parent):
        if _left_alone(parent, name):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_words(node, parent):
                continue
            inside = function
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{function}.{node.name}".lstrip(".")
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not function:
                inside = node.targets[0].id
            characters = pattern or _is_pattern(node, top=isinstance(parent, ast.Module))
            line = getattr(node, "lineno", getattr(parent, "lineno", 0))
            if line:
                yield _Site(parent, name, index, node, inside, line, characters)
            yield from _sites(node, function=inside, pattern=characters)


def _left_alone(parent: ast.AST, name: str) -> bool:
    return name in ("annotation", "returns", "decorator_list", "type_params", "bases") or isinstance(
        parent, ast.Import | ast.ImportFrom
    )


def _is_words(node: ast.AST, parent: ast.AST) -> bool:
    """
    Whether it is a docstring, or what an error says: a sentence, not a code.

    That the error is raised at all is another mutant.
    """
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Call) and (isinstance(parent, ast.Raise) or ast.unparse(node.func) == "Refused"):
        for argument in node.args:
            if isinstance(argument, ast.JoinedStr) or (
                isinstance(argument, ast.Constant) and " " in str(argument.value)
            ):
                argument.words = True  # type: ignore[union-attr]
    return getattr(node, "words", False)


def _is_pattern(node: ast.AST, *, top: bool) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith("re.")
    return top and isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


def _changes(site: _Site) -> Iterator[Change]:
    for kind, make in _KINDS:
        if isinstance(site.node, kind):
            yield from make(site)


def _of_comparison(site: _Site) -> Iterator[Change]:
    node = _as(ast.Compare, site)
    for index, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:

            def make(index: int = index, other: type[ast.cmpop] = other) -> ast.AST:
                changed: ast.Compare = copy.deepcopy(node)
                changed.ops[index] = other()
                return changed

            yield f"{type(operator).__name__} becomes {other.__name__}", make


def _of_condition(site: _Site) -> Iterator[Change]:
    node = _as(ast.BoolOp, site)
    for index, value in enumerate(node.values):
        rest = [other for position, other in enumerate(node.values) if position != index]
        shorter = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        yield f"without `{ast.unparse(value)}`", partial(_itself, shorter)
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield f"{type(node.op).__name__} becomes {type(other).__name__}", lambda: ast.BoolOp(other, node.values)


def _of_negation(site: _Site) -> Iterator[Change]:
    node = _as(ast.UnaryOp, site)
    yield f"without {type(node.op).__name__}", lambda: node.operand


def _of_branch(site: _Site) -> Iterator[Change]:
    node = site.node
    assert isinstance(node, ast.If | ast.IfExp | ast.While)
    for always in (True, False):

        def make(always: bool = always) -> ast.AST:
            changed = copy.copy(node)
            changed.test = ast.Constant(always)
            return changed

        if always and isinstance(node, ast.While):
            continue
        yield f"`if {ast.unparse(node.test)}` is always {always}", make


def _of_comprehension(site: _Site) -> Iterator[Change]:
    node = _as(ast.comprehension, site)
    for condition in node.ifs:
        rest = [other for other in node.ifs if other is not condition]
        yield (
            f"without `if {ast.unparse(condition)}`",
            partial(ast.comprehension, node.target, node.iter, rest, node.is_async),
        )


def _of_arithmetic(site: _Site) -> Iterator[Change]:
    node = _as(ast.BinOp, site)
    other = OPERATORS.get(type(node.op))
    if other is not None:
        yield f"{type(node.op).__name__} becomes {other.__name__}", lambda: ast.BinOp(node.left, other(), node.right)


def _of_constant(site: _Site) -> Iterator[Change]:
    value = _as(ast.Constant, site).value
    if isinstance(value, bool):
        yield f"{value} becomes {not value}", lambda: ast.Constant(not value)
    elif isinstance(value, int):
        yield f"{value} becomes {value + 1}", lambda: ast.Constant(value + 1)
        yield f"{value} becomes {value - 1}", lambda: ast.Constant(value - 1)
    elif isinstance(value, str) and site.pattern:
        for match in PART.finditer(value):
            rest = value[: match.start()] + value[match.end() :]
            yield f"{match[0]!r} left out of {value[:30]!r}", partial(ast.Constant, rest)
    elif isinstance(value, str):
        yield f"{value!r} becomes another text", lambda: ast.Constant(value + "XX")
    elif isinstance(value, bytes):
        yield f"{value!r} becomes other bytes", lambda: ast.Constant(value + b"XX")
        if len(value) > 1:
            yield f"{value!r} without its last byte", lambda: ast.Constant(value[:-1])


def _of_call(site: _Site) -> Iterator[Change]:
    node = _as(ast.Call, site)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    for other in CALLS.get(name, ()):
        function: ast.expr = (
            ast.Attribute(node.func.value, other, ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(other, ast.Load())
        )
        yield (
            f"{name} becomes {other}",
            partial(ast.Call, function, node.args, node.keywords),
        )
    if isinstance(node.func, ast.Attribute) and name in ("casefold", "lower", "upper", "strip", "rstrip"):
        receiver = node.func.value
        yield f"without {name}", lambda: receiver
    for keyword in node.keywords:
        rest = [other for other in node.keywords if other is not keyword]
        yield f"without {keyword.arg}=", partial(ast.Call, node.func, node.args, rest)


def _of_slice(site: _Site) -> Iterator[Change]:
    node = _as(ast.Slice, site)
    if node.lower is not None:
        yield "from the beginning", lambda: ast.Slice(None, node.upper, node.step)
    if node.upper is not None:
        yield "to the end", lambda: ast.Slice(node.lower, None, node.step)


def _of_return(site: _Site) -> Iterator[Change]:
    node = _as(ast.Return, site)
    if node.value is not None and ast.unparse(node.value) != "None":
        yield f"`return {ast.unparse(node.value)[:40]}` returns None", lambda: ast.Return(ast.Constant(None))


def _of_statement(site: _Site) -> Iterator[Change]:
    if isinstance(site.node, ast.Assign) and not isinstance(site.node.targets[0], ast.Attribute | ast.Subscript):
        return  # what reads the name would fail; an attribute or an item may have an older value
    yield f"without `{ast.unparse(site.node)[:50]}`", ast.Pass


def _of_jump(site: _Site) -> Iterator[Change]:
    if isinstance(site.node, ast.Continue):
        yield "continue becomes break", ast.Break
    else:
        yield "break becomes continue", ast.Continue


_KINDS: tuple[tuple[type[ast.AST] | tuple[type[ast.AST], ...], Callable[[_Site], Iterator[Change]]], ...] = (
    (ast.Compare, _of_comparison),
    (ast.BoolOp, _of_condition),
    (ast.UnaryOp, _of_negation),
    ((ast.If, ast.IfExp, ast.While), _of_branch),
    (ast.comprehension, _of_comprehension),
    (ast.BinOp, _of_arithmetic),
    (ast.Constant, _of_constant),
    (ast.Call, _of_call),
    (ast.Slice, _of_slice),
    (ast.Return, _of_return),
    ((ast.Expr, ast.Raise, ast.Assign, ast.AugAssign, ast.Delete), _of_statement),
    ((ast.Continue, ast.Break), _of_jump),
)


def _as(kind: type, site: _Site) -> Any:
    assert isinstance(site.node, kind)
    return site.node


def _itself(node: ast.AST) -> ast.AST:
    return node
