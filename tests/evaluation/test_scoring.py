"""The fast log-likelihoods against lm_eval's own: made-up items, real ones, and models that cannot share a row."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.recipes import sentence

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'keylm[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from keylm.base.errors import KeylmError
from keylm.evaluation.scoring import ScoringRow, SharedContextLM, collate, rows_of

ITEMS = Path(__file__).parents[3] / "shared/eval/data"
CONTEXT = 96
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**GROUPED),
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.2),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
}
Pair = tuple[str, str]


def tiny_model(config: PretrainedConfig, tokenizer: Path) -> Any:
    """Return a random model with the tokenizer's vocabulary."""
    torch.manual_seed(0)
    config.vocab_size = len(AutoTokenizer.from_pretrained(tokenizer))
    return AutoModelForCausalLM.from_config(config).eval()


def both(config: PretrainedConfig, tokenizer: Path, **settings: Any) -> tuple[HFLM, SharedContextLM]:
    """Return lm_eval's wrapper of a random model, and this package's of the same."""
    model = tiny_model(config, tokenizer)
    settings = {"tokenizer": str(tokenizer), "max_length": CONTEXT, "batch_size": 8, **settings}
    return HFLM(model, **settings), SharedContextLM(model, **settings)


def instances(pairs: Sequence[Pair]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def made_up(rng: random.Random) -> list[list[Pair]]:
    """Return questions with their choices: of many lengths, of one token, without a context, too long, twice."""
    questions = []
    for number in range(110):
        context = sentence(rng, rng.choice([2, 5, 12, 25, 120]))
        choices = [f" {sentence(rng, rng.choice([2, 4, 9, 16]))}" for _ in range(rng.randint(2, 5))]
        if number % 5 == 0:
            choices = [f" {letter}" for letter in "abcd"]
        if number % 7 == 0:
            context = ""
        if number % 11 == 0:
            choices[1] = choices[0]
        questions.append([(context, choice) for choice in choices])
    shared = questions[1][0][0]
    return [*questions, *questions[:6], [(f"{shared} ", "the"), (shared, " the"), ("no more than that.", " a")]]


def compare(harness: HFLM, fast: SharedContextLM, questions: Sequence[Sequence[Pair]]) -> None:
    """Assert that both give the same figures and choose alike."""
    requests = instances([pair for question in questions for pair in question])
    theirs = harness.loglikelihood(requests, disable_tqdm=True)
    ours = fast.loglikelihood(requests, disable_tqdm=True)
    # The harness adds in 32 bits: two units in the last place of sums beyond 400 nats.
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4, rel=2.4e-7)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    same, begin = 0, 0
    for question in questions:
        one, other = ([value for value, _ in all_[begin : begin + len(question)]] for all_ in (theirs, ours))
        same += max(range(len(one)), key=one.__getitem__) == max(range(len(other)), key=other.__getitem__)
        begin += len(question)
    assert same >= 0.999 * len(questions)


@pytest.mark.parametrize("name", MODELS)
def test_made_up_items_score_as_in_the_harness(name: str, tokenizer: Path) -> None:
    harness, fast = both(MODELS[name](), tokenizer)
    assert fast.shares_contexts == (name != "bloom"), "Bloom's ALiBi knows no positions but the columns'"
    compare(harness, fast, made_up(random.Random(1)))


def test_a_model_in_16_bits_shares_contexts_and_keeps_its_weights(tokenizer: Path) -> None:
    model = tiny_model(MODELS["qwen3"](), tokenizer).bfloat16()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fast = SharedContextLM(model, tokenizer=str(tokenizer), max_length=CONTEXT)
    assert fast.shares_contexts
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    exact = HFLM(tiny_model(MODELS["qwen3"](), tokenizer), tokenizer=str(tokenizer), max_length=CONTEXT)
    requests = instances([pair for question in made_up(random.Random(2))[:40] for pair in question])
    differences = [
        abs(ours[0] - theirs[0]) / max(1.0, abs(theirs[0]))
        for ours, theirs in zip(fast.loglikelihood(requests), exact.loglikelihood(requests), strict=True)
    ]
    assert max(differences) < 0.05


