# SPDX-License-Identifier: Apache-2.0
"""The block table of a failing case as a picture: a row a sequence, a box a page, and what was wrong marked.

The case is read from ``failures/`` beside the journal.  Where it is not there, damaged or too large, there is
no picture; the card says the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from pabench.errors import InvalidCase, UsageError
from pabench.problem.case import Case
from pabench.problem.layout import PageLayout, pages_needed
from pabench.report.palette import EMPTY, GRID, INK, LINES, MUTED, PAPER, ramp
from pabench.text import plural

MAX_CASE_BYTES = 2**20
MAX_PAGES = 100_000
"""Of one case; a table of more takes too long to lay out for a picture of a corner of it."""
MOST_ROWS, MOST_BOXES = 6, 10
BOX_WIDTH, BOX_HEIGHT, GAP, LABEL = 62, 26, 6, 92
ROW = BOX_HEIGHT + 16
WRONG, USED = LINES[1][0], ramp("tokens")[2][0]
SEQUENCE = re.compile(r"^sequence (\d+), ")
PAGE = re.compile(r"logical page (\d+) (?:in|read from) physical page (\d+)")
LAST, FIRST = "its last key missing", "its first key missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """The picture and the same in words.

    Attributes:
        page_size: of the case, in tokens.
        svg: the picture.
        rows: (sequence, its tokens and pages in words).
        said: one sentence on what is marked and what was left out.
    """

    page_size: int
    svg: str
    rows: tuple[tuple[str, str], ...]
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What to point at: a sequence, and a page and a slot of it."""

    sequence: int | None = None
    page: int | None = None
    slot: int | None = None
    why: str = ""


def build_page_table(folder: Path, text: str, words: str, uid: str) -> PageTable | None:
    """Return the block table of the case in ``folder``, or None where there is none to draw.

    Args:
        folder: a case directory; it may come from anywhere.
        text: the verdict.
        words: the cause in a few words.
        uid: prefix of the picture's ids on the page.
    """
    # heavy to import, and a report without failures has no use for it
    from pabench.checks.failures import load_case
    from pabench.problem.tensors import layout_of
    from pabench.run.failures import CASE_FILE

    try:
        if (folder / CASE_FILE).stat().st_size > MAX_CASE_BYTES:
            return None
        case = load_case(folder).case
        if not isinstance(case, Case):
            return None
        pages = sum(pages_needed(n, case.problem.page_size) for n in case.batch.kv_lens)
        if pages + case.spare_pages > MAX_PAGES:
            return None
        layout = layout_of(case)
    except (OSError, UsageError, InvalidCase, ValueError):
        return None
    return _drawn(case, layout, mark_of(case, text, words), uid)


