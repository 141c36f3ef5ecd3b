# SPDX-License-Identifier: Apache-2.0
"""What a backend declares about its arithmetic; the error bound is computed from this declaration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, one_of
from pabench.problem.dtypes import dtype_by_name

ACCUMULATIONS = ("blocked", "serial")
STORAGE = "storage"
LSE_BASES = ("e", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericsProfile:
    """Where a kernel rounds.  A profile that claims more than the kernel does is caught.

    Attributes:
        p_dtype: type of the softmax weights as operand of the second product; ``storage`` for kernels that
            round them to the storage type of the case, whichever it is.
        partial_dtype: type of stored partial outputs when the keys are split; ``storage`` likewise, ``None``
            if there are none.
        kv_dtype: type that keys and values are converted into before use; ``None`` if used as stored,
            ``storage`` if a cache of another type is rounded to the storage type of the case.
        accumulation: ``blocked`` when sums run over lanes or tiles of at least 32 terms, so that error chains
            have about ``32 + n / 32`` links; ``serial`` when one running sum takes all n terms.
        tanh_error: absolute error of a fast tanh, 0 when none is used.
        partial_lse: parts of split keys are merged by a float32 LSE each, rather than by maximum and sum.
        lse_base: ``e`` when LSEs, those given to a merge included, are natural logarithms; ``2`` when their
            base is 2.
    """

    p_dtype: str = "float32"
    partial_dtype: str | None = "float32"
    kv_dtype: str | None = None
    accumulation: str = "blocked"
    tanh_error: float = 0.0
    partial_lse: bool = False
    lse_base: str = "e"

    def __post_init__(self) -> None:
        named = [name for name in (self.p_dtype, self.partial_dtype, self.kv_dtype) if name != STORAGE]
        for name in named:
            if name is not None:
                dtype_by_name(name)
        one_of("accumulation", self.accumulation, ACCUMULATIONS)
        one_of("lse_base", self.lse_base, LSE_BASES)
        finite_number("tanh_error", self.tanh_error, low=0.0)
        if not isinstance(self.partial_lse, bool):
            raise InvalidCase("partial_lse", self.partial_lse, "must be true or false")
        if self.partial_lse and self.partial_dtype is None:
            raise InvalidCase("partial_lse", True, "needs a partial_dtype: without splits there are no parts")

    @property
    def lse_unit(self) -> float:
        """What an LSE is multiplied by to be a natural logarithm."""
        return math.log(2.0) if self.lse_base == "2" else 1.0

    def resolve(self, storage: str) -> NumericsProfile:
        """Return the profile for cases stored as ``storage``, with that filled in for ``"storage"``."""
        return replace(
            self,
            p_dtype=storage if self.p_dtype == STORAGE else self.p_dtype,
            partial_dtype=storage if self.partial_dtype == STORAGE else self.partial_dtype,
            kv_dtype=storage if self.kv_dtype == STORAGE else self.kv_dtype,
        )


ComputeProfile = NumericsProfile
"""The name before 0.2.0, for the code of users."""
