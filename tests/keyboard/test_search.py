import math

import pytest
import torch
from support.shapes import random_qwen3
from transformers import AutoTokenizer

from keylm.base.errors import KeylmError
from keylm.keyboard.search import Suggester
from keylm.keyboard.tokens import WordTokens, word_tokens
from keylm.languages.language import ENGLISH
from keylm.text.tokenizer import train_tokenizer

WORD = ENGLISH.words.whole
TEXT = "the little king went to the wood, and there the old king's horse wouldn't go on. They thought of the winter. "


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter([TEXT * 20]), 330, folder, 64)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(tokenizer):
    model = random_qwen3(3, len(tokenizer), max_position_embeddings=64)
    with torch.no_grad():
        model.lm_head.weight *= 60  # a model that knows what it wants, if not why
    return model


@torch.no_grad()
def expected(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def plainly(model, tokenizer, text, partial):
    """The likeliest words, three at least, by going through all ways of spelling, without cache or beam."""
    least = -8.0
    while len(found := above(model, tokenizer, text, partial, least)) < 3:
        least -= 4
    return found


def above(model, tokenizer, text, partial, least):
    """Every word whose tokens are above a log-probability."""
    spelled = {i: t.replace("Ġ", " ") for t, i in tokenizer.get_vocab().items()}
    ends = [i for i, t in spelled.items() if not (t[:1].isascii() and t[:1].isalpha()) and not t.startswith("'")]
    ends += [i for i, t in spelled.items() if t.startswith("'") and not t[1:2].isalpha()]
    space, wanted = " " * text.endswith(" "), " " * text.endswith(" ") + partial
    start = [tokenizer.eos_token_id, *tokenizer(text.removesuffix(" "))["input_ids"]]
    words, stack = {}, [((), "", 0.0)]
    while stack:
        path, sofar, value = stack.pop()
        row = expected(model, [*start, *path])
        word = sofar.removeprefix(" ")
        if len(sofar) >= len(wanted) and WORD.fullmatch(word) and word != partial:
            words.setdefault(word, []).append(value + row[ends].logsumexp(0).item())
        for token, text_of in spelled.items():
            longer = sofar + text_of
            fits = longer.startswith(wanted) or wanted.startswith(longer)
            body = longer.removeprefix(space)
            letters = all(c == "'" or (c.isascii() and c.isalpha()) for c in body)
            if text_of and fits and letters and value + row[token].item() > least:
                stack.append(((*path, token), longer, value + row[token].item()))
    return sorted(((torch.tensor(v).logsumexp(0).item(), w) for w, v in words.items()), reverse=True)


@pytest.mark.parametrize(
    ("text", "partial"),
    [("the old ", ""), ("the old ", "th"), ("the old ", "wouldn'"), ("", "The"), ("on.\n", "w"), ("the king ", "zq")],
)
def test_suggestions_are_the_likeliest_of_all_words(model, tokenizer, text, partial):
    truth = plainly(model, tokenizer, text, partial)
    found = Suggester(model, tokenizer, width=400, rounds=40).suggest(text, partial, 3)
    assert truth
    assert found
    assert [s.word for s in found][: len(truth)] == [word for _, word in truth[:3]][: len(found)]
    for suggestion, (value, _) in zip(found, truth, strict=False):
        assert suggestion.log_probability == pytest.approx(value, abs=2e-3)


def test_all_suggestions_begin_with_what_is_typed_and_are_not_it(model, tokenizer):
    suggester = Suggester(model, tokenizer)
    for partial in ("", "t", "th", "the", "ki", "K", "would"):
        found = suggester.suggest("the old ", partial, 3)
        assert all(s.word.startswith(partial) and s.word != partial and WORD.fullmatch(s.word) for s in found)
        assert [s.log_probability for s in found] == sorted((s.log_probability for s in found), reverse=True)


def test_what_was_asked_before_changes_nothing(model, tokenizer):
    asked = [("the ", "k"), ("the king ", ""), ("the king went ", "t"), ("the ", "k"), ("and there ", "t"), ("", "")]
    suggester = Suggester(model, tokenizer)
    for text, partial in asked:
        suggester.log_probabilities(text, ["king"])
        fresh = Suggester(model, tokenizer).suggest(text, partial)
        for old, new in zip(suggester.suggest(text, partial), fresh, strict=True):
            assert old.word == new.word
            assert old.log_probability == pytest.approx(new.log_probability, abs=1e-3)


def test_reading_ahead_changes_nothing(model, tokenizer):
    plain, ahead = Suggester(model, tokenizer), Suggester(model, tokenizer)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    ahead.read("the old king went to the wood")
    for text, word in [("the ", "old"), ("the old ", "king"), ("the old king ", "wants"), ("the old king went ", "to")]:
        calls.clear()
        [found] = ahead.log_probabilities(text, [word])
        assert len(calls) == (word == "wants"), text
        assert found == pytest.approx(plain.log_probabilities(text, [word])[0], abs=1e-3)
        for one, other in zip(ahead.suggest(text, "t"), plain.suggest(text, "t"), strict=True):
            assert one.word == other.word
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)


