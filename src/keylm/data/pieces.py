"""A piece: tokens that are packed together, with arrays of one entry a token of what training must know of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keylm.text.tokenizer import Mask, Tokens

Partners = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Piece:
    """A text, a conversation, or a clean text with its noisy twin."""

    tokens: Tokens
    trained: Mask
    """whether each token carries loss when it is the next one"""
    starts: tuple[int, ...] = (0,)
    """where its documents begin; documents of one piece do not attend to each other"""
    whole: bool = False
    """whether it must fit in one window (it is then no longer than one)"""
    partners: Partners | None = None
    """how many tokens back the position is whose next-word distribution this one should match; 0: none"""

    def partner_bytes(self) -> bytes:
        """Return `partners` as bytes, zeros where it has none."""
        return bytes(2 * len(self.tokens)) if self.partners is None else self.partners.tobytes()


def fitting_tokens(messages: Sequence[Mapping[str, str]], ends: Sequence[int], context: int) -> int:
    """Return how many tokens of a conversation go into a window: all, or up to the last answer that ends there.

    `ends` are the tokens up to each message's end. 0 where not even the first answer does.
    """
    if ends[-1] <= context:
        return ends[-1]
    turns = zip(ends, messages, strict=True)
    return max((end for end, turn in turns if end <= context and turn["role"] == "assistant"), default=0)
