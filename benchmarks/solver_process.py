"""python solver_process.py PROBLEM.npz KIND GIGABYTES: one solver, under a memory limit; prints one line of JSON.

KIND scs, scs-1e-6, clarabel: LipSDP as lipcert hands it over (scaled, inputs reduced), through cvxpy. KIND eclipse,
eclipse-fast: the package eclipse-nn on the weights. What they return is recorded as they return it; the note tells by
how much the constraint of the returned point is violated.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time

import numpy as np


def by_cvxpy(problem: dict[str, np.ndarray], kind: str) -> tuple[float, str]:
    import cvxpy as cp

    V, C, d = problem["V"], problem["C"], int(problem["inputs"])
    n, width = V.shape
    E = np.hstack([np.zeros((n, d)), np.eye(n)])
    P, Q = E - problem["low"][:, None] * V, E - problem["high"][:, None] * V
    first = np.zeros((width, width))
    first[:d, :d] = np.eye(d)
    r, mu = cp.Variable(nonneg=True), cp.Variable(n, nonneg=True)
    half = P.T @ cp.diag(mu) @ Q
    matrix = r * first - C.T @ C + half + half.T
    question = cp.Problem(cp.Minimize(r), [matrix >> 0])
    options: dict = {"eps": 1e-6, "max_iters": 10**6} if kind == "scs-1e-6" else {}
    question.solve(solver="CLARABEL" if kind == "clarabel" else "SCS", **options)
    least = float(np.linalg.eigvalsh(matrix.value)[0])
    return math.sqrt(max(0.0, float(r.value)) * float(problem["rho"])), (
        f"status {question.status}; smallest eigenvalue {least:.1e}" + (": not feasible" if least < 0 else "")
    )


def by_eclipse(problem: dict[str, np.ndarray], kind: str) -> tuple[float, str]:
    import contextlib
    import io

    import torch
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    weights = [torch.from_numpy(problem[f"W{i}"]) for i in range(sum(key.startswith("W") for key in problem))]
    if not weights:
        raise ValueError("no chain of dense layers: eclipse-nn has no such model")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        value = LipConstEstimator(weights=weights).estimate("ECLipsE" if kind == "eclipse" else "ECLipsE_Fast")
    text = " ".join(said.getvalue().split())[:100]
    return float(value), text


def main() -> None:
    path, kind, gigabytes = sys.argv[1:]
    limit = int(float(gigabytes) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    problem = dict(np.load(path))
    if kind.startswith("eclipse"):
        import eclipse_nn.LipConstEstimator  # noqa: F401  # imports are not timed
    else:
        import cvxpy  # noqa: F401
    begin = time.perf_counter()
    value, note = by_eclipse(problem, kind) if kind.startswith("eclipse") else by_cvxpy(problem, kind)
    print(json.dumps({"value": value, "seconds": time.perf_counter() - begin, "note": note}))


if __name__ == "__main__":
    main()
