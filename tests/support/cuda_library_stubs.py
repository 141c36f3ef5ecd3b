# SPDX-License-Identifier: Apache-2.0
"""Libraries that need a GPU, for tests without one: real signatures, dense answers.

A call is bound to the signature that the real source file has, read and not imported, then computed densely
in float32 from the arguments alone, as the library's documentation says.  What an adapter hands over, and
what it makes of the answer, are thereby tested; the library's kernels are not.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

LN_2 = math.log(2.0)


def signature(file: Path, name: str) -> inspect.Signature:
    """Return that of a function or, for ``Class.method``, of its last definition, without ``self``."""
    *owner, function = name.split(".")
    body = ast.parse(file.read_text("utf-8")).body
    if owner:
        (body,) = (node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner[0])
    arguments = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == function][-1].args
    positional = [*arguments.posonlyargs, *arguments.args]
    kinds = inspect.Parameter
    bare = len(positional) - len(arguments.defaults)
    found = [
        inspect.Parameter(a.arg, kinds.POSITIONAL_OR_KEYWORD, default=kinds.empty if i < bare else None)
        for i, a in enumerate(positional)
    ]
    if arguments.vararg:
        found.append(inspect.Parameter(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for one, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        default = kinds.empty if given is None else None
        found.append(inspect.Parameter(one.arg, kinds.KEYWORD_ONLY, default=default))
    if arguments.kwarg:
        found.append(inspect.Parameter(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(found[1:] if found and found[0].name in ("self", "cls") else found)


def bound(file: Path, name: str, function: Callable[[SimpleNamespace], Any]) -> Callable[..., Any]:
    """Return ``function`` behind the signature of the real one; it sees only what was given."""
    real = signature(file, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = real.bind(*args, **kwargs).arguments
        if "kwargs" in given:
            given |= given.pop("kwargs")
        return function(SimpleNamespace(**given))

    return call


def attend(
    q: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    starts: torch.Tensor,
    *,
    scale: float,
    causal: bool,
    window_left: int = -1,
    cap: float = 0.0,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output like ``q`` and natural LSE ``(rows, heads)``; keys are ``(n, kv_heads, head_dim)``."""
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -math.inf)
    for i, (k, v) in enumerate(zip(keys, values, strict=True)):
        rows = slice(int(starts[i]), int(starts[i + 1]))
        group = q.shape[1] // k.shape[1]
        k, v = (one.float().repeat_interleave(group, 1) for one in (k, v))
        logits = torch.einsum("rhd,nhd->hrn", q[rows].float(), k) * scale
        if cap:
            logits = cap * torch.tanh(logits / cap)
        count = rows.stop - rows.start
        distance = torch.arange(len(k))[None] - (torch.arange(count) + len(k) - count)[:, None]
        if slopes is not None:
            logits = logits - slopes[:, None, None] * distance.abs()
        hidden = (distance > 0) & causal
        if window_left >= 0:
            hidden |= distance < -window_left
        logits = logits.masked_fill(hidden, -math.inf)
        if sinks is not None:
            logits = torch.cat([logits, sinks[:, None, None].expand(-1, count, 1)], dim=2)
        total = torch.logsumexp(logits, dim=2)
        weights = torch.exp(logits - total.clamp(min=-1e30)[:, :, None])[:, :, : len(k)]
        out[rows] = torch.einsum("hrn,nhd->rhd", weights, v).to(q.dtype)
        lse[rows] = total.T
    return out, lse


def rows_of(cache: torch.Tensor, pages: torch.Tensor, length: int) -> torch.Tensor:
    """Return ``(length, kv_heads, head_dim)`` out of ``(num_pages, page_size, kv_heads, head_dim)``."""
    return cache[pages.long()].flatten(0, 1)[:length]


