# SPDX-License-Identifier: Apache-2.0
"""Reads tensors of a safetensors file: a header of JSON, then the bytes of each tensor in order.

Source: huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, UsageError, reason
from pabench.exchange.json_files import parse
from pabench.problem.dtypes import Array
from pabench.text import shown_path

MAX_HEADER = 100_000_000
"""That the format allows, in bytes."""
STORED = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""Name of a type to numpy's; bfloat16 and e4m3 come as their bits."""


def read_tensor(path: Path, key: str) -> Array:
    """Return a tensor in storage form, read-only, from a file that is mapped and not read whole.

    Raises:
        UsageError: there is no such file, or it is no safetensors file.
        InvalidCase: it has no such tensor, or one whose header breaks a rule.
    """
    where = f"safetensors {shown_path(path)}"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            size = path.stat().st_size
            if length > min(MAX_HEADER, size - 8):
                raise UsageError(f"{where}: no safetensors file: its header has no such length")
            header = parse(file.read(length).decode("utf-8", "replace"), where)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {reason(error)}") from None
    about = header.get(key)
    if not isinstance(about, dict):
        names = ", ".join(name for name in header if name != "__metadata__")
        raise InvalidCase(f"{where}: tensor_key", key, f"must be one of {names or 'no tensors'}")
    dtype = about.get("dtype")
    if dtype not in STORED:
        raise InvalidCase(f"{where}: {key}.dtype", dtype, f"must be one of {', '.join(STORED)}")
    shape, offsets = (_whole(f"{where}: {key}.{name}", about.get(name)) for name in ("shape", "data_offsets"))
    stored = np.dtype(STORED[dtype])
    nbytes = math.prod(shape) * stored.itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != nbytes or 8 + length + offsets[1] > size:
        rule = f"must hold {stored.itemsize} bytes for each element of {list(shape)}, within the file"
        raise InvalidCase(f"{where}: {key}.data_offsets", list(offsets), rule)
    if not nbytes:
        return np.empty(shape, stored)
    mapped = np.memmap(path, np.uint8, "r", 8 + length + offsets[0], (nbytes,))
    return np.asarray(mapped.view(stored)).reshape(shape)


def _whole(where: str, found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(one) is int and one >= 0 for one in found):
        raise InvalidCase(where, found, "must be a list of whole numbers")
    return tuple(found)
