"""A piece: tokens that are packed together, with what training must know of each.

Invariant: all arrays of a piece have one entry a token.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keylm.tokenizer import Mask, Tokens

Partners = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Piece:
    """A text, a conversation, or a clean text with its noisy twin."""

    tokens: Tokens
    trained: Mask
    """whether each token carries loss when it is the next one"""
    starts: tuple[int, ...] = (0,)
    """where its documents begin: those of one piece do not see each other either"""
    whole: bool = False
    """whether it must lie in one window (it is then no longer than one)"""
    partners: Partners | None = None
    """how many tokens back the position stands whose next-word distribution this one's should have; 0: none"""

    def partner_bytes(self) -> bytes:
        """Return `partners` as bytes, zeros where it has none."""
        return bytes(2 * len(self.tokens)) if self.partners is None else self.partners.tobytes()
