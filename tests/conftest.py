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

# The same examples every time and everywhere, whatever a CI or an example database would add; `make fuzz`
# loads the other profile.  No deadline: the machine may be busy.
settings.register_profile("test", derandomize=True, deadline=None, print_blob=True, database=None)
settings.register_profile("fuzz", derandomize=False, deadline=None, print_blob=True, database=None)
settings.load_profile("test")

SLOW = (
    "activities/conformance/",
    "activities/model/",
    "activities/serving/test_reproduce.py",
    "activities/serving/test_serving_command.py",
    "activities/stress/",
    "activities/sweep/test_checked.py",
    "activities/sweep/test_core_grid.py",
    "activities/sweep/test_isolation_sweep.py",
    "activities/sweep/test_kernels.py",
    "activities/sweep/test_sweep_command.py",
    "cli/test_gpu_command.py",
    "cli/test_kernels_command.py",
    "device/test_cuda_times.py",
    "selftest/test_kill_",
    "selftest/test_selftest_mutants.py",
)
"""Whole runs of a command, and the kill matrices, by how their places begin; single tests are marked."""


KILLS, NIGHTS = "selftest/test_kill_", 6
"""Where each planted fault is a test, and of how many `make test` runs one: the same ones every time."""
DOCS = "house/test_docs.py::test_docs_commands_run"
NIGHTLY = (
    "activities/conformance/test_conformance_command.py::test_conformance_seed_decides_the_cases",
    "activities/conformance/test_isolation_conformance.py::"
    "test_isolation_of_a_kernel_that_takes_its_process_along[loops for ever]",
    "activities/conformance/test_isolation_conformance.py::"
    "test_isolation_of_a_kernel_that_takes_its_process_along[writes wild]",
    "activities/conformance/test_jobs.py::test_jobs_change_no_result",
    "cli/test_gpu_command.py::test_gpu_checks_to_their_end_with_packages_missing",
    "cli/test_gpu_command.py::test_gpu_kinds_are_timed_each_by_the_backends_that_are_for_it",
    "controls/test_controls.py::test_controls_do_not_hold_for_a_blind_checker",
    "house/test_ci.py::test_ci_recipe_with_a_failing_kernel_leaves_everything_and_exits_1",
    "house/test_packaging.py::test_packaging_wheel_passes_the_newcomers_script",
    "report/test_foreign_runs.py::test_foreign_value_of_any_kind_is_refused_or_shown[sweep-two-lines-one-id]",
    "selftest/test_kill_allocators.py::test_kill_allocators_kills[host-stale-hashes-after-truncate]",
    "selftest/test_kill_allocators.py::test_kill_allocators_kills[host-a-page-lost-every-2000-frees]",
    "selftest/test_kill_allocators.py::test_kill_allocators_kills[host-memory-grows-with-each-call]",
    "selftest/test_kill_huge_pool.py::test_kill_huge_pool_kills[simple-position-of-15-bits]",
    "selftest/test_kill_huge_pool.py::test_kill_huge_pool_kills_what_a_crowd_shows[scan-crowd-forgets-the-first-round]",
    "selftest/test_selftest_mutants.py::test_selftest_mutants_command_from_elsewhere",
    *(
        f"{DOCS}[{page}]"
        for page in ("backends", "runs", "allocators", "gpu", "findings", "serving", "power")
    ),
    *(f"{DOCS}[{page}]" for page in ("kernels", "emulated-device", "compare")),
)
"""Single tests of 10 to 45 s each, by place and name; a test that is long on purpose has the mark."""


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out, and leave out what `make test` does."""
    night = []
    for item in items:
        place = os.path.relpath(item.path, Path(__file__).parent)
        if place.startswith(SLOW):
            item.add_marker("slow")
        case = getattr(item, "callspec", None)
        if (
            item.get_closest_marker("nightly")
            or f"{place}::{item.name}" in NIGHTLY
            or (place.startswith(KILLS) and case is not None and crc32(case.id.encode()) % NIGHTS)
        ):
            night.append(item)
    if config.getoption("--without-nightly"):
        config.hook.pytest_deselected(items=night)
        left = set(night)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session", autouse=True)
def same_draws_in_any_order() -> Iterator[None]:
    """What a property test draws does not depend on which tests its process ran before."""
    with no_foreign_constants():
        yield
