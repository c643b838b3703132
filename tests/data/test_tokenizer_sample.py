"""The tokenizer is trained on the sources' text, in proportion, without what is held out."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.recipes import tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.data.documents import Document, content_hash, is_held_out
from keylm.data.sources import read_source
from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.shares import sample_shares, token_shares

TYPOS = "sources.typed={typos_of=['notes', 'chat'], passes=2}"
ONLY_TYPOS = ["stages={all={tokens=1024, weights={typed=1}}}"]


def test_the_tokenizer_of_typo_sources_alone_is_trained_on_their_origins(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [TYPOS, *ONLY_TYPOS])
    sample = set(tokenizer_sample(recipe, recipe.sources))
    for name in ("notes", "chat"):
        texts = [d.text or d.messages[0]["content"] for d in read_source(name, recipe.sources[name])]  # type: ignore[union-attr]
        assert len(sample.intersection(texts)) > len(texts) / 2, name


def test_shares_go_by_tokens_and_typo_sources_pass_theirs_on(tmp_path: Path) -> None:
    mixed = "stages={one={tokens=3000, weights={tales=1, typed=2}}, two={tokens=1000, weights={chat=1}}}"
    recipe = tiny_recipe(tmp_path, [TYPOS, mixed])
    assert token_shares(recipe) == {"tales": 0.25, "chat": 0.25, "typed": 0.5}
    assert sample_shares(recipe) == {"tales": 0.25, "chat": 0.25}
    assert sample_shares(tiny_recipe(tmp_path, [TYPOS, *ONLY_TYPOS])) == {"notes": 0.5, "chat": 0.5}


def text(size: int, seed: int) -> str:
    """Return words without an end in sight."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefghij", k=6)) for _ in range(size // 7))


def recipe_of(folder: Path, documents: list[str], sample_bytes: int, *changes: str) -> Recipe:
    """Return a recipe whose only source has these documents."""
    path = write_jsonl(folder / "long.jsonl", [{"text": document} for document in documents])
    stage = "stages={all={tokens=1024, weights={long=1}}}"
    return tiny_recipe(
        folder, [f"sources.long.path='{path}'", stage, f"tokenizer.sample_bytes={sample_bytes}", *changes]
    )


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize(("number", "size"), [(1, 800_000), (4, 1_000_000), (40, 30_000)])
def test_a_source_of_few_long_documents_gives_its_share(number: int, size: int, seed: int, tmp_path: Path) -> None:
    documents = [text(size, 100 * seed + n) for n in range(number)]
    recipe = recipe_of(tmp_path, documents, 100_000, "evaluation.holdout=0.0001")
    told: list[str] = []
    sample = list(tokenizer_sample(recipe, recipe.sources, told.append))
    assert 80_000 < sum(map(len, sample)) < 105_000
    assert all(any(piece in document for document in documents) for piece in sample)
    assert list(tokenizer_sample(recipe, recipe.sources)) == sample
    assert told == [f"tokenizer  long: {sum(map(len, sample)) / 1e6:.3g} MB of {told[0].split()[-3]} MB read"]


def test_a_source_whose_files_hold_little_text_gives_it(tmp_path: Path) -> None:
    rows = {
        "text": [text(1000, n) for n in range(200)],
        "body": [random.Random(n).randbytes(20_000) for n in range(200)],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    recipe = recipe_of(
        tmp_path, ["x"], 100_000, f"sources.long.path='{tmp_path / 'a.parquet'}'", "evaluation.holdout=0.0001"
    )
    sample = list(tokenizer_sample(recipe, recipe.sources))
    assert len(set(sample)) == len(sample)
    assert 80_000 < sum(map(len, sample)) < 120_000


def test_no_text_at_all_is_told_with_its_reason(tmp_path: Path) -> None:
    held = next(one for n in range(99) if is_held_out(content_hash(Document("", 0, one := text(800_000, n))), 0.4))
    recipe = recipe_of(tmp_path, [held], 100_000, "evaluation.holdout=0.4")
    with pytest.raises(KeylmError, match=r"give no text to train it on: long: 0 MB of 0 MB read, 0\.8 MB are held out"):
        list(tokenizer_sample(recipe, recipe.sources))


def test_the_nano_recipes_sample_is_what_it_was() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "nano.toml", [])
    digest = hashlib.sha256()
    for piece in tokenizer_sample(recipe, recipe.sources):
        digest.update(piece.encode() + b"\0")
    assert digest.hexdigest().startswith("5795fd934ade1ac8")
