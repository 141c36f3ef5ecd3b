# SPDX-License-Identifier: Apache-2.0
"""Accounts of compiled kernels: classes, the steady way, distances from load to use, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.device.disassembler import NVDISASM, disassemble, find_tool
from pabench.device.nvrtc import compile_cubin, nvrtc_installed, nvrtc_version
from pabench.device.sass import Function, class_of, parse_sass
from pabench.errors import UsageError
from pabench.kernels.account import Account, account_of
from pabench.kernels.account_goals import Held, held, read_goals
from pabench.kernels.account_table import COLUMNS, account_rows, as_csv, compared, read_table, worse
from pabench.kernels.flow import blocks_of, hot_loop, steady_way
from pabench.kernels.instance import KernelEntry
from pabench.kernels.load_use import loads_of
from pabench.kernels.static_sources import file_sources
from pabench.kernels.static_table import compile_one
from pabench.resources import resource_dir

needs_disassembler = pytest.mark.skipif(
    not nvrtc_installed() or find_tool(NVDISASM) is None,
    reason="needs NVRTC and nvdisasm: pip install pabench[nvrtc]",
)
KERNELS = resource_dir("kernels_cuda")

LOOP = """
	.target	sm_90a
	.section	.text.turns,"ax",@progbits
turns:
.text.turns:
	//## File "/somewhere/my.cu", line 3
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
	//## File "/somewhere/inner.cuh", line 9 inlined at "/somewhere/my.cu", line 7
	//## File "/somewhere/my.cu", line 7
        /*0010*/                   DEPBAR.LE SB0, 0x1 ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64], P1 ;
        /*0030*/               @P0 BRA `(.L_x_2) ;
	//## File "/somewhere/my.cu", line 8
        /*0040*/                   LDG.E R6, desc[UR4][R8.64] ;
        /*0050*/                   IMAD R7, R7, 0x2, RZ ;
{second}
.L_x_2:
        /*0070*/                   LDSM.16.M88.4 R12, [R10] ;
        /*0080*/                   HMMA.16816.F32.BF16 R16, R12, R20, R16 ;
        /*0090*/               @P2 BRA `(.L_x_3) ;
        /*00a0*/                   FMUL R16, R16, R30 ;
        /*00b0*/                   FMUL R17, R17, R30 ;
.L_x_3:
        /*00c0*/                   @!PT LDS RZ, [RZ] ;
        /*00d0*/                   IADD3 R31, R6, 0x1, RZ ;
        /*00e0*/               @P3 BRA `(.L_x_1) ;
        /*00f0*/                   EXIT ;
.L_x_9:
        /*0100*/                   BRA `(.L_x_9) ;
