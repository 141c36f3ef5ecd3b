# SPDX-License-Identifier: Apache-2.0
"""Merging attention states as a Definition states it: outputs and their LSEs of base 2.

Source: FlashInfer, ``merge_state``, ``merge_state_in_place`` and ``merge_states``, and their trace templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, Unsupported
from pabench.exchange.definition import Definition
from pabench.problem.dtypes import DTYPES, Array
from pabench.problem.merge import MergeCase

OP_TYPE = "cascade_merge"
TWO, IN_PLACE, MANY = ("v_a", "s_a", "v_b", "s_b"), ("v", "s", "v_other", "s_other"), ("v", "s")
"""Inputs of the three forms: two states, a state merged into another, and any number of them."""
MERGED = ("v_merged", "s_merged")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMerge:
    """A definition of merging.

    Attributes:
        definition: as read.
        form: names of its inputs, one of ``TWO``, ``IN_PLACE`` and ``MANY``.
        dtype: storage type of the outputs that are merged.
        num_heads, head_dim: its constants.
    """

    definition: Definition
    form: tuple[str, ...]
    dtype: str
    num_heads: int
    head_dim: int

    @property
    def tables(self) -> tuple[str, ...]:
        """A merge has no tables."""
        return ()

    @property
    def num_states(self) -> int | None:
        """How many states a call merges; None for any number."""
        return None if self.form == MANY else 2

    @property
    def outputs(self) -> tuple[str, str]:
        """Names of output and LSE."""
        return ("v", "s") if self.form == IN_PLACE else MERGED

    def arguments(self, outs: Array, lses: Array) -> dict[str, Any]:
        """Return the inputs by name, in the order of the definition, as copies.

        Args:
            outs: ``(num_states, num_rows, num_heads, head_dim)``, storage form.
            lses: ``(num_states, num_rows, num_heads)`` float32, base 2.
        """
        if self.form == MANY:
            arrays = [np.swapaxes(outs, 0, 1), np.swapaxes(lses, 0, 1)]
        else:
            arrays = [outs[0], lses[0], outs[1], lses[1]]
        given = dict(zip(self.form, arrays, strict=True))
        return {
            name: np.array(given[name], order="C") if name in given else None
            for name in self.definition.inputs
        }

    def own_calls(self) -> list[tuple[MergeCase, dict[str, int]]]:
        """Return cases for a definition without workloads, with the sizes of their variable axes."""
        counts = (2, 2, 2) if self.num_states else (1, 2, 7)
        drawn = zip(counts, ("close", "far", "equal"), strict=True)
        cases = [self._case(count, 5, seed, spread) for seed, (count, spread) in enumerate(drawn)]
        return [(case, self.axes(case)) for case in cases]

    def axes(self, case: MergeCase) -> dict[str, int]:
        """Return the sizes of the variable axes of a call."""
        shape = self.definition.inputs[self.form[0]].shape or ()
        sizes = (case.num_rows, case.num_states)[: len(shape) - 2]
        return {
            axis: size for axis, size in zip(shape, sizes, strict=False) if self.definition.axes[axis] is None
        }

    def drawn(
        self, given: Mapping[str, Any], random: Sequence[str], axes: Mapping[str, int], seed: int
    ) -> tuple[MergeCase, None]:
        """Return the case of a call whose states are random.

        Args:
            given: nothing but optional inputs that are None.
            random: names of the states.
            axes: sizes of the variable axes.
            seed: of the draw.

        Raises:
            InvalidCase: states that are given, or a mask.
        """
        for name in self.definition.inputs:
            if name in self.form and name not in random:
                rule = "must be random: recorded states are not taken"
                raise InvalidCase(f"{self.definition.name}: {name}", "safetensors", rule)
            if name not in self.form and (name in random or given.get(name) is not None):
                raise InvalidCase(f"{self.definition.name}: {name}", "", "must be left out: it is not taken")
        shape = self.definition.inputs[self.form[0]].shape or ()
        sizes = [int(self.definition.axes[axis] or axes[axis]) for axis in shape[:-2]]
        return self._case(self.num_states or sizes[1], sizes[0], seed, "close"), None

    def _case(self, num_states: int, num_rows: int, seed: int, spread: str) -> MergeCase:
        return MergeCase(
            num_states=num_states,
            num_rows=num_rows,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            spread=spread,
            seed=seed,
        )


def state_merge(definition: Definition) -> StateMerge:
    """Return what a definition of merging states.

    Raises:
        Unsupported: it has an input, axis or type that is not taken; the message says which.
    """
    inputs = definition.inputs

    def declined(why: str) -> Unsupported:
        return Unsupported(f"definition {definition.name!r}: {why}")

    needed = {name for name, spec in inputs.items() if not spec.optional}
    form = next((form for form in (TWO, IN_PLACE, MANY) if needed == set(form)), None)
    if form is None:
        taken = "; ".join(", ".join(one) for one in (TWO, IN_PLACE, MANY))
        raise declined(f"inputs {', '.join(inputs)}: taken are {taken}")
    outputs = ("v", "s") if form == IN_PLACE else MERGED
    if set(definition.outputs) != set(outputs):
        raise declined(f"outputs {', '.join(definition.outputs)}: must be {' and '.join(outputs)}")
    states, lses = form[0::2], form[1::2]
    dtypes = sorted({inputs[name].dtype for name in states} | {definition.outputs[outputs[0]].dtype})
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        raise declined(f"states of {', '.join(dtypes)}: must be one of {', '.join(DTYPES)} for all")
    if any(inputs[name].dtype != "float32" for name in lses):
        raise declined(f"{lses[0]} must be float32")
    axes = 4 if form == MANY else 3
    shapes = {inputs[name].shape for name in states}
    shape = shapes.pop() or ()
    if shapes or len(shape) != axes or any(inputs[name].shape != shape[:-1] for name in lses):
        raise declined(f"{', '.join(form)} have unlike axes, or other than {axes}")
    heads, head_dim = (definition.axes[axis] for axis in shape[-2:])
    if heads is None or head_dim is None:
        raise declined(f"axes {' and '.join(shape[-2:])} must be const")
    return StateMerge(definition=definition, form=form, dtype=dtypes[0], num_heads=heads, head_dim=head_dim)
