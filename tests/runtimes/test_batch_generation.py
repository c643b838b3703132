"""Many texts at once: the tokens, scores and ends that one text at a time has, in whatever company."""

import math
from itertools import pairwise

import pytest
import torch
from support.shapes import random_qwen3, shape

from keylm.base.errors import KeylmError
from keylm.model.decoder import Decoder
from keylm.runtimes.batch_generation import BatchGenerator, sizes_up_to
from keylm.runtimes.cached_decoder import CachedDecoder, Weights
from keylm.runtimes.sampling import Sampling

VOCABULARY, CONTEXT = 120, 64
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SHAPE = shape(**SIZES, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=CONTEXT)
GREEDY = Sampling(20, 0.0, 1.0, 1.0)


def opinionated(seed: int):
    """Return a random transformers model with a clear choice of next tokens."""
    model = random_qwen3(seed, VOCABULARY, **SIZES, intermediate_size=48, max_position_embeddings=CONTEXT)
    with torch.no_grad():
        model.lm_head.weight *= 40
    model.generation_config.eos_token_id = [0, 2]
    model.generation_config.pad_token_id = 3
    return model


def decoder_of(model) -> CachedDecoder:
    return CachedDecoder(Weights(SHAPE, VOCABULARY, frozenset((0, 2)), False, dict(model.state_dict())))


@pytest.fixture(scope="module")
def model():
    return opinionated(1)


@pytest.fixture(scope="module")
def decoder(model):
    return decoder_of(model)


def random_prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


PROMPTS = random_prompts(3, 30, 1, 12, 7, 19, 2, 5, 24)


def by_transformers(model, prompt: list[int], limit: int, **options) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": limit, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_texts_are_those_of_transformers(model, decoder, penalty):
    limits = [20, 5, 20, 1, 20, 33, 11, 20, 40]
    found = BatchGenerator(decoder, rows=3).generate(PROMPTS, Sampling(20, 0.0, 1.0, penalty), limits=limits)
    expected = [
        by_transformers(model, prompt, limit, repetition_penalty=penalty)
        for prompt, limit in zip(PROMPTS, limits, strict=True)
    ]
    assert [each.ids for each in found] == expected
    assert [each.ended for each in found] == [ids[-1] in (0, 2) for ids in expected]
    assert {each.ended for each in found} == {True, False}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(15, 1.0, 1.0, 1.0, 7),
        Sampling(15, 0.8, 0.9, 1.2, 7),
        Sampling(15, 1.5, 1.0, 1.0, 7, top_k=9, min_p=0.02),
    ],
)
def test_a_sampled_text_is_the_same_in_any_company(decoder, sampling):
    together = BatchGenerator(decoder, rows=4).generate(PROMPTS, sampling, each=2)
    more = BatchGenerator(decoder, rows=30).generate(PROMPTS, sampling, each=2)
    assert [each.ids for each in together] == [each.ids for each in more]
    alone = BatchGenerator(decoder, rows=1).generate(PROMPTS[:1], sampling, each=2)
    assert [each.ids for each in alone] == [each.ids for each in together[:2]]
    assert len({tuple(each.ids) for each in together}) > len(PROMPTS) + 3  # copies differ
    other = BatchGenerator(decoder, rows=4).generate(PROMPTS, Sampling(15, 1.0, 1.0, 1.0, 8), each=2)
    assert [each.ids for each in other] != [each.ids for each in together]


def test_without_a_seed_the_global_one_decides(decoder):
    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        found = BatchGenerator(decoder).generate(PROMPTS, Sampling(10, 1.0, 1.0, 1.0))
        return [each.ids for each in found]

    assert drawn(1) == drawn(1) != drawn(2)


