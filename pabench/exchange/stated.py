# SPDX-License-Identifier: Apache-2.0
"""What a Definition states: paged attention, appending to a paged cache, or merging attention states."""

from __future__ import annotations

from pabench.exchange.definition import Definition
from pabench.exchange.merge import OP_TYPE as MERGE_TYPE
from pabench.exchange.merge import StateMerge, state_merge
from pabench.exchange.page_append import KEYS, PageAppend, page_append
from pabench.exchange.paged import PagedAttention
from pabench.exchange.paged_definition import paged_attention
from pabench.problem.append import AppendCase
from pabench.problem.case import Case
from pabench.problem.merge import MergeCase

Stated = PagedAttention | PageAppend | StateMerge
AnyCase = Case | AppendCase | MergeCase


def stated(definition: Definition) -> Stated:
    """Return what a definition states, told by the names of its inputs.

    Raises:
        Unsupported: it is of something else, or has an input, axis or type that is not taken.
    """
    inputs = set(definition.inputs)
    if inputs & set(KEYS):
        return page_append(definition)
    if definition.op_type == MERGE_TYPE:
        return state_merge(definition)
    return paged_attention(definition)
