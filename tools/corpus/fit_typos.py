"""Fit the typo generator to real errors and show how well it fits.

    python -m tools.corpus.fit_typos --corpus ../shared/corpus [--write]
    python -m tools.corpus.fit_typos --language de --pairs ../shared/languages/de/typo_sentences.jsonl.zst [--write]

For English reads typo/git_fixes.jsonl.zst (errors that people fixed in documentation) and, for a comparison only,
typo/wiki_sentences.jsonl.zst. Half of the pairs, by the hash of the clean sentence, are fitted to; the others are only
compared with. Prints the tables of docs/typos.md; --write also replaces
src/keylm/languages/CODE/typo_rates.json.

The hazards (how prone a word of a length is to a kind) are found by expectation maximisation (Dempster, Laird & Rubin,
JRSS B 39, 1977): generate on the clean sentences, classify, scale each kind's hazard at each length by its contribution
to kinds that are too frequent or too rare, and repeat.
"""

import argparse
import difflib
import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from keylm.languages.language import ENGLISH, SHIPPED, Language, TypoRates, load_language
from keylm.recipe.schema import Typos
from keylm.typos.finger_slips import LETTER_KINDS
from keylm.typos.kinds import KINDS, POSITIONS, Finding, classify, position_class
from keylm.typos.lists import read_pairs
from keylm.typos.model import LENGTH_CLASSES, TypoModel
from keylm.typos.word_slips import KINDS_MADE
from tools.command import run_script, script_parser

EDGES = "\"'“”‘’()[]{}.,;:!?…*_`"
_LAST = ("case", "space_missing")
MECHANISMS = (*(kind for kind in KINDS_MADE if kind not in _LAST), *_LAST)
FLOORS = {"case": 0.01, "taps": 0.01, "neighbour": 0.002}
"""Least shares: the mined fixes hardly contain these, because they come from full keyboards and from editors."""
HANDWRITTEN = FLOORS | dict.fromkeys(
    ("transposition", "omission", "insertion", "doubling", "substitution", "neighbour"), 0.04
)
"""Least shares where the texts were written by hand, in which no fingers slip on keys: an assumption."""
GROUPS = (1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6)
"""Token lengths 1 … LENGTH_CLASSES that share a figure: single ones have too few errors of the rarer kinds."""
HIGHEST_RATIO = 5.0
"""A hazard is at most this many times the mean of its kind's others: lengths that hardly occur are not overfitted."""
ROUNDS, ERRORS = 12, 40_000


class Error(NamedTuple):
    """One erroneous word: the length of its clean token, what is wrong with it, and both words."""

    length: int
    finding: Finding
    noisy: str
    clean: str


@lru_cache(maxsize=8)
def plain(language: Language) -> re.Pattern[str]:
    """Return the pattern of one or two plain words."""
    words = language.words
    word = f"{words.letter}+(?:[{words.apostrophe}{words.other_apostrophes}]{words.letter}+)*"
    return re.compile(f"{word}(?: {word})?")


def errors_between(noisy: str, clean: str) -> Iterator[tuple[str, str, str]]:
    """Yield (noisy word, clean word, clean token) for every difference; words without a partner have an empty one."""
    left, right = noisy.split(), clean.split()
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if i_end - i == j_end - j:
            for a, b in zip(left[i:i_end], right[j:j_end], strict=True):
                yield a.strip(EDGES), b.strip(EDGES), b
        else:
            a, b = " ".join(left[i:i_end]), " ".join(right[j:j_end])
            yield a.strip(EDGES), b.strip(EDGES), right[j] if j < j_end else ""


def read_errors(
    path: Path, language: Language = ENGLISH
) -> tuple[dict[str, list[Error]], dict[str, list[str]], Counter[str]]:
    """Return the errors and the clean sentences of both halves, and a count of all that was found."""
    errors: dict[str, list[Error]] = {"fit": [], "held out": []}
    sentences: dict[str, list[str]] = {"fit": [], "held out": []}
    seen: Counter[str] = Counter()
    for noisy, clean in sorted(set(read_pairs(path))):
        half = "fit" if hashlib.sha256(clean.encode()).digest()[0] & 1 else "held out"
        sentences[half].append(clean)
        for a, b, token in errors_between(noisy, clean):
            if not a or not b:
                seen["word too few or too many"] += 1
            elif a == b or not plain(language).fullmatch(a) or not plain(language).fullmatch(b):
                seen["not plain words"] += 1
            else:
                finding = classify(a, b, language)
                seen[finding.kind] += 1
                if finding.kind in KINDS:
                    errors[half].append(Error(min(len(token), LENGTH_CLASSES), finding, a, b))
    return errors, sentences, seen


