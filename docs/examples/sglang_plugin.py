# SPDX-License-Identifier: Apache-2.0
"""An attention backend of SGLang: tables from the pool of requests, decode, extend, batches of graphs."""

import types

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend


class Plugin(AttentionBackend):
    pabench = types.MappingProxyType({"features": ["window"], "dtypes": ["float32", "float16"]})

    def __init__(self, runner):
        self.pool, self.table = runner.token_to_kv_pool, runner.req_to_token_pool.req_to_token
        self.width = self.table.shape[1]

    def init_cuda_graph_state(self, max_bs, max_num_tokens):
        self.indptr = torch.zeros(max_bs + 1, dtype=torch.int64)
        self.indices = torch.zeros(max_bs * self.width, dtype=torch.int64)

    def get_cuda_graph_seq_len_fill_value(self):
        return 1

    def init_forward_metadata(self, batch):
        self.init_cuda_graph_state(batch.batch_size, 0)
        self.init_forward_metadata_out_graph(batch)

    def init_forward_metadata_out_graph(self, batch, in_capture=False):
        count = batch.batch_size
        self.indptr[1 : count + 1] = batch.seq_lens.cumsum(0)
        rows = [self.table[r, :n] for r, n in zip(batch.req_pool_indices, batch.seq_lens, strict=True)]
        found = torch.cat(rows)
        self.indices[: len(found)] = found
        self.forward_metadata = {"kv_indptr": self.indptr[: count + 1], "kv_indices": self.indices}

    def forward_extend(self, q, k, v, layer, batch, save_kv_cache=True):
        lens = [1] * batch.batch_size if batch.forward_mode.is_decode() else batch.extend_seq_lens_cpu
        self.pool.set_kv_buffer(layer, batch.out_cache_loc, k, v)
        q, group = q.view(-1, layer.tp_q_head_num, layer.head_dim), layer.tp_q_head_num // layer.tp_k_head_num
        indptr, out, start = self.forward_metadata["kv_indptr"].tolist(), torch.empty_like(q), 0
        for i, count in enumerate(lens):
            slots = self.forward_metadata["kv_indices"][indptr[i] : indptr[i + 1]]
            keys, values = (c[slots].float().repeat_interleave(group, 1) for c in self.pool.get_kv_buffer(0))
            n, end = len(slots), start + count
            row, at = torch.arange(n - count, n)[:, None], torch.arange(n)[None]
            seen = (at <= row) & ((layer.sliding_window_size < 0) | (at >= row - layer.sliding_window_size))
            logits = torch.einsum("qhd,nhd->hqn", q[start:end].float(), keys) * layer.scaling
            weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
            values = values.masked_fill(~seen.any(0)[:, None, None], 0)
            out[start:end] = torch.einsum("hqn,nhd->qhd", weights, values).to(q.dtype)
            start = end
        return out.flatten(1)

    forward_decode = forward_extend