def from_table(cache: torch.Tensor, table: torch.Tensor, lens: torch.Tensor) -> list[torch.Tensor]:
    size = cache.shape[1]
    return [rows_of(cache, table[i, : -(-n // size)], n) for i, n in enumerate(lens.tolist())]


def from_lists(
    cache: torch.Tensor, layout: str, indptr: torch.Tensor, indices: torch.Tensor, lens: list[int]
) -> list[torch.Tensor]:
    cache = cache if layout == "NHD" else cache.transpose(1, 2)
    ends = indptr.tolist()
    return [rows_of(cache, indices[ends[i] : ends[i + 1]], n) for i, n in enumerate(lens)]


def flash_attn(peers: Path) -> dict[str, Any]:
    """``flash_attn.flash_attn_interface``; the LSE of its function is ``(heads, rows)``."""

    def varlen(given: SimpleNamespace) -> Any:
        lens = given.cu_seqlens_k.diff()
        out, lse = _flash(given, lens)
        assert given.return_attn_probs
        return out, lse.T, None

    file = peers / "flash_attn" / "flash_attn_interface.py"
    function = bound(file, "flash_attn_varlen_func", varlen)
    return {"flash_attn.flash_attn_interface": SimpleNamespace(flash_attn_varlen_func=function)}


def vllm(peers: Path) -> dict[str, Any]:
    """``vllm.vllm_flash_attn`` and ``vllm._custom_ops``."""

    def varlen(given: SimpleNamespace) -> Any:
        assert given.fa_version == 2
        out, lse = _flash(given, given.seqused_k)
        assert given.return_softmax_lse
        return out, lse.T

    def append(given: SimpleNamespace) -> None:
        size = given.key_cache.shape[1]
        for row, slot in enumerate(given.slot_mapping.tolist()):
            if slot >= 0:
                given.key_cache[slot // size, slot % size] = given.key[row]
                given.value_cache[slot // size, slot % size] = given.value[row]

    def merge(given: SimpleNamespace) -> None:
        outs = torch.stack([given.prefix_output, given.suffix_output])
        out, lse = _merged(outs, torch.stack([given.prefix_lse.T, given.suffix_lse.T]))
        given.output.copy_(out)
        given.output_lse.copy_(lse.T)

    interface = peers / "vllm" / "vllm_flash_attn" / "flash_attn_interface.py"
    ops = peers / "vllm" / "_custom_ops.py"
    return {
        "vllm.vllm_flash_attn.flash_attn_interface": SimpleNamespace(
            flash_attn_varlen_func=bound(interface, "flash_attn_varlen_func", varlen)
        ),
        "vllm._custom_ops": SimpleNamespace(
            reshape_and_cache_flash=bound(ops, "reshape_and_cache_flash", append),
            merge_attn_states=bound(ops, "merge_attn_states", merge),
        ),
    }


def _flash(given: SimpleNamespace, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = given.window_size
    assert right == (0 if given.causal else -1)
    assert given.max_seqlen_k == max(lens.tolist())
    assert given.max_seqlen_q == max(given.cu_seqlens_q.diff().tolist())
    assert given.block_table.dtype == given.cu_seqlens_q.dtype == torch.int32
    assert given.alibi_slopes is None or given.alibi_slopes.dtype == torch.float32
    return attend(
        given.q,
        from_table(given.k, given.block_table, lens),
        from_table(given.v, given.block_table, lens),
        given.cu_seqlens_q,
        scale=given.softmax_scale,
        causal=given.causal,
        window_left=left,
        cap=given.softcap,
        slopes=given.alibi_slopes,
    )


def _merged(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge ``(states, rows, heads, head_dim)`` with natural LSEs ``(states, rows, heads)``."""
    total = torch.logsumexp(lses, dim=0)
    weights = torch.exp(lses - total.clamp(min=-1e30))[..., None]
    parts = torch.where(weights > 0, outs.float() * weights, 0.0)
    return parts.sum(0).to(outs.dtype), total


class _Wrapper:
    """Any of FlashInfer's wrappers; ``plan`` and ``run`` are bound to the real signatures."""

    def __init__(self, file: Path, name: str, made: SimpleNamespace) -> None:
        self.layout, self.name = made.kv_layout, name
        self._planned: SimpleNamespace
        self.plan = bound(file, f"{name}.plan", self._plan)
        self.run = bound(file, f"{name}.run", self._run)

    def _plan(self, given: SimpleNamespace) -> None:
        self._planned = given

    def _run(self, call: SimpleNamespace) -> Any:
        given, (k, v) = self._planned, call.kv_cache if self.name == "BatchAttention" else call.paged_kv_cache
        assert given.q_data_type == given.kv_data_type == call.q.dtype == k.dtype
        size = k.shape[1 if self.layout == "NHD" else 2]
        assert given.page_size == size
        if self.name == "BatchAttention":
            starts, indptr, indices = given.qo_indptr, given.kv_indptr, given.kv_indices
            lens, cap = given.kv_len_arr.tolist(), given.logits_soft_cap
            assert call.logits_soft_cap == cap
        else:
            prefill = self.name == "BatchPrefillWithPagedKVCacheWrapper"
            indptr = given.paged_kv_indptr if prefill else given.indptr
            indices = given.paged_kv_indices if prefill else given.indices
            last = given.paged_kv_last_page_len if prefill else given.last_page_len
            starts = given.qo_indptr if prefill else torch.arange(len(last) + 1)
            lens = ((indptr.diff() - 1).clamp(min=0) * size + last).tolist()
            cap = given.logits_soft_cap
            assert call.return_lse
        out, lse = attend(
            call.q,
            from_lists(k, self.layout, indptr, indices, lens),
            from_lists(v, self.layout, indptr, indices, lens),
            starts,
            scale=given.sm_scale,
            causal=getattr(given, "causal", False),
            window_left=getattr(given, "window_left", -1),
            cap=cap,
        )
        return out, lse / LN_2


def flashinfer(peers: Path) -> dict[str, Any]:
    """``flashinfer``: wrappers, XQA, append and merge."""
    root = peers / "flashinfer"
    homes = {
        "BatchPrefillWithPagedKVCacheWrapper": root / "prefill.py",
        "BatchDecodeWithPagedKVCacheWrapper": root / "decode.py",
        "BatchAttention": root / "attention" / "_core.py",
    }

    def maker(name: str, file: Path) -> Callable[..., Any]:
        def make(given: SimpleNamespace) -> _Wrapper:
            if name != "BatchAttention":
                assert given.float_workspace_buffer.dtype == torch.uint8
            return _Wrapper(file, name, given)

        return bound(file, f"{name}.__init__", make)

    def latent(made: SimpleNamespace) -> SimpleNamespace:
        assert made.backend == "fa2"
        assert made.float_workspace_buffer.dtype == torch.uint8
        planned: list[SimpleNamespace] = []

        def run(call: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
            (given,) = planned
            cache = torch.cat((call.ckv_cache, call.kpe_cache), -1)[:, :, None]
            q = torch.cat((call.q_nope, call.q_pe), -1)
            assert given.q_data_type == given.kv_data_type == q.dtype == cache.dtype
            assert (given.head_dim_ckv, given.head_dim_kpe) == (call.q_nope.shape[-1], call.q_pe.shape[-1])
            assert (given.num_heads, given.page_size) == (q.shape[1], cache.shape[1])
            assert call.return_lse
            assert given.lse_mode == "base2"
            lens = given.kv_len_arr.tolist()
            keys = from_lists(cache, "NHD", given.kv_indptr, given.kv_indices, lens)
            values = [
                torch.nn.functional.pad(k[..., : given.head_dim_ckv], (0, given.head_dim_kpe)) for k in keys
            ]
            out, lse = attend(q, keys, values, given.qo_indptr, scale=given.sm_scale, causal=given.causal)
            return out[..., : given.head_dim_ckv], lse / LN_2

        file, name = root / "mla" / "_batch_mla" / "_wrapper.py", "BatchMLAPagedAttentionWrapper"
        return SimpleNamespace(
            plan=bound(file, f"{name}.plan", planned.append), run=bound(file, f"{name}.run", run)
        )

    def xqa(given: SimpleNamespace) -> torch.Tensor:
        k, v = (c if given.kv_layout == "NHD" else c.transpose(1, 2) for c in given.kv_cache)
        assert given.seq_lens.dtype == torch.uint32
        assert not given.workspace_buffer.any()
        lens = given.seq_lens.to(torch.int64)
        out, _ = attend(
            given.query,
            from_table(k, given.block_tables, lens),
            from_table(v, given.block_tables, lens),
            torch.arange(len(given.query) + 1),
            scale=given.bmm1_scale * given.bmm2_scale,
            causal=False,
            window_left=given.window_left,
            sinks=given.sinks,
        )
        return out

    def positions(given: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
        counts = given.append_indptr.diff()
        batch = torch.repeat_interleave(torch.arange(len(counts)), counts)
        assert len(batch) == given.nnz
        first = (given.seq_lens - counts)[batch] - given.append_indptr[:-1][batch]
        return batch.to(torch.int32), (first + torch.arange(given.nnz)).to(torch.int32)

    def append(given: SimpleNamespace) -> None:
        k, v = (c if given.kv_layout == "NHD" else c.transpose(1, 2) for c in given.paged_kv_cache)
        for row in range(len(given.append_key)):
            place = int(given.positions[row])
            page = int(given.kv_indices[given.kv_indptr[given.batch_indices[row]] + place // k.shape[1]])
            k[page, place % k.shape[1]] = given.append_key[row]
            v[page, place % k.shape[1]] = given.append_value[row]

    def merge(given: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = _merged(given.v.transpose(0, 1), given.s.transpose(0, 1) * LN_2)
        return out, lse / LN_2

    library = SimpleNamespace(
        **{name: maker(name, file) for name, file in homes.items()},
        mla=SimpleNamespace(
            BatchMLAPagedAttentionWrapper=bound(
                root / "mla" / "_batch_mla" / "_wrapper.py", "BatchMLAPagedAttentionWrapper.__init__", latent
            )
        ),
        decode=SimpleNamespace(
            xqa_batch_decode_with_kv_cache=bound(root / "decode.py", "xqa_batch_decode_with_kv_cache", xqa)
        ),
        get_batch_indices_positions=bound(root / "page.py", "get_batch_indices_positions", positions),
        append_paged_kv_cache=bound(root / "page.py", "append_paged_kv_cache", append),
        merge_states=bound(root / "cascade.py", "merge_states", merge),
    )
    return {"flashinfer": library}


def xformers(peers: Path) -> dict[str, Any]:
    """``xformers.ops.fmha``; the LSE of its function is ``(1, kv_heads, group, rows)``."""
    root = peers / "xformers" / "ops" / "fmha"

    def forward(given: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
        bias, (_, rows, kv_heads, group, head_dim) = given.attn_bias, given.query.shape
        assert given.op == "split keys"
        caches = [
            one[0, :, :, 0].reshape(-1, bias.page_size, kv_heads, head_dim)
            for one in (given.key, given.value)
        ]
        lens = torch.tensor(bias.kv_seqlen)
        out, lse = attend(
            given.query.reshape(rows, -1, head_dim),
            from_table(caches[0], bias.block_tables, lens),
            from_table(caches[1], bias.block_tables, lens),
            torch.tensor([0, *bias.q_seqlen]).cumsum(0),
            scale=given.scale,
            causal=False,
        )
        return out.reshape(given.query.shape), lse.T.reshape(1, kv_heads, group, rows)

    name = "memory_efficient_attention_forward_requires_grad"
    bias = bound(root / "attn_bias.py", "PagedBlockDiagonalPaddedKeysMask.from_seqlens", lambda given: given)
    return {
        "xformers.ops.fmha": SimpleNamespace(**{name: bound(root / "__init__.py", name, forward)}),
        "xformers.ops.fmha.attn_bias": SimpleNamespace(
            PagedBlockDiagonalPaddedKeysMask=SimpleNamespace(from_seqlens=bias)
        ),
        "xformers.ops.fmha.triton_splitk": SimpleNamespace(FwOp="split keys"),
    }