def letter_figures(errors: list[Error], language: Language = ENGLISH) -> dict[str, Any]:
    """Return the preferences for places, letters, rules and endings that the errors show."""
    places: dict[str, list[float]] = {kind: [0.0] * POSITIONS for kind in LETTER_KINDS}
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    nearby = 0
    for _, (kind, place, left, right), noisy, clean in errors:
        noisy, clean = noisy.lower(), clean.lower()
        if kind in places and place is not None:
            places[kind][position_class(place, len(clean))] += 1
        if kind == "insertion" and place is not None:
            near = right in clean[max(0, place - 2) : place + 3]
            nearby += near
            pairs["inserted"][right] += 0 if near else 1
        elif kind in ("vowel", "neighbour", "substitution", "confusion"):
            name = {"vowel": "vowels", "neighbour": "neighbours", "substitution": "substitutions"}.get(
                kind, "confusions"
            )
            pairs[name][f"{left or clean}>{right or noisy}"] += 1
        elif kind == "inflection":
            pairs["endings"].update(_endings(noisy, clean, language))
        elif kind == "phonetic":
            pairs["rules"].update(_rules(noisy, clean, language))
    pooled = [sum(column) for column in zip(*places.values(), strict=True)]
    inserted = sum(pairs["inserted"].values())
    return {
        "positions": {kind: _smoothed(counts, pooled) for kind, counts in places.items()},
        "inserted_nearby": round(nearby / max(1, nearby + inserted), 3),
        **{
            name: dict(sorted((key, n) for key, n in pairs[name].items() if n))
            for name in ("inserted", "vowels", "neighbours", "substitutions", "confusions", "endings", "rules")
        },
    }


def _endings(noisy: str, clean: str, language: Language) -> list[str]:
    """Return the exchange with the longest stem, as clean>noisy."""
    endings = language.endings
    for length in range(min(len(noisy), len(clean)), 2, -1):
        if noisy[:length] == clean[:length] and noisy[length:] in endings and clean[length:] in endings:
            return [f"{clean[length:]}>{noisy[length:]}"]
    return []


def _rules(noisy: str, clean: str, language: Language) -> list[str]:
    """Return the first rule that turns one into the other, as clean>noisy."""
    for left, right in language.spellings:
        for match in re.finditer(f"(?<=.){left}", clean):
            if clean[: match.start()] + right + clean[match.end() :] == noisy:
                return [f"{left}>{right}"]
    return []


def _smoothed(counts: list[float], pooled: list[float]) -> list[float]:
    """Return shares of counts after adding twenty errors, distributed like all kinds together."""
    added = [n + 20 * all_kinds / sum(pooled) for n, all_kinds in zip(counts, pooled, strict=True)]
    return [round(n / sum(added), 4) for n in added]


def target(errors: list[Error]) -> dict[tuple[str, int], float]:
    """Return the share of each (kind, group of lengths)."""
    counts = Counter((error.finding.kind, GROUPS[error.length - 1]) for error in errors)
    return {key: n / len(errors) for key, n in counts.items()}


def generate(model: TypoModel, sentences: list[str], count: int, rate: float = 0.069) -> Iterator[tuple[str, Error]]:
    """Yield about `count` generated errors with the kind that was intended; the rate is that of git_fixes."""
    text = "\n".join(sentences)
    made = epoch = 0
    while made < count:
        noisy = model.corrupt(text, seed=1, document=0, epoch=epoch, rate=rate)
        epoch += 1
        for edit in noisy.edits:
            a, b = noisy.text[edit.start : edit.end], text[edit.clean_start : edit.clean_end]
            length = min(_token_length(text, edit.clean_start), LENGTH_CLASSES)
            yield edit.kind, Error(length, classify(a, b, model.language), a, b)
        made += len(noisy.edits)


def _token_length(text: str, at: int) -> int:
    """Return the length of the token that holds the character `at`."""
    start = max(text.rfind(" ", 0, at), text.rfind("\n", 0, at)) + 1
    ends = [end for blank in " \n" if (end := text.find(blank, at)) >= 0]
    return min(ends, default=len(text)) - start


