"""Guesses of what a stream says next, from what it has said before.

A pass of the byte level over several bytes reads the weights as often as a pass over one. So
bytes are guessed, the model reads the guesses in one pass, and those that it would have said
itself are kept (speculative decoding: Leviathan et al. 2023, arXiv 2211.17192; with guesses
that are looked up in the text itself: Saxena 2023). What is said is the same with any guesses.
"""

from __future__ import annotations

from collections.abc import Iterable

_KEY = 3
"""Bytes that must have stood together before."""


class Lookup:
    """The tokens of one stream; what followed its last ones before, may follow again."""

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self._text = ""  # a character a token: strings are searched fast
        self._streak = 0

    def read(self, tokens: Iterable[int]) -> None:
        """Add whole patches."""
        self._text += "".join(map(chr, tokens))

    def forget(self) -> None:
        """Go on as another stream."""
        self._text = ""
        self._streak = 0

    def guess(self, said: list[int]) -> list[int]:
        """Tokens that may follow `said`, the first ones of a patch.

        One more than were right in a row lately, so that an unpredictable stream costs nothing,
        but never the patch's last one, which nothing is read behind.
        """
        count = min(self._streak + 1, self.patch_size - len(said) - 1)
        if not self._text or count < 1:
            return []
        text = self._text + "".join(map(chr, said))
        found = text.rfind(text[-_KEY:], 0, -1)
        # Else what stood in the same place of the patch before.
        start = found + _KEY if found >= 0 else len(text) - self.patch_size
        period = len(text) - start
        return [ord(text[start + i % period]) for i in range(count)]

    def learn(self, guessed: int, right: int) -> None:
        """Take in how many guesses there were, and how many from the first on were right."""
        self._streak = self._streak + right if right == guessed else 0
