"""Fetch the public schemas of SARIF 2.1.0 and JUnit XML into a folder, for LIPCERT_SCHEMAS (tests/gate/test_emitters.py).

    python scripts/public_schemas.py FOLDER

They are not ours to ship; two source packages on PyPI carry them. Nothing of those packages is installed or kept.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SOURCES = {
    "sarif_pydantic==0.6.2": "sarif_pydantic-0.6.2/sarif-schema-2.1.0.json",
    "pytest==9.0.2": "pytest-9.0.2/testing/example_scripts/junit-10.xsd",
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    for package, member in SOURCES.items():
        with tempfile.TemporaryDirectory() as aside:
            plain = package.partition("==")[0]
            subprocess.run([*pip, "--no-binary", plain, "--dest", aside, package], check=True)
            (archive,) = Path(aside).glob("*.tar.gz")
            with tarfile.open(archive) as files:
                stream = files.extractfile(member)
                assert stream is not None, f"{archive.name} has no file {member}"
                (folder / Path(member).name).write_bytes(stream.read())
        print(folder / Path(member).name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
