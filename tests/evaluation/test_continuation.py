import math

import pytest
import torch
from support.shapes import random_qwen3

from keylm.base.errors import KeylmError
from keylm.evaluation.continuation import continuation_bits

CONTEXT = 24


class Bytes:
    """A tokenizer of bytes, as transformers calls one."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [1 + byte for byte in text.encode()]}


@pytest.fixture(scope="module")
def model():
    return random_qwen3(1, 300)


def plainly(model, prefix, continuation):
    """One item by itself, one token after the other."""
    ids = [1 + byte for byte in prefix.encode()] or [0]
    bits = 0.0
    for byte in continuation.encode():
        logits = model(input_ids=torch.tensor([ids[-(CONTEXT - 1) :]])).logits[0, -1]
        bits -= logits.log_softmax(-1)[1 + byte].item() / math.log(2)
        ids.append(1 + byte)
    return bits


def test_a_batch_gives_what_each_item_gives_token_by_token(model):
    items = [("Once upon", " a time"), ("", "It"), ("no", " más"), ("a", "b"), ("the same length", "!")]
    with torch.no_grad():
        expected = [plainly(model, *item) for item in items]
    for batch_tokens in (1, 20, 10_000):
        got = continuation_bits(model, Bytes(), items, context=CONTEXT, batch_tokens=batch_tokens)
        assert got == pytest.approx(expected, rel=1e-4)


def test_a_long_prefix_loses_its_beginning(model):
    prefix = "0123456789" * 9
    [whole] = continuation_bits(model, Bytes(), [(prefix, "abcd")], context=CONTEXT)
    [end] = continuation_bits(model, Bytes(), [(prefix[-(CONTEXT - 4) :], "abcd")], context=CONTEXT)
    assert whole == end


@pytest.mark.parametrize("continuation", ["", "x" * CONTEXT])
def test_a_continuation_that_cannot_be_scored_is_refused(model, continuation):
    with pytest.raises(KeylmError, match=r"accepted: 1 to 23"):
        continuation_bits(model, Bytes(), [("a", continuation)], context=CONTEXT)
