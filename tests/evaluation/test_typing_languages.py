"""The typing evaluation in another language than English: its own sets, words, keyboard and dictionary."""

import json
from pathlib import Path

import pytest
import zstandard
from support.shapes import random_qwen3

from keylm.base.errors import KeylmError
from keylm.evaluation.correction import typed_words
from keylm.evaluation.keystrokes import fewest_keystrokes
from keylm.evaluation.typing import evaluate_typing, typing_fingerprint
from keylm.evaluation.typing_items import TypingItem, language_sets
from keylm.languages.language import ENGLISH, language_of
from keylm.text.tokenizer import train_tokenizer

TEXT = "Über die Straße gehen schöne Häuser, größere Bäume und kleine Gärten für fünf müde Söhne aus der Stadt."


def write(path: Path, rows: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("de")
    write(folder / "text.jsonl.zst", [{"text": f"{TEXT} Nummer {n}. {TEXT} {TEXT}"} for n in range(60)])
    pairs = [{"noisy": f"Die schönne Straße Nummer {n}.", "clean": f"Die schöne Straße Nummer {n}."} for n in range(8)]
    write(folder / "typo_sentences.jsonl.zst", pairs)
    return folder


def test_a_german_model_is_measured_on_german(corpus: Path, tmp_path: Path):
    pytest.importorskip("symspellpy", reason="symspellpy is not installed")
    folder = tmp_path / "model"
    train_tokenizer(iter([TEXT] * 40), 330, folder, 128)
    random_qwen3(1, 330, num_hidden_layers=1, max_position_embeddings=128).save_pretrained(folder)
    (folder / "keylm.json").write_text('{"languages": ["de"]}')
    found = evaluate_typing(folder, corpus=corpus, items=1, quiet=True, workers=1)
    assert (found["language"], found["fingerprint"]) == ("de", typing_fingerprint(language_of("de")))
    assert set(found["sets"]) == {"text", "typo_sentences"}
    assert found["skipped"] == {"hunspell": "spylls ships no dictionary of 'de'"}
    rows = {(row["measure"], row["set"], row["system"]): row["value"] for row in found["rows"]}
    assert rows["error reduction", "typo_sentences", "symspell"] == 1.0
    assert rows["keystroke savings", "text", "word frequency"] > 0
    assert ("cost of typos: transposition", "text", "model") in rows
    with pytest.raises(KeylmError, match=r"typing in 'de': no set .* accepted: --corpus"):
        evaluate_typing(folder, corpus=None, items=1, quiet=True)


def test_sets_are_held_out_and_typed_on_the_languages_keyboard(corpus: Path):
    german = language_sets(corpus, language_of("de"))
    assert 0 < len(german["text"].items) < 15
    assert all(item.typed.count(" ") == item.clean.count(" ") for item in german["text"].items)
    changed = [(a, b) for item in german["text"].items for a, b in zip(item.clean, item.typed, strict=False) if a != b]
    assert changed
    assert 0 < len(german["typo_sentences"].items) < 8


def test_words_and_clitics_are_the_languages():
    french = language_of("fr")
    item = TypingItem(0, "Pendant l’été, j'aime l'ecole.", "Pendant l’étè, j'aime l'ecole.")
    assert [word.typed for word in typed_words(item, french)] == ["Pendant", "aime", "ecole"]
    straight = TypingItem(0, "l'été", "l'étè")
    assert [(w.context, w.typed, w.meant) for w in typed_words(straight, french)] == [("l'", "étè", "été")]
    assert list(typed_words(straight, ENGLISH)) == []
    assert fewest_keystrokes("l'été est", french) == len("l'") + 1 + 1
    assert fewest_keystrokes("über uns", language_of("de")) == 2
