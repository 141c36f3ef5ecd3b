# SPDX-License-Identifier: Apache-2.0
"""The templates of pages: what is put into one is escaped, a name that is not there is an error."""

from __future__ import annotations

from functools import lru_cache

import jinja2
from markupsafe import Markup

from pabench.resources import resource_dir
from pabench.text import plural


@lru_cache
def template(name: str) -> jinja2.Template:
    """Return the template ``name`` of ``templates/``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_dir("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["plural"] = plural
    return environment.get_template(name)


def _breakable(text: str) -> Markup:
    """Escaped text that may wrap after a comma, so that a long spec does not break within a word."""
    return Markup(",<wbr>").join(text.split(","))
