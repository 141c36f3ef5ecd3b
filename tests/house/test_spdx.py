# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence in its first line, and it is the project's."""

from __future__ import annotations

import tomllib

from tests.support.spdx import LICENCE, ROOT, sources, without


def test_spdx_every_source_names_its_licence() -> None:
    assert len(list(sources())) > 1000
    assert [str(path.relative_to(ROOT)) for path in without()] == [], "run: make spdx"


def test_spdx_licence_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"SPDX-License-Identifier: {project['license']}" == LICENCE
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]