def mark_of(case: Case, text: str, words: str) -> Mark:
    """Return what the verdict points at; nothing where the check had changed the case before."""
    found = SEQUENCE.match(text)
    if found is None or int(found[1]) >= case.batch.num_seqs:
        return Mark()
    sequence = int(found[1])
    tokens, size = case.batch.kv_lens[sequence], case.problem.page_size
    if tokens and words.startswith((LAST, FIRST)):
        at, name = (tokens - 1, "last") if words.startswith(LAST) else (0, "first")
        why = f"key {at}, the {name} of sequence {sequence}, in slot {at % size} of logical page {at // size}"
        return Mark(sequence=sequence, page=at // size, slot=at % size, why=why)
    if (place := PAGE.search(text)) is not None and int(place[1]) < pages_needed(tokens, size):
        why = f"logical page {place[1]} of sequence {sequence}, which the verdict names"
        return Mark(sequence=sequence, page=int(place[1]), why=why)
    return Mark(sequence=sequence, why=f"sequence {sequence}, where the output is wrong")


def _drawn(case: Case, layout: PageLayout, mark: Mark, uid: str) -> PageTable:
    total = case.batch.num_seqs
    first = min(max(0, (mark.sequence or 0) - MOST_ROWS // 2), max(0, total - MOST_ROWS))
    shown = range(first, min(total, first + MOST_ROWS))
    parts, rows = [], []
    for place, sequence in enumerate(shown):
        parts.append(_row(case, layout, mark, sequence, place * ROW))
        rows.append((f"sequence {sequence}", _in_words(case, layout, sequence)))
    width = LABEL + MOST_BOXES * (BOX_WIDTH + GAP)
    height = ROW * len(shown)
    said = f"Marked: {mark.why}. " if mark.why else ""
    said += f"Pages of {plural(case.problem.page_size, 'token')}; a box is a page with its physical number, "
    said += "filled as far as it holds tokens; dashed boxes are entries past the end."
    if total > len(shown):
        said += f" {len(shown)} of {total} sequences are drawn."
    title = "Block table of the failing case"
    text = "; ".join(f"{name}: {what}" for name, what in rows)
    svg = (
        f'<svg role="img" aria-labelledby="{uid}-t {uid}-d" class="chart" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title id="{uid}-t">{title}</title>'
        f'<desc id="{uid}-d">{escape(text)}</desc>{"".join(parts)}</svg>'
    )
    return PageTable(page_size=case.problem.page_size, svg=svg, rows=tuple(rows), said=said)


def _row(case: Case, layout: PageLayout, mark: Mark, sequence: int, y: int) -> str:
    tokens, size = case.batch.kv_lens[sequence], case.problem.page_size
    pages = pages_needed(tokens, size)
    mine = mark.sequence == sequence
    weight = ' font-weight="700"' if mine else ""
    parts = [
        _text(0, y + 12, f"sequence {sequence}", INK[0], extra=weight),
        _text(0, y + 26, plural(tokens, "token"), MUTED[0], size=11),
    ]
    entries = list(_entries(layout.max_pages, pages, mark.page if mine else None))
    for place, entry in enumerate(entries):
        x = LABEL + place * (BOX_WIDTH + GAP)
        if entry is None:
            parts.append(_text(x + BOX_WIDTH / 2, y + 17, "…", MUTED[0], middle=True))
            continue
        held = max(0, min(size, tokens - entry * size))
        parts.append(_box(x, y, held / size, named=mine and mark.page == entry))
        if mine and mark.page == entry and mark.slot is not None:
            left = x + BOX_WIDTH * mark.slot / size
            wide, low = max(2.0, BOX_WIDTH / size), y + BOX_HEIGHT + 2
            parts.append(f'<rect x="{left:.1f}" y="{low}" width="{wide:.1f}" height="4" fill="{WRONG}"/>')
        number = int(layout.block_table[sequence, entry])
        parts.append(_text(x + BOX_WIDTH / 2, y + 17, str(number), INK[0] if held else MUTED[0], middle=True))
    return "".join(parts)


def _entries(columns: int, pages: int, wanted: int | None) -> list[int | None]:
    """Entries of a row that have room: both ends, the wanted one, one past the end; None is a gap."""
    ends = min(columns, pages + 1)
    if ends <= MOST_BOXES:
        return list(range(ends))
    middle = pages - 1 if wanted is None else wanted
    chosen = sorted({0, 1, *(middle + step for step in (-1, 0, 1)), pages - 1, ends - 1})
    found: list[int | None] = []
    for entry in (one for one in chosen if 0 <= one < ends):
        if found and found[-1] is not None and entry > found[-1] + 1:
            found.append(None)
        found.append(entry)
    return found


def _box(x: int, y: int, share: float, *, named: bool) -> str:
    edge = f'stroke="{WRONG}" stroke-width="2.5"' if named else f'stroke="{GRID[0] if share else MUTED[0]}"'
    dashes = "" if share else ' stroke-dasharray="3 3"'
    ground = EMPTY[0] if share else PAPER[0]
    rect = f'x="{x}" y="{y + 1}" height="{BOX_HEIGHT - 2}" rx="3"'
    filled = f'<rect {rect} width="{BOX_WIDTH * share:.1f}" fill="{USED}"/>' if share else ""
    return (
        f'<rect {rect} width="{BOX_WIDTH}" fill="{ground}"/>{filled}'
        f'<rect {rect} width="{BOX_WIDTH}" fill="none" {edge}{dashes}/>'
    )


def _text(
    x: float, y: float, text: str, fill: str, *, size: int = 12, middle: bool = False, extra: str = ""
) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    font = 'font-family="Helvetica, Arial, sans-serif"'
    return f'<text x="{x:g}" y="{y}" {font} font-size="{size}" fill="{fill}"{anchor}{extra}>{text}</text>'


def _in_words(case: Case, layout: PageLayout, sequence: int) -> str:
    tokens, size = case.batch.kv_lens[sequence], case.problem.page_size
    pages = [int(page) for page in layout.pages(sequence, tokens)]
    if not pages:
        return "0 tokens, no page"
    few = ", ".join(map(str, pages[:MOST_BOXES])) + (", …" if len(pages) > MOST_BOXES else "")
    last = tokens - (len(pages) - 1) * size
    noun = "page" if len(pages) == 1 else "pages"
    return f"{plural(tokens, 'token')} in {noun} {few}; {last} of {plural(size, 'slot')} of the last used"