"""
LATE = LOOP.replace("{second}\n", "")
EARLY = LOOP.replace("{second}", "        /*0060*/                   IADD3 R8, R6, R7, RZ ;")
ENTRY = KernelEntry(name="turns", threads=128, turn_tokens=64)


def turns(text: str) -> Function:
    return parse_sass(text)["turns"]


def counted(text: str) -> Account:
    account = account_of(turns(text), "sm_90a", ENTRY, 2)
    assert account is not None
    return account


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("HMMA.16816.F32", "tensor"),
        ("HGMMA.64x64x16.F32", "tensor"),
        ("HFMA2.MMA", "float"),
        ("LDSM.16.MT88.4", "ldmatrix"),
        ("LDGSTS.E.BYPASS.128.ZFILL", "copy"),
        ("UTMALDG.3D", "copy"),
        ("LDS.64", "shared"),
        ("LDG.E.64", "global"),
        ("REDUX.SUM", "shuffle"),
        ("LDGDEPBAR", "control"),
        ("BSSY", "control"),
        ("F2FP.BF16.F32.PACK_AB", "convert"),
        ("FSETP.NEU.AND", "float"),
        ("MUFU.EX2", "special"),
        ("IMAD.MOV.U32", "integer"),
        ("ULDC.64", "integer"),
    ],
)
def test_account_knows_the_class_of_an_opcode(opcode: str, kind: str) -> None:
    assert class_of(opcode) == kind


def test_account_walks_the_steady_way_of_the_loop_with_the_work() -> None:
    function = turns(LATE)
    blocks = blocks_of(function)
    loop = hot_loop(function, blocks)
    assert loop is not None
    named = [
        [one.address for at in way for one in function.instructions[blocks[at].first : blocks[at].last]]
        for way in (steady_way(function, blocks, loop), steady_way(function, blocks, loop, loading=True))
    ]
    # neither the look-up nor the rescaling; then with the look-up
    assert named[0] == [0x10, 0x20, 0x30, 0x70, 0x80, 0x90, 0xC0, 0xD0, 0xE0]
    assert named[1] == [0x10, 0x20, 0x30, 0x40, 0x50, 0x70, 0x80, 0x90, 0xC0, 0xD0, 0xE0]


def test_account_says_what_is_in_a_loop_within_the_turn() -> None:
    assert counted(LATE).inner == 0
    rounds = "        /*0088*/               @P4 BRA `(.L_x_2) ;\n        /*0090*/"
    nested = counted(LATE.replace("        /*0090*/", rounds))
    assert (nested.inner, nested.instructions) == (3, counted(LATE).instructions + 1)


@pytest.mark.parametrize(
    ("operands", "columns", "shared"),
    [
        # bytes that both warpgroups read, and those of B once more
        ("R16, gdesc[UR8], R16, gsb0", 128, 2 * (64 + 128) * 32 + 128 * 32),
        ("R16, R88, gdesc[UR8].tnspB, R16", 64, 2 * 64 * 32 + 64 * 32),
    ],
)
def test_account_counts_products_of_warpgroups(operands: str, columns: int, shared: int) -> None:
    """Of eight of twelve warps, whichever operand A is."""
    product = f"HGMMA.64x{columns}x16.F32.BF16 {operands} ;"
    text = LATE.replace("HMMA.16816.F32.BF16 R16, R12, R20, R16 ;", product)
    entry = KernelEntry(name="turns", threads=384, turn_warps=8)
    account = account_of(turns(text), "sm_90a", entry, 1)
    before = account_of(turns(text.replace(product, "NOP ;")), "sm_90a", entry, 1)
    assert account is not None
    assert before is not None
    assert account.turn_flop == 2 * 2 * 64 * columns * 16
    assert account.clocks["tensor"] == account.turn_flop / 4096
    assert account.clocks["shared"] - before.clocks["shared"] == shared / 128
    assert account.warps == 8


def test_account_finds_a_loop_that_is_entered_at_two_places() -> None:
    twice = LATE.replace(".L_x_1:", "        /*0008*/               @P5 CALL.REL.NOINC `(.L_x_2) ;\n.L_x_1:")
    function = turns(twice)
    blocks = blocks_of(function)
    loop = hot_loop(function, blocks)
    assert loop is not None
    way = steady_way(function, blocks, loop)
    assert sum(
        one.kind == "tensor"
        for at in way
        for one in function.instructions[blocks[at].first : blocks[at].last]
    )
    assert account_of(function, "sm_90a", ENTRY, 2) is not None


@pytest.mark.parametrize(("text", "distance", "tensor"), [(LATE, 6, 1), (EARLY, 2, 0)])
def test_account_measures_from_load_to_use(text: str, distance: int, tensor: int) -> None:
    account = account_of(turns(text), "sm_90a", ENTRY, 2)
    assert account is not None
    first = account.first_use
    assert first is not None
    assert (first.distance, first.tensor) == (distance, tensor)
    assert first.load.place == ("my.cu", 8)


def test_account_names_the_innermost_place_and_says_where_there_is_none() -> None:
    function = turns(LATE)
    assert function.instructions[1].place == ("inner.cuh", 9)
    assert function.has_lines
    bare = "\n".join(line for line in LATE.splitlines() if "//##" not in line)
    account = account_of(turns(bare), "sm_90a", ENTRY, 2)
    assert account is not None
    assert not account.has_lines
    assert account.instructions == 9


def test_account_bounds_follow_from_the_turn() -> None:
    account = account_of(turns(LATE), "sm_90a", ENTRY, 2)
    assert account is not None
    assert account.classes == {"tensor": 1, "ldmatrix": 1, "copy": 1, "shared": 1, "control": 4, "integer": 1}
    assert account.per_token == 9 * 4 / 64
    # four warps: instructions over 4 slots, 6.4 clocks a product and quarter, 1 KiB a warp over 128 bytes
    assert account.clocks == pytest.approx(
        {"issue": 9.0, "tensor": 6.4, "shared": 32.0, "memory": 4 * 512 / 18.56}
    )
    assert account.bound == "shared"
    # a group stays on its way while the next is begun, of two blocks
    assert account.flight_bytes == 2 * 4 * 512 * 2
    assert account.most_tflops == pytest.approx(132 * 1.755e9 * 4 * 4096 / 32 / 1e12)
    other = account_of(turns(LATE), "sm_120", ENTRY, None)
    assert other is not None
    assert (other.most_tflops, other.flight_bytes, "tensor" in other.clocks) == (None, None, False)


def test_account_tables_fail_where_a_row_is_worse(tmp_path: Path) -> None:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 7) | {"kernel": "k", "instance": "i", "arch": "sm_90a"}
    row |= {"nvrtc": "13.0.88", "bound": "issue", "per_token": 1.5}
    path = tmp_path / "table.csv"
    path.write_text(as_csv([row]))
    before = read_table(path)
    assert worse([row], before) == []
    assert compared([row], before) == 1
    for name, value in (("registers", 8), ("spill_bytes", 9), ("instructions", 8), ("tensor_before_use", 6)):
        limit = "at least" if name == "tensor_before_use" else "at most"
        assert worse([row | {name: value}], before) == [f"k, i, sm_90a: {name} {value}, {limit} 7 before"]
    assert worse([row | {"tensor_before_use": None}], before) == [
        "k, i, sm_90a: tensor_before_use unknown, at least 7 before"
    ]
    # another build, or another instance, is no measure
    assert worse([row | {"nvrtc": "13.9.1", "registers": 99}], before) == []
    path.write_text(as_csv([row]).replace(",7,", ",seven,", 1))
    with pytest.raises(UsageError, match=r"line 2: .* 'seven' must be a whole number"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="must have the columns kernel,instance,arch"):
        read_table(path)


TABLE = Path(__file__).resolve().parents[2] / "results" / "kernel_account.csv"
"""Rows of our kernels: ``pabench kernels --account --csv`` writes them."""
GOALS = read_goals(resource_dir("suites") / "kernels" / "goals.toml")


def _row_of(file: str, label: str, architecture: str) -> dict[str, Any]:
    (source,) = [
        one
        for one in file_sources(KERNELS / file, include_dir=KERNELS)
        if one.label == label and one.suits(architecture)
    ]
    done = compile_one(source, architecture, accounted=True)
    (row,) = [row for row in account_rows([done], nvrtc_version()) if not row["kernel"].endswith("_plan")]
    return row


def _held(file: str, label: str, architecture: str) -> dict[str, Any]:
    before = read_table(TABLE)
    row = _row_of(file, label, architecture)
    if not compared([row], before):
        pytest.skip(f"no row of {label} for {architecture} by NVRTC {nvrtc_version()}: builds differ")
    assert worse([row], before) == []
    return row


@needs_disassembler
@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "label"), sorted({(one.kernel, one.instance) for one in GOALS}))
def test_account_of_our_kernels_holds_their_rows_goals_and_comments(kernel: str, label: str) -> None:
    row = _held(f"{kernel}.cu", label, "sm_90a")
    assert row["spill_bytes"] == 0
    found = held(GOALS, [row])
    assert found
    assert [one.failure for one in found if one.failure] == []
    if (
        kernel == "paged_prefill_wgmma"
    ):  # tiles come by TMA: warps that feed load nothing that others wait for
        assert (row["tensor"], row["bound"]) == (16, "tensor")
    else:  # "behind the products: the table entry has had time to arrive"
        assert row["tensor_before_use"] == row["tensor"]


def test_goals_are_met_by_the_committed_table_or_say_why_not() -> None:
    table = {tuple(row[name] for name in ("kernel", "instance", "arch")): row for row in read_table(TABLE)}
    for goal in GOALS:
        text = table[goal.kernel, goal.instance, goal.arch][goal.figure]
        assert Held(goal=goal, value=float(text)).failure is None


@needs_disassembler
@pytest.mark.slow
def test_account_of_key_lists_waits_for_neither_place_nor_page() -> None:
    """Both loads of the look-up are first used behind all products of a tile: none waits for the other."""
    tiles = KERNELS / "pab" / "decode_tiles.cuh"
    lines = tiles.read_text(encoding="utf-8").splitlines()
    label = "bfloat16 head_dim 128 4 warps 3 stages with features and key lists"
    (source,) = [
        one
        for one in file_sources(KERNELS / "paged_decode.cu", include_dir=KERNELS)
        if one.label == label and one.suits("sm_90a")
    ]
    image = compile_cubin(source.source, "sm_90a", lines=True).image
    function = parse_sass(disassemble(image, tiles.name))["paged_decode"]
    blocks = blocks_of(function)
    loop = hot_loop(function, blocks)
    assert loop is not None
    way = steady_way(function, blocks, loop)
    turn = [one for at in way for one in function.instructions[blocks[at].first : blocks[at].last]]
    loads = loads_of(function, blocks, loop, way, {})
    for text in ("return batch.lists.positions[", "call.max_pages + page];"):
        (number,) = [number for number, line in enumerate(lines, 1) if text in line]
        (found,) = [one for one in loads if one.load.place == (tiles.name, number)]
        assert found.tensor == sum(one.kind == "tensor" for one in turn)


@needs_disassembler
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kernel", "label", "architecture"),
    [(row["kernel"], row["instance"], row["arch"]) for row in read_table(TABLE)],
)
def test_account_of_our_kernels_holds_every_row(kernel: str, label: str, architecture: str) -> None:
    _held(f"{kernel}.cu", label, architecture)
