"""Errors that are the user's to mend.

Every error that bad input can cause derives from `UserError`. Its text is one
sentence that names the file, the place and the way out; the command line prints
it as it is and exits with code 2. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or usage: printed as one sentence, exit code 2."""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like `word` (case is ignored), or None if nothing is close."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None
