"""`lipcert` and `python -m lipcert`."""

from __future__ import annotations

from lipcert.cli.main import main

if __name__ == "__main__":
    main()
