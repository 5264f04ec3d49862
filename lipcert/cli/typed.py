"""The command line that is being carried out, to print one like it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class CommandLine:
    words: Sequence[str] = ()

    def again(self, more: Sequence[str], without: Sequence[str]) -> str:
        """The same command with more words, and without these options of one value each."""
        kept, skip = [], False
        for word in self.words:
            if not skip and word not in without and word.partition("=")[0] not in without:
                kept.append(word)
            skip = not skip and word in without
        return shlex.join(["lipcert", *kept, *more])


TYPED = CommandLine()
