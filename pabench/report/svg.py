# SPDX-License-Identifier: Apache-2.0
"""Makes a drawn SVG fit to live in a page: no ids of its own, a title and a description, less weight."""

from __future__ import annotations

import re
from xml.etree import ElementTree

NAMESPACE = "http://www.w3.org/2000/svg"
NUMBER = re.compile(r"-?\d+\.\d{3,}")
DROPPED = ("id", "class", "aria-label", "aria-roledescription", "aria-hidden", "role", "pointer-events")


def finish_svg(drawn: str, *, uid: str, title: str, description: str) -> str:
    """Return ``drawn`` with ``<title>``, ``<desc>`` and the ids ``uid-t``, ``uid-d`` that label it.

    Ids and classes of the drawing program go: they repeat from chart to chart and differ from run to run.
    Coordinates keep two decimals.  Text is escaped again on the way out, whatever the drawing program did.

    Raises:
        ValueError: ``drawn`` is not an SVG, or it has a link, a style or a script in it.
    """
    try:
        root = ElementTree.fromstring(drawn)
    except ElementTree.ParseError as error:
        raise ValueError(f"the drawing is no XML: {error}") from error
    if root.tag != f"{{{NAMESPACE}}}svg":
        raise ValueError(f"the drawing is a {root.tag}, not an SVG")
    for element in root.iter():
        _tidy(element)
    _drop_empty(root)
    for name, label in (("desc", description), ("title", title)):
        child = ElementTree.Element(name, {"id": f"{uid}-{name[0]}"})
        child.text = label
        root.insert(0, child)
    root.set("role", "img")
    root.set("aria-labelledby", f"{uid}-t {uid}-d")
    root.set("class", "chart")
    text = ElementTree.tostring(root, encoding="unicode")
    # in HTML an inline SVG needs no namespace, and a page without any address is easier to trust
    return text.replace(f' xmlns="{NAMESPACE}"', "", 1)


def _tidy(element: ElementTree.Element) -> None:
    name = str(element.tag).removeprefix(f"{{{NAMESPACE}}}")
    if name in ("script", "style", "a", "image", "use", "foreignObject"):
        raise ValueError(f"the drawing holds a <{name}>")
    element.tag = name
    for key in list(element.attrib):
        value = element.attrib[key]
        invisible = key == "stroke" and value in ("none", "transparent")
        reaches_out = "url(" in value or key.startswith(("on", "{")) or key == "style"
        if key in DROPPED or invisible or reaches_out:
            del element.attrib[key]
        else:
            element.set(key, NUMBER.sub(lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."), value))


def _drop_empty(element: ElementTree.Element) -> None:
    """Remove groups without content and the drawing program's definitions, inside out."""
    for child in list(element):
        _drop_empty(child)
        if child.tag in ("g", "defs", "clipPath") and len(child) == 0:
            element.remove(child)
