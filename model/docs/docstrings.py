"""Texts of the generated pages, read from docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's or class's docstring, or else of its module's."""
    return (inspect.getdoc(function) or "").partition("\n")[0] or module_summary(function)


def module_summary(function: Callable[..., Any]) -> str:
    """The first line of a module's docstring: of a file with one method, the method's name and idea."""
    return module_docstring(function).partition("\n")[0]


def module_docstring(function: Callable[..., Any]) -> str:
    return inspect.getdoc(inspect.getmodule(function)) or ""


def argument_texts(documented: Any) -> dict[str, str]:
    """The section "Args:" of a docstring: name -> text, on one line."""
    _, _, section = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    texts: dict[str, str] = {}
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if match := re.match(r"    (\w+): (.*)", line):
            name, texts[match[1]] = match[1], match[2]
        else:
            texts[name] += f" {line.strip()}"
    return texts


def with_code_blocks(docstring: str) -> str:
    """A docstring as Markdown: indented lines, which are formulas, become code blocks."""
    return re.sub(
        r"(?:^    .*\n?)+", lambda match: f"\n```\n{inspect.cleandoc(match[0])}\n```\n\n", docstring, flags=re.M
    )
