# SPDX-License-Identifier: Apache-2.0
"""Memory: loads, stores, address spaces, atomic operations, fences, asynchronous copies."""

from __future__ import annotations

from pabench.device.ptx import bulk
from pabench.device.ptx.body import SPACES, Body, count_operands, group, opcode, space_of, whole
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import PtxError, bits_type, cxx, width

ORDERS = {
    "relaxed": "__ATOMIC_RELAXED",
    "volatile": "__ATOMIC_RELAXED",
    "mmio": "__ATOMIC_RELAXED",
    "acquire": "__ATOMIC_ACQUIRE",
    "release": "__ATOMIC_RELEASE",
    "acq_rel": "__ATOMIC_ACQ_REL",
}
PROXIES = "proxy async alias mbarrier_init tensormap::generic"
SCOPES = "cta cluster gpu sys"
CACHES = (
    "nc ca cg cs lu cv wb wt cop L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last "
    "L1::no_allocate L2::evict_last L2::evict_normal L2::evict_first L2::cache_hint L2::64B L2::128B L2::256B"
)
WHERE = " ".join((*SPACES, "shared::cta", "param::entry", "param::func"))
VECTORS = "v2 v4 v8"
OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "inc", "dec", "cas")


def elements(i: Instruction) -> int:
    """Return how many registers an access moves."""
    return next((int(name[1:]) for name in i.modifiers if name in VECTORS.split()), 1)


def order_of(i: Instruction) -> str | None:
    """Return the compiler's memory order of an instruction, None for a weak access."""
    return next((ORDERS[name] for name in i.modifiers if name in ORDERS), None)


@opcode("ld", "ldu", modifiers=f"weak relaxed acquire volatile mmio {SCOPES} {WHERE} {VECTORS} {CACHES}")
def load(f: Body, i: Instruction) -> None:
    """Write ``ld`` and ``ldu``."""
    count_operands(i, 2, 3)
    kind, count, space = i.types[-1], elements(i), space_of(i.modifiers)
    targets = group(i.operands[0])
    if len(targets) != count:
        raise PtxError(f"{len(targets)} registers")
    step = width(kind) // 8
    if space == "param" and (found := f.parameter(i.operands[1])) is not None:
        name, offset = found
        for at, target in enumerate(targets):
            f.assign(target, kind, f"ptx::read<{cxx(kind)}>(&{name}, {offset + at * step})")
        return
    address, order = f.address(i.operands[1], space), order_of(i)
    if order and count > 1:
        raise PtxError("an ordered load of several registers")
    if order:
        f.assign(targets[0], bits_type(kind), f"ptx::load_ordered<u{width(kind)}, {order}>({address})")
    elif count == 1:
        f.assign(targets[0], kind, f"ptx::load<{cxx(kind)}>({address})")
    else:
        name = f.fresh()
        f.line(f"{{ const auto {name} = ptx::load_vector<{cxx(kind)}, {count}>({address});")
        for at, target in enumerate(targets):
            f.assign(target, kind, f"{name}.at[{at}]")
        f.line("}")


@opcode("st", modifiers=f"weak relaxed release volatile mmio {SCOPES} {WHERE} {VECTORS} {CACHES}")
def store(f: Body, i: Instruction) -> None:
    """Write ``st``."""
    count_operands(i, 2, 3)
    kind, count, space = i.types[-1], elements(i), space_of(i.modifiers)
    values = [f.bits(one, kind) for one in group(i.operands[1])]
    if len(values) != count:
        raise PtxError(f"{len(values)} registers")
    cell, order = f"u{width(kind)}", order_of(i)
    if space == "param" and (found := f.parameter(i.operands[0])) is not None:
        name, offset = found
        for at, value in enumerate(values):
            f.line(f"ptx::write<{cell}>(&{name}, {offset + at * width(kind) // 8}, {value});")
        return
    address = f.address(i.operands[0], space)
    if order and count > 1:
        raise PtxError("an ordered store of several registers")
    if order:
        f.line(f"ptx::store_ordered<{cell}, {order}>({address}, {values[0]});")
    elif count == 1:
        f.line(f"ptx::store<{cell}>({address}, {values[0]});")
    else:
        f.line(f"ptx::store_vector<{cell}, {count}>({address}, {{{{{', '.join(values)}}}}});")


@opcode("cvta", modifiers=f"to {WHERE}")
def convert_address(f: Body, i: Instruction) -> None:
    """Write ``cvta``."""
    count_operands(i, 2)
    kind, value = i.types[0], f.value(i.operands[1], i.types[0])
    if space_of(i.modifiers) == "shared":
        value = f"ptx::offset_of({value}, shared)" if i.has("to") else f"ptx::address_of({value}, shared)"
    f.assign(i.operands[0], kind, value)


@opcode("isspacep", modifiers=WHERE)
def in_space(f: Body, i: Instruction) -> None:
    """Write ``isspacep``."""
    count_operands(i, 2)
    address, space = f.value(i.operands[1], "u64"), space_of(i.modifiers)
    inside = f"ptx::in_shared({address}, shared)"
    known = {
        "shared": inside,
        "global": f"!({inside} || ptx::in_stack({address}))",
        "local": f"ptx::in_stack({address})",
    }
    if space not in known:
        raise PtxError(f"isspacep of .{space}")
    f.assign(i.operands[0], "pred", known[space])


