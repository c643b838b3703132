"""The tokenizer is trained on the sources' text, in proportion, without what is held out."""

from pathlib import Path

from support.recipes import tiny_recipe

from keylm.data.sources import read_source
from keylm.data.tokenizer_sample import tokenizer_sample
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
