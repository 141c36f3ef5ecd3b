# SPDX-License-Identifier: Apache-2.0
"""All columns of a server in a file of their own: by step, by sample of memory, by request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pabench.activities.serving.records import Served
from pabench.errors import EnvironmentRefused, reason
from pabench.workloads.requests import Requests


def write_columns(folder: Path, name: str, requests: Requests, served: Served) -> None:
    """Write ``folder/<name>.npz``, under a temporary name until it is whole.

    Raises:
        EnvironmentRefused: it cannot be written.
    """
    columns = {f"step_{key}": value for key, value in served.steps.items()}
    columns |= {f"sample_{key}": value for key, value in served.samples.items()}
    columns |= {f"request_{key}": value for key, value in served.log.columns().items()}
    columns |= {
        "request_arrival_s": served.arrival_s,
        "request_prompt_tokens": requests.prompt_tokens,
        "request_output_tokens": requests.output_tokens,
    }
    if requests.priorities is not None:
        columns["request_priority"] = requests.priorities
    try:
        folder.mkdir(exist_ok=True)
        # savez puts its suffix behind a name that lacks it
        temporary = folder / f".{name}.npz"
        save: Any = np.savez
        save(temporary, **columns)
        os.replace(temporary, folder / f"{name}.npz")
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {folder}: {reason(error)}") from error