@pytest.mark.parametrize("window", [24, CONTEXT])
def test_a_sliding_window_shorter_than_a_row_is_noticed(tokenizer: Path, window: int) -> None:
    harness, fast = both(MistralConfig(**GROUPED, sliding_window=window), tokenizer)
    assert fast.shares_contexts == (window == CONTEXT)
    compare(harness, fast, made_up(random.Random(3))[:40])


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
def test_a_model_that_ignores_positions_or_masks_is_noticed(
    tokenizer: Path, ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, fast = both(MODELS["gpt2"](), tokenizer)
    forward = fast.model.forward

    def partly(input_ids: torch.Tensor, **settings: Any) -> Any:
        return forward(input_ids, **{**settings, ignored: None})

    monkeypatch.setattr(harness.model, "forward", partly)
    fast = SharedContextLM(harness.model, tokenizer=str(tokenizer), max_length=CONTEXT)
    assert not fast.shares_contexts
    compare(harness, fast, made_up(random.Random(4))[:30])


def encoded(fast: SharedContextLM, *sizes: int) -> list[int]:
    """Return random tokens for each size in turn, the same for the same sizes."""
    rng = random.Random(sum(sizes))
    return [rng.randrange(len(fast.tokenizer)) for _ in range(sum(sizes))]


def read_tokens(fast: SharedContextLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of tokens of each batch that the model reads from now on."""
    forward, read = fast.model.forward, []

    def counting(*arguments: Any, **settings: Any) -> Any:
        read.append(settings["input_ids"].numel())
        return forward(*arguments, **settings)

    monkeypatch.setattr(fast.model, "forward", counting)
    return read


def test_a_context_is_read_once_and_duplicates_not_at_all(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = both(MODELS["llama"](), tokenizer)
    context = encoded(fast, 20)
    read = read_tokens(fast, monkeypatch)
    requests = [(None, context, continuation) for continuation in ([1, 2, 3], [4, 5], [6], [7], [1, 2, 3])]
    answers = fast._loglikelihood_tokens(requests, disable_tqdm=True)
    assert read == [20 + 2 + 1]
    assert answers[0] == answers[4]
    read.clear()
    fast._loglikelihood_tokens([(None, context, [token]) for token in range(9)], disable_tqdm=True)
    assert read == [20], "what only one token follows is read without it"


def test_greedy_continuations_are_told_from_others(tokenizer: Path) -> None:
    for name in MODELS:
        harness, fast = both(MODELS[name](), tokenizer)
        context = encoded(fast, 12)
        with torch.no_grad():
            greedy = list(context)
            for _ in range(5):
                greedy.append(int(fast.model(torch.tensor([greedy])).logits[0, -1].argmax()))
        best, other = greedy[12:], (greedy[16] + 1) % 300
        asked = [best, best[:1], [*best[:4], other], [other, *best[1:]], best[:3], [other]]
        requests = [(None, context, continuation) for continuation in asked]
        flags = [flag for _, flag in fast._loglikelihood_tokens(requests, disable_tqdm=True)]
        assert flags == [flag for _, flag in harness._loglikelihood_tokens(requests, disable_tqdm=True)]
        assert flags[:3] == [True, True, False]
        assert flags[4]


def test_answers_go_to_the_cache_in_full_and_texts_by_their_whole(tokenizer: Path) -> None:
    harness, fast = both(MODELS["qwen3"](), tokenizer)
    pairs = [pair for question in made_up(random.Random(5))[:20] for pair in question]
    kept: dict[Any, Any] = {}

    class Hook:
        def add_partial(self, kind: str, key: Any, answer: Any) -> None:
            kept[kind, key] = answer

    fast.cache_hook = Hook()
    answers = fast.loglikelihood(instances(pairs), disable_tqdm=True)
    assert kept == {("loglikelihood", pair): answer for pair, answer in zip(pairs, answers, strict=True)}
    texts = [" ".join(choice for _, choice in question) for question in made_up(random.Random(6))[:6]]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    expected = harness.loglikelihood_rolling(rolling, disable_tqdm=True)
    kept.clear()
    assert fast.loglikelihood_rolling(rolling, disable_tqdm=True) == pytest.approx(expected, abs=1e-3)
    assert set(kept) == {("loglikelihood_rolling", (text,)) for text in texts}


def test_the_bar_counts_every_request(
    tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)  # the command line may have set it in this process
    _, fast = both(MODELS["qwen3"](), tokenizer)
    pairs = [pair for question in made_up(random.Random(7))[:20] for pair in question]
    capsys.readouterr()
    fast.loglikelihood(instances(pairs))
    assert f"Running loglikelihood requests: 100%|██████████| {len(pairs)}/{len(pairs)}" in capsys.readouterr().err


def test_batches_shrink_where_memory_does_not_suffice(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, fast = both(MODELS["qwen3"](), tokenizer)
    forward, refused = fast.model.forward, []

    def small(*arguments: Any, **settings: Any) -> Any:
        if "input_ids" in settings and settings["input_ids"].numel() > room:
            refused.append(settings["input_ids"].numel())
            raise torch.OutOfMemoryError
        return forward(*arguments, **settings)

    monkeypatch.setattr(fast.model, "forward", small)
    room = 300
    compare(harness, fast, made_up(random.Random(8))[:40])
    assert refused
    room = 10
    with pytest.raises(KeylmError, match=r"tokens do not fit into the memory of cpu; accepted"):
        fast._loglikelihood_tokens([(None, encoded(fast, 30), [3, 4])], disable_tqdm=True)


def test_what_has_nothing_to_score_is_told(tokenizer: Path) -> None:
    _, fast = both(MODELS["qwen3"](), tokenizer)
    for context, continuation in (([], [1]), ([1], []), ([1], [2] * (CONTEXT + 1))):
        with pytest.raises(KeylmError, match="accepted: at least 1 of context, 1 to 96 to score"):
            fast._loglikelihood_tokens([(("a", " b"), context, continuation)], disable_tqdm=True)


def test_tokens_are_those_of_the_harness(tokenizer: Path) -> None:
    harness, fast = both(MODELS["qwen3"](), tokenizer)
    start = fast.tokenizer.decode(fast.prefix_token_id)
    texts = ["the old fox", f"{start}the old fox", "", " ", "Zoë 🦊\n\n x", *[sentence(random.Random(9), 5)] * 2]
    for added in (None, True, False):
        harness.add_bos_token = fast.add_bos_token = added
        fast._encode([(text, special) for text in texts for special in (None, False)], together=2)
        assert len(fast._encoded) == 2 * len(set(texts))
        for text, special in fast._encoded:
            assert fast.tok_encode(text, special) == harness.tok_encode(text, special)
            assert fast.tok_encode(text, special, 2) == harness.tok_encode(text, special, 2)


@given(
    st.integers(1, 8),
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7).map(tuple), min_size=1, max_size=6, unique=True),
    st.integers(0, 30),
)
def test_rows_hold_every_continuation_once(size: int, continuations: list[tuple[int, ...]], limit: int) -> None:
    context = tuple(range(10, 10 + size))
    rows = list(rows_of(context, continuations, limit))
    assert sorted(continuation for row in rows for continuation in row.continuations) == sorted(continuations)
    assert all(row.length <= limit or not row.forks for row in rows)
    for row in rows:
        batch = collate([row, row], multiple=4)
        owners, kept, tokens = batch.scored
        assert batch.ids.shape[1] % 4 == 0
        assert tokens.tolist() == 2 * [token for continuation in row.continuations for token in continuation]
        columns = batch.columns[kept]
        # What predicts a token is the token before it: its continuation's, or the context's last one.
        before = [token for given in row.continuations for token in (context[-1], *given[:-1])]
        assert batch.ids[owners, columns].tolist() == 2 * before
        if batch.layout is not None:
            expected = [size - 1 + place for given in row.continuations for place in range(len(given))]
            assert batch.layout[0][owners, columns].tolist() == 2 * expected
    assert ScoringRow(context, continuations).length == size + sum(len(given) - 1 for given in continuations)


def real_questions() -> list[list[Pair]]:
    """Return the first 40 of HellaSwag, ARC and PIQA each."""

    def read(file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (ITEMS / file).read_text(encoding="utf-8").splitlines()[:40]]

    questions = [
        [(f"{item['activity_label']}: {item['ctx']}", f" {ending}") for ending in item["endings"]]
        for item in read("hellaswag/validation.jsonl")
    ]
    for item in read("arc_easy/test.jsonl"):
        questions.append([(f"Question: {item['question']}\nAnswer:", f" {text}") for text in item["choices"]["text"]])
    for item in read("piqa/validation.jsonl"):
        questions.append([(f"Question: {item['goal']}\nAnswer:", f" {item[key]}") for key in ("sol1", "sol2")])
    return questions


@pytest.mark.skipif(not ITEMS.is_dir(), reason="the benchmarks' items are not beside this checkout")
@pytest.mark.parametrize("name", MODELS)
def test_real_items_score_as_in_the_harness(name: str, tokenizer: Path) -> None:
    config = MODELS[name]()
    for longest in ("max_position_embeddings", "n_positions"):
        if hasattr(config, longest):
            setattr(config, longest, 1024)
    harness, fast = both(config, tokenizer, max_length=1024)
    compare(harness, fast, real_questions())
