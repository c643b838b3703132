"""The decoder, the writer, sampling, and suggestions, without HTTP."""

import asyncio
import collections
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from support.fake_server import decoder, model_folder, prompts, weights  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.keyboard.search import Suggester
from keylm.keyboard.suggest import Keyboards
from keylm.model.decoder import Decoder
from keylm.runtimes.cached_decoder import CachedDecoder, load_weights
from keylm.serving.engine import BatchingEngine, Finished, Job, PromptScored
from keylm.serving.faults import ApiError
from keylm.serving.guard import Guard
from keylm.serving.sampling import RequestSampling, Token, TokenSampler
from keylm.serving.slots import TorchSlots
from keylm.serving.writing import TextPiece, TextWriter


@torch.no_grad()
def test_logits_are_the_training_models(weights, decoder):
    model = Decoder(weights.shape, weights.vocab_size)
    model.load_state_dict(weights.tensors)
    ids = torch.randint(0, 400, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = model(ids)
    cache = decoder.cache(8)
    rows, cut = [1, 4, 6], [10, 25, 39]
    for text, row, length in zip(ids.tolist(), rows, cut, strict=True):
        for begin, end in ((0, length // 2), (length // 2, length)):
            hidden = decoder.prefill(cache, row, begin, text[begin:end])
        assert torch.allclose(decoder.logits(hidden)[-1], expected[rows.index(row), length - 1], atol=1e-4)
    cache.copy(4, 0, 25)  # a row that read the same
    step = decoder.step(cache, [0, 1, 6], [ids[1, 25], ids[0, 10], ids[2, 39]], [25, 10, 39])
    together = torch.stack([expected[1, 25], expected[0, 10], expected[2, 39]])
    assert torch.allclose(decoder.logits(step), together, atol=1e-4)


def test_eight_bits_are_near(weights, decoder):
    small = CachedDecoder(weights, "int8")
    ids = list(range(30, 60))
    exact = decoder.logits(decoder.prefill(decoder.cache(1), 0, 0, ids)).log_softmax(-1)
    rounded = small.logits(small.prefill(small.cache(1), 0, 0, ids)).log_softmax(-1)
    assert 0 < (exact.exp() * (exact - rounded)).sum(-1).mean() < 0.05


def test_model_folders_that_do_not_serve_are_refused(model_folder, tmp_path):
    with pytest.raises(KeylmError, match=r"no config\.json"):
        load_weights(tmp_path)
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"qwen3"', '"gpt2"'))
    with pytest.raises(KeylmError, match="accepted: 'qwen3'"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(KeylmError, match="cannot be read"):
        load_weights(tmp_path)


def written(vocabulary, ids, stops):
    writer, pieces = TextWriter(vocabulary, stops), []
    for token in ids:
        pieces.append(writer.add(Token(token)))
        if writer.stopped:
            break
    return [*pieces, writer.end()], writer.stopped


@given(st.binary(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_pieces_make_the_text_up_to_the_first_stop(prompts, raw, stops):
    one_byte = {prompts.vocabulary.bytes_of(n): n for n in range(400) if len(prompts.vocabulary.bytes_of(n)) == 1}
    ids = [one_byte[bytes([byte])] for byte in raw]
    pieces, stopped = written(prompts.vocabulary, ids, stops)
    text = raw.decode(errors="replace")
    # Byte by byte, a stop is met as soon as it is whole; of those met together the first counts.
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    shown = "".join(piece.text for piece in pieces)
    if not ends:
        assert (shown, stopped) == (text, False)
        assert [w.token.id for piece in pieces for w in piece.tokens] == ids
    else:
        assert stopped
        assert text.startswith(shown)
        assert shown in {text[:place] for _, place in ends}
    assert all(w.begin <= len(text) for piece in pieces for w in piece.tokens)


def test_half_a_character_is_held_back(prompts):
    one_byte = {prompts.vocabulary.bytes_of(n): n for n in range(400) if len(prompts.vocabulary.bytes_of(n)) == 1}
    writer = TextWriter(prompts.vocabulary)
    pieces = [writer.add(Token(one_byte[bytes([byte])])).text for byte in "né😀".encode()]
    assert pieces == ["n", "", "é", "", "", "", "😀"]
    assert writer.end() == TextPiece("")


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (RequestSampling(), {0, 1, 2, 3}),
        (RequestSampling(top_k=2), {0, 1}),
        (RequestSampling(top_p=0.6), {0, 1}),
        (RequestSampling(top_p=0.45), {0}),
        (RequestSampling(min_p=0.3), {0, 1}),
        (RequestSampling(top_k=3, top_p=0.99), {0, 1, 2}),
        (RequestSampling(temperature=0), {0}),
        (RequestSampling(bias=((3, 100.0),)), {3}),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(sampling, kept):
    logits = torch.tensor([0.5, 0.3, 0.14, 0.06]).log()
    drawer = TokenSampler(RequestSampling(**{**vars(sampling), "seed": "7"}), 4)
    drawn = collections.Counter(drawer.sample(logits).id for _ in range(600))
    assert set(drawn) == kept
    if sampling == RequestSampling():
        assert drawn[0] / 600 == pytest.approx(0.5, abs=0.07)


def run(engine, jobs):
    """Return each job's events."""
    found, done = [[] for _ in jobs], threading.Semaphore(0)

    def emitter(events):
        def emit(event):
            events.append(event)
            if not isinstance(event, TextPiece | PromptScored):
                done.release()

        return emit

    engine.submit([(job, emitter(events)) for job, events in zip(jobs, found, strict=True)])
    for _ in jobs:
        assert done.acquire(timeout=30)
    return found


def test_a_text_is_the_same_alone_and_in_company(decoder, prompts):
    sampling = [RequestSampling(seed=str(n)) for n in range(9)]
    jobs = [Job([50 + n] * (3 + 7 * n), 12 + n, sampling[n], ignore_ends=True) for n in range(9)]
    engine = BatchingEngine(TorchSlots(decoder, 4), prompts.vocabulary)
    try:
        alone = [run(engine, [job])[0] for job in jobs]
        together = run(engine, jobs)
    finally:
        engine.close()
    for one, other, job in zip(alone, together, jobs, strict=True):
        tokens = [[w.token.id for e in events if isinstance(e, TextPiece) for w in e.tokens] for events in (one, other)]
        assert tokens[0] == tokens[1]
        assert len(tokens[0]) == job.max_tokens
        assert isinstance(other[-1], Finished)


def test_suggestions_are_those_of_the_evaluation(model_folder, weights, prompts):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder).float().eval()
    reference = Suggester(model, prompts.tokenizer, rounds=3)
    keyboards = Keyboards(CachedDecoder(weights), prompts.tokenizer, number=2)
    text = "the old man told the red fox in rain"
    for other in ("", "a cat and a "):  # a second person types in between
        for end in range(5, len(text) + 1):
            if other:
                keyboards.answer(other)
            found = keyboards.answer(text[:end], 3)
            expected = reference.suggest(text[: end - len(found.partial)], found.partial, 3)
            assert [each.word for each in found.suggestions] == [each.word for each in expected]
            values = [each.log_probability for each in expected]
            assert [each.log_probability for each in found.suggestions] == pytest.approx(values, abs=1e-3)


def test_words_are_corrected_or_left(weights, prompts):
    pytest.importorskip("symspellpy", reason="needs symspellpy: pip install 'keylm[serve]'")
    keyboards = Keyboards(CachedDecoder(weights, "int8"), prompts.tokenizer)
    assert keyboards.answer("thier").correction in {"their", "this", "tier", "thief", "shier", "thinner"}
    assert keyboards.answer("thier", correct=False).correction is None
    for left in ("the old man ", "room 7", "NASA", "", "café", "don'"):
        assert keyboards.answer(left).correction is None


def test_a_declared_length_of_any_number_of_digits_is_too_large():
    headers = [(b"content-type", b"application/json"), (b"content-length", b"9" * 5000)]
    with pytest.raises(ApiError, match="the body is over 4000000 bytes") as refused:
        asyncio.run(Guard().body(Request({"type": "http", "headers": headers})))
    assert refused.value.status == 413
