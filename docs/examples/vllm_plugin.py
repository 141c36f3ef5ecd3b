# SPDX-License-Identifier: Apache-2.0
"""An out-of-tree attention backend of vLLM: metadata, implementation, and batches of graphs."""

import torch
from vllm.v1.attention.backend import AttentionBackend, AttentionCGSupport, AttentionMetadataBuilder


class Impl:
    def __init__(self, num_heads, head_size, scale, num_kv_heads, sliding_window=None, logits_soft_cap=None):
        self.scale, self.group, self.window = scale, num_heads // num_kv_heads, sliding_window
        if logits_soft_cap is not None:
            raise NotImplementedError("no soft cap")

    def forward(self, layer, query, key, value, kv_cache, meta, output):
        cache = kv_cache.transpose(1, 2)  # (blocks, block_size, heads, K and V)
        new = meta.slots >= 0
        size = cache.shape[1]
        cache[meta.slots[new] // size, meta.slots[new] % size] = torch.cat([key, value], -1)[new]
        for i, n in enumerate(meta.seq_lens.tolist()):
            start, end = meta.query_start_loc[i : i + 2].tolist()
            pages = meta.table[i, : -(-n // size)].long()
            rows = cache[pages].flatten(0, 1)[:n].float().repeat_interleave(self.group, 1)
            k, v = rows.chunk(2, -1)
            row, key_at = torch.arange(n - (end - start), n)[:, None], torch.arange(n)[None]
            seen = (key_at <= row) & (key_at > row - (self.window or n + 1))
            logits = torch.einsum("qhd,nhd->hqn", query[start:end].float(), k) * self.scale
            weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
            v = v.masked_fill(~seen.any(0)[:, None, None], 0)
            output[start:end] = torch.einsum("hqn,nhd->qhd", weights, v).to(output.dtype)


class Metadata:
    def __init__(self, common):
        self.query_start_loc, self.seq_lens = common.query_start_loc, common.seq_lens
        self.table, self.slots = common.block_table_tensor, common.slot_mapping


class Builder(AttentionMetadataBuilder):
    _cudagraph_support = AttentionCGSupport.UNIFORM_BATCH

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        return Metadata(common_attn_metadata)


class Plugin(AttentionBackend):
    supported_dtypes = (torch.float32, torch.float16)
    get_impl_cls = staticmethod(lambda: Impl)
    get_builder_cls = staticmethod(lambda: Builder)
    supports_sliding_window = classmethod(lambda cls: True)
