"""`--filter`: an expression over the columns of the results, parsed and never executed.

    temperature >= 4 and loss == 'kd'
    2 <= temperature < 8 and student in ('cnn', 'resnet8') and not state == 'failed'

Columns are named by their dotted path or, where that is unique, by its last part. A comparison with a value that a run
does not have is false.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .table import plain

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}
SYNTAX = "comparisons (==, !=, <, <=, >, >=, in, not in) of columns with numbers and texts, joined by and, or, not"


def matching(table: DataFrame, expression: str, column: Callable[[str], str]) -> list[str]:
    """The runs for which an expression is true.

    Args:
        column: Turns the name of a column as a user writes it into the column's own.

    Raises:
        UserError: The expression is no such one, or names no column.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"--filter: {expression!r} cannot be read; it may hold {SYNTAX}") from None
    names = {name: column(name) for name in _names(tree)}
    rows = ({name: plain(row[path]) for name, path in names.items()} for _, row in table.iterrows())
    return [str(path) for path, row in zip(table.index, rows, strict=True) if _is_true(tree, row)]


def _names(node: ast.expr) -> set[str]:
    """The columns that an expression names.

    Raises:
        UserError: The expression holds something else than comparisons.
    """
    if isinstance(node, ast.BoolOp):
        return set().union(*map(_names, node.values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _names(node.operand)
    if isinstance(node, ast.Compare) and all(type(each) in OPERATORS for each in node.ops):
        names = set()
        for operand in (node.left, *node.comparators):
            if (name := _column(operand)) is None:
                _constant(operand)
            else:
                names.add(name)
        return names
    raise UserError(f"--filter: {ast.unparse(node)!r} is no comparison; it may hold {SYNTAX}")


def _column(node: ast.expr) -> str | None:
    """`temperature` or `loss.kd.temperature`; None where it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (parent := _column(node.value)) is not None:
        return f"{parent}.{node.attr}"
    return None


def _constant(node: ast.expr) -> Any:
    """A number, a text, True, False, or several of them in brackets.

    Raises:
        UserError: It is something else.
    """
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f"--filter: {ast.unparse(node)!r} is neither a column, a number nor a text") from None


def _is_true(node: ast.expr, row: Row) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = (_is_true(value, row) for value in node.values)
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.UnaryOp):
        return not _is_true(node.operand, row)
    assert isinstance(node, ast.Compare)
    values = [_value(each, row) for each in (node.left, *node.comparators)]
    pairs = zip(node.ops, values, values[1:], strict=False)
    return all(_compare(type(each), left, right) for each, left, right in pairs)


def _value(node: ast.expr, row: Row) -> Any:
    name = _column(node)
    return _constant(node) if name is None else row[name]


def _compare(kind: type[ast.cmpop], left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    try:
        return bool(OPERATORS[kind](left, right))
    except TypeError:  # a number and a text
        return False
