# SPDX-License-Identifier: Apache-2.0
"""Names by content: equal things have equal ids, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_id(data: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``data`` as canonical JSON (sorted keys)."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