def test_a_words_log_probability_is_that_of_its_tokens_and_an_end(model, tokenizer):
    words = ["king", "king's", "winter", "Xylophone"]
    found = Suggester(model, tokenizer).log_probabilities("the old ", words)
    ends = word_tokens(model, tokenizer).ends
    for word, value in zip(words, found, strict=True):
        ids = [tokenizer.eos_token_id, *tokenizer("the old")["input_ids"]]
        total = 0.0
        for token in tokenizer(f" {word}")["input_ids"]:
            total += expected(model, ids)[token].item()
            ids.append(token)
        assert value == pytest.approx(total + expected(model, ids)[ends].logsumexp(0).item(), abs=1e-3)


def test_hopeless_words_are_not_tried(model, tokenizer):
    suggester = Suggester(model, tokenizer)
    full = suggester.log_probabilities("the ", ["king", "wood"])
    assert suggester.log_probabilities("the ", ["king", "wood"], [0.0, -math.inf]) == [
        -math.inf,
        pytest.approx(full[1]),
    ]


def test_a_model_whose_cache_cannot_be_cut_gives_the_same(model, tokenizer, monkeypatch):
    cached = Suggester(model, tokenizer).suggest("the old ", "t")
    monkeypatch.setattr("keylm.keyboard.search._croppable", lambda cache: None)
    plain = Suggester(model, tokenizer)
    plain.suggest("the ", "o")
    for one, other in zip(plain.suggest("the old ", "t"), cached, strict=True):
        assert one.word == other.word
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)


def test_a_long_text_loses_its_beginning_and_fits(model, tokenizer):
    suggester = Suggester(model, tokenizer)
    assert suggester.suggest(TEXT * 10, "t")


@pytest.mark.parametrize(
    ("text", "partial", "message"),
    [("the ol", "", "ends within a word"), ("the ", "o1", "partial word"), ("the ", "o d", "partial word")],
)
def test_what_cannot_be_completed_is_refused(model, tokenizer, text, partial, message):
    with pytest.raises(KeylmError, match=message):
        Suggester(model, tokenizer).suggest(text, partial)


def test_a_vocabulary_without_letters_is_refused():
    with pytest.raises(KeylmError, match="no tokens of ASCII letters"):
        WordTokens(["1", "2", "Ġ", "你"], 4)


def test_sentencepiece_spellings_are_read_too():
    tokens = WordTokens(["▁the", "re", "▁", ".", "'t", "'", "<s>", "▁a1"], 8)
    assert tokens.fitting(" th").tolist() == [0, 2]
    assert tokens.fitting("").tolist() == [5, 4, 1]
    assert tokens.ends.tolist() == [0, 2, 3, 5, 6, 7]
