# SPDX-License-Identifier: Apache-2.0
"""Versions of the specification: what each asks, and what a profile must pass.

A file of ``suites/spec`` does not change once it is released, so that results under one version compare.
The newest one is what the suite asks today; ``make spec`` writes it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pabench.checks.specification import CLAUSES, PROFILES, Profile
from pabench.checks.suite import QUESTIONS
from pabench.checks.summary import Claim, Line, profile_claim
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


def spec_text(version: str) -> str:
    """Return the file of a version that asks what the suite asks now."""
    lines = [
        f"# What the specification {version} asks, and what a profile must pass.  `make spec` writes the",
        "# newest version; a released one does not change: what is new belongs to the next.",
        f'spec = "{version}"',
        "",
        *_list("clauses", CLAUSES),
        *_list("questions", [row.id for row in QUESTIONS]),
    ]
    for name, profile in PROFILES.items():
        lines += ["", f"[profile.{name}]", f'about = "{profile.about}"', *_list("needs", profile.needs)]
        lines += _list("offered", profile.offered) if profile.offered else []
    return "\n".join(lines) + "\n"


def _list(name: str, ids: Iterable[str]) -> Iterator[str]:
    """Lines of a TOML list of ids, which have neither quotes nor blanks."""
    words = " ".join(f'"{one}",' for one in ids)
    wrapped = textwrap.wrap(words, 96, break_long_words=False, break_on_hyphens=False)
    yield from (f"{name} = [", *(f"    {line}" for line in wrapped), "]")


def main() -> None:
    """Write the newest version anew from the suite."""
    newest = spec_versions()[-1]
    path = resource_dir("suites") / "spec" / f"{newest}.toml"
    path.write_text(spec_text(newest), encoding="utf-8")


if __name__ == "__main__":
    main()
