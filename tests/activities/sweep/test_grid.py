# SPDX-License-Identifier: Apache-2.0
"""Configuration, its file, and the cells that it makes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.check import CHECK_TOKENS, check_cases, check_lengths
from pabench.activities.sweep.config import KEYS, SweepConfig, resolve_config
from pabench.activities.sweep.config_file import read_config_file
from pabench.activities.sweep.grid import grid_digest, make_cells, policies_of
from pabench.activities.sweep.measure import run_lengths
from pabench.errors import InvalidCase, PabenchError, UnknownName, UsageError
from pabench.problem.lengths import parse_lengths

BACKENDS = ("rawkernel", "torch-sdpa")
# page size: pages, slots, waste, internal fragmentation, gain, table columns
EXACT = {
    1: (1408, 1408, 0, Fraction(0), Fraction(48, 11), 1024),
    8: (179, 1432, 24, Fraction(3, 179), Fraction(768, 179), 128),
    16: (91, 1456, 48, Fraction(3, 91), Fraction(384, 91), 64),
    32: (47, 1504, 96, Fraction(3, 47), Fraction(192, 47), 32),
    64: (25, 1600, 192, Fraction(3, 25), Fraction(96, 25), 16),
    128: (14, 1792, 384, Fraction(3, 14), Fraction(24, 7), 8),
    256: (9, 2304, 896, Fraction(7, 18), Fraction(8, 3), 4),
}


def config(**options: Any) -> SweepConfig:
    given = {key.replace("_", "-"): value for key, value in options.items()}
    return resolve_config({"page-sizes": "8,16", **given}, backends=BACKENDS)


def cells(*specs: str, **options: Any) -> tuple[Cell, ...]:
    parsed = [parse_lengths(text) for text in specs or ("fixed:len=100",)]
    return make_cells(config(**options), parsed, device="emulated", gpu="h200")


def test_grid_is_the_product_with_page_size_innermost() -> None:
    made = cells("fixed", "zipf", batch="1,4", dtypes="float16,float32", heads="4:2,8")
    assert len(made) == 2 * 2 * 2 * 2 * 2
    assert [cell.problem.page_size for cell in made[:4]] == [8, 16, 8, 16]
    assert len({cell.id for cell in made}) == len(made)


def test_grid_draws_the_same_lengths_for_every_page_size() -> None:
    first, second = cells("zipf", batch="16")
    assert first.batch == second.batch
    assert cells("zipf", batch="16", seed=1)[0].batch != first.batch


def test_grid_list_is_its_own_batch_and_one_cell() -> None:
    made = cells("list:5,7", batch="1,8,64")
    assert [(cell.batch.kv_lens, cell.problem.page_size) for cell in made] == [((5, 7), 8), ((5, 7), 16)]


def test_grid_figures_of_a_known_batch_are_exact() -> None:
    made = cells("list:100,250,17,1024,16,1", page_sizes=list(EXACT))
    for cell in made:
        pages, slots, waste, fragmentation, gain, columns = EXACT[cell.problem.page_size]
        line = cell.counted()
        assert (line["num_pages"], line["slots"], line["waste_tokens"]) == (pages, slots, waste)
        assert (line["tokens"], line["kv_bytes"]) == (1408, slots * 2 * 8 * 128 * 2)
        assert line["exact"] == {
            "internal_fragmentation": str(fragmentation),
            "contiguous_fragmentation": "37/48",
            "efficiency_gain": str(gain),
        }
        assert line["internal_fragmentation"] == float(fragmentation)
        assert line["efficiency_gain"] == float(gain)
        assert line["block_table_bytes"] == 6 * columns * 4
        assert line["csr_table_bytes"] == (7 + pages + 6) * 4


def test_grid_empty_batch_has_figures() -> None:
    line = cells("list:0,0")[0].counted()
    assert (line["num_pages"], line["slots"], line["internal_fragmentation"]) == (0, 0, 0.0)


def test_cell_id_changes_with_everything_that_determines_the_result() -> None:
    cell = cells()[0]
    problem = cell.problem
    others = [
        replace(cell, backend="other"),
        replace(cell, device="cuda"),
        replace(cell, gpu="L4"),
        replace(cell, seed=1),
        replace(cell, lengths="else"),
        replace(cell, kv_layout="HND"),
        replace(cell, interleaved=True),
        replace(cell, batch=replace(cell.batch, kv_lens=(101,), q_lens=None)),
        replace(cell, problem=replace(problem, page_size=9)),
        replace(cell, problem=replace(problem, dtype="float32")),
        replace(cell, problem=replace(problem, head_dim=64)),
        replace(cell, problem=replace(problem, num_qo_heads=16)),
        replace(cell, problem=replace(problem, num_kv_heads=4)),
    ]
    ids = {cell.id, *(other.id for other in others)}
    assert len(ids) == len(others) + 1
    assert replace(cell).id == cell.id
    assert grid_digest([cell]) != grid_digest(others[:1])


def test_grid_refuses_a_spec_given_twice_and_too_many_cells() -> None:
    with pytest.raises(UsageError, match="'fixed:len=1024' is given twice"):
        cells("fixed", "fixed:len=1024")
    with pytest.raises(UsageError, match="must be at most 100000"):
        cells(page_sizes="1:1000:1", batch="1:1000:1")


def test_grid_refuses_lengths_that_do_not_fit() -> None:
    with pytest.raises(InvalidCase, match="must sum to at most"):
        cells("fixed:len=16777216", batch="1000")


def test_config_defaults_cover_all_but_page_sizes() -> None:
    resolved = config()
    assert resolved.batch == (1, 8, 64)
    assert resolved.heads == ((32, 8),)
    assert "azure-conv" in resolved.lengths
    with pytest.raises(UsageError, match="no page sizes given"):
        resolve_config({}, backends=BACKENDS)


def test_config_written_down_reads_back_equal() -> None:
    resolved = config(
        lengths=("zipf", "list:1,2"),
        heads=("6:2", "8"),
        trace=("a.csv", "b.jsonl"),
        layouts="HND-strided",
        l2="hot",
        replicates="3",
    )
    assert set(resolved.to_dict()) == set(KEYS)
    assert resolve_config(resolved.to_dict(), backends=BACKENDS) == resolved


def test_config_trace_replaces_the_default_lengths_only() -> None:
    assert config(trace="a.csv").lengths == ()
    assert config(trace="a.csv", lengths="zipf").lengths == ("zipf",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"page_sizes": "0"}, "--page-sizes '0': item 1 is '0'"),
        ({"page_sizes": str(2**20 + 1)}, "to 1048576"),
        ({"batch": "8,,16"}, "--batch '8,,16': item 2 is empty"),
        ({"heads": ("7:2",)}, "7 query heads must be a multiple of 2"),
        ({"heads": ("4:2", "4:2")}, "4:2 is given twice"),
        ({"heads": ()}, ""),
        ({"head_dim": 0}, "--head-dim: 0 must be a whole number from 1 to 1024"),
        ({"head_dim": "x"}, "--head-dim: 'x' must be"),
        ({"head_dim": True}, "--head-dim: True must be"),
        ({"seed": "-1"}, "--seed: '-1' must be"),
        ({"dtypes": "float8"}, "unknown dtype 'float8'; did you mean 'float"),
        ({"layouts": "nhd"}, "unknown layout 'nhd'"),
        ({"backend": ("rawkernal",)}, "unknown backend 'rawkernal'; did you mean 'rawkernel'"),
        ({"device": ""}, "--device: '' must be a non-empty text"),
        ({"trace": 3}, "--trace: 3 must be a text or a list of texts"),
        ({"lengths": 5}, "--lengths: 5 must be a text"),
        ({"pagesizes": "8"}, "unknown option 'pagesizes'; did you mean 'page-sizes'"),
    ],
)
def test_config_errors_name_option_and_value(options: dict[str, Any], words: str) -> None:
    if not words:  # an empty list on the command line means that the option was not given
        assert config(**options).heads == ((32, 8),)
        return
    with pytest.raises(PabenchError) as caught:
        config(**options)
    assert words in str(caught.value)
    assert caught.value.exit_code == 4


def test_config_file_reads_numbers_lists_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'page_sizes = [8, 16]\nbatch = 4\nhead-dim = 64\nlengths = ["zipf", "fixed"]\ndtypes = "float32"\n'
    )
    found = read_config_file(path, KEYS)
    resolved = resolve_config(found, backends=BACKENDS)
    assert (resolved.page_sizes, resolved.batch, resolved.head_dim) == ((8, 16), (4,), 64)
    assert (resolved.lengths, resolved.dtypes) == (("zipf", "fixed"), ("float32",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("page_size = [8]", "'page_size'; did you mean 'page-sizes'"),
        ("page-sizes = [8", "not TOML"),
        ("page-sizes = [8]\npage_sizes = [9]", "page-sizes is set twice"),
        ("seed = 1.5", "seed = 1.5 must be a text, a whole number or a list"),
        ("batch = [true]", "batch = [True] must be"),
        ("[sweep]\nseed = 1", "'sweep'"),
        ("x" * 10, "not TOML"),
    ],
)
def test_config_file_errors_name_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config_file(path, KEYS)
    assert words in str(caught.value)
    assert "sweep.toml" in str(caught.value)


def test_config_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"configuration .* cannot be read"):
        read_config_file(tmp_path / "none.toml", KEYS)
    with pytest.raises(UsageError, match=r"configuration .* cannot be read"):
        read_config_file(tmp_path, KEYS)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_config_file(tmp_path / "bytes.toml", KEYS)
    (tmp_path / "a.toml").write_text("lengts = 'zipf'")
    with pytest.raises(UnknownName):
        read_config_file(tmp_path / "a.toml", KEYS)


@pytest.mark.parametrize("page_size", [1, 3, 16, 100, 2048, 2**20])
@pytest.mark.parametrize("kv_lens", [(0,), (1,), (5, 100_000), (0, 17, 1000, 32768), (2**24, 2**24)])
def test_check_lengths_stay_in_budget_and_keep_the_last_page_fill(
    kv_lens: tuple[int, ...], page_size: int
) -> None:
    cut = check_lengths(kv_lens, page_size)
    assert len(cut) == min(3, len(kv_lens))
    assert sum(cut) <= 2.5 * max(CHECK_TOKENS, min(2 * page_size, 4096))
    originals = sorted(kv_lens)
    for short, original in zip(cut, (originals[-1], originals[0]), strict=False):
        assert short <= original
        assert short == original or short % page_size == original % page_size or page_size > short // 2
    assert cut[0] > page_size or cut[0] == originals[-1] or page_size > 2048


def test_check_cases_keep_group_size_and_shape() -> None:
    cell = cells(heads="28:4", dtypes="bfloat16", layouts="HND-strided", head_dim=80)[1]
    cases = check_cases(cell)
    assert {case.placement for case in cases} == {"shuffled", "high"}
    for case in cases:
        assert case.problem.group_size == 7
        assert case.problem.num_kv_heads == (1 if case.placement == "high" else 2)
        assert (case.problem.dtype, case.problem.head_dim, case.problem.page_size) == ("bfloat16", 80, 16)
        assert (case.kv_layout, case.interleaved, case.poison) == ("HND", True, "nan")


def test_measure_runs_as_much_of_the_batch_as_the_budget_allows() -> None:
    assert run_lengths((100, 100, 100), 4, 1000) == (100, 100)
    assert run_lengths((100,), 4, 40) == (10,)
    assert run_lengths((0, 0, 5), 4, 40) == (0, 0, 5)
    assert run_lengths((1024,), 32, 2**16) == (1024,)
    assert run_lengths((7,), 100, 10) == (1,)


def test_l2_policies_are_an_axis_of_a_gpu_alone() -> None:
    asked = resolve_config({"page-sizes": "8", "l2": "cold-flush,hot"}, backends=["rawkernel"])
    plain = resolve_config({"page-sizes": "8"}, backends=["rawkernel"])
    assert policies_of(asked, "cuda") == ("cold-flush", "hot")
    assert policies_of(plain, "cuda") == ("cold-rotate",)
    assert policies_of(plain, "emulated") == (None,)
    assert "l2" not in plain.to_dict()
    assert resolve_config(asked.to_dict(), backends=["rawkernel"]) == asked
    with pytest.raises(UsageError, match="--l2 cold-flush,hot: a cell on device emulated is timed"):
        policies_of(asked, "emulated")
    with pytest.raises(UnknownName, match="cold-rotat"):
        resolve_config({"page-sizes": "8", "l2": "cold-rotat"}, backends=["rawkernel"])
    specs = [parse_lengths("fixed:len=40")]
    cells = make_cells(asked, specs, device="cuda", gpu="H200", policies=policies_of(asked, "cuda"))
    assert len({cell.id for cell in cells}) == len(cells) == 6
    assert {cell.axes()["l2"] for cell in cells} == {"cold-flush", "hot"}
