"""Errors that are the user's to mend: each is one line that names the value and the rule.

The command line prints the line and exits with code 2 (1 for `TrainingError`); library users catch
them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..kernels.errors import KernelError

__all__ = ["InputError", "KernelError", "TrainingError", "unknown_name"]

MOST_NAMES = 60  # that are listed


class InputError(Exception):
    """A wrong option, name, file or folder, told in one line."""


class TrainingError(Exception):
    """Training cannot go on, through no fault of the command: told in one line."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered, with close matches and the list, if short."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    more = f", … ({len(names)} in all)" if len(names) > MOST_NAMES else ""
    return InputError(
        f"unknown {kind} {name!r}{hint}; known: {', '.join(names[:MOST_NAMES])}{more}"
    )
