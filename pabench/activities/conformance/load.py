# SPDX-License-Identifier: Apache-2.0
"""Whether what a subject is made of compiles: asked once, before the first case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product

from pabench.checks.subject_facts import Judged
from pabench.device.base import Device
from pabench.errors import CompileError
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.problem.tensors import build_tensors
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.backends.base import Backend, attend

LOAD = "load"
"""Stands for the id of a question in the record of a subject that does not compile."""
ABOUT = "the code of the subject compiles"
TRIES = 3
"""Instances that must all fail: one that does not compile is a verdict on its own cases alone."""
SHAPE = PoolShape(num_pages=4, page_size=16, max_seqs=2, max_pages_per_seq=2)


def why_broken(subject: Judged, device: Device, begin: Callable[[], None] = lambda: None) -> str | None:
    """Return the compiler's first error when no case of ``subject`` can run for it, else None.

    Args:
        subject: to be asked; what else goes wrong is told by the questions.
        device: that it runs on.
        begin: called before each case.
    """
    if subject.backend is not None:
        return _of_backend(subject.backend, begin)
    if subject.allocator is None:
        return None
    begin()
    try:
        subject.allocator.make(device, SHAPE).alloc(0, 1)
    except CompileError as error:
        return str(error)
    except Exception:
        return None
    return None


def _of_backend(backend: Backend, begin: Callable[[], None]) -> str | None:
    first: str | None = None
    for case in islice(_supported(backend), TRIES):
        begin()
        try:
            attend(backend, build_tensors(case))
        except CompileError as error:
            first = first or str(error)
        except Exception:
            return None
        else:
            return None
    return first


def _supported(backend: Backend) -> Iterator[Case]:
    """The smallest cases of different instances that the backend declares."""
    can = backend.capabilities
    batches = (Batch(kv_lens=(1,)), Batch(kv_lens=(2,), q_lens=(2,)))
    for head_dim, dtype, layout, batch in product(
        (16, 64, 128), sorted(can.dtypes), sorted(can.kv_layouts), batches
    ):
        problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=head_dim, page_size=16, dtype=dtype)
        case = Case(problem=problem, batch=batch, kv_layout=layout)
        if can.why_not(case) is None:
            yield case
