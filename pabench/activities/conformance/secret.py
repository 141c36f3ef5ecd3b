# SPDX-License-Identifier: Apache-2.0
"""A seed that nobody who is judged can know: read from the environment, and shown in no file of the run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

from pabench.activities.conformance.request import ConformanceRequest
from pabench.errors import UsageError

SECRET = "PABENCH_SECRET_SEED"
MIN_LENGTH = 16
"""Characters: with fewer the fingerprint in ``run.json`` could be guessed back."""


def with_secret(request: ConformanceRequest, *, seed_given: bool) -> ConformanceRequest:
    """Return ``request`` with the seed that the environment's secret gives, and take it out of there.

    Processes that are started later do not inherit it.

    Raises:
        UsageError: there is no secret, it is too short, or ``--seed`` is given too.
    """
    if seed_given:
        raise UsageError("--seed and --secret-seed: give one of them")
    text = os.environ.pop(SECRET, "")
    if len(text) < MIN_LENGTH:
        said = f"has {len(text)} characters" if text else "is not set"
        raise UsageError(f"--secret-seed: ${SECRET} {said}; must have at least {MIN_LENGTH} characters")
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    fingerprint = hashlib.sha256(b"fingerprint" + digest).hexdigest()[:12]
    return replace(request, seed=int.from_bytes(digest[:7], "big"), secret=f"secret {fingerprint}")


def shown_seed(request: ConformanceRequest) -> int | str:
    """Return the seed as files of the run show it."""
    return request.secret or request.seed
