"""A problem for pymoo, in a module that workers can import."""

from __future__ import annotations

import numpy as np

from tests.integrations.conftest import library

library("pymoo")
problem = library("pymoo.core.problem")


class Sphere(problem.ElementwiseProblem):
    def __init__(self, **kwargs):
        super().__init__(n_var=4, n_obj=1, xl=-2.0, xu=2.0, **kwargs)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = float(np.sum(x**2))
