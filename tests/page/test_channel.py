"""The page's channel in JavaScript against Python's: the same kinds of error, the same probabilities."""

import json
import math
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.typo_examples import KINDS_BY_EXAMPLE

from keylm.evaluation.typing_items import embedded_set
from keylm.export.web import write_page
from keylm.keyboard.edit_model import EditModel
from keylm.keyboard.lexicon import read_words
from keylm.languages.language import ENGLISH, Language, language_of
from keylm.page import page_files
from keylm.page.language import language_table
from keylm.recipe.schema import Typos
from keylm.typos.kinds import classify
from keylm.typos.model import TypoModel

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to run the page's JavaScript")
CASES = [
    *KINDS_BY_EXAMPLE,
    ("fone", "phone", "multiple"),
    ("nefew", "nephew", "phonetic"),
    ("x", "constructor", "other"),
]
"""Typed, meant, kind; the page knows none for "multiple" and "other"."""
PROGRAM = """
import { readFileSync } from "node:fs";
import { Channel } from "./channel.js";
import { LANGUAGE } from "./language.js";
const channel = new Channel(LANGUAGE.mistakes);
const pairs = JSON.parse(readFileSync("pairs.json", "utf8"));
const found = pairs.map(([typed, meant]) => {
  const kind = typed === meant ? "none" : channel.classify(typed, meant)?.kind ?? null;
  const value = channel.logProbability(typed, meant);
  return [kind, value === -Infinity ? null : value];
});
console.log(JSON.stringify(found));
"""


