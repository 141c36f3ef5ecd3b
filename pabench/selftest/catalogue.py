"""Which checks a subject has, and by which test of the suite; found by a rehearsal."""

from __future__ import annotations

from pabench.activities.conformance.examiner import PROFILES, REHEARSED
from pabench.activities.conformance.planned import PlannedTest
from pabench.activities.conformance.plugin import ConformancePlugin
from pabench.activities.conformance.request import ConformanceRequest
from pabench.activities.conformance.results import CheckResult
from pabench.activities.conformance.runner import arguments_for, check_ended, run_pytest
from pabench.device.base import Device
from pabench.selftest.own_subjects import Subject


def request_for(subject: Subject, **options: object) -> ConformanceRequest:
    """Return the request that judges ``subject`` alone by the quick profile, changed by ``options``."""
    backends, allocators = ((subject.name,), ()) if subject.kind == "backend" else ((), (subject.name,))
    given = {"profile": "quick", "seed": 0, **options}
    return ConformanceRequest(backends=backends, allocators=allocators, **given)  # type: ignore[arg-type]


def checks_of(subject: Subject, device: Device) -> dict[str, str]:
    """Return test name to check id, for the tests that would judge ``subject``, in the suite's order.

    Nothing is judged and no kernel compiled.

    Raises:
        PabenchError: the subject cannot be loaded, or the suite not be collected.
    """
    tests: list[PlannedTest] = []
    results: list[CheckResult] = []

    def choose(found: list[PlannedTest]) -> range:
        tests.extend(found)
        return range(len(found))

    plugin = ConformancePlugin(
        device=device,
        backends=(subject.name,) if subject.kind == "backend" else (),
        allocators=(subject.name,) if subject.kind == "allocator" else (),
        effort=PROFILES["quick"],
        seed=0,
        on_result=lambda result, failing: results.append(result),
        choose=choose,
        rehearsal=True,
    )
    check_ended(*run_pytest(arguments_for(request_for(subject)), plugin))
    pairs = zip(tests, results, strict=True)
    return {test.name: result.check for test, result in pairs if result.reason == REHEARSED}
