# SPDX-License-Identifier: Apache-2.0
"""What paged_prefill_wgmma.cu claims of its compiled code: registers, spills, what runs beside what."""

from __future__ import annotations

import functools
import re

import pytest

from pabench.device.disassembler import disassemble
from pabench.device.nvrtc import Cubin, compile_cubin
from pabench.device.occupancy import SM_LIMITS
from pabench.device.sass import Function, parse_sass
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.prefill_wgmma import PREFILL, wgmma_instance, wgmma_shape
from pabench.kernels.static_sources import file_sources
from tests.kernels.test_account import KERNELS, needs_disassembler

SHAPE = wgmma_shape(128, architecture_limits(SM_LIMITS["sm_90a"]))


@functools.cache
def compiled(label: str) -> tuple[Cubin, Function]:
    (source,) = [
        one.source
        for one in file_sources(KERNELS / "paged_prefill_wgmma.cu", include_dir=KERNELS)
        if one.label == label
    ]
    made = compile_cubin(source, "sm_90a")
    return made, parse_sass(disassemble(made.image, label))[PREFILL]


LABELS = [wgmma_instance(128, "bfloat16", SHAPE, variant).label for variant in ("", " with features")]


@needs_disassembler
@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_wgmma_weights_are_made_while_products_with_values_run(label: str) -> None:
    _, function = compiled(label)
    opcodes = [one.opcode for one in function.instructions]
    waits = [at for at, name in enumerate(opcodes) if name.startswith("WARPGROUP.DEPBAR")]
    left = [function.instructions[at].operands.split(",")[1].strip() for at in waits]
    # scores beside products that run on, or with the first tile alone; outputs, on either way; the last ones
    assert left == ["0x1", "0x0", "0x0", "0x0", "0x0"]

    def exponentials(first: int, last: int) -> int:
        return sum(name == "MUFU.EX2" for name in opcodes[waits[first] : waits[last]])

    assert exponentials(1, 2) >= SHAPE.tile_tokens // 2  # a thread's of a tile
    assert exponentials(2, 4) == 0


@needs_disassembler
@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_wgmma_warps_have_the_registers_that_they_take(label: str) -> None:
    made, function = compiled(label)
    assert re.findall(r"(\d+) bytes spill stores", made.log) == ["0", "0"]
    assert not re.search(r"\(C75\d\d\)", made.log)  # products one after another, or a fence that we lack
    opcodes = [one.opcode for one in function.instructions]
    (more,) = [at for at, name in enumerate(opcodes) if name.startswith("USETMAXREG.TRY_ALLOC")]
    (fewer,) = [at for at, name in enumerate(opcodes) if name.startswith("USETMAXREG.DEALLOC")]
    assert more < fewer

    def most(first: int, last: int) -> int:
        text = " ".join(one.operands for one in function.instructions[first:last])
        return 1 + max(int(number) for number in re.findall(r"\bR(\d+)", text))

    assert most(more, fewer) <= 232
    assert most(fewer, len(opcodes)) <= 40
