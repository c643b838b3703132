"""A keyboard as its file says it: rows of keys, letters of held keys, sizes, the spread of taps."""

from dataclasses import field
from functools import cached_property

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class KeyRow:
    """A row of letter keys: left edge of the first in key widths, and how many the left thumb strikes."""

    keys: str
    offset: float
    left_thumb: int
    signs: str = ""
    """Keys after the last one that are no letters; the page draws them."""


@dataclass(frozen=True, config=_STRICT)
class SpaceBar:
    """The space bar, in the row below the letters: left edge and width in key widths."""

    offset: float
    width: float


@dataclass(frozen=True, config=_STRICT)
class PageKeys:
    """What the page draws besides the letters: the rows of the second board, the keys beside the space bar."""

    signs: tuple[str, ...]
    beside_space: tuple[str, str]


@dataclass(frozen=True, eq=False, config=_STRICT)
class Layout:
    """A keyboard; all letter keys have one size."""

    key_width: float
    key_height: float
    tap_spread: tuple[float, float]
    """Standard deviation of a tap, in key widths and key heights."""
    rows: tuple[KeyRow, ...]
    space: SpaceBar
    page: PageKeys
    long_press: dict[str, str] = field(default_factory=dict)
    """Key: letters that it types when it is held."""

    @cached_property
    def key_of(self) -> dict[str, str]:
        """Letter: the key that types it, itself or held."""
        keys = {key: key for row in self.rows for key in row.keys}
        return self.held | keys

    @cached_property
    def held(self) -> dict[str, str]:
        """Letter that a held key types: that key."""
        return {letter: key for key, letters in self.long_press.items() for letter in letters}

    def bare(self, word: str) -> str:
        """Return a lower-case word as it is typed where no key is held."""
        return "".join(self.held.get(letter, letter) for letter in word) if self.held else word

    def places(self) -> dict[str, tuple[int, float]]:
        """Return for each letter the row of its key, and the key's left edge in whole and half keys."""
        keys = {
            key: (number, round(2 * (row.offset + place)) / 2)
            for number, row in enumerate(self.rows)
            for place, key in enumerate(row.keys)
        }
        return {letter: keys[key] for letter, key in self.key_of.items()}
