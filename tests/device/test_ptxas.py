# SPDX-License-Identifier: Apache-2.0
"""What is read from a log of ptxas, in the forms of several toolkits."""

from __future__ import annotations

import pytest

from pabench.device.ptxas import FunctionUsage, parse_functions, parse_warnings
from pabench.errors import CompileError

LOG = """k.cu(3): warning #177-D: variable "u" was declared but never referenced
    __shared__ float tile[1000]; __shared__ int u;
                                                ^

Remark: The warnings can be suppressed with "-diag-suppress <warning-number>"

ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas warning : Registers are spilled to local memory in function 'k', 3524 bytes spill stores
ptxas info    : 40 bytes gmem, 80 bytes cmem[4]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 412 bytes cmem[0]
ptxas info    : Compile time = 50.066 ms
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
ptxas         .     2224 bytes stack frame, 3524 bytes spill stores, 2836 bytes spill loads
ptxas info    : Used 40 registers, used 2 barriers, 2224 bytes cumulative stack size, 4000 bytes smem
ptxas info    : Function properties for _Z1fPKfi
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
"""


def usage(name: str, *, is_entry: bool = True, **figures: int) -> FunctionUsage:
    zero = dict.fromkeys(("registers", "spill_store_bytes", "spill_load_bytes", "stack_bytes"), 0)
    zero |= dict.fromkeys(("static_shared_bytes", "barriers"), 0)
    return FunctionUsage(name=name, is_entry=is_entry, **{**zero, **figures})


def test_ptxas_figures_go_to_their_function() -> None:
    heavy = usage(
        "k",
        registers=40,
        barriers=2,
        stack_bytes=2224,
        spill_store_bytes=3524,
        spill_load_bytes=2836,
        static_shared_bytes=4000,
    )
    helper = usage("_Z1fPKfi", is_entry=False, stack_bytes=8, spill_store_bytes=4, spill_load_bytes=12)
    assert parse_functions(LOG) == (heavy, usage("second", registers=32), helper)
    assert (heavy.spill_bytes, helper.spill_bytes) == (3524, 12)


def test_ptxas_reads_logs_of_older_toolkits() -> None:
    # no barriers when there are none, and the frame on a line of its own without the dot
    log = """ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 532 bytes cmem[0]
"""
    assert parse_functions(log) == (usage("k", registers=255, stack_bytes=16),)


@pytest.mark.parametrize(
    "missing", ["Function properties for second", "0 bytes stack frame", "Used 32 registers"]
)
def test_ptxas_missing_figures_are_an_error_and_no_zero(missing: str) -> None:
    assert missing in LOG
    with pytest.raises(CompileError, match=r"ptxas (said nothing about|gave no figures for) second"):
        parse_functions(LOG.replace(missing, "something else", 1))


def test_ptxas_warnings_are_lines_of_their_own() -> None:
    assert [line.split(":")[0].strip() for line in parse_warnings(LOG)] == [
        "k.cu(3)",
        "ptxas info",
        "ptxas warning",
    ]
    assert parse_warnings("ptxas info : 0 bytes gmem\n") == ()
