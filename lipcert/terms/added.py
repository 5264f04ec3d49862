"""What a message says to add to the command line: its last words, after `; add: `, as options with their values."""

from __future__ import annotations

import shlex

ADD = "; add: "
FLAGS = ("--input-name", "--output-name", "--input-shape", "--fix", "--reader")


def added(message: str) -> tuple[str, list[tuple[str, str]]]:
    """(what is said before it, [(option, value)]); the whole message and nothing where it says nothing of that form.

    Names in a message come from model files: what they could make of it are values of options that choose inputs and
    outputs, or nothing. None of these options writes a file.
    """
    said, mark, flags = message.rpartition(ADD)
    try:
        words = shlex.split(flags)
    except ValueError:  # a name with the mark in it, cut apart
        return message, []
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if not mark or not words or len(words) % 2 or any(flag not in FLAGS for flag, _ in pairs):
        return message, []
    return said, pairs