def fit_hazards(
    figures: dict[str, Any],
    sentences: list[str],
    errors: list[Error],
    language: Language = ENGLISH,
    floors: Mapping[str, float] = FLOORS,
) -> None:
    """Find figures["hazards"]: for each mechanism the share of candidate words of each length that it strikes."""
    wanted = target(errors)
    hazards = {name: dict.fromkeys(GROUPS, 0.03) for name in MECHANISMS}
    for _ in range(ROUNDS):
        figures["hazards"] = {name: [by[group] for group in GROUPS] for name, by in hazards.items()}
        generated = generate(_model(figures, language), sentences, ERRORS)
        made = Counter((meant, GROUPS[error.length - 1], error.finding.kind) for meant, error in generated)
        by_result: Counter[tuple[str, int]] = Counter()
        by_mechanism: Counter[tuple[str, int]] = Counter()
        for (meant, group, kind), n in made.items():
            by_result[kind, group] += n
            by_mechanism[meant, group] += n
        factors: defaultdict[tuple[str, int], float] = defaultdict(float)
        for (meant, group, kind), n in made.items():
            ratio = wanted.get((kind, group), 0.0) / by_result[kind, group] * made.total()
            factors[meant, group] += n / by_mechanism[meant, group] * min(4.0, ratio)
        least = _least_factors(made, floors)
        for name, by in hazards.items():
            hazards[name] = {g: h * max(least.get(name, 0.0), factors.get((name, g), 1.0)) for g, h in by.items()}
        hazards = _scaled(hazards)
    figures["hazards"] = {name: [round(by[group], 5) for group in GROUPS] for name, by in hazards.items()}


