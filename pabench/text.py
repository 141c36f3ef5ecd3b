# SPDX-License-Identifier: Apache-2.0
"""Text of others, which a backend, a file or a path may hold anything in, made fit to be shown to people.

Terminals obey escape sequences, marks of direction turn the text beside them around, and a lone surrogate has
no UTF-8.  Whatever pabench prints or renders goes through here; journals and cases keep what was said.
"""

from __future__ import annotations

import unicodedata

TEXT_LIMIT = 4000
LINE_LIMIT = 1000
VALUE_LIMIT = 80


def clean_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return ``text`` with every invisible character written out and cut at ``limit`` characters.

    Control characters are illegal in XML, lone surrogates in UTF-8, and direction overrides could turn the
    text beside them around; all become ``\\u202e``-like text.  Newlines and tabs stay.  Escaping for HTML is
    the template's business, not this function's.
    """
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit:,} more characters in the journal)"
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _hidden(c) else _spelled(c) for c in text)


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """Return ``text`` on one line, invisible characters written out.

    A message opens with the value and closes with the rule: one that is too long loses its middle.
    """
    return _middle_cut(clean_text(" ".join(text.split()), len(text)), limit)


def shown(value: object, limit: int = VALUE_LIMIT) -> str:
    """Return the ``repr`` of a value for a message, its middle left out where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = f"a {type(value).__name__} too long to write"
    return _middle_cut(clean_text(text, len(text)), limit)


def shown_path(path: object) -> str:
    """Return a path for a message, quoted, and whole: the end of it says which file is meant."""
    return shown(str(path), LINE_LIMIT)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return ``1 cell`` or ``2 cells``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _middle_cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}… ({len(text) - 2 * half:,} characters) …{text[-half:]}"


def _hidden(char: str) -> bool:
    # C: control, format, surrogate, private, unassigned; Zl and Zp break lines
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp")


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
