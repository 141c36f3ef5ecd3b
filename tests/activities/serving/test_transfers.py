# SPDX-License-Identifier: Apache-2.0
"""What moving a sequence takes: runs of its pages, and copies in two layouts."""

from __future__ import annotations

from typing import Any

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.metrics import provenance_of
from pabench.activities.serving.transfers import TRANSFERS, transfer_figures
from tests.support.serving_support import asked, pool, run

REQUESTS = asked((8, 4), (8, 4), (8, 4))


def config(**given: Any) -> ServingConfig:
    plain: dict[str, Any] = {"scheduler": "fcfs", "allocators": ("host",), "page_sizes": (4,)}
    return ServingConfig(**plain, pool_slots=64, model="", token_bytes=64, **given)


def test_transfers_count_the_runs_of_paged_sequences() -> None:
    # prompts take pages 0 1, 2 3, 4 5; their first tokens come a step later, and take 6, 7 and 8
    served = run(REQUESTS, pool())
    assert served.moves == (3, 9, 6)
    asks = config(cache_parts=(32, 2))
    assert transfer_figures(asks, served) == {
        "pages_per_run": 1.5,
        "copies_by_page": 2,
        "copies_by_layer": 2 * 32 * 2,
    }
    assert transfer_figures(config(cache_parts=(61, 1)), served)["copies_by_layer"] == 2 * 61
    assert set(provenance_of(TRANSFERS, "modelled").values()) == {"counted"}


def test_transfers_of_one_run_are_one_copy() -> None:
    assert run(REQUESTS, pool(name="contiguous", width=4)).moves == (3, 9, 3)


def test_transfers_say_nothing_of_what_was_not_seen() -> None:
    # all end in step 4, which is not looked at
    served = run(REQUESTS, pool(), sample_steps=3)
    assert served.moves == (0, 0, 0)
    assert transfer_figures(config(cache_parts=(32, 2)), served) == dict.fromkeys(TRANSFERS)
    found = transfer_figures(config(), run(REQUESTS, pool(), sample_steps=2))
    assert found == {"pages_per_run": 1.5, "copies_by_page": None, "copies_by_layer": None}
