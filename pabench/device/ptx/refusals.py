# SPDX-License-Identifier: Apache-2.0
"""What is refused, told with the instruction and its lines: what is no PTX, and what is not executed yet."""

from __future__ import annotations

from collections.abc import Callable

from pabench.device.ptx.parse import Function, Instruction, Statement
from pabench.device.ptx.types import NotYet, PtxError

ISA = """
abs activemask add addc alloca and applypriority atom bar barrier bfe bfi bfind bmsk bra brev brkpt brx call
clusterlaunchcontrol clz cnot copysign cos cp createpolicy cvt cvta discard div dp2a dp4a elect ex2 exit fence
fma fns getctarank griddepcontrol isspacep istypep ld ldmatrix ldu lg2 lop3 mad mad24 madc mapa match max
mbarrier membar min mma mov movmatrix mul mul24 multimem nanosleep neg not or pmevent popc prefetch prefetchu
prmt rcp red redux rem ret rsqrt sad selp set setmaxnreg setp shf shfl shl shr sin slct sqrt st stackrestore
stacksave stmatrix sub subc suld suq sured sust szext tanh tcgen05 tensormap testp tex tld4 trap txq vabsdiff
vabsdiff2 vabsdiff4 vadd vadd2 vadd4 vavrg2 vavrg4 vmad vmax vmax2 vmax4 vmin vmin2 vmin4 vote vset vset2
vset4 vshl vshr vsub vsub2 vsub4 wgmma wmma xor
"""
"""The mnemonics of PTX ISA 9.0."""
MNEMONICS = frozenset(ISA.split())


def refuse(i: Instruction) -> PtxError:
    """Return why an instruction that has no translation is refused."""
    return NotYet(i.opcode) if i.mnemonic in MNEMONICS else PtxError("PTX has no such instruction")


def located(
    function: Function, statement: Statement, action: Callable[[], object], source: Callable[[], str] = str
) -> object:
    """Run ``action``; what it refuses is told with the instruction, its line, and that of the source.

    Args:
        function: that it is a part of.
        statement: of the text.
        action: what reads or writes it.
        source: returns where in the source the last statement was from, or nothing.

    Raises:
        PtxError: ``NotYet`` where the instruction is right.
    """
    where = f"{function.name}: PTX line {statement.line}"
    try:
        return action()
    except PtxError as error:
        said = str(error)
        if said.startswith("PTX line"):
            raise
        place = source()
        where += f" ({place})" if place else ""
        opcode = next((one for one in statement.text.split(" ") if not one.startswith("@")), "")
        if isinstance(error, NotYet):
            raise NotYet(f"{where}: {opcode!r} is not supported yet") from None
        raise PtxError(f"{where}: {opcode!r} is not supported: {said}") from None
    except (IndexError, KeyError, StopIteration, ValueError):
        raise PtxError(f"{where}: cannot read {statement.text[:60]!r}") from None
