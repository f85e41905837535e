"""Edits as text: a call with literal arguments, `dcn(stages=[3, 4])`, as stored in a model's config.json."""

import ast
import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from .base import EDITS, Edit

__all__ = ["parse_edits"]


def parse_edits(edits: "str | Edit | Iterable[str | Edit] | None") -> tuple[Edit, ...]:
    """Parse edits from text, `"dcn"`, `"dcn(stages=[3, 4])"` or `"dcn, frozen_bn"`, or from texts and edits in a list.

    Raises:
        ValueError: The text is not a call with literal arguments, or names an unknown edit or argument.
    """
    if edits is None:
        return ()
    if isinstance(edits, Edit):
        return (edits,)
    if not isinstance(edits, str):
        return tuple(edit for item in edits for edit in parse_edits(item))
    try:
        tree = ast.parse(edits.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read edit {edits!r}; write it as a call: dcn(stages=[3, 4])") from error
    return tuple(_read(node, edits) for node in (tree.elts if isinstance(tree, ast.Tuple) else [tree]))


def _read(node: ast.expr, text: str) -> Edit:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise ValueError(f"cannot read edit {text!r}; write it as a call: dcn(stages=[3, 4])")
    cls = EDITS.get(call.func.id)
    if cls is None:
        close = difflib.get_close_matches(call.func.id, EDITS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no edit {call.func.id!r}{hint} Known edits: {', '.join(sorted(EDITS))}")
    try:
        args = [_literal(arg) for arg in call.args]
        kwargs = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ValueError(f"edit {text!r} takes literal arguments only (numbers, strings, lists)") from error
    try:
        return cls(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(cls)) or "none"  # ty: ignore[invalid-argument-type]
        raise ValueError(f"edit {text!r}: {error}. Arguments of {cls.name!r}: {known}") from error


def _literal(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    return tuple(value) if isinstance(value, list) else value
