"""Completion in the shells themselves: what `lipcert --show-completion` prints is taken by bash and zsh, and completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ASKED = {
    "bash": """eval "$(_LIPCERT_COMPLETE=source_bash lipcert)"; COMP_WORDS=(lipcert bound --me) COMP_CWORD=2
               _lipcert_completion lipcert; printf '%s\\n' "${COMPREPLY[@]}" """,
    "zsh": """autoload -U compinit; compinit -u -D; eval "$(_LIPCERT_COMPLETE=source_zsh lipcert)"
              echo ${_comps[lipcert]}; _TYPER_COMPLETE_ARGS="lipcert bound --me" _LIPCERT_COMPLETE=complete_zsh lipcert""",
}


@pytest.mark.parametrize("shell", ASKED)
def test_the_shell_completes(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"NOT tried: no {shell} here")
    program = tmp_path / "lipcert"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lipcert "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([shell, "-c", ASKED[shell]], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "--method" in done.stdout, done.stderr
    assert "--mean" in done.stdout
    assert "--json" not in done.stdout
