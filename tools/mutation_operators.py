"""The operators of `tools.mutation`: every small change to a module that they know.

A mutant replaces one node of the module's syntax tree. Left alone are docstrings, annotations,
type aliases, `__all__`, `__slots__`, decorators, assertions, the texts of errors and the `strict`
of `zip`.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OTHER_FUNCTION = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
UNTOUCHED = ("__all__", "__slots__")
SKIPPED_FIELDS = ("annotation", "returns", "decorator_list", "bases")
Place = tuple[ast.AST, str, int | None]
"""A node's parent, the field it stands in, and where in that if it is a list."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `new` stands where `old` stood in `field` of `parent`."""

    kind: str
    parent: ast.AST
    field: str
    index: int | None
    new: object
    line: int
    end_line: int
    in_function: bool
    statement: ast.stmt

    def apply(self) -> object:
        """Change the tree; return what stood there."""
        if self.index is None:
            old = getattr(self.parent, self.field)
            setattr(self.parent, self.field, self.new)
        else:
            row = getattr(self.parent, self.field)
            old, row[self.index] = row[self.index], self.new
        return old

    def undo(self, old: object) -> None:
        """Put back what `apply` returned."""
        if self.index is None:
            setattr(self.parent, self.field, old)
        else:
            getattr(self.parent, self.field)[self.index] = old

    def difference(self) -> tuple[str, str]:
        """Return the first line of the statement that differs, before and after."""
        before = _lines(self.statement)
        old = self.apply()
        deleted = self.statement is old
        after = ["pass"] if deleted else _lines(self.statement)
        self.undo(old)
        return next(
            (pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]), ("", "")
        )


def _lines(statement: ast.stmt) -> list[str]:
    return [line.strip() for line in ast.unparse(statement).splitlines()]


def find_mutants(tree: ast.Module) -> list[Mutant]:
    """Return the mutants of a module, from top to bottom."""
    finder = _Finder()
    finder.body(tree, "body", tree.body)
    return sorted(finder.found, key=lambda mutant: (mutant.line, mutant.end_line))