@torch.no_grad()
@pytest.mark.parametrize(("temperature", "penalty", "top_p"), [(1.0, 1.0, 1.0), (0.6, 1.4, 0.8), (0.0, 1.0, 1.0)])
def test_log_probabilities_are_the_training_models(model, decoder, temperature, penalty, top_p):
    """At the temperature, before penalty and truncation: what a policy gradient needs."""
    trained = Decoder(SHAPE, VOCABULARY)
    trained.load_state_dict(model.state_dict())
    found = BatchGenerator(decoder, rows=4).generate(PROMPTS, Sampling(12, temperature, top_p, penalty, 3))
    for prompt, each in zip(PROMPTS, found, strict=True):
        logits = trained(torch.tensor([prompt + each.ids]))[0, len(prompt) - 1 : -1] / (temperature or 1.0)
        expected = logits.log_softmax(-1).gather(1, torch.tensor(each.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(each.log_probabilities), expected, atol=2e-4)
        assert len(each.ids) == len(each.log_probabilities)


def test_a_stream_is_the_text_of_a_single_prompt(decoder):
    generator = BatchGenerator(decoder)
    for prompt in PROMPTS[:4]:
        for sampling in (GREEDY, Sampling(9, 0.9, 0.9, 1.2, 6)):
            assert list(generator.stream(prompt, sampling)) == generator.generate([prompt], sampling)[0].ids
    asked = []

    def barred(written: list[int], logits: torch.Tensor) -> torch.Tensor:
        asked.append(list(written))
        return logits.index_fill(1, torch.tensor([logits.argmax(), *written]), -torch.inf)

    found = list(generator.stream(PROMPTS[0], GREEDY, barred))
    assert asked == [found[:count] for count in range(len(found))]
    assert len(set(found)) == len(found) > 2
    assert list(generator.stream([5] * CONTEXT, GREEDY)) == []


def test_room_ends_a_text(decoder):
    prompts = [*random_prompts(CONTEXT - 2, CONTEXT), *PROMPTS[:2]]
    found = BatchGenerator(decoder).generate(prompts, Sampling(500, 1.0, 1.0, 1.0, 1), ends=())
    assert [len(each.ids) for each in found] == [2, 0, CONTEXT - len(PROMPTS[0]), CONTEXT - len(PROMPTS[1])]
    assert not any(each.ended for each in found)


def test_stopping_by_what_was_written(decoder):
    told = []
    found = BatchGenerator(decoder, rows=2).generate(
        PROMPTS,
        GREEDY,
        ends=(),
        stop=lambda number, ids: number % 2 == 0 and len(ids) >= 4,
        done=lambda number, each: told.append((number, each)),
    )
    assert [len(each.ids) for each in found] == [4 if number % 2 == 0 else 20 for number in range(len(PROMPTS))]
    assert sorted(told, key=lambda each: each[0]) == list(enumerate(found))


def test_new_weights_in_place(decoder, model):
    other, own = opinionated(2), decoder_of(model)
    generator = BatchGenerator(own, rows=4)
    before = generator.generate(PROMPTS, GREEDY)
    trained = Decoder(SHAPE, VOCABULARY)
    trained.load_state_dict(other.state_dict())
    pointers = [part.data_ptr() for _, part in own._parts]
    generator.take(dict(trained.named_parameters()))
    assert [part.data_ptr() for _, part in own._parts] == pointers  # a captured graph reads these
    after = generator.generate(PROMPTS, GREEDY)
    assert after == BatchGenerator(decoder_of(other), rows=4).generate(PROMPTS, GREEDY)
    assert [each.ids for each in after] == [by_transformers(other, prompt, 20) for prompt in PROMPTS]
    assert before != after
    assert before == BatchGenerator(decoder, rows=4).generate(PROMPTS, GREEDY)  # of which it had a copy
    names = dict(other.state_dict())
    for wrong in (
        {**names, "model.norm.weight": torch.ones(31)},
        {k: v for k, v in names.items() if "o_proj" not in k},
    ):
        wrong["model.embed_tokens.weight"] = torch.zeros(VOCABULARY, 32)
        with pytest.raises(KeylmError, match="accepted: the shape of the model"):
            generator.take(wrong)
    assert generator.generate(PROMPTS, GREEDY) == after


def test_caches_grow_and_are_kept(decoder):
    generator = BatchGenerator(decoder, rows=4)
    first = generator.generate(PROMPTS[:2], Sampling(5, 0.0, 1.0, 1.0))
    small = generator._cache
    whole = generator.generate(PROMPTS, GREEDY)
    assert generator._cache is not small
    grown = generator._cache
    assert generator.generate(PROMPTS[:2], Sampling(5, 0.0, 1.0, 1.0)) == first
    assert generator._cache is grown
    generator.release()
    assert generator.generate(PROMPTS, GREEDY) == whole
    assert generator.counts.new_tokens == sum(len(each.ids) for each in whole)


@pytest.mark.parametrize("prompt", [[], [3, VOCABULARY], [-1]])
def test_prompts_that_are_none(decoder, prompt):
    with pytest.raises(KeylmError, match="accepted: at least one id, each below 120"):
        BatchGenerator(decoder).generate([[5], prompt], GREEDY)


def test_damaged_weights_are_an_error(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["model.norm.weight"][3] = torch.nan
    damaged = CachedDecoder(Weights(SHAPE, VOCABULARY, frozenset(), False, tensors))
    with pytest.raises(KeylmError, match="logits are not finite"):
        BatchGenerator(damaged).generate(PROMPTS, GREEDY)


def test_half_precision_is_near(model, decoder):
    half = CachedDecoder(Weights(SHAPE, VOCABULARY, frozenset(), False, dict(model.state_dict())), "bf16")
    found = BatchGenerator(half, rows=4).generate(PROMPTS, Sampling(12, 1.0, 1.0, 1.0, 3))
    exact = BatchGenerator(decoder, rows=4).generate(PROMPTS, Sampling(12, 1.0, 1.0, 1.0, 3), ends=())
    pairs = [
        (a, b)
        for one, two in zip(found, exact, strict=True)
        if one.ids == two.ids
        for a, b in zip(one.log_probabilities, two.log_probabilities, strict=True)
    ]
    assert len(pairs) >= 24
    assert 0 < max(abs(a - b) for a, b in pairs) < 0.5


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 100, 1024, 4096])
def test_sizes_of_graphs(rows):
    sizes = sizes_up_to(rows)
    assert sizes[0] == 1
    assert sizes[-1] == rows
    assert all(b <= 2 * a for a, b in pairwise(sizes))
    assert len(sizes) <= 2 * math.log2(rows) + 2
