# SPDX-License-Identifier: Apache-2.0
"""Explanations of how a cache was read whose format is not that of the queries, from its table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pabench.judge.suspect import Fault, Suspect
from pabench.problem.dtypes import Array
from pabench.problem.formats import CacheFormat
from pabench.problem.formats.format import Mistake


def format_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with keys, values or both taken for other numbers."""
    form = suspect.tensors.case.problem.kv_format
    if form is None:
        return
    own = {"k": suspect.keys, "v": suspect.values}
    for words, mistake in form.mistakes.items():
        taken = {kind: _taken(suspect, form, kind, mistake) for kind in "kv"}
        for kinds, whose in (("kv", "keys and values"), ("k", "keys"), ("v", "values")):
            keys, values = (taken[kind] if kind in kinds else own[kind] for kind in "kv")
            yield suspect.weighted(f"{whose} with {words}", keys, values)


def _taken(suspect: Suspect, form: CacheFormat, kind: str, mistake: Mistake) -> Array:
    """Keys or values ``(n, dim)`` of the keys that the row sees, as ``mistake`` takes them."""
    problem, pool = suspect.tensors.case.problem, suspect.tensors.pool
    token = np.arange(suspect.kv_len)
    page = np.asarray(suspect.pages, dtype=np.int64)[token // suspect.page_size]
    offset, view = token % suspect.page_size, pool.k if kind == "k" else pool.v
    stored = view[page, offset] if pool.kv_layout == "NHD" else view[page, :, offset]
    wanted = problem.head_dim if kind == "k" else problem.value_dim
    whole = problem.latent and form.scale is not None
    with np.errstate(invalid="ignore", over="ignore"):  # poison among what no row sees
        numbers = mistake(form.parts(stored, problem.head_dim if whole else wanted))
        mine = numbers[suspect.places, suspect.kv_head, :wanted] * suspect.scale(kind)
        # what such a kernel takes for no number is compared where it is one
        return np.nan_to_num(mine)