class _Finder:
    def __init__(self) -> None:
        self.found: list[Mutant] = []
        self.depth = 0
        self.statement: ast.stmt = ast.Pass()

    def add(self, kind: str, place: Place, new: object, at: ast.AST) -> None:
        """Note that `new` may stand at `place`, where `at` stands now."""
        line = at.lineno  # type: ignore[attr-defined]
        end_line = at.end_lineno or line  # type: ignore[attr-defined]
        if isinstance(new, ast.AST):
            ast.copy_location(new, at)
            ast.fix_missing_locations(new)
        entry = Mutant(kind, *place, new, line, end_line, self.depth > 0, self.statement)
        self.found.append(entry)

    # Statements

    def body(self, parent: ast.AST, field: str, statements: list[ast.stmt]) -> None:
        for index, statement in enumerate(statements):
            if not _is_left_alone(statement):
                self.visit_statement(statement, (parent, field, index))

    def visit_statement(self, node: ast.stmt, place: Place) -> None:
        self.statement = node
        if self.depth and _can_go(node):
            self.add("deleted", place, ast.Pass(), node)
        if isinstance(node, ast.Break):
            self.add("break", place, ast.Continue(), node)
        elif isinstance(node, ast.Continue):
            self.add("continue", place, ast.Break(), node)
        elif isinstance(node, ast.Return) and node.value is not None:
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                self.add("return", (node, "value", None), ast.Constant(None), node.value)
        elif isinstance(node, ast.AugAssign):
            self.add("arithmetic", (node, "op", None), ARITHMETIC[type(node.op)](), node)
        elif isinstance(node, ast.For):
            self.add("no loop", (node, "iter", None), ast.Tuple([], ast.Load()), node.iter)
        elif isinstance(node, ast.If | ast.While):
            self.negate(node)
        self.children(node)

    def children(self, node: ast.AST) -> None:
        """Visit everything below a node that may be changed."""
        deeper = isinstance(node, ast.FunctionDef)
        if isinstance(node, ast.Raise):
            return
        for field, value in ast.iter_fields(node):
            if field in SKIPPED_FIELDS or (isinstance(node, ast.ClassDef) and field == "keywords"):
                continue
            self.depth += deeper and field == "body"
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    self.body(node, field, value)
                    self.statement = node if isinstance(node, ast.stmt) else self.statement
                else:
                    for index, item in enumerate(value):
                        self.visit(item, (node, field, index))
            else:
                self.visit(value, (node, field, None))
            self.depth -= deeper and field == "body"

    # Expressions

    def visit(self, node: object, place: Place) -> None:
        if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return
        if isinstance(node, ast.BinOp) and not _is_zero(node.right):
            self.add("arithmetic", (node, "op", None), ARITHMETIC[type(node.op)](), node)
        elif isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                for other in COMPARISONS[type(operator)]:
                    self.add("comparison", (node, "ops", index), other(), node)
        elif isinstance(node, ast.BoolOp):
            self.boolean(node, place)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            self.add("unary", place, node.operand, node)
        elif isinstance(node, ast.Constant):
            self.constant(node, place)
        elif isinstance(node, ast.IfExp):
            self.negate(node)
        elif isinstance(node, ast.Call):
            self.call(node, place)
        elif isinstance(node, ast.Slice):
            for bound in ("lower", "upper"):
                if getattr(node, bound) is not None:
                    self.add("slice", (node, bound, None), None, getattr(node, bound))
        elif isinstance(node, ast.comprehension):
            for index, condition in enumerate(node.ifs):
                self.add("condition", (node, "ifs", index), ast.Constant(True), condition)
        self.children(node)

    def negate(self, node: ast.If | ast.While | ast.IfExp) -> None:
        """Turn a condition round, unless another operator does the same."""
        test = node.test
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant) or (
            isinstance(test, ast.Compare) and len(test.ops) > 1
        ):
            self.add("negated", (node, "test", None), ast.UnaryOp(ast.Not(), test), test)

    def boolean(self, node: ast.BoolOp, place: Place) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.add("boolean", (node, "op", None), other, node)
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            new = ast.BoolOp(node.op, rest) if len(rest) > 1 else copy.copy(rest[0])
            self.add("operand", place, new, node)

    def constant(self, node: ast.Constant, place: Place) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("constant", place, ast.Constant(not value), node)
        elif isinstance(value, int | float):
            for new in (value + 1, value - 1):
                self.add("constant", place, ast.Constant(new), node)
        elif isinstance(value, str) and value:
            self.add("text", place, ast.Constant(f"{value}?"), node)

    def call(self, node: ast.Call, place: Place) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in OTHER_FUNCTION:
            new = ast.Name(OTHER_FUNCTION[name], ast.Load())
            changed = ast.Call(new, node.args, [] if name == "sorted" else node.keywords)
            self.add("function", place, changed, node)
        if (
            name not in ("min", "max")
            and len(node.args) > 1
            and ast.dump(node.args[-1]) != ast.dump(node.args[-2])
        ):
            swapped = [*node.args[:-2], node.args[-1], node.args[-2]]
            self.add("swapped", place, ast.Call(node.func, swapped, node.keywords), node)


def _is_zero(node: ast.expr) -> bool:
    """Return whether adding is the same as subtracting."""
    return isinstance(node, ast.Constant) and node.value == 0


def _can_go(node: ast.stmt) -> bool:
    """Return whether deleting a statement is more than a syntax or name error."""
    if isinstance(node, ast.Assign):
        names = [name for target in node.targets for name in getattr(target, "elts", [target])]
        return not all(isinstance(name, ast.Name) for name in names)
    if isinstance(node, ast.AnnAssign):
        return node.value is not None and not isinstance(node.target, ast.Name)
    return isinstance(node, ast.Expr | ast.AugAssign | ast.Delete | ast.Raise)


def _is_left_alone(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.Pass):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        alias = name[0].isupper() and not name.isupper()
        return name in UNTOUCHED or alias
    return False
