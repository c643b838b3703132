"""Sampling on the device: transformers' truncation, frequencies that fit, noise without a pattern."""

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from keylm.runtimes.sampling import RowSettings, Sampling, choose, kept, sampling_of, text_seed, waiting_times

VOCABULARY = 60
KINDS = [
    (1.0, 0, 1.0, 0.0, 1.0),
    (0.7, 0, 0.9, 0.0, 1.1),
    (1.3, 12, 1.0, 0.0, 1.0),
    (2.0, 20, 0.8, 0.03, 1.5),
    (0.5, 0, 1.0, 0.1, 0.7),
]


def settings(count: int, kind: tuple[float, int, float, float, float]) -> RowSettings:
    temperature, top_k, top_p, min_p, penalty = (torch.full((count,), float(value)) for value in kind)
    seeds = torch.tensor([text_seed(1, number) for number in range(count)])
    return RowSettings(temperature, top_k.int(), top_p, min_p, penalty, seeds)


def warped(logits: torch.Tensor, prompt: torch.Tensor, kind: tuple[float, int, float, float, float]) -> torch.Tensor:
    temperature, top_k, top_p, min_p, penalty = kind
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    steps += [MinPLogitsWarper(min_p)] if min_p else []
    return steps(prompt, logits.clone())


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_transformers(kind):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, VOCABULARY, generator=generator) * 2
    prompt = torch.randint(0, VOCABULARY, (1, 15), generator=generator)
    expected = warped(logits, prompt, kind).softmax(-1)[0]
    count = 20_000
    seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
    seen[0, prompt[0]] = True
    written = torch.arange(count) % 7
    chosen = choose(logits.expand(count, -1), settings(count, kind), written, seen.expand(count, -1))
    shares = torch.bincount(chosen.ids, minlength=VOCABULARY) / count
    assert set(chosen.ids.tolist()) <= set(expected.nonzero()[:, 0].tolist())
    assert (shares - expected).abs().sum() / 2 < 0.025
    own = (logits / kind[0]).log_softmax(-1)[0][chosen.ids]
    assert torch.allclose(chosen.log_probabilities, own, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_that_of_transformers(kind):
    logits = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(3)) * 3
    plain = (*kind[:4], 1.0)
    expected = warped(logits, torch.zeros(200, 1, dtype=torch.long), plain) > -torch.inf
    scores = logits / kind[0]
    assert torch.equal(kept((scores - scores.amax(1, keepdim=True)).exp(), settings(200, kind)), expected)


def test_greedy_takes_the_likeliest():
    logits = torch.randn(50, VOCABULARY, generator=torch.Generator().manual_seed(4))
    found = choose(logits, settings(50, (0.0, 0, 0.3, 0.0, 1.0)), torch.zeros(50, dtype=torch.long), None)
    assert torch.equal(found.ids, logits.argmax(1))
    assert Sampling(temperature=0.005).greedy
    assert Sampling(top_k=1).greedy
    assert not Sampling().greedy


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0), Sampling(temperature=1.5, top_p=1, top_k=0), Sampling(min_p=0.1, top_k=7)],
)
def test_settings_survive_the_way_through_transformers_names(sampling):
    configuration = GenerationConfig(eos_token_id=[0, 2], pad_token_id=3)
    found = sampling_of(sampling.arguments(), configuration)
    assert found.greedy == sampling.greedy
    assert found.repetition_penalty == sampling.repetition_penalty
    if not sampling.greedy:
        assert found == sampling


def test_a_configuration_fills_in_what_is_not_asked_for():
    folder = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.1, num_beams=1)
    assert sampling_of({}, folder, 5) == Sampling(200, 0.7, 0.9, 1.1, 5)
    assert sampling_of({"do_sample": False}, folder).greedy
    assert sampling_of({"do_sample": False}, folder).repetition_penalty == 1.1
    assert sampling_of({"no_repeat_ngram_size": 3}, folder) is None
    assert sampling_of({}, GenerationConfig(num_beams=4)) is None


def test_noise_is_exponential_and_has_no_pattern():
    seeds = torch.tensor([text_seed(0, number) for number in range(40)])
    noise = torch.stack([waiting_times(seeds, torch.full((40,), step), 500) for step in range(10)])
    assert noise.min() > 0
    assert noise.mean().item() == pytest.approx(1, abs=0.01)
    assert noise.var().item() == pytest.approx(1, abs=0.03)
    ordered = noise.flatten().sort().values
    expected = -torch.log1p(-(torch.arange(len(ordered)) + 0.5) / len(ordered))
    assert (ordered - expected)[: int(len(ordered) * 0.99)].abs().max() < 0.05
    centred = noise - 1
    for axis, shift in ((0, 1), (1, 1), (2, 1), (2, 2)):  # steps, texts, tokens
        assert (centred * centred.roll(shift, axis)).mean().abs() < 0.01
    assert len(noise.unique()) > 0.99 * noise.numel()


def test_small_times_keep_their_digits():
    """Where the likeliest tokens are decided, a difference from 1 would leave 24 bits."""
    times = waiting_times(torch.tensor([text_seed(0, 1)]), torch.zeros(1, dtype=torch.long), 1 << 20)[0]
    small = times[times < 1e-4]
    assert len(small) > 60
    assert len((small * 2**24 % 1).unique()) > len(small) // 2
