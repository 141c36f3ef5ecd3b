# SPDX-License-Identifier: Apache-2.0
"""Finding and loading subjects of both kinds: by name, by place, and what each mistake is answered with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pabench.errors import EnvironmentRefused, PabenchError, UnknownName, UsageError
from pabench.subjects import registry
from pabench.subjects.importing import _Neighbours
from pabench.subjects.reference import Reference
from pabench.subjects.registry import is_place, load_allocator, load_backend, places, resolve, resolve_all
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

KERNEL = """
def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    return q, None
"""
POOL = """
from pabench.subjects.allocators.host import HostAllocator

class Pool(HostAllocator):
    pass
"""
BARE = """
from pabench.subjects.allocators.base import PageAllocator

class Pool(PageAllocator):
{body}
"""
WHOLE = """
    def lengths(self): ...
    def block_table(self): ...
    free_pages = property(lambda self: 0)
    def alloc(self, sequence, tokens, *, final_tokens=None): ...
    def append(self, sequence, tokens): ...
    def free(self, sequences): ...
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, and no finder or module that outlives the test."""
    monkeypatch.chdir(tmp_path)
    finders, modules = list(sys.meta_path), dict(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in sys.modules.keys() - modules.keys():
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(kind: str, text: str | Reference) -> object:
    return load_backend(text, DEVICE) if kind == "backend" else load_allocator(text)


def said(kind: str, text: str) -> PabenchError:
    """What asking for ``text`` ends in: one line that names it."""
    with pytest.raises(PabenchError) as caught:
        load(kind, text)
    assert "\n" not in str(caught.value)
    return caught.value


# --- what is found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "name"), [("backend", KERNEL, "decode"), ("allocator", POOL, "Pool")]
)
def test_registry_places_are_absolute_and_found_without_running_them(
    kind: str, source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("here/win.py", f"open('ran', 'w')\n{source}")
    reference = resolve(kind, f"here/win.py:{name}")
    assert reference == Reference(
        kind=kind, name=f"here/win.py:{name}", place=f"{tmp_path}/here/win.py:{name}", at_place=True
    )
    assert not Path("ran").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    load(kind, reference)
    assert Path("ran").exists()


def test_registry_calls_subjects_as_they_were_asked_for() -> None:
    write("win.py", KERNEL + POOL)
    write("bare.cu", "// nothing")
    shape = shape_of(4, 4, 2, 2)
    assert load_backend("win.py:decode", DEVICE).name == "win.py:decode"
    assert load_backend("bare.cu", DEVICE).name == "bare.cu"
    assert load_allocator("./win.py:Pool").make(DEVICE, shape).name == "./win.py:Pool"
    for name in ("host", "scan", "model"):
        assert load_allocator(name).make(DEVICE, shape).name == name
    place = "pabench.subjects.allocators.host:HostAllocator"
    assert load_allocator(place).make(DEVICE, shape).name == place


def test_registry_names_are_places_of_code_that_is_there() -> None:
    for kind in ("backend", "allocator"):
        for name, place in places(kind).items():
            module, _, attribute = place.partition(":")
            source = Path(registry.__file__).parents[2] / f"{module.replace('.', '/')}.py"
            assert f"class {attribute}(" in source.read_text() or f"class {attribute}:" in source.read_text()
            assert not is_place(kind, name)


# --- modules beside the file --------------------------------------------------------------------------------


def test_registry_files_import_their_neighbours_now_and_later() -> None:
    write("a/helper.py", "VALUE = 'a'")
    write("a/late.py", "VALUE = 'late'")
    write("b/helper.py", "VALUE = 'b'")
    later = "\ndef decode(*six):\n    import late\n    return helper.VALUE, late.VALUE\n"
    write("a/win.py", f"import helper\n{later}")
    write("b/win.py", "import helper\ndef decode(*six):\n    return helper.VALUE\n")
    first, second = (load_backend(f"{folder}/win.py:decode", DEVICE) for folder in "ab")
    assert first._function() == ("a", "late")  # type: ignore[attr-defined]
    assert second._function() == "b"  # type: ignore[attr-defined]


def test_registry_neighbours_shadow_neither_the_standard_library_nor_packages() -> None:
    write("json.py", "raise RuntimeError('not the library')")
    write("torch/data.txt", "a folder is no package")
    write("win.py", f"import json, numpy\njson.dumps(1)\n{KERNEL}")
    load_backend("win.py:decode", DEVICE)
    assert not any(
        finder.find_spec("json", None) for finder in sys.meta_path if isinstance(finder, _Neighbours)
    )
    first = _Neighbours(Path.cwd(), first=True)
    assert first.find_spec("torch", None) is None
    assert first.find_spec("win", None) is not None


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("backend", KERNEL, "which one? win.py:decode"),
        ("backend", f"{KERNEL}\ndef few(a): ...\ndef _private(a, b, c, d, e, f): ...", "one? win.py:decode"),
        ("backend", f"{KERNEL}\nclass Win:\n def plan(s): ...\n def run(s): ...\n def fetch(s): ...",
         "which one? win.py:decode or win.py:Win"),
        ("backend", "def decode(*, q): ...", "nothing in it fits: must be a function of 6 arguments, or"),
        ("backend", "def decode(", "SyntaxError: '(' was never closed (win.py:1)"),
        ("backend", "x = 1\0", "SyntaxError"),
        ("allocator", POOL, "which one? win.py:Pool"),
        ("allocator", KERNEL, "nothing in it fits: must be a class that inherits from PageAllocator"),
    ],
)  # fmt: skip
def test_registry_a_file_alone_is_answered_with_what_to_type(kind: str, source: str, words: str) -> None:
    write("win.py", f"{source}\nraise SystemExit('it ran')\n")
    error = said(kind, "win.py")
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"{kind} 'win.py': ")
    assert words in str(error)


@pytest.mark.parametrize("kind", ["backend", "allocator"])
@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("hosst", UnknownName, "unknown"),
        ("nowhere.py", UsageError, "nowhere.py: no such file"),
        ("nowhere.py:x", UsageError, "nowhere.py: no such file"),
        ("folder.py:x", UsageError, "folder.py: is a directory"),
        ("good.py:", UsageError, "'' is no name in Python"),
        ("good.py:a b", UsageError, "'a b' is no name in Python"),
        (f"{'x' * 5000}.py:x", UsageError, "ile name too long"),
        ("no\0thing.py:x", UsageError, "no"),
        ("no_such_module:x", UsageError, "no module named 'no_such_module'"),
        ("a b:x", UsageError, "'a b' is no module"),
        ("json.nothing:x", UsageError, "No module named 'json.nothing'"),
        ("good.py:valeu", UsageError, "good.py has no 'valeu'; did you mean 'value'?"),
        ("good.py:value", UsageError, "int"),
        ("raises.py:x", UsageError, "cannot be loaded: KeyError: 'nope' (raises.py:3 in deep)"),
        ("broken.py:x", UsageError, "cannot be loaded: SyntaxError: '(' was never closed (broken.py:2)"),
        ("imports.py:x", UsageError, "No module named 'not_there' (imports.py:1)"),
        ("base.py:x", UsageError, "cannot be loaded: Odd: up (base.py:2)"),
        ("exits.py:x", EnvironmentRefused, "ends the process while it is loaded: SystemExit: 3 (exits.py:1)"),
    ],
)
def test_registry_mistakes_are_one_line(kind: str, text: str, error: type[PabenchError], words: str) -> None:
    write("good.py", "value = 3\n")
    write(
        "raises.py",
        "def deep():\n    wanted = {}\n    return wanted['nope']\n\ndeep()\n".replace(
            "wanted = {}", "wanted = {}"
        ),
    )
    write("broken.py", "x = 1\ny = (\n")
    write("imports.py", "import not_there\n")
    write("base.py", "class Odd(BaseException): ...\nraise Odd('up')\n")
    write("exits.py", "raise SystemExit(3)\n")
    Path("folder.py").mkdir()
    found = said(kind, text)
    assert type(found) is error
    assert found.exit_code == (7 if error is EnvironmentRefused else 4)
    assert words in str(found)


def test_registry_code_that_ends_the_process_when_it_is_called() -> None:
    Path("ends.py").write_text("class Ends:\n    def __init__(self, device):\n        raise SystemExit(3)\n")
    error = said("backend", "ends.py:Ends")
    assert isinstance(error, EnvironmentRefused)
    assert "backend 'ends.py:Ends' ends the process while it is loaded: SystemExit: " in str(error)
    assert "sys:exit: too many positional arguments; it is called with (q, " in str(
        said("backend", "sys:exit")
    )
    assert "is builtin_function_or_method, must be a class that inherits" in str(
        said("allocator", "sys:exit")
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    pass", "class Pool lacks block_table, free_pages, lengths, alloc, append, free"),
        (WHOLE.replace("def append", "def add"), "class Pool lacks append"),
        (WHOLE.replace("property(", "("), "free_pages of Pool is a method, must be a property"),
        (WHOLE.replace(", *, final_tokens=None", ""), "alloc of Pool must take (sequence, tokens, final"),
        (WHOLE.replace("append(self, sequence", "append(self, s"), "append of Pool must take (sequence, to"),
        (WHOLE.replace("block_table(self)", "block_table(self, which)"), "block_table of Pool must take ()"),
        (WHOLE + "    fork = 3\n", "fork of Pool must take (parent, child)"),
        (WHOLE + "    capabilities = 3\n", "capabilities of Pool is int, must be Capabilities"),
        (WHOLE + "    def __init__(self, shape, more): ...\n", "Pool(shape) cannot be called: missing a re"),
        (WHOLE + "    on_device = True\n", "Pool(device, shape) cannot be called: too many positional argu"),
    ],
)  # fmt: skip
def test_registry_allocators_with_wrong_or_missing_methods(body: str, words: str) -> None:
    write("mine.py", BARE.format(body=body))
    assert str(said("allocator", "mine.py:Pool")).startswith(f"allocator 'mine.py:Pool': {words}")


def test_registry_declared_operations_must_be_there() -> None:
    write(
        "mine.py",
        "from pabench.subjects.allocators.capabilities import Capabilities\n"
        + BARE.format(
            body=WHOLE
            + "    capabilities = Capabilities(operations=frozenset({'alloc', 'fork', 'swap_in'}))\n"
        ),
    )
    assert str(said("allocator", "mine.py:Pool")).endswith("class Pool lacks fork, swap_in")


def test_registry_derives_capabilities_from_the_methods() -> None:
    write(
        "mine.py", BARE.format(body=WHOLE) + "\nclass More(Pool):\n    def fork(self, parent, child): ...\n"
    )
    for name, operations in (("Pool", set()), ("More", {"fork"})):
        can = load_allocator(f"mine.py:{name}").capabilities
        assert can.operations == {"alloc", "append", "free"} | operations
        assert (can.order, can.determinism) == ("set", "counts")


# --- two of one name ----------------------------------------------------------------------------------------


class Distribution:
    def __init__(self, name: str) -> None:
        self.name = name


def announce(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    """Entry points: name, place and package of each."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        made = [EntryPoint(name=name, value=place, group=group) for name, place, _ in points]
        for point, (_, _, package) in zip(made, points, strict=True):
            vars(point)["dist"] = Distribution(package)
        return made

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.parametrize(
    ("kind", "ours", "source", "name"),
    [("backend", "rawkernel", KERNEL, "decode"), ("allocator", "host", POOL, "Pool")],
)
def test_registry_entry_points_of_both_kinds(
    kind: str, ours: str, source: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("foreign_package.py", source)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    place = f"foreign_package:{name}"
    announce(
        monkeypatch,
        ("theirs", place, "foreign"), (ours, place, "foreign"),
        ("both", place, "foreign"), ("both", "other:Thing", "another"),
        ("old", "gone:Thing", "pabench"), ("broken", "no_such_module:x", "foreign"),
    )  # fmt: skip
    assert resolve(kind, "theirs") == Reference(kind=kind, name="theirs", place=place)
    load(kind, "theirs")
    assert places(kind)["theirs"] == place
    mine = places(kind)[ours]
    assert mine.startswith("pabench.")
    both = f"{mine} (pabench) and {place} (entry point of foreign)"
    assert str(said(kind, ours)) == f"{kind} {ours!r} is the name of two: {both}; name one by its place"
    assert "is the name of two: foreign_package" in str(said(kind, "both"))
    assert isinstance(said(kind, "old"), UnknownName)
    error = said(kind, "broken")
    assert isinstance(error, EnvironmentRefused)
    assert f"{kind} 'broken' cannot be loaded: ModuleNotFoundError" in str(error)


def test_registry_refuses_the_same_subject_twice() -> None:
    write("win.py", KERNEL + POOL)
    for kind, name, place in (
        ("backend", "torch-sdpa", "win.py:decode"),
        ("allocator", "host", "win.py:Pool"),
    ):
        assert [found.name for found in resolve_all(kind, [name, place])] == [name, place]
        with pytest.raises(UsageError, match=f"^{kind} '{name}' is named twice; must be there once$"):
            resolve_all(kind, [name, place, name])
        with pytest.raises(UsageError, match=f"^{kind} './{place}' is '{place}' again; must be there once$"):
            resolve_all(kind, [place, f"./{place}"])
        with pytest.raises(UsageError, match=f"is '{name}' again"):
            resolve_all(kind, [name, places(kind)[name]])


def test_registry_references_are_plain() -> None:
    reference = resolve("allocator", "host")
    assert replace(reference) == reference
    assert str(reference) == "allocator 'host'"
