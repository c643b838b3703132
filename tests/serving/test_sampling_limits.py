"""Settings at their limits give finite logits, and what fails in one text ends that text alone."""

import json
import threading

import pytest
import torch
from serving.test_parts import run
from serving.test_server import CHAT, call, fault
from support.fake_server import address, decoder, model_folder, prompts, served, weights, with_rules  # noqa: F401

from keylm.serving.engine import BatchingEngine, Failed, Finished, Job
from keylm.serving.sampling import RequestSampling, TokenSampler
from keylm.serving.slots import TorchSlots

LIMITS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.1, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (-(2**63), 2**63 - 1),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("end", [0, 1])
def test_each_limit_is_answered_and_what_lies_beyond_refused(address, name, end):
    value = LIMITS[name][end]
    body = {**CHAT, "max_tokens": 8, "temperature": 1, "logit_bias": {"70": -100, "71": 100}, name: value}
    assert call(address, "/v1/chat/completions", body)[0] == 200
    assert fault(address, "/v1/chat/completions", {**body, name: value + (1 if end else -1)})[0] == 400


@pytest.mark.parametrize("name", ["repetition_penalty", "temperature", "top_p", "min_p"])
def test_settings_next_to_nothing_are_answered_or_refused(address, name):
    status = call(address, "/v1/chat/completions", {**CHAT, "max_tokens": 8, name: 1e-38})[0]
    assert status == (400 if name == "repetition_penalty" else 200)


def test_all_settings_at_their_ends_keep_the_logits_finite():
    logits = torch.tensor([80.0, -80.0, 0.0, 1e30])
    for end in (0, 1):
        settings = {name: values[end] for name, values in LIMITS.items() if name != "seed"}
        for bias in (-100.0, 100.0):
            given = {**settings, "temperature": 0.01, "bias": ((0, bias),)}
            sampler = TokenSampler(RequestSampling(**given), 4, [0, 1])
            assert all(0 <= sampler.sample(logits).id < 4 for _ in range(50))


class Faulty(TorchSlots):
    """Rows that fail, or lose themselves, at one token."""

    def __init__(self, decoder, rows, *, raises):
        super().__init__(decoder, rows)
        self.raises = raises

    def step(self, rows, ids, lengths):
        logits = super().step(rows, ids, lengths)
        for place, length in enumerate(lengths):
            if length == 33 and self.raises:
                raise RuntimeError("this row is broken")
            if length == 33:
                logits[place] = torch.nan
        return logits


@pytest.mark.parametrize("raises", [True, False])
def test_an_exception_in_one_text_ends_that_text_alone(decoder, prompts, raises):
    jobs = [Job([50 + n] * (29 if n == 1 else 40), 12, ignore_ends=True) for n in range(4)]
    engine = BatchingEngine(Faulty(decoder, 4, raises=raises), prompts.vocabulary)
    try:
        found = [events[-1] for events in run(engine, jobs)]
    finally:
        engine.close()
    assert isinstance(found[1], Failed)
    assert found[1].reason == "fault"
    assert [type(each) for n, each in enumerate(found) if n != 1] == [Finished] * 3


def test_a_listener_that_fails_ends_its_own_text(decoder, prompts):
    engine = BatchingEngine(TorchSlots(decoder, 4), prompts.vocabulary)
    calls, done = [], threading.Event()

    def fails(event):
        calls.append(event)
        if isinstance(event, Failed):
            done.set()
        else:
            raise ValueError("nobody listens")

    try:
        engine.submit([(Job([50] * 9, 5, ignore_ends=True), fails)])
        assert isinstance(run(engine, [Job([60] * 9, 30, ignore_ends=True)])[0][-1], Finished)
        assert done.wait(10)
    finally:
        engine.close()
    assert isinstance(calls[-1], Failed)


def test_more_choices_than_slots_wait(with_rules):
    address = with_rules(slots=2, queue=8)
    answer = json.loads(call(address, "/v1/chat/completions", {**CHAT, "n": 9, "max_tokens": 3})[2])
    assert [choice["index"] for choice in answer["choices"]] == list(range(9))
    assert fault(address, "/v1/chat/completions", {**CHAT, "n": 11}) == (400, "invalid_value")
