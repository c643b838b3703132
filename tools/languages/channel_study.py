"""How well words are corrected without a language model: SymSpell, and the noisy channel over word frequencies.

    python -m tools.languages.channel_study --data ../shared/languages de fr es pl el

Takes the half of DATA/CODE/typo_sentences.jsonl.zst that no rates were fitted to. Both systems have the language's word
list; the channel weighs each word near the typed one by its frequency and by how likely people mistype it so. What a
model adds is measured by `keylm eval --tasks typing`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from keylm.evaluation.correction import measure_correction
from keylm.evaluation.statistics import Tallies
from keylm.evaluation.typing_items import language_sets
from keylm.keyboard.corrector import Candidates, Correct, Corrector
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import Lexicon, lexicon
from keylm.languages.language import Language, language_of
from tools.command import run_script, script_parser

MEASURES = ("error reduction", "typos repaired: non-words", "typos repaired: real words", "false corrections")


class Frequencies:
    """In a language model's place: each word by its frequency, whatever came before it."""

    def __init__(self, words: Lexicon) -> None:
        self._words, self._total = words, sum(words.counts.values())

    def log_probabilities(self, text: str, words: Sequence[str], least: Sequence[float] = ()) -> list[float]:
        """Return each word's log-probability in nats."""
        return [math.log((self._count(word) + 0.1) / self._total) for word in words]

    def _count(self, word: str) -> int:
        listed = self._words.form(word.lower())
        return self._words.counts.get(word.lower(), 0) if word in (listed, listed.capitalize()) else 0


def systems_of(language: Language) -> dict[str, Correct]:
    """Return the two systems for a language."""
    words = lexicon(language)
    candidates = Candidates(Frequencies(words), words, EditModel(language))  # type: ignore[arg-type]
    return {"symspell": lambda _, typed: words.corrected(typed), "channel": Corrector(candidates, 1.0)}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each language")
    parser.add_argument("codes", nargs="+", help="languages that come with keylm")
    arguments = parser.parse_args()
    print("| language | pairs | system |", " | ".join(f"{measure} %" for measure in MEASURES), "|")
    print("|---|--:|---|" + "--:|" * len(MEASURES))
    for code in arguments.codes:
        language, tallies = language_of(code), Tallies()
        items = language_sets(arguments.data / code, language)["typo_sentences"].items
        for _ in measure_correction(
            systems_of(language), items, lexicon(language).counts.__contains__, tallies, language
        ):
            pass
        rows = {(row["measure"], row["system"]): row for row in tallies.rows("typo_sentences", 0)}
        for system in ("symspell", "channel"):
            shown = [rows[measure, system] for measure in MEASURES if (measure, system) in rows]
            figures = [f"{100 * row['value']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})" for row in shown]
            print(f"| {code} | {len(items)} | {system} |", " | ".join(figures), "|")


if __name__ == "__main__":
    run_script(main)
