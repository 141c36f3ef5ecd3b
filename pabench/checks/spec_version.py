"""Released versions of the specification: what each asks, and what a profile must pass.

A file of ``suites/spec`` does not change once it is released, so that results under one version compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pabench.checks.specification import Profile
from pabench.checks.standing import Claim, Line, profile_claim
from pabench.errors import UnknownName
from pabench.resources import resource_dir
from pabench.tables import read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A version of the specification.

    Attributes:
        version: such as ``1.0``.
        clauses: that it has.
        questions: ids of all that it asks.
        profiles: name to what must pass, and what must not fail.
    """

    version: str
    clauses: tuple[str, ...]
    questions: tuple[str, ...]
    profiles: Mapping[str, Profile]

    def claims(self, lines: Sequence[Line]) -> tuple[Claim, ...]:
        """Return the profiles over the results of one subject; questions of other versions do not count."""
        asked = set(self.questions)
        own = [line for line in lines if line["check"] in asked]
        return tuple(profile_claim(name, profile, own) for name, profile in self.profiles.items())


def spec_versions() -> list[str]:
    """Return the released versions, the newest last."""
    return sorted(path.stem for path in (resource_dir("suites") / "spec").glob("*.toml"))


def read_spec(version: str) -> Spec:
    """Return a version of the specification; raises ``UnknownName``."""
    if version not in (known := spec_versions()):
        raise UnknownName("version of the specification", version, known)
    data = read_toml(resource_dir("suites") / "spec" / f"{version}.toml", what="specification")
    return Spec(
        version=data["spec"],
        clauses=tuple(data["clauses"]),
        questions=tuple(data["questions"]),
        profiles={
            name: Profile(
                about=given["about"], needs=tuple(given["needs"]), offered=tuple(given.get("offered", ()))
            )
            for name, given in data["profile"].items()
        },
    )