@opcode(
    "membar",
    "fence",
    modifiers=f"gl acq_rel acquire release sc {PROXIES} {SCOPES} {WHERE}",
)
def fence(f: Body, i: Instruction) -> None:
    """Write ``membar`` and ``fence``."""
    if i.has("proxy") and i.has("async"):
        return f.line("ptx::proxy_fence();")
    block = i.has("cta") or i.has("proxy")
    return f.line(f"pab::fence_{'block' if block else 'device'}();")


@opcode(
    *("prefetch", "prefetchu", "discard", "applypriority", "griddepcontrol"),
    modifiers=f"L1 L2 launch_dependents wait {WHERE} {CACHES}",
)
def hint(f: Body, i: Instruction) -> None:
    """Leave out what changes no value."""


@opcode("setmaxnreg", modifiers="inc dec sync aligned")
def registers(f: Body, i: Instruction) -> None:
    """Check ``setmaxnreg``, which changes no value."""
    count_operands(i, 1)
    count = whole(i.operands[0])
    if count is None or not 24 <= count <= 256 or count % 8:
        raise PtxError(f"{i.operands[0]} registers: must be a multiple of 8 from 24 to 256")


@opcode("createpolicy", modifiers=f"fractional range cvt {CACHES}")
def policy(f: Body, i: Instruction) -> None:
    """Write ``createpolicy``."""
    f.assign(i.operands[0], "b64", "u64{0}")


@opcode(
    "atom",
    "red",
    modifiers=f"relaxed acquire release acq_rel noftz {' '.join(OPERATIONS)} {SCOPES} {WHERE} {CACHES}",
)
def atomic(f: Body, i: Instruction) -> None:
    """Write ``atom`` and ``red``."""
    count = 1 if i.mnemonic == "atom" else 0
    operation = next((name for name in i.modifiers if name in OPERATIONS), None)
    if operation is None or elements(i) > 1:
        raise PtxError("an atomic operation of another kind")
    kind, order = i.types[-1], order_of(i) or "__ATOMIC_RELAXED"
    target, rest = (i.operands[0], i.operands[1:]) if count else ("_", i.operands)
    address = f.address(rest[0], space_of(i.modifiers))
    if operation == "cas":
        cell = f"u{width(kind)}"
        values = ", ".join(f.bits(one, kind) for one in rest[1:3])
        return f.assign(
            target, bits_type(kind), f"ptx::compare_exchange<{cell}, {order}>({address}, {values})"
        )
    value = rest[1]
    if kind in ("f16", "bf16", "f16x2", "bf16x2"):
        if operation != "add":
            raise PtxError(f"{operation} of .{kind}")
        bits, how = bits_type(kind), "in_pairs" if kind.endswith("x2") else "alone"
        half = f"ptx::{'half' if kind[0] == 'f' else 'bf16'}"
        change = f"[](auto a, auto b) {{ return ptx::{how}<&{half}::add, &{half}::same>(a, b); }}"
        return f.assign(
            target,
            bits,
            f"ptx::update<u{width(kind)}, {order}>({address}, {f.value(value, bits)}, {change})",
        )
    whole_kind = f"u{width(kind)}" if kind[0] == "b" else kind
    return f.assign(
        target,
        whole_kind,
        f"ptx::atomic_{operation}<{cxx(whole_kind)}, {order}>({address}, {f.value(value, whole_kind)})",
    )


@opcode("cp", modifiers=f"async commit_group wait_group wait_all {bulk.ARRIVE} {bulk.BULK} {WHERE} {CACHES}")
def copy(f: Body, i: Instruction) -> None:
    """Write ``cp``."""
    if i.modifiers[0] != "async":
        raise PtxError("another copy than cp.async")
    if i.has("bulk"):
        return bulk.copy(f, i)
    if i.has("commit_group"):
        return f.line("pab_emu::copy_commit();")
    if i.has("mbarrier"):
        return bulk.arrive_of_copies(f, i)
    if i.has("wait_all"):
        f.line("pab_emu::copy_commit();")
        return f.line("pab_emu::copy_wait(0);")
    if i.has("wait_group"):
        return f.line(f"pab_emu::copy_wait({f.value(i.operands[0], 'u32')});")
    count_operands(i, 3, 5)
    size = whole(i.operands[2])
    if size not in (4, 8, 16):
        raise PtxError(f"a copy of {i.operands[2]} bytes")
    # behind the size: how many bytes there are, or a predicate that says to read none, or a cache policy
    given = f"{size}u"
    further = i.operands[3:-1] if i.has("L2::cache_hint") else i.operands[3:]
    for operand in further:
        ignored = f.register(operand) == "pred"
        given = f"({f.value(operand, 'pred')} ? 0u : {size}u)" if ignored else f.value(operand, "u32")
    to, source = f.address(i.operands[0], "shared"), f.address(i.operands[1], "global")
    return f.line(f"pab_emu::copy_async_part({to}, {source}, {size}, {given});")
