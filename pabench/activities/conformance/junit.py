"""JUnit XML of a conformance run, for CI services."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pabench.activities.conformance.results import CheckResult, totals
from pabench.checks.standing import Standing
from pabench.run.files import atomic_write_text

SUITE = "pabench-conformance"
# XML 1.0 section 2.2: no other control character may stand in a document, escaped or not
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TAGS = {"failed": "failure", "crashed": "error", "unsupported": "skipped", "not-run": "skipped"}


def write_junit(path: Path, results: Sequence[CheckResult], standing: Sequence[Standing] = ()) -> None:
    """Write one test case a result: wrong is a failure, a crash an error, what was not judged is skipped.

    ``standing`` goes into the suite's properties: clauses, profiles and badges of each subject.
    """
    counts = totals(results)
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(counts["checks"]),
        failures=str(counts["failed"]),
        errors=str(counts["crashed"]),
        skipped=str(counts["unsupported"] + counts["not_run"]),
        time=f"{sum(result.duration_s for result in results):.3f}",
    )
    _add_properties(suite, standing)
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(f"{SUITE}.{result.device}.{result.subject}"),
            name=_clean(result.check),
            time=f"{result.duration_s:.3f}",
        )
        if result.status in TAGS:
            said = ElementTree.SubElement(case, TAGS[result.status], message=_clean(result.reason or ""))
            if result.failure is not None:
                said.text = _clean(f"{result.reason}\nagain: {result.failure.replay}")
    root = ElementTree.Element("testsuites", name=SUITE)
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    atomic_write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _add_properties(suite: ElementTree.Element, standing: Sequence[Standing]) -> None:
    if not standing:
        return
    properties = ElementTree.SubElement(suite, "properties")
    for subject in standing:
        said = {"clauses": f"{len(subject.kept)} of {subject.clauses}"}
        for kind, claims in (("profiles", subject.profiles), ("badges", subject.badges)):
            said[kind] = ", ".join(claim.name for claim in claims if claim.held)
        for kind, value in said.items():
            name = _clean(f"{subject.device}.{subject.subject}.{kind}")
            ElementTree.SubElement(properties, "property", name=name, value=value)


def _clean(text: str) -> str:
    return FORBIDDEN.sub("�", text)
