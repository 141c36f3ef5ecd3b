# SPDX-License-Identifier: Apache-2.0
"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import settings

from pabench.strategies.drawing import no_foreign_constants
from tests.support.costs import read as costs_of_tests

# The same examples every time and everywhere, whatever a CI or an example database would add; `make fuzz`
# loads the other profile.  No deadline: the machine may be busy.
settings.register_profile("test", derandomize=True, deadline=None, print_blob=True, database=None)
settings.register_profile("fuzz", derandomize=False, deadline=None, print_blob=True, database=None)
settings.load_profile("test")

SLOW_S, NIGHT_S = 0.1, 0.9
"""From how many CPU seconds on `make check` leaves out a test, and `make test`: see tests/costs.txt."""
EVERY_COMMIT = (
    "activities/conformance/test_bad_backends.py::test_bad_backends_each_get_a_verdict_by_name",
    "activities/conformance/test_conformance_command.py::test_conformance_profile_passes[rawkernel-trial]",
    "activities/conformance/test_isolation_conformance.py::"
    "test_isolation_every_end_is_a_verdict_and_the_run_is_complete",
    "activities/serving/test_reproduce.py::test_reproduction_meets_every_acceptance",
    "activities/serving/test_serving_run.py::test_serving_interrupted_is_closed_and_goes_on[15]",
    "activities/sweep/test_sweep_command.py::"
    "test_sweep_stopped_in_the_middle_loses_no_cell_and_repeats_none[9]",
    "checks/test_remote_backends.py::test_remote_cheat_changes_no_verdict_beside_it",
    "checks/test_space.py::test_space_of_quick_has_no_gap",
    "cli/test_gpu_command.py::test_gpu_machine_may_lack_what_is_not_needed[conformance]",
    "device/ptx/test_backends.py::test_removed_barrier_is_named_with_both_lines",
    "device/ptx/test_device.py::test_our_kernels_have_the_bits_of_the_emulated_device[sm_80-rawkernel-mma-]",
    "emulator/test_build.py::test_emulated_build_compiles_once_and_again_after_changes",
    "exchange/test_solutions_judged.py::test_each_solution_has_its_status",
    "house/test_docs.py::test_docs_commands_run[README]",
    "house/test_packaging.py::test_packaging_installed_pabench_is_whole[wheel]",
    "house/test_prose.py::test_prose_has_none_of_the_fragments",
    "house/test_types.py::test_types_are_right_everywhere",
    "house/test_without_torch.py::test_without_torch_a_numpy_function_is_judged[right-0]",
)
"""What `make test` runs whatever it costs: one long test of each promise."""
KILLS, NIGHTS = "selftest/test_kill_", 6
"""Where each planted fault is a test, and of how many `make test` runs one: the same ones every time."""


GONE = pytest.StashKey[list[str]]()
"""Tests that are named above or in tests/costs.txt and were not collected."""


def pytest_configure() -> None:
    """Let signals reach what tests start: a shell's ``&`` has SIGINT ignored, nohup SIGHUP.

    Where tests run side by side already, what they start has one worker: a second one takes its start-up and
    no time off.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("PABENCH_JOBS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test`` leaves to the night what takes longest; without the option everything runs."""
    parser.addoption("--without-nightly", action="store_true", help="one planted fault in six, no `nightly`")


def named_inside_tests(item: pytest.Item) -> str:
    """Name a test as the table of costs does: its file inside this folder, then what follows."""
    return f"{os.path.relpath(item.path, Path(__file__).parent)}::{item.nodeid.split('::', 1)[1]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out, and leave out what `make test` does."""
    costs, night, tests = costs_of_tests(), [], set()
    for item in items:
        test = named_inside_tests(item)
        tests.add(test)
        cost = costs.get(test, 0.0)
        case = getattr(item, "callspec", None)
        at_night = (
            item.get_closest_marker("nightly") is not None
            or (cost >= NIGHT_S and test not in EVERY_COMMIT)
            or (test.startswith(KILLS) and case is not None and crc32(case.id.encode()) % NIGHTS != 0)
        )
        if at_night:
            night.append(item)
        if at_night or cost >= SLOW_S:
            item.add_marker("slow")
    config.stash[GONE] = [test for test in (*costs, *EVERY_COMMIT) if test not in tests]
    if config.getoption("--without-nightly"):
        config.hook.pytest_deselected(items=night)
        left = set(night)
        items[:] = [item for item in items if item not in left]
    # the longest begin first: one that begins last runs alone
    items.sort(key=lambda item: named_inside_tests(item) not in EVERY_COMMIT)


@pytest.fixture(scope="session", autouse=True)
def same_draws_in_any_order() -> Iterator[None]:
    """What a property test draws does not depend on which tests its process ran before."""
    with no_foreign_constants():
        yield
