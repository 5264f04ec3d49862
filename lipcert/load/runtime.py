"""onnxruntime, without its telemetry."""

from __future__ import annotations

import importlib
import os
from typing import Any

QUIET = "ORT_DISABLE_TELEMETRY"


def onnxruntime() -> Any:
    """The module. Importing it (seen with 1.32) starts threads that keep a device identifier and a database of events in the
    user's home folder and send them; the variable that forbids it is read at the import. ImportError where it is absent.
    """
    os.environ.setdefault(QUIET, "1")
    return importlib.import_module("onnxruntime")
