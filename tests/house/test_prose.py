# SPDX-License-Identifier: Apache-2.0
"""The words that users read are plain English of the field: help texts, documents, report, messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from pabench.cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md") if (ROOT / name).is_file()),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "templates").rglob("*.j2"),
    ]
)
FRAGMENTS = """
    a compiler that hurries | a CUDA error that spoils | a slip of the pen
    are not drawn | as it falls | barriers that not all | belongs into | Both of our backends
    bytes that nobody wrote | does no more of anything | everything is there at once
    findings alike | from L2 if it is lucky | functions and bare `.cu` files take none
    goes over all of them alone | held to the reference model besides | High use of memory says
    holds of a token the number | if it is lucky | in good time | keeps C6
    knob to turn | lets a real language model | looks at every access | meeting of threads
    newest request goes | nobody wrote | not to be believed | Nothing stands here | number of e4m3 nearest
    needed patience | no cell but the first | one a core | operations it was in the end
    page sizes that are none | pages of nobody | poll in vain | promises more than the kernel | right twin
    scales that are no numbers
    to a plain one that is only | to be had again | What a GPU's tools tell
    what blocks do for others | What it cannot do, or does | What the interpreter cannot | which it is told
    which will show | an interpreter does in good | ends one in the same way | cries wolf
""".replace("\n", "|")
FORBIDDEN = [one.strip() for one in FRAGMENTS.split("|") if one.strip()]
FRAGMENT_STARTS = re.compile(r"(Of|For|At|The same|Per|Cache\.|Longest|How many)\b")


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command that is shown."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                yield f"{name} {option.opts[0]}", option


def spoken() -> Iterator[tuple[str, str]]:
    """Place and text of what users read: pages whole, of the sources the texts that are no docstrings."""
    for page in PAGES:
        yield str(page.relative_to(ROOT)), " ".join(page.read_text(encoding="utf-8").split())
    for path in sorted((ROOT / "pabench").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documents = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", " ".join(node.value.split())


def test_prose_has_none_of_the_fragments() -> None:
    found = [
        f"{place}: {one}" for place, text in spoken() for one in FORBIDDEN if one.lower() in text.lower()
    ]
    assert not found


def test_prose_of_options_is_whole_sentences() -> None:
    wrong = []
    for name, option in options():
        said, _, default = (option.help or "").partition("  [")
        if not said.endswith(".") or not said[:1].isupper() or len(said.split()) < 2:
            wrong.append(f"{name}: {said!r} is no whole phrase")
        if FRAGMENT_STARTS.match(said):
            wrong.append(f"{name}: {said!r} begins in the middle")
        if default and not default.startswith("default: "):
            wrong.append(f"{name}: [{default} must read [default: ...]")
        if "Default:" in said:
            wrong.append(f"{name}: a default is written [default: ...]")
    assert not wrong


def test_prose_of_options_shows_no_types_of_click() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        text = command.get_help(click.Context(command, info_name=name))
        assert not re.search(r"INTEGER|FLOAT|RANGE|<=x|x>=", text), name


def test_prose_of_commands_is_one_line_each() -> None:
    for name, about in COMMANDS.items():
        assert about.endswith("."), name
        assert about[0].isupper(), name
        assert len(about) <= 80, name
