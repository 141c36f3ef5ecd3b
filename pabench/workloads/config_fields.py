# SPDX-License-Identifier: Apache-2.0
"""Fields of a ``config.json``, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NESTED = ("text_config", "llm_config", "language_config")
"""Where models of images and text keep the part that is a language model."""
MOST = 2**31 - 1


class ConfigError(Exception):
    """What a ``config.json`` lacks or says wrong; the caller names the file."""


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of a language model."""

    fields: Mapping[str, Any]

    @staticmethod
    def of(found: Any) -> Config:
        """Return the fields of a file; raises ``ConfigError``."""
        if not isinstance(found, dict):
            raise ConfigError("must be a JSON object")
        for name in NESTED:
            if isinstance(found.get(name), dict):
                return Config(found[name])
        return Config(found)

    def get(self, name: str) -> Any:
        """Return a field, None where there is none."""
        return self.fields.get(name)

    def count(self, *names: str, default: int | None = None) -> int:
        """Return the whole number under the first of ``names`` that is there and not null.

        Raises:
            ConfigError: none is there and there is no default, or it is no whole number >= 0.
        """
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
                raise ConfigError(f"{name} = {str(value)[:40]!r} must be a whole number")
            if value == 0 and default is None:
                raise ConfigError(f"{name} = 0 must be at least 1")
            return value
        if default is None:
            raise ConfigError(f"has no {names[0]}" + (f" ({' or '.join(names[1:])})" if names[1:] else ""))
        return default

    def whole(self, name: str) -> list[int]:
        """Return a list of whole numbers; empty where there is none."""
        found = self.fields.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(type(value) is int for value in found):
            raise ConfigError(f"{name} must be a list of whole numbers")
        return found
