"""JSON: `report -> str`, and a file that is either the old one or the whole new one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from lipcert.report.report import Report


def to_json(report: Report) -> str:
    """Strict JSON in ASCII (control characters of hostile names are escaped); floats by repr, never NaN or Infinity."""
    return json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"


def write_atomically(content: str | bytes, path: str | Path) -> None:
    """Write aside in the same folder, fsync, rename: a reader never sees half a report. OSError where that fails."""
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    if target.exists() and not target.is_file():  # a pipe or a device such as /dev/stderr is written, not replaced
        target.write_bytes(data)
        return
    target = target.resolve()  # through a symbolic link, so that the link stays
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask
