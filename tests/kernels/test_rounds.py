# SPDX-License-Identifier: Apache-2.0
"""Rounds of loops within a turn: where constants say them, and where nothing does."""

from __future__ import annotations

import pytest

from pabench.device.sass import Function, parse_sass
from pabench.kernels.account import Account, account_of
from pabench.kernels.instance import KernelEntry

TURN = """
	.section	.text.turns,"ax",@progbits
turns:
        /*0000*/                   MOV R9, 0x10 ;
.L_x_1:
        /*0010*/                   LDG.E R6, desc[UR4][R8.64] ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64], P1 ;
        /*0030*/               @P5 BRA `(.L_x_3) ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64], P1 ;
        /*0048*/                   LDGSTS.E.BYPASS.128 [R2+0x10], desc[UR4][R4.64], P1 ;
.L_x_3:
        /*0050*/                   {start} ;
.L_x_2:
        /*0060*/                   HMMA.16816.F32.BF16 R16, R12, R20, R16 ;
        /*0070*/                   {inside} ;
        /*0080*/                   {step} ;
        /*0090*/                   {test} ;
        /*00a0*/                   {branch} ;
        /*00b0*/                   IADD3 R31, R6, 0x1, RZ ;
        /*00c0*/               @P3 BRA `(.L_x_1) ;
        /*00d0*/                   EXIT ;
"""
BRANCH = "@P6 BRA `(.L_x_4) ;\n        /*0078*/                   NOP ;\n.L_x_4:\n        /*007c*/  NOP"
PARTS = {
    "start": "IMAD.MOV.U32 R2, RZ, RZ, RZ",
    "inside": "FMUL R40, R41, R42",
    "step": "VIADD R2, R2, 0x4",
    "test": "ISETP.NE.AND P0, PT, R2.reuse, 0xc, PT",
    "branch": "@P0 BRA `(.L_x_2)",
}
ENTRY = KernelEntry(name="turns", threads=32)
LOOP = 5
"""Instructions of the loop within the turn."""
BESIDE = 8
"""Of the turn, without them: past the larger copy, with the load."""


def counted(**parts: str) -> Account:
    function: Function = parse_sass(TURN.format(**PARTS | parts))["turns"]
    account = account_of(function, "sm_90a", ENTRY, 1)
    assert account is not None
    return account


@pytest.mark.parametrize(
    ("parts", "rounds"),
    [
        ({}, 3),
        (
            {
                "start": "CS2R R2, SRZ",
                "test": "ISETP.GE.U32.AND P0, PT, R2, 0x8, PT",
                "branch": "@!P0 BRA `(.L_x_2)",
            },
            2,
        ),
        ({"start": "MOV R2, 0xfffffffc", "step": "IADD3 R2, PT, PT, R2, 0x4, RZ"}, 4),
        # the counter is compared before it goes on
        ({"step": PARTS["test"], "test": PARTS["step"]}, 4),
        (
            {
                "start": "UMOV UR7, URZ",
                "step": "UIADD3 UR7, UR7, 0x1, URZ",
                "test": "UISETP.LT.AND UP0, UPT, UR7, 0x6, UPT",
                "branch": "@UP0 BRA `(.L_x_2)",
            },
            6,
        ),
    ],
)
def test_rounds_follow_from_constants(parts: dict[str, str], rounds: int) -> None:
    account = counted(**parts)
    assert account.inner == 0
    assert account.classes["tensor"] == rounds
    assert account.instructions == BESIDE + LOOP * rounds
    assert account.turn_flop == rounds * 4096
    # all rounds lie between the load and the addition that reads it
    first = account.first_use
    assert first is not None
    assert (first.distance, first.tensor) == (5 + LOOP * rounds + 1, rounds)


@pytest.mark.parametrize(
    "parts",
    [
        {"start": "LDS R2, [R50]"},
        {"start": "@P6 MOV R2, RZ"},
        {"step": "IMAD.IADD R2, R2, 0x1, R7"},
        {"step": "@P6 VIADD R2, R2, 0x4"},
        {"inside": "VIADD R2, R2, 0x1"},
        {"test": "ISETP.NE.AND P0, PT, R2, R3, PT"},
        {"test": "ISETP.NE.AND P0, PT, R2, 0xc, P4"},
        # neither way does it end
        {"step": "VIADD R2, R2, 0x5"},
        # a branch within it
        {"inside": BRANCH},
    ],
)
def test_rounds_are_unknown_where_constants_do_not_say(parts: dict[str, str]) -> None:
    account = counted(**parts)
    assert account.inner >= LOOP
    assert account.classes["tensor"] == 1


def test_account_takes_the_way_past_the_largest_copy() -> None:
    # not the shorter one, past the copy of 16 bytes alone
    assert counted().classes["copy"] == 3
