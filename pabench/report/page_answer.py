# SPDX-License-Identifier: Apache-2.0
"""Which page size? One sentence over the whole sweep, from counted waste and the best class of speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from pabench.report.heat import ALIKE, CONFIGURATION
from pabench.report.source import Line, Source
from pabench.report.trend import distinct_memory
from pabench.report.words import join, number, percent
from pabench.run.record import BROKEN

SPEEDS = ("measured", "modelled")
"""Classes of speed that say something of a GPU, the better first."""


def page_answer(source: Source) -> str:
    """Return the sentence, empty where fewer than two page sizes were asked."""
    served = dict.fromkeys(
        str(advice)
        for line in source.servers
        if (advice := (line.data.get("page_model") or {}).get("advice"))
    )
    if served:
        told = list(served)
        return sentence(told[0]) + (f" {len(told) - 1} other workloads differ." if len(told) > 1 else "")
    wastes = pooled_waste(source)
    if len(wastes) < 2:
        return ""
    for word in SPEEDS:
        slowdown = slowdowns(source.cells, word)
        if set(slowdown) >= set(wastes):
            said = _with_speed({size: slowdown[size] for size in wastes}, wastes, word)
            return f"{said}{_without_broken(source.cells)}"
    said = f"{_wastes(wastes)}. No cell was timed or modelled, so speed does not decide."
    return f"{said}{_without_broken(source.cells)}"


def _without_broken(cells: Sequence[Line]) -> str:
    """What the answer says nothing of: a page size at which half of the cells fail must not look fast."""
    broken = Counter(int(line.data["page_size"]) for line in cells if line.state in BROKEN)
    if not broken:
        return ""
    asked = Counter(int(line.data["page_size"]) for line in cells)
    told = [f"{broken[size]:,} of {asked[size]:,} at {size}" for size in sorted(broken)]
    return f" Cells that went wrong have no speed and are left out: {join(told)}."


def pooled_waste(source: Source) -> dict[int, float]:
    """Return wasted slots over slots by page size, ascending, over the loads that every size has."""
    if not (lines := distinct_memory(source)):
        return {}
    # heavy to import, and a report without cells has no use for it
    from pabench.analysis.page_sizes import pooled_memory

    return {int(str(size)): float(waste) for size, waste in pooled_memory(lines)["waste"].items()}


def slowdowns(lines: Sequence[Line], word: str) -> dict[int, float]:
    """Return by page size how much slower it is than the fastest, geometric mean over what all sizes ran.

    Args:
        lines: cells; those that were not found right have no speed.
        word: ``measured`` (medians of ``run_ns``) or ``modelled`` (``modelled_ns``).
    """
    key = "run_ns" if word == "measured" else "modelled_ns"
    groups: dict[tuple[str, ...], dict[int, float]] = {}
    for line in lines:
        value = line.data.get(key)
        if (line.data.get("provenance") or {}).get(key) != word or value in (None, []):
            continue
        found = number(median(value) if isinstance(value, list) else value)
        if found is not None and found > 0 and math.isfinite(found):
            asked = tuple(str(line.data.get(name)) for name in (*CONFIGURATION, "lengths", "batch"))
            groups.setdefault(asked, {})[line.data["page_size"]] = math.log(found)
    sizes = sorted({size for times in groups.values() for size in times})
    whole = [times for times in groups.values() if len(times) == len(sizes)]
    if len(sizes) < 2 or not whole:
        return {}
    means = {size: sum(times[size] for times in whole) / len(whole) for size in sizes}
    return {size: math.exp(mean - min(means.values())) for size, mean in means.items()}


def _with_speed(slowdown: Mapping[int, float], wastes: Mapping[int, float], word: str) -> str:
    good = [size for size, factor in slowdown.items() if factor < 1 + ALIKE]
    take, worst = min(good), max(slowdown, key=slowdown.__getitem__)
    if len(good) == len(slowdown):
        if max(wastes.values()) - min(wastes.values()) < ALIKE / 10:
            return f"It makes no difference here: speed within 1 % ({word}), waste alike (counted)."
        alike = f"speed differs by less than 1 % ({word}), so waste decides"
        return f"Take {take}: {alike}. {_wastes(wastes)}."
    several = f"{join([str(size) for size in good])} are within 1 % of the fastest"
    others = several if len(good) > 1 else "it is the fastest"
    slower = percent(slowdown[worst] - 1)
    return f"Take {take}: {others}, {worst} is {slower} slower ({word}). {_wastes(wastes)}."


def _wastes(wastes: Mapping[int, float]) -> str:
    few = list(wastes) if len(wastes) <= 4 else [list(wastes)[at] for at in (0, 1, len(wastes) - 1)]
    said = ", ".join(f"{size}: {percent(wastes[size])}" for size in few)
    return f"Wasted slots by page size: {said} (counted)"


def sentence(text: str) -> str:
    """Return ``text`` as a sentence: a capital first, a full stop last."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
