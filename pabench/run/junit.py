# SPDX-License-Identifier: Apache-2.0
"""JUnit XML of a run, for CI services."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from pabench.run.record import Record, Status

# XML 1.0 section 2.2: no other control character may stand in a document, escaped or not
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TAGS = {
    Status.FAILED: "failure",
    Status.CRASHED: "error",
    Status.HUNG: "error",
    Status.INCONCLUSIVE: "skipped",
    Status.UNSUPPORTED: "skipped",
    Status.INTERRUPTED: "skipped",
}


def junit_text(kind: str, records: Sequence[Record], properties: Mapping[str, str]) -> str:
    """Return one test case an item: wrong is a failure, a crash or a hang an error, the rest is skipped.

    Args:
        kind: the activity.
        records: what came of the items.
        properties: of the suite, by name.
    """
    name = f"pabench-{kind}"
    tags = [TAGS.get(record.status) for record in records]
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(records)),
        failures=str(tags.count("failure")),
        errors=str(tags.count("error")),
        skipped=str(tags.count("skipped")),
        time=f"{sum(record.duration_s or 0.0 for record in records):.3f}",
    )
    if properties:
        inside = ElementTree.SubElement(suite, "properties")
        for key, value in properties.items():
            ElementTree.SubElement(inside, "property", name=_clean(key), value=_clean(value))
    for record, tag in zip(records, tags, strict=True):
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(f"{name}.{record.device}.{record.subject.name}"),
            name=_clean(str(record.details.get("check") or record.label)),
            time=f"{record.duration_s or 0.0:.3f}",
        )
        if tag is not None:
            said = ElementTree.SubElement(case, tag, message=_clean(record.reason or ""))
            if record.failure is not None:
                said.text = _clean(f"{record.reason}\nagain: {record.failure.replay}")
    root = ElementTree.Element("testsuites", name=name)
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
