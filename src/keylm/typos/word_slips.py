"""Errors of ear and memory, which concern a word as a whole: for each kind, what is written for a word.

Invariant: a slip is a pure function of a lower-case word and a number. It returns another word, or None where the word
offers no such error (nothing sounds alike); it never returns the word itself. The number's bits are the only
randomness, and all tables consist of whole slots, so that the result is the same on every platform.

Cost: about a microsecond each; a table look-up skips words that offer no error, and misspellings by sound are cached
for the last 65,536 words. The slips of the fingers are in finger_slips.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from keylm.languages.language import Language
from keylm.typos.finger_slips import FINGER_KINDS, FIRST_ENDING, SHORTEST, SLOTS, Splices, Struck, joined
from keylm.typos.keys import TAP_SLOTS, fill, keys_of
from keylm.typos.words import LONGEST, Alphabet, Ints, PlainWords, alphabet_of

Slip = Callable[[str, int], str | None]
"""(lower-case word, 52 random bits) to the word with an error, or None."""

WORD_KINDS = ("inflection", "phonetic", "confusion", "apostrophe", "taps")
KINDS_MADE = (*FINGER_KINDS, *WORD_KINDS)
"""All kinds of errors that are made; arrays hold indices in it."""
_UNDOUBLING, _CONFUSION, _APOSTROPHE = map(KINDS_MADE.index, ("undoubling", "confusion", "apostrophe"))
_MASK = (1 << 64) - 1


class WordSlips:
    """The slips, with fitted preferences for words, spellings and endings."""

    def __init__(self, language: Language) -> None:
        """Make the tables from a language's confusions, spellings, endings, layout and rates."""
        self._keys, rates, alphabet = keys_of(language.layout), language.typo_rates, alphabet_of(language.words)
        self._place = alphabet.place
        self._confusions = _confusion_tables(language, rates.confusions)
        self._sounds = lru_cache(maxsize=1 << 16)(_sound_table(language.spellings, rates.rules))
        self._endings, self._forms = _form_tables(alphabet, language.endings, rates.endings)
        self._ending_lengths = np.array([len(ending) for ending in language.endings], np.int64)
        self._apostrophes = _contractions(language)
        self._miss = {c: round(self._keys.miss_share(c) * TAP_SLOTS) for c in language.words.letters}
        picks: list[Slip] = [partial(_picked, self._sounds), partial(_picked, self._confusions.get)]
        self._slips = (*picks, self._apostrophe, self._taps)
        self._offers = _offers(alphabet, self._confusions, self._apostrophes)

    def offers(self, words: PlainWords, struck: Struck) -> Ints:
        """Return for each word the kinds of which it may offer errors (bit n for number n); none of the others."""
        first, last = words.letters[struck.start], words.letters[struck.start + struck.length - 1]
        offers: Ints = self._offers[self._place[first], self._place[last], struck.length]
        offers &= ~((struck.doubled == 0).astype(np.int64) << _UNDOUBLING)
        offers |= (struck.apostrophe > 0).astype(np.int64) << _APOSTROPHE
        return offers

    def splices(self, words: PlainWords, struck: Struck, rows: Sequence[Ints], made: list[str]) -> Splices:
        """Return the errors of words that offer one; `rows`: those of each of WORD_KINDS; `made` as in `respelled`."""
        parts = [self._inflected(words, struck, rows[0])]
        for slip, of_kind in zip(self._slips, rows[1:], strict=True):
            if len(of_kind):
                parts.append(respelled(slip, words, struck, of_kind, made))
        return joined(parts)

    def _inflected(self, words: PlainWords, struck: Struck, rows: Ints) -> Splices:
        """Exchange the ending."""
        rows = rows[struck.apostrophe[rows] == 0]
        length = struck.length[rows]
        end = struck.start[rows] + length
        third, second, last = (self._place[words.letters[end - back]] for back in (3, 2, 1))
        form = self._forms[self._endings[third, second, last], np.minimum(length, 6), struck.bits[rows] & (SLOTS - 1)]
        good = form >= 0
        form, end = form[good].astype(np.int64), end[good]
        number = len(self._ending_lengths)
        cut = self._ending_lengths[form // number]
        return Splices(rows[good], end - cut, cut, FIRST_ENDING + form % number, end)

    def _apostrophe(self, word: str, bits: int) -> str | None:
        """Drop or move the apostrophe, or put one before a last s."""
        at = max(word.find("'"), word.find("’"))
        if at > 0:
            if bits & 7 or at < 2:
                return word[:at] + word[at + 1 :]
            return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        choices = self._apostrophes.get(word)
        if choices:
            return choices[bits % len(choices)]
        return f"{word[:-1]}'s" if len(word) > 3 and word[-1] == "s" != word[-2] else None

    def _taps(self, word: str, bits: int) -> str | None:
        """Tap the whole word again: one letter misses its key for certain, the others by chance."""
        missed = bits % len(word)
        letters = []
        for at, letter in enumerate(word):
            bits = (bits * 6364136223846793005 + 1442695040888963407) & _MASK  # Knuth's MMIX generator
            if letter in self._miss and (at == missed or bits >> 52 < self._miss[letter]):
                letter = self._keys.misses(letter)[(bits >> 40) & (TAP_SLOTS - 1)]
            letters.append(letter)
        tapped = "".join(letters)
        return None if tapped == word or tapped != tapped.strip() else tapped


def _picked(table: Callable[[str], list[str] | None], word: str, bits: int) -> str | None:
    """Return one of the words that a table has for a word, None where there is none."""
    choices = table(word)
    return choices[bits % len(choices)] if choices else None


def respelled(slip: Slip, words: PlainWords, struck: Struck, rows: Ints, made: list[str]) -> Splices:
    """Return splices for those of `rows` for which `slip` has another word, appended to `made` (-1 is its first)."""
    chosen = struck.at(rows)
    columns = (rows, chosen.start, chosen.length, chosen.capital, chosen.bits)
    kept, new = [], []
    for row, start, length, capital, bits in zip(*(column.tolist() for column in columns), strict=True):
        noisy = slip(words.row[start : start + length].lower(), bits)
        if noisy is not None:
            made.append(noisy[0].upper() + noisy[1:] if capital else noisy)
            kept.append(row)
            new.append(-len(made))
    word = np.array(kept, np.int64)
    start, length = struck.start[word], struck.length[word]
    return Splices(word, start, length, np.array(new, np.int64), start + length)


def _offers(alphabet: Alphabet, confusions: Iterable[str], contractions: Iterable[str]) -> Ints:
    """Return the kinds that words offer (bit n for number n), by first letter, last letter and length.

    [letters + 1, letters + 1, LONGEST + 1], letters as places in the alphabet. For kinds that are listed word by
    word this includes a few more words: those with the ends and the length of a listed one.
    """
    offers = np.zeros((len(alphabet) + 1, len(alphabet) + 1, LONGEST + 1), np.int64)
    place = {letter: int(alphabet.place[code]) for letter, code in alphabet.code.items()}
    for number, kind in enumerate(KINDS_MADE):
        if kind not in ("confusion", "apostrophe"):
            offers[:, :, SHORTEST.get(kind, 1) :] |= 1 << number
    if "s" in place:
        offers[:, place["s"], 4:] |= 1 << _APOSTROPHE
    for number, listed in ((_CONFUSION, confusions), (_APOSTROPHE, contractions)):
        for word in listed:
            offers[place[word[0]], place[word[-1]], len(word)] |= 1 << number
    return offers


def _contractions(language: Language) -> dict[str, list[str]]:
    """Return for each word without an apostrophe the words with one that are written for it."""
    table = {w: [o for o in others if "'" in o] for w, others in language.confusions.items() if "'" not in w}
    return {word: others for word, others in table.items() if others}


def _confusion_tables(language: Language, counts: Mapping[str, float]) -> dict[str, list[str]]:
    """Return for each word the words written for it, as slots; those with an apostrophe are another kind."""
    tables = {}
    for word, others in language.confusions.items():
        plain = [other for other in others if "'" not in other + word]
        if plain:
            tables[word] = fill(plain, [counts.get(f"{word}>{other}", 0) + 0.5 for other in plain], SLOTS)
    return tables


def _sound_table(spellings: Sequence[tuple[str, str]], counts: Mapping[str, float]) -> Callable[[str], list[str]]:
    """Return the function from a word to its misspellings by sound, each as often as its rule was counted."""
    longest = max((len(clean) for clean, _ in spellings), default=0)
    rules: dict[str, list[tuple[str, int]]] = {}
    for clean, noisy in spellings:
        # A fifth of a count for each rule: those that were not seen are not impossible.
        rules.setdefault(clean, []).append((noisy, 1 + round(5 * counts.get(f"{clean}>{noisy}", 0))))

    def choices(word: str) -> list[str]:
        found: list[str] = []
        for start in range(1, len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                for noisy, count in rules.get(word[start:end], ()):
                    found += [word[:start] + noisy + word[end:]] * count
        return found

    return choices


def _form_tables(
    alphabet: Alphabet, endings: Sequence[str], counts: Mapping[str, float]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Return the class of endings of a word, by its last three letters, and the exchanges in that class.

    Letters are places in the alphabet, [letters + 1] * 3. The second table is [classes, lengths of words up to 6,
    SLOTS]:
    the old ending's index, times the number of endings, plus the new ending's index; or -1.
    """
    matching = np.zeros((len(alphabet) + 1,) * 3, np.int64)
    for number, ending in enumerate(endings):
        letters = [slice(None)] * (3 - len(ending)) + [int(alphabet.place[alphabet.code[letter]]) for letter in ending]
        matching[tuple(letters)] |= 1 << number
    sets, classes = np.unique(matching, return_inverse=True)
    forms = np.full((len(sets), 7, SLOTS), -1, np.int16)
    for of_class, bits in zip(forms, sets.tolist(), strict=True):
        present = [ending for number, ending in enumerate(endings) if bits >> number & 1]
        for length in range(3, 7):
            going = [ending for ending in present if length - len(ending) >= 3]
            weights = _exchanges(endings, counts, going, present)
            if weights:
                of_class[length] = list(map(int, fill(list(map(str, weights)), list(weights.values()), SLOTS)))
    return classes.reshape(matching.shape).astype(np.uint8), forms


def _exchanges(
    endings: Sequence[str], counts: Mapping[str, float], going: Sequence[str], present: Sequence[str]
) -> dict[int, float]:
    """Return how often one of `going` was exchanged, by old and new ending; `present` are all that the word has."""
    finished = not {"ing", "ed", "ly"}.isdisjoint(present)  # "writings", not "writinged"
    return {
        endings.index(ending) * len(endings) + number: count
        for ending in going
        for number, other in enumerate(endings)
        if (ending or other == "s" or not finished) and (count := counts.get(f"{ending}>{other}", 0))
    }
