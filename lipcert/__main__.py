"""`lipcert` and `python -m lipcert`."""

from __future__ import annotations

import gc

from lipcert.cli.main import main

# torch's exporter makes millions of long-lived objects: collecting less often saves a tenth of a short run.
gc.set_threshold(200_000, 20, 100)

if __name__ == "__main__":
    main()
