"""`lipcert` and `python -m lipcert`. Signals and standard streams are looked after before anything else is imported."""

from __future__ import annotations

from lipcert.cli import signals
from lipcert.terms import clock

if __name__ == "__main__":
    signals.install()


clock.program_began()


def main() -> None:
    signals.install()
    import gc
    import sys

    from lipcert.cli import streams
    from lipcert.cli.early import missing_model
    from lipcert.terms.malloc import keep_memory

    # torch's exporter makes millions of long-lived objects: collecting less often saves a tenth of a short run.
    gc.set_threshold(200_000, 20, 100)
    keep_memory()
    streams.open_descriptors()
    status = missing_model(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    from lipcert.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