def _scaled(hazards: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Return the hazards without outliers, such that the most error-prone lengths always get an error."""
    capped = {}
    for name, by in hazards.items():
        most = max(by.values())
        cap = HIGHEST_RATIO * (sum(by.values()) - most) / (len(by) - 1)
        capped[name] = {group: min(share, cap) for group, share in by.items()}
    highest = max(sum(by[group] for by in capped.values()) for group in set(GROUPS))
    return {name: {group: share * 0.999 / highest for group, share in by.items()} for name, by in capped.items()}


def _least_factors(made: Mapping[tuple[str, int, str], int], floors: Mapping[str, float]) -> dict[str, float]:
    """Return the least factors by which some mechanisms must change to keep their least shares."""
    total = sum(made.values())
    shares = {name: sum(n for (meant, _, _), n in made.items() if meant == name) / total for name in floors}
    return {name: min(4.0, floor / max(shares[name], 1e-4)) for name, floor in floors.items()}


def _model(figures: dict[str, Any], language: Language) -> TypoModel:
    rates = TypoRates(**{"about": "", **figures})
    return TypoModel(Typos(), replace(language, typo_rates=rates, typo_words=None))


def uniform_errors(sentences: list[str], count: int, language: Language = ENGLISH) -> Iterator[Error]:
    """Yield errors as random characters make them: any word, any place; a letter more, less, another, or swapped."""
    rng = random.Random(5)
    words = [
        (word, token)
        for line in sentences
        for token in line.split()
        if plain(language).fullmatch(word := token.strip(EDGES))
    ]
    while count:
        word, token = rng.choice(words)
        at, letter = rng.randrange(len(word)), rng.choice(language.words.letters)
        swapped = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
        forms = (
            word[:at] + letter + word[at:],
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at + 1 :],
            swapped,
        )
        noisy = rng.choice(forms)
        if noisy and noisy != word:
            count -= 1
            yield Error(min(len(token), LENGTH_CLASSES), classify(noisy, word, language), noisy, word)


def views(errors: list[Error]) -> dict[str, Counter[Any]]:
    """Return the distributions that are compared: of kinds, lengths, places, letters."""
    letters = [e for e in errors if e.finding.place is not None]
    return {
        "kind": Counter(e.finding.kind for e in errors if e.finding.kind in KINDS),
        "token length": Counter(e.length for e in errors),
        "place in word": Counter(position_class(e.finding.place or 0, len(e.clean)) for e in letters),
        "letters": Counter(
            f"{e.finding.clean}>{e.finding.noisy}" for e in letters if e.finding.kind != "transposition"
        ),
    }


def divergence(left: Mapping[Any, float], right: Mapping[Any, float]) -> float:
    """Return the Jensen-Shannon divergence in bits: 0 alike, 1 nothing in common (Lin, IEEE Trans. IT 37, 1991)."""
    a, b = sum(left.values()), sum(right.values())
    return sum(
        (share := n / total) * math.log2(share / ((left.get(key, 0) / a + right.get(key, 0) / b) / 2)) / 2
        for side, total in ((left, a), (right, b))
        for key, n in side.items()
        if n
    )


def tables(
    errors: dict[str, list[Error]], sentences: dict[str, list[str]], figures: dict[str, Any], language: Language
) -> tuple[str, str]:
    """Return, as Markdown, shares of kinds and divergences: real, generated on held-out sentences, uniform.

    The second text is the fit in one line.
    """
    made = [error for _, error in generate(_model(figures, language), sentences["held out"], 100_000)]
    sides = {name: views(part) for name, part in errors.items()}
    sides["generated"] = views(made)
    sides["uniform"] = views(list(uniform_errors(sentences["held out"], 100_000, language)))
    lines = ["| kind | fit half % | other half % | generated % | uniform % |", "|---|--:|--:|--:|--:|"]
    for kind in KINDS:
        shares = (100 * side["kind"][kind] / side["kind"].total() for side in sides.values())
        lines.append(f"| {kind} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")
    lines += ["", "| bits from the other half | fit half | generated | uniform |", "|---|--:|--:|--:|"]
    fits = {}
    for view in ("kind", "token length", "place in word", "letters"):
        bits = [divergence(sides["held out"][view], sides[name][view]) for name in ("fit", "generated", "uniform")]
        fits[view] = bits[1:]
        lines.append(f"| {view} | " + " | ".join(f"{value:.4f}" for value in bits) + " |")
    bits = [divergence(sides["fit"]["kind"], sides[name]["kind"]) for name in ("generated", "uniform")]
    lines += ["", "From the fit half, kinds: generated {:.4f}, uniform {:.4f} bits.".format(*bits)]
    fit = ", ".join(f"{view} {made:.3f} ({uniform:.3f} with uniform errors)" for view, (made, uniform) in fits.items())
    return "\n".join(lines), f"bits from the {len(errors['held out'])} errors of the other half: {fit}"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--corpus", type=Path, help="folder with typo/git_fixes.jsonl.zst, for English")
    parser.add_argument("--language", default="en", help="code of a language that comes with keylm")
    parser.add_argument("--pairs", type=Path, help="its (noisy, clean) sentences")
    parser.add_argument("--handwritten", action="store_true", help="the pairs were written by hand, not typed")
    parser.add_argument("--write", action="store_true", help="replace the packaged figures")
    arguments = parser.parse_args()
    if (arguments.corpus is None) == (arguments.pairs is None):
        parser.error("give one of --corpus and --pairs")
    language = load_language(SHIPPED / arguments.language)
    pairs = arguments.pairs or arguments.corpus / "typo/git_fixes.jsonl.zst"
    errors, sentences, seen = read_errors(pairs, language)
    print(f"{pairs.name.partition('.')[0]}:", dict(seen.most_common()))
    figures = asdict(language.typo_rates)
    if arguments.write:
        figures = letter_figures(errors["fit"], language)
        floors = HANDWRITTEN if arguments.handwritten else FLOORS
        fit_hazards(figures, sentences["fit"], errors["fit"], language, floors)
    shown, fit = tables(errors, sentences, figures, language)
    print(shown)
    if arguments.write:
        words = sum(len(sentence.split()) for sentence in sentences["fit"])
        about = f"python -m tools.corpus.fit_typos{_chosen(arguments)}: {len(errors['fit'])} errors in {words} words"
        about += f"; {fit}" if arguments.pairs else ""
        path = SHIPPED / arguments.language / "typo_rates.json"
        path.write_text(json.dumps({"about": about, **figures}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.corpus:
        _compare(errors, arguments.corpus / "typo/wiki_sentences.jsonl.zst")


def _chosen(arguments: argparse.Namespace) -> str:
    """Return what was fitted to, as typo_rates.json says it."""
    if not arguments.pairs:
        return " on half of git_fixes"
    by_hand = " --handwritten" if arguments.handwritten else ""
    return f" --language {arguments.language}{by_hand} on half of {arguments.pairs.name}"


def _compare(errors: dict[str, list[Error]], path: Path) -> None:
    """Print how far the real errors are from those that wiki_sentences injected."""
    injected, _, seen = read_errors(path)
    print("\nwiki_sentences:", dict(seen.most_common()))
    both = views(injected["fit"] + injected["held out"])
    for view, real in views(errors["fit"] + errors["held out"]).items():
        print(f"git_fixes against wiki_sentences, {view}: {divergence(real, both[view]):.4f} bits")


if __name__ == "__main__":
    run_script(main)
