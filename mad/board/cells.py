"""Texts of records in files that others open: nothing in them is run or read as markup."""

from typing import Any

from mad.messages import printable

# How a spreadsheet tells a formula, in narrow and in wide signs.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def as_cell(value: Any) -> Any:
    """A cell of CSV; an apostrophe keeps a spreadsheet from running what begins as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def as_markdown(text: str) -> str:
    """A cell of a Markdown table, or a line of text; Markdown lets HTML through."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