def page_answers(
    folder: Path, pairs: list[tuple[str, str]], language: Language = ENGLISH
) -> list[tuple[str | None, float | None]]:
    """Return the page's kinds of error and log-probabilities for (typed, meant)."""
    write_page(folder, None, language)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "program.js").write_text(PROGRAM)
    done = subprocess.run(["node", "program.js"], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return [tuple(row) for row in json.loads(done.stdout)]


def mistyped_pairs() -> list[tuple[str, str]]:
    """Return (typed, meant) by the typo engine and by random letters, lower case."""
    rng, model = random.Random(3), TypoModel(Typos())
    texts = [item.clean for item in embedded_set().items]
    pairs = set()
    for text, noisy in zip(texts, model.corrupt_many(texts, 1, range(len(texts)), [0] * len(texts), 0.5), strict=True):
        words = [(noisy.text[e.start : e.end], text[e.clean_start : e.clean_end]) for e in noisy.edits]
        pairs |= {(typed.lower(), meant.lower()) for typed, meant in words if " " not in typed + meant}
        for word in re.findall("[a-z]{2,}", text)[::3]:
            at, letter = rng.randrange(len(word)), rng.choice(ENGLISH.words.letters)
            pairs |= {(word[:at] + letter + word[at:], word), (word[:at] + letter + word[at + 1 :], word)}
            pairs |= {(word[:at] + word[at + 1 :], word), (word, word)}
    pairs |= {(other, word) for word, others in ENGLISH.confusions.items() for other in others}
    return sorted((typed, meant) for typed, meant in pairs if typed and "’" not in typed + meant)


@needs_node
def test_each_kind_by_example(tmp_path: Path):
    found = page_answers(tmp_path, [(typed, meant) for typed, meant, _ in CASES])
    for (typed, meant, kind), (in_page, _) in zip(CASES, found, strict=True):
        assert classify(typed, meant).kind == kind, typed
        assert in_page == (None if kind in ("multiple", "other") else kind), typed


@needs_node
def test_thousands_of_pairs_have_pythons_kind_and_probability(tmp_path: Path):
    pairs, edits, kinds = mistyped_pairs(), EditModel(), Counter[str]()
    assert len(pairs) > 3000
    for (typed, meant), (kind, value) in zip(pairs, page_answers(tmp_path, pairs), strict=True):
        expected = "none" if typed == meant else classify(typed, meant).kind
        kinds[expected] += 1
        if expected in ("multiple", "other", "case"):
            assert (kind, value) == (None, None), (typed, meant)
            continue
        assert kind == expected, (typed, meant)
        known = edits.log_probability(typed, meant)
        assert value is not None or known == -math.inf, (typed, meant)
        assert value is None or value == pytest.approx(known, rel=1e-9), (typed, meant)
    assert min(kinds[kind] for kind in (*ENGLISH.typo_rates.positions, "undoubling", "inflection", "phonetic")) > 10


@needs_node
@pytest.mark.parametrize("code", ["de", "fr", "pl", "el"])
def test_other_languages_have_pythons_probabilities_too(code: str, tmp_path: Path):
    language = language_of(code)
    assert language.word_list is not None
    rng, edits, letters = random.Random(3), EditModel(language), language.words.letters
    words = [word.lower() for word, _ in read_words(Path(language.word_list.path))][200:900:2]
    pairs = {(word, word) for word in words} | {(language.layout.bare(word), word) for word in words}
    for word in words:
        at, letter = rng.randrange(len(word)), rng.choice(letters)
        pairs |= {(word[:at] + letter + word[at:], word), (word[:at] + letter + word[at + 1 :], word)}
        pairs |= {(word[:at] + word[at + 2 : at + 1 : -1] + word[at + 1 :], word)}
    listed, unheld = sorted(pair for pair in pairs if pair[0]), 0
    for (typed, meant), (_, value) in zip(listed, page_answers(tmp_path, listed, language), strict=True):
        if typed != meant and classify(typed, meant, language).kind in ("multiple", "other"):
            continue
        unheld += language.layout.bare(meant) == typed != meant
        known = edits.log_probability(typed, meant)
        assert (-math.inf if value is None else value) == pytest.approx(known, rel=1e-9), (typed, meant)
    assert unheld > 40


def test_the_page_has_no_layout_pattern_or_rate_of_its_own():
    scripts = {file.name: file.read_text(encoding="utf-8") for file in page_files() if file.suffix == ".js"}
    assert "language.js" in scripts
    table: dict[str, Any] = language_table()
    rows = [*table["layout"]["rows"], *table["layout"]["signs"]]
    for name, text in scripts.items():
        assert not re.search(r"a-z|A-Z|aeiou", text), name
        assert not any(row in text for row in rows), name
        assert not re.search(r"SHARES|RATES", text), name


def test_the_language_has_what_the_page_reads():
    table = language_table()
    assert table["layout"]["rows"] == ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
    for letter in ENGLISH.words.letters:
        assert 0.5 < sum(table["mistakes"]["wrong_taps"][letter].values()) <= 1 + 1e-9
    for name in ("whole", "typed"):
        assert getattr(ENGLISH.words, name).search("don't")
    assert re.fullmatch(table["words"]["word"], "don't")
    assert not re.fullmatch(table["words"]["word"], "don't'")
    assert re.fullmatch(table["words"]["unfinished"], "don'")


HELD = """
import { Typing } from "./typing.js";
import { LANGUAGE } from "./language.js";
const typing = new Typing(LANGUAGE);
for (const key of ["F", "a", "S", "A"]) {
  typing.press(key);
  if (key !== "F") typing.turn(LANGUAGE.layout.long_press[key.toLowerCase()]);
}
console.log(JSON.stringify([typing.text, typing.keys]));
"""


@needs_node
def test_a_held_key_turns_its_letter_into_another_and_counts_once(tmp_path: Path):
    write_page(tmp_path, None, language_of("de"))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "program.js").write_text(HELD)
    done = subprocess.run(["node", "program.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["FäßÄ", 4]


TYPED = """
import { Typing } from "./typing.js";
import { LANGUAGE } from "./language.js";
const found = ["exmaple.com ", "exmaple. x", "exmaple... x", "exmaple:8080", "exmaple, x", "teh:) "].map((keys) => {
  const typing = new Typing(LANGUAGE);
  for (const key of `see ${keys}`) {
    typing.press(key);
    const partial = typing.partial;
    const correction = ["exmaple", "teh"].includes(partial) ? { exmaple: "example", teh: "the" }[partial] : null;
    if (typing.question()) typing.answered(typing.question(), { suggestions: [], correction, partial });
  }
  return [typing.text, typing.corrected];
});
const late = new Typing(LANGUAGE);
for (const key of "see exmaple.c") late.press(key);
late.answered("see exmaple", { suggestions: [], correction: "example", partial: "exmaple" });
const curled = new Typing(LANGUAGE);
for (const key of "I don’t") curled.press(key);
console.log(JSON.stringify([...found, late.text, curled.partial]));
"""


@needs_node
def test_a_word_that_becomes_an_address_gets_back_its_letters(tmp_path: Path):
    page_answers(tmp_path, [])
    (tmp_path / "program.js").write_text(TYPED)
    done = subprocess.run(["node", "program.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [
        ["see exmaple.com ", 0],
        ["see example. x", 1],
        ["see example... x", 1],
        ["see exmaple:8080", 0],
        ["see example, x", 1],
        ["see the:) ", 1],
        "see exmaple.c",
        "don’t",
    ]
