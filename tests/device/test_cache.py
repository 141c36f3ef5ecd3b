# SPDX-License-Identifier: Apache-2.0
"""The folder of compiled kernels: what is damaged is made again, what others may have written is not used."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.device import cache, cache_upkeep
from pabench.device.cache import cache_folder, cache_root, cached_file, cached_text
from pabench.device.emulated import EmulatedDevice
from pabench.errors import EnvironmentRefused

KEY = "0123456789abcdef" * 2
DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, and another for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PABENCH_CACHE_SIZE", raising=False)
    return tmp_path / "cache"


def fallback(folder: Path) -> Path:
    return folder.parent / "tmp" / f"pabench-cache-{os.geteuid()}"


class Maker:
    """Writes some bytes and counts how often."""

    def __init__(self, content: bytes = b"the content of this file, whatever it is") -> None:
        self.content, self.calls = content, 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_bytes(self.content)


def flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 0x10
        return bytes(changed)

    return flip


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:12],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        flipped(0),
        flipped(20),
        flipped(-1),
        lambda data: data[: -cache.SEAL_BYTES],  # of an older version, which had no seal
        lambda data: bytes(len(data)),
    ],
)
def test_cache_makes_a_damaged_file_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    make = Maker()
    path = cached_file("x.so", make)
    whole = path.read_bytes()
    assert whole.startswith(make.content)
    assert cached_file("x.so", make) == path
    assert make.calls == 1
    path.write_bytes(damage(whole))
    assert cached_file("x.so", make) == path
    assert (make.calls, path.read_bytes()) == (2, whole)
    assert [left.name for left in folder.iterdir()] == ["x.so"]


def test_cache_sees_files_that_were_swapped(folder: Path) -> None:
    one, two = Maker(b"one"), Maker(b"two")
    first, second = cached_file("one.so", one), cached_file("two.so", two)
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    assert cached_file("one.so", one).read_bytes().startswith(b"one")
    assert cached_file("two.so", two).read_bytes().startswith(b"two")
    assert (one.calls, two.calls) == (2, 2)


def test_cache_makes_what_is_no_file_or_cannot_be_replaced_elsewhere(folder: Path) -> None:
    (folder / "x.so").mkdir(parents=True)
    os.mkfifo(folder / "y.so")
    assert cached_file("x.so", Maker()) == fallback(folder) / "x.so"
    assert cached_file("y.so", Maker()) == folder / "y.so"


def test_cache_keeps_text_without_its_seal(folder: Path) -> None:
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "zwölf\n"

    assert [cached_text("x.log", make) for _ in range(2)] == ["zwölf\n", "zwölf\n"]
    assert len(made) == 1
    (folder / "x.log").write_text("zwölf\n", encoding="utf-8")
    assert cached_text("x.log", make) == "zwölf\n"
    assert len(made) == 2
    # what cannot be kept is told all the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", lambda **options: (_ for _ in ()).throw(OSError(errno.EROFS, "x")))
        assert cached_text("y.log", make) == "zwölf\n"


def test_cache_writes_to_the_disk_before_it_names_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> None:
            done.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, call)

    noted("fsync")
    noted("replace")
    cached_file("x.so", Maker())
    assert done == ["fsync", "replace"]


def test_cache_on_a_full_disk_goes_elsewhere_and_says_so_when_nowhere_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: set[Path] = {folder}
    sync = os.fsync

    def fsync(file: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{file}")).parent in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert cached_file("x.so", Maker()).parent == fallback(folder)
    full.add(fallback(folder))
    with pytest.raises(EnvironmentRefused, match=r"can be kept neither in .*: No space left on device"):
        cached_file("y.so", Maker())
    assert list(folder.iterdir()) == []


def test_cache_of_a_folder_that_cannot_be_written_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached_file("x.so", Maker())

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert cached_file("x.so", refuse) == path


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702, 0o1777])
def test_cache_folder_that_others_can_write_is_refused(
    folder: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_file("x.so", Maker())
    folder.chmod(mode)
    for ask in (lambda: cached_file("x.so", Maker()), lambda: cached_text("x.log", str), cache_folder):
        with pytest.raises(EnvironmentRefused) as caught:
            ask()
        assert str(caught.value).startswith(
            f"cache folder {folder} can be written by others (mode {mode:o}): what lies there"
        )
    command = ["conformance", "--device", "emulated", "--profile", "quick", "-k", "needle", "--backend"]
    assert run([*command, "rawkernel", "--artifacts", str(folder.parent / "run")]) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cache folder {folder} can be written by others" in line
    assert run(["doctor"]) == 0
    assert f"can be written by others (mode {mode:o})" in capsys.readouterr().out
    folder.chmod(0o755)
    assert cached_file("x.so", Maker()) == folder / "x.so"


def test_cache_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(EnvironmentRefused, match=rf"belongs to another user \(uid {uid}\)"):
        cached_file("x.so", Maker())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    # one that cannot be written is replaced as ever
    with pytest.raises(EnvironmentRefused, match="can be kept neither in"):
        cached_file("x.so", Maker())  # the parent of the other belongs to somebody else here too


def test_cache_folder_nobody_asked_for_is_left_when_others_can_write_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PABENCH_CACHE")
    monkeypatch.setattr(cache, "cache_root", lambda: folder)
    assert cached_file("x.so", Maker()) == folder / "x.so"
    folder.chmod(0o777)
    assert cached_file("x.so", Maker()) == fallback(folder) / "x.so"
    assert cache_folder() == fallback(folder)
    fallback(folder).chmod(0o770)
    with pytest.raises(EnvironmentRefused, match="no writable folder of ours"):
        cached_file("x.so", Maker())


@pytest.mark.parametrize("given", ["file", "file/below", "/proc", "/proc/below"])
def test_cache_folder_that_cannot_be_written_is_replaced(
    folder: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "file").touch()
    monkeypatch.setenv("PABENCH_CACHE", str(folder.parent / given))
    assert cached_file("x.so", Maker()) == fallback(folder) / "x.so"
    assert cache_folder() == fallback(folder)


def test_cache_needs_no_folder_for_temporary_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", missing)
    assert cached_file("x.so", Maker()) == folder / "x.so"
    monkeypatch.setenv("PABENCH_CACHE", "/proc/below")
    with pytest.raises(EnvironmentRefused, match="kept neither in /proc/below nor in a folder for temporary"):
        cached_file("x.so", Maker())


def test_cache_folder_in_the_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE", "~no-such-user/x")
    with pytest.raises(EnvironmentRefused, match="PABENCH_CACHE = '~no-such-user/x': "):
        cache_root()


def aged(folder: Path, name: str, days: float, size: int = 1000) -> Path:
    """A cached file that was last used so long ago."""
    path = cached_file(f"{name}-{KEY}.so", Maker(bytes(size - cache.SEAL_BYTES)))
    used = time.time() - days * DAY
    os.utime(path, (used, used))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


def test_cache_above_its_bound_loses_what_was_unused_for_longest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, days in (("a", 3), ("b", 5), ("c", 4), ("d", 2)):
        aged(folder, name, days)
    monkeypatch.setenv("PABENCH_CACHE_SIZE", "4000")
    aged(folder, "e", 0)
    assert names(folder) == ["a", "c", "d", "e"]
    cached_file(f"c-{KEY}.so", Maker())  # used, so now it is a's turn
    monkeypatch.setenv("PABENCH_CACHE_SIZE", "3K")
    aged(folder, "f", 0)
    assert names(folder) == ["c", "e", "f"]


def test_cache_never_loses_what_is_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE_SIZE", "1")
    aged(folder, "hour", 0.5 / 24)
    aged(folder, "yesterday", 1)
    monkeypatch.setattr(cache_upkeep, "_began", time.time() - 2 * DAY)
    aged(folder, "next", 0)
    assert names(folder) == ["hour", "next", "yesterday"]  # this run may have loaded it
    monkeypatch.setattr(cache_upkeep, "_began", time.time())
    aged(folder, "last", 0)
    assert names(folder) == ["hour", "last", "next"]


def test_cache_touches_nothing_that_is_not_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE_SIZE", "1")
    (folder / "hypothesis").mkdir(parents=True)
    (folder / f"link-{KEY}.so").symlink_to(folder / "thesis.txt")
    theirs = ["thesis.txt", "libc.so", f"notes-{KEY[1:]}.txt", f"x-{KEY}.so.bak", ".building.txt"]
    for name in theirs:
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))
    old, new = folder / ".building-1.so", folder / ".building-2.so"
    for path, days in ((old, 1), (new, 0)):
        path.write_text("half")
        os.utime(path, (time.time() - days * DAY,) * 2)
    aged(folder, "x", 0)
    kept = {path.name for path in folder.iterdir()}
    assert kept == {*theirs, "hypothesis", f"link-{KEY}.so", f"x-{KEY}.so", ".building-2.so"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 2 * 2**30),
        ("0", 0),
        ("500", 500),
        ("3k", 3072),
        ("1 MiB", 2**20),
        ("2GB", 2**31),
        (" 1T ", 2**40),
    ],
)
def test_cache_size_is_read(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE_SIZE", text)
    assert cache_upkeep.size_bound() == size


def test_cache_size_of_zero_is_no_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE_SIZE", "0")
    aged(folder, "a", 9)
    aged(folder, "b", 0)
    assert names(folder) == ["a", "b"]


@pytest.mark.parametrize("text", ["lots", "-1", "1.5G", "2X", "٣", "1e9", "9" * 30])
def test_cache_size_that_is_none_is_refused(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE_SIZE", text)
    with pytest.raises(EnvironmentRefused, match="must be a size such as 500M or 2G") as caught:
        cached_file("x.so", Maker())
    assert repr(text) in str(caught.value)
    with pytest.raises(EnvironmentRefused, match="must be a size such as"):
        EmulatedDevice().ready()


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"HOME": "/proc/none"}, "False"),
        ({"HOME": "/proc/none", "PABENCH_CACHE": "/proc/none"}, "False"),
        ({"CUPY_CACHE_DIR": "/proc/none"}, "True"),
    ],
)
def test_cache_has_a_place_for_cupy_where_the_home_folder_has_none(
    folder: Path, settings: dict[str, str], told: str
) -> None:
    """CuPy makes its folder when it is imported."""
    code = (
        "from pabench.device.cuda import why_no_cuda\n"
        "print('cannot be imported' in (why_no_cuda() or ''))\n"
        "from pabench.device.registry import open_device\n"
        "print(open_device('auto').name)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "CUPY_CACHE_DIR"}
    environment |= {"PABENCH_CACHE": str(folder), "TMPDIR": str(folder.parent / "tmp"), **settings}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == told
    assert done.stdout.split()[1] in ("emulated", "cuda")
