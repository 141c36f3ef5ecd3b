# SPDX-License-Identifier: Apache-2.0
"""Which questions ``-k`` means: the ids that a run prints, with globs, lists and the words ``and``, ``not``.

::

    decode[needle]              this one
    decode                      decode with any label, and not append-decode
    decode[*], *e4m3*           whatever fits the pattern
    needle                      any question with this label
    reject, append-reject       either; ``or`` is another word for the comma
    decode and not *high*       the first without the second
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pabench.checks.suite import QUESTIONS
from pabench.errors import UsageError

SEPARATORS = re.compile(r"\s*,\s*|\s+or\s+")
WORDS = frozenset({"and", "or", "not"})
NEAREST = 3


def select(expression: str) -> tuple[str, ...]:
    """Return the ids of the questions that ``expression`` means, in the order of the suite.

    Raises:
        UsageError: a part of it means none of them, or it is no list of names and patterns.
    """
    ids, chosen = [row.id for row in QUESTIONS], set[str]()
    for part in SEPARATORS.split(expression.strip()):
        chosen |= _conjunction(expression, part, ids)
    return tuple(name for name in ids if name in chosen)


def _conjunction(expression: str, part: str, ids: Sequence[str]) -> set[str]:
    found, negated, wanted = set(ids), False, True
    for word in part.split():
        if word == "and" and not wanted:
            wanted = True
        elif word == "not" and wanted and not negated:
            negated = True
        elif wanted and word not in WORDS:
            named = set(_named(expression, word, ids))
            found = found - named if negated else found & named
            negated = wanted = False
        else:
            raise _broken(expression, f"{word!r} must not stand there")
    if wanted:
        raise _broken(
            expression, "ends where a name must follow" if part else "has an empty place in the list"
        )
    return found


def _named(expression: str, word: str, ids: Sequence[str]) -> list[str]:
    """Ids that one name or pattern means: an exact id, else a check, else a label, else a glob."""
    if word in ids:
        return [word]
    if "*" in word or "?" in word:
        # the brackets of an id are no class of characters
        pattern = re.escape(word).replace(r"\*", ".*").replace(r"\?", ".")
        found = [name for name in ids if re.fullmatch(pattern, name)]
    else:
        found = [name for name in ids if name.partition("[")[0] == word]
        found = found or [name for name in ids if name.partition("[")[2] == f"{word}]"]
    if not found:
        raise UsageError(f"-k {expression!r}: no question is called {word!r}{_nearest(word, ids)}")
    return found


def _nearest(word: str, ids: Sequence[str]) -> str:
    """What there is: the nearest names first, then the ids of all checks."""
    checks = list(dict.fromkeys(name.partition("[")[0] for name in ids))
    labels = [name.partition("[")[2].rstrip("]") for name in ids]
    by_label = dict(zip(labels, ids, strict=True)) | dict(zip(ids, ids, strict=True))
    close = difflib.get_close_matches(word.strip("*?"), [*by_label, *checks], n=NEAREST, cutoff=0.6)
    near = [by_label.get(name, name) for name in close]
    near = list(dict.fromkeys([*near, *(name for name in ids if word.strip("*?") in name)]))[:NEAREST]
    rest = [name for name in checks if name not in near]
    return f" (known: {', '.join([*near, *rest])}; with labels: pabench list questions)"


def _broken(expression: str, rule: str) -> UsageError:
    return UsageError(f"-k {expression!r}: {rule}", hint="ids, patterns with * and ?, commas, and, or, not")
