"""What is told of a device that another process has opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A device's name, and its hardware or compiler in words."""

    name: str
    description: str
