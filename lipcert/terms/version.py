"""The version of the package, which pyproject.toml reads here, and what it runs with."""

from __future__ import annotations

import functools
import platform
from typing import Any

__version__ = "0.1.0"
SITE = "https://lipcert.readthedocs.io/en/latest/"  # of the documentation: `site_url` of mkdocs.yml is the same
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime")


@functools.cache
def made_by() -> dict[str, Any]:
    """For reports: versions of what computes, without importing it, and the kind of machine."""
    from importlib import metadata  # brings email and zipfile: 0.05 s

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"with": found, "machine": f"{platform.system()} {platform.machine()}"}
