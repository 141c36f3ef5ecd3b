# SPDX-License-Identifier: Apache-2.0
"""What the two contracts share: what a plugin declares to us, and the frame of a backend around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch

from pabench.device.base import Device
from pabench.errors import UnknownName, Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.contracts.step import Step, step_of, why_not_served
from pabench.subjects.backends.torch_place import torch_place
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy
from pabench.subjects.backends.validate import check_attention

DECLARED = "pabench"
"""Attribute of a plugin: what its engine has no words for."""
KEYS = ("features", "profile", "dtypes")


class Served(Protocol):
    """One layer of one batch, ready to be computed."""

    def run(self) -> torch.Tensor:
        """Compute, and return ``(rows, num_qo_heads, head_dim)``; raises ``BrokenContract``."""


class PluginBackend:
    """A plugin of an engine, asked as any backend is.

    Writing new tokens is part of the call, as it is in the engines; there is no log-sum-exp.
    """

    engine: ClassVar[str]

    def __init__(self, name: str, plugin: Any, device: Device, *, padded: bool) -> None:
        """Read what the plugin declares.

        Args:
            name: as it was asked for.
            plugin: its class, or a function that makes it.
            device: ``cuda`` puts the tensors there.
            padded: decode as in a captured graph, with rows of padding.
        """
        self.name, self.plugin, self.padded = name, plugin, padded
        self.where = torch_place(name, device)
        told = dict(getattr(plugin, DECLARED, {}))
        for key in told:
            if key not in KEYS:
                raise UnknownName(f"declaration in {DECLARED} of {name}", key, KEYS)
        self.profile: NumericsProfile = told.get("profile") or NumericsProfile(
            p_dtype="storage", kv_dtype="storage"
        )
        self.capabilities = Capabilities(
            dtypes=frozenset(told.get("dtypes") or TORCH_DTYPES),
            operations=frozenset({"decode"} if padded else {"decode", "speculative", "prefill"}),
            lse=False,
            features=frozenset(told.get("features") or ()),
            rule=self.why_not,
        )

    def why_not(self, case: Case) -> str | None:
        """Return why the engine would not make such a call, or None."""
        return why_not_served(case)

    def served(self, step: Step) -> Served:
        """Return a batch of the plugin; raises ``NotImplementedError`` for what the plugin does not take."""
        raise NotImplementedError

    def plan(self, tensors: Tensors) -> dict[str, Any]:
        """Upload and make the plugin; see ``Backend``."""
        check_attention(self.name, replace(self.capabilities, rule=self.why_not), tensors)
        try:
            return {"served": self.served(step_of(tensors, self.where))}
        except NotImplementedError as declined:
            # how plugins of engines decline
            raise Unsupported(f"{self.name}: {declined or 'not implemented'}") from None

    def run(self, plan: dict[str, Any]) -> None:
        """Compute."""
        plan["out"] = plan["served"].run()

    def fetch(self, plan: dict[str, Any]) -> AttentionOutput:
        """Copy the output to the host."""
        return AttentionOutput(out=to_numpy(plan["out"]), lse=None)

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: a plugin writes the cache when it attends."""
        raise Unsupported(f"{self.name}: no append")


def called_with(function: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``names`` that ``function`` takes."""
    taken = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        return dict(names)
    return {name: value for name, value in names.items() if name in taken}
