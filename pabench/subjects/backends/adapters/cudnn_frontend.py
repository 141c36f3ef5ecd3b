# SPDX-License-Identifier: Apache-2.0
"""cuDNN's scaled dot product attention over page tables, through the graphs of its Python frontend.

Conventions that differ from ours: queries are padded to the longest, ``(num_seqs, heads, rows, head_dim)``
over any strides; pools are ``(num_pages, heads, page_size, head_dim)``, likewise; tables are
``(num_seqs, 1, max_pages, 1)``.  A window counts the query's own key as ours does, and the statistics are
the LSE, natural logarithm, ``(num_seqs, heads, rows, 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from pabench.problem.case import Case
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.adapters.gpu_pages import HALVES, GpuBackend, PagedInputs, Result
from pabench.subjects.backends.adapters.gpu_table import CUDNN
from pabench.subjects.backends.base import Capabilities


def _rule(case: Case) -> str | None:
    problem = case.problem
    if problem.head_dim % 8:
        return f"head_dim {problem.head_dim} is no multiple of 8"
    if problem.window is not None and "non-causal" in case.features:
        return "a window needs the causal mask, whose alignment it shares"
    return None


class CudnnFrontendBackend(GpuBackend):
    """``cudnn.pygraph.sdpa`` with paged K and V."""

    name = "cudnn-frontend"
    peer = CUDNN
    capabilities = Capabilities(
        dtypes=HALVES,
        operations=frozenset({"decode", "speculative", "prefill"}),
        features=frozenset({"window", "non-causal"}),
        max_head_dim=128,
        rule=_rule,
    )
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32")

    def _prepare(self, given: PagedInputs) -> Callable[[], Result]:
        q, rows = self._padded(given)
        graph, pack, out, lse = self._graph(given, q)
        modes = self._modules["cudnn"].heur_mode
        graph.build([modes.A, modes.FALLBACK])
        workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=given.where)

        def run() -> Result:
            graph.execute(pack, workspace, handle=self._handle)
            # (num_seqs, rows, heads, ...): the rows that are there, sequence by sequence
            return out.transpose(1, 2)[rows], lse.squeeze(3).transpose(1, 2)[rows]

        return run

    @staticmethod
    def _padded(given: PagedInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return queries ``(num_seqs, heads, longest, head_dim)``, and which of their rows are there."""
        lens = given.qo_indptr.diff()
        rows = torch.arange(given.max_q_len, device=given.where)[None, :] < lens[:, None]
        padded = torch.zeros((*rows.shape, *given.q.shape[1:]), dtype=given.q.dtype, device=given.where)
        padded[rows] = given.q
        return padded.transpose(1, 2), rows

    @cached_property
    def _handle(self) -> Any:
        """Of cuDNN on the current GPU; None without one."""
        return self._modules["cudnn"].create_handle() if self._where.type == "cuda" else None

    def _graph(
        self, given: PagedInputs, q: torch.Tensor
    ) -> tuple[Any, dict[Any, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Return the graph, validated but not built, its arguments, and where output and LSE go."""
        cudnn, problem = self._modules["cudnn"], given.problem
        stored = cudnn.data_type.HALF if problem.dtype == "float16" else cudnn.data_type.BFLOAT16
        graph = cudnn.pygraph(
            handle=self._handle,
            io_data_type=stored,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )
        k, v = (cache.transpose(1, 2) for cache in given.nhd_caches)
        out = torch.zeros_like(q)
        lse = torch.zeros((*q.shape[:3], 1), device=given.where)
        q_lens = given.qo_indptr.diff().to(torch.int32)
        arrays = {
            "q": q,
            "k": k,
            "v": v,
            "table": given.block_table[:, None, :, None],
            "seq_len_q": q_lens[:, None, None, None].contiguous(),
            "seq_len_kv": given.kv_lens[:, None, None, None].contiguous(),
        }
        nodes = {
            name: graph.tensor(
                name=name,
                dim=list(array.shape),
                stride=list(array.stride()),
                data_type=stored if name in "qkv" else cudnn.data_type.INT32,
            )
            for name, array in arrays.items()
        }
        masks: dict[str, Any] = {"use_causal_mask_bottom_right": True} if given.problem.causal else {}
        if problem.window is not None:
            masks["sliding_window_length"] = problem.window
        result, statistics = graph.sdpa(
            name="sdpa",
            q=nodes["q"],
            k=nodes["k"],
            v=nodes["v"],
            generate_stats=True,
            attn_scale=problem.scale,
            use_padding_mask=True,
            seq_len_q=nodes["seq_len_q"],
            seq_len_kv=nodes["seq_len_kv"],
            paged_attention_k_table=nodes["table"],
            paged_attention_v_table=nodes["table"],
            paged_attention_max_seq_len_kv=given.block_table.shape[1] * problem.page_size,
            **masks,
        )
        result.set_output(True).set_dim(list(out.shape)).set_stride(list(out.stride()))
        statistics.set_output(True).set_data_type(cudnn.data_type.FLOAT)
        graph.validate()
        pack = {nodes[name]: array for name, array in arrays.items()} | {result: out, statistics: lse}
        return graph, pack, out, lse
