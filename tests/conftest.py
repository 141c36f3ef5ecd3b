"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pabench.conformance.drawing import no_foreign_constants


@pytest.fixture(scope="session", autouse=True)
def same_draws_in_any_order() -> Iterator[None]:
    """What a property test draws does not depend on which tests its process ran before."""
    with no_foreign_constants():
        yield
