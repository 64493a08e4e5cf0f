"""Texts that the generated pages read from docstrings."""

from __future__ import annotations

from model.docs.docstrings import argument_texts, summary, with_code_blocks


def test_argument_texts_are_read_from_a_docstring() -> None:
    def documented() -> None:
        """One line.

        More: than one.

        Args:
            alpha: Share, in [0, 1]: of the
                soft part.
            temperature: Divides.

        Raises:
            ValueError: Never.
        """

    assert argument_texts(documented) == {"alpha": "Share, in [0, 1]: of the soft part.", "temperature": "Divides."}


def test_indented_lines_become_a_code_block() -> None:
    markdown = with_code_blocks("Of a paper\n    a * b,\n    c\nwith c a number.")
    assert markdown == "Of a paper\n\n```\na * b,\nc\n```\n\nwith c a number."


def test_summary_is_the_first_line_of_the_docstring() -> None:
    def documented() -> None:
        """One line.

        Another.
        """

    assert summary(documented) == "One line."


def test_summary_of_a_function_without_a_docstring_is_that_of_its_module() -> None:
    def undocumented() -> None: ...

    assert summary(undocumented) == "Texts that the generated pages read from docstrings."
