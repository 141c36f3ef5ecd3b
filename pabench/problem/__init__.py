# SPDX-License-Identifier: Apache-2.0
"""What is asked: problems, batches, page layouts, input families, cases (numpy only, no device, no files)."""

from pabench.problem.batch import Batch
from pabench.problem.case import Case, case_from_dict
from pabench.problem.layout import CsrTable, PageLayout, layout_from_csr
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors, build_tensors

__all__ = [
    "Batch",
    "Case",
    "CsrTable",
    "KvPool",
    "NumericsProfile",
    "PageLayout",
    "Problem",
    "Tensors",
    "build_tensors",
    "case_from_dict",
    "layout_from_csr",
]
