"""A sequence of no tokens beside one with tokens gives NaN in float16, interpreted on the CPU."""

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

q, pages = jnp.ones((2, 1, 16), jnp.float16), jnp.ones((1, 1, 16, 16), jnp.float16)
table, lengths = jnp.zeros((2, 16), jnp.int32), jnp.asarray([16, 0], jnp.int32)
out = paged_attention(q, pages, pages, table, lengths, interpret=True)
assert jnp.isfinite(out).all(), f"got {out[1, 0, 0]} for a sequence of no tokens beside one of 16, expected 0"
