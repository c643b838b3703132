"""Write a language's word lists into its folder, from word counts and real misspellings.

    python -m tools.languages.word_lists --data ../shared/languages de fr es pl el

Reads words.tsv.zst (a word, its count in subtitles, its count in text; a header line), typo_words.jsonl.zst and
typo_sentences.jsonl.zst in DATA/CODE; writes words.tsv.zst, the MOST most frequent words of the language's letters with
both counts together, and typo_words.jsonl, but not where its licence is unsettled (SETTLED), and without the errors of
the sentences that corrections are measured on.
"""

import hashlib
import json
from pathlib import Path

import zstandard

from keylm.languages.language import SHIPPED, load_language
from keylm.typos.lists import read_pairs
from tools.command import run_script, script_parser
from tools.corpus.fit_typos import errors_between

MOST = 60_000
SETTLED = ("de", "fr", "es", "pl")
"""The Greek pairs are learners' texts, of which their repository says nothing."""


def measured_on(path: Path) -> set[tuple[str, str]]:
    """Return the (noisy, clean) words, in lower case, of the half of the sentences that no rates are fitted to."""
    pairs = [pair for pair in read_pairs(path) if not hashlib.sha256(pair[1].encode()).digest()[0] & 1]
    return {lowered((noisy, clean)) for pair in pairs for noisy, clean, _ in errors_between(*pair)}


def lowered(pair: tuple[str, str]) -> tuple[str, str]:
    """Return both words in lower case."""
    return pair[0].lower(), pair[1].lower()


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each language")
    parser.add_argument("codes", nargs="+", help="languages that come with keylm")
    arguments = parser.parse_args()
    for code in arguments.codes:
        words = load_language(SHIPPED / code).words
        lines = zstandard.ZstdDecompressor().stream_reader((arguments.data / code / "words.tsv.zst").read_bytes())
        rows = [line.split("\t") for line in lines.read().decode().splitlines()[1:]]
        counts = {word: int(subtitles) + int(text) for word, subtitles, text in rows if words.whole.fullmatch(word)}
        kept = sorted(counts, key=lambda word: (-counts[word], word))[:MOST]
        listed = "".join(f"{word}\t{counts[word]}\n" for word in kept).encode()
        (SHIPPED / code / "words.tsv.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(listed))
        share = sum(counts[word] for word in kept) / sum(counts.values())
        print(f"{code}: {len(kept):,} of {len(rows):,} words, {share:.2%} of their occurrences")
        if code in SETTLED:
            pairs = sorted(set(read_pairs(arguments.data / code / "typo_words.jsonl.zst")))
            measured = measured_on(arguments.data / code / "typo_sentences.jsonl.zst")
            good = [pair for pair in pairs if all(map(words.whole.fullmatch, pair)) and lowered(pair) not in measured]
            typos = "".join(json.dumps({"noisy": a, "clean": b}, ensure_ascii=False) + "\n" for a, b in good)
            (SHIPPED / code / "typo_words.jsonl").write_text(typos, encoding="utf-8")
            print(f"{code}: {len(good):,} of {len(pairs):,} misspelt words")


if __name__ == "__main__":
    run_script(main)
