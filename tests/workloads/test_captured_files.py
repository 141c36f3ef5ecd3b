# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pabench.errors import UsageError
from pabench.workloads.captured import capture_bytes, read_capture, sample_file

INPUTS = Path(__file__).resolve().parents[1] / "robust" / "inputs"
RIGHT = "ok.npz"
RULES = {
    "deflate-damaged.npz": "Error -3 while decompressing data",
    "huge-shape.npz": "of float16, 2399999999976 bytes, in an entry of 0",
    "pickle.npz": "q.npy holds pickled objects",
    "q-is-no-npy.npz": "q.npy is no .npy file",
    "zip-method-99.npz": "q.npy is compressed by method 99",
}


def test_inputs_every_file_has_its_answer() -> None:
    assert {path.name for path in INPUTS.iterdir()} == {*RULES, RIGHT}


@pytest.mark.parametrize("name", RULES)
def test_inputs_that_are_damaged_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="no file of captured activations") as caught:
        read_capture(INPUTS / name)
    assert RULES[name] in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_inputs_that_are_right_are_read() -> None:
    found = read_capture(INPUTS / RIGHT)
    assert (found.q.shape, found.k.shape) == ((1, 6, 2, 16), (1, 6, 1, 16))
    assert found.id == read_capture(INPUTS / RIGHT).id


def rewritten(path: Path, **entries: bytes) -> Path:
    """The right file with other entries."""
    with zipfile.ZipFile(INPUTS / RIGHT) as archive:
        kept = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**kept, **{f"{name}.npy": data for name, data in entries.items()}}.items():
            archive.writestr(name, data)
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def header(shape: str, descr: str = "'<f2'", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_inputs_refuse_a_bomb_by_its_shape_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = header("(1, 6, 2, 2097152)")
    path = rewritten(tmp_path / "bomb.npz", q=begin + bytes(1 * 6 * 2 * 2097152 * 2))
    assert path.stat().st_size < 60_000
    read = []
    inner = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        found = inner(self, n)
        read.append(len(found))
        return found

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(UsageError, match="head_dim = 2097152: must be"):
        read_capture(path)
    assert sum(read) < 10_000


@pytest.mark.parametrize(
    ("q", "rule"),
    [
        (b"", "is no .npy file"),
        (b"\x93NUMPY", "q.npy"),
        (b"\x93NUMPY\x03\x00" + bytes(20), "version (3, 0)"),
        (header("(1, 6, 2, 16)")[:40], "q.npy"),
        (header("(1, 6, -2, -16)") + bytes(384), "has shape"),
        (header("(1, 6, 2, 16)") + bytes(382), "384 bytes, in an entry of 382"),
        (header("(1, 6, 2, 16)") + bytes(386), "384 bytes, in an entry of 386"),
        (header("(" + "9" * 5000 + ",)"), "q.npy"),
        (header("(" * 300), "q.npy"),
        (header("(1, 6, 2, 16)", descr="'|O'"), "pickled objects"),
        (header("(1, 6, 2, 16)", descr="'nonsense'"), "q.npy"),
    ],
)
def test_inputs_refuse_headers_that_do_not_fit(q: bytes, rule: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of captured activations") as caught:
        read_capture(rewritten(tmp_path / "q.npz", q=q))
    said = str(caught.value)
    if rule != "q.npy":
        assert rule in said
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    "about", ["[" * 100_000, "{", '{"schema": 1}', "9" * 5000, '{"schema": 1, "layers": 5}']
)
def test_inputs_refuse_about_that_is_none(about: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of captured activations"):
        read_capture(rewritten(tmp_path / "about.npz", about=npy(np.array(about))))


def test_inputs_refuse_what_is_encrypted(tmp_path: Path) -> None:
    data = bytearray((INPUTS / RIGHT).read_bytes())
    place = -1
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        while (place := data.find(signature, place + 1)) >= 0:
            data[place + offset] |= 1
    (tmp_path / "secret.npz").write_bytes(data)
    with pytest.raises(UsageError, match=r"q.npy is encrypted"):
        read_capture(tmp_path / "secret.npz")


def test_inputs_in_fortran_order_are_the_same(tmp_path: Path) -> None:
    found = read_capture(INPUTS / RIGHT)
    path = rewritten(tmp_path / "f.npz", q=npy(np.asfortranarray(found.q)))
    assert b"'fortran_order': True" in zipfile.ZipFile(path).read("q.npy")
    assert read_capture(path).id == found.id


def test_inputs_survive_any_damage(tmp_path: Path) -> None:
    """A capture or one refusal, whichever byte is changed and wherever the file ends."""
    raw, draw = (INPUTS / RIGHT).read_bytes(), random.Random(5)
    path, refused = tmp_path / "damaged.npz", 0
    damaged = [
        raw[:place] + bytes([raw[place] ^ draw.randrange(1, 256)]) + raw[place + 1 :]
        for place in range(len(raw))
    ]
    for data in [*damaged, *(raw[:end] for end in range(0, len(raw), 7))]:
        path.write_bytes(data)
        try:
            read_capture(path)
        except UsageError:
            refused += 1
    assert refused > len(raw) / 2


def test_capture_bytes_are_the_same_each_time() -> None:
    sample = read_capture(sample_file())
    assert capture_bytes(sample) == capture_bytes(sample)
