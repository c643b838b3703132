"""Rows of both runtimes give keylm's own logits, whatever stands beside them."""

import pytest
import torch
from support.fake_server import both_engines, decoder, model_folder, weights  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.serving.runtime_choice import EngineOptions, make_slots, opened

pytestmark = both_engines


@pytest.fixture
def slots(model_folder, engine):
    with opened(model_folder) as source:
        made, _ = make_slots(source, EngineOptions(engine["engine"], engine.get("precision"), rows=6, threads=1), print)
    yield made
    made.close()


def expected(decoder, ids):
    return decoder.logits(decoder.prefill(decoder.cache(1), 0, 0, ids))


def near(found, wanted, exactness):
    """Log-probabilities, not logits: what a client sees."""
    assert found.shape == wanted.shape
    assert torch.allclose(found.log_softmax(-1), wanted.log_softmax(-1), atol=exactness)
    return True


def texts(*lengths):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, 400, (length,), generator=generator).tolist() for length in lengths]


def test_rows_read_write_and_forget(slots, decoder, exactness):
    first, second = texts(40, 30)
    assert near(slots.read(1, 0, first, 40), expected(decoder, first), exactness)
    assert slots.read(2, 0, second[:20], 0).shape == (0, 400)
    assert near(slots.read(2, 20, second[20:], 1), expected(decoder, second)[-1:], exactness)
    # What stood in a row from a place on is forgotten when something is read there.
    other = [*first[:25], *second]
    assert near(slots.read(1, 25, second, 3), expected(decoder, other)[-3:], exactness)
    slots.copy(1, 4, 30)
    longer = [*other[:30], 7, 8]
    assert near(slots.read(4, 30, [7, 8], 1), expected(decoder, longer)[-1:], exactness)
    assert near(slots.step([1], [9], [len(other)]), expected(decoder, [*other, 9])[-1:], exactness)


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2, 5], [1, 4], [0, 5]])
def test_a_batch_with_gaps_leaves_the_rows_between_as_they_were(slots, decoder, exactness, rows):
    held = texts(*(5 + 3 * row for row in range(6)))
    for row, ids in enumerate(held):
        slots.read(row, 0, ids, 1)
    for token in (11, 12):
        found = slots.step(rows, [token] * len(rows), [len(held[row]) for row in rows])
        for row, logits in zip(rows, found, strict=True):
            held[row].append(token)
            assert near(logits, expected(decoder, held[row])[-1], exactness)
    for row, ids in enumerate(held):
        assert near(slots.read(row, len(ids), [13], 1), expected(decoder, [*ids, 13])[-1:], exactness)


def test_a_row_that_is_full_is_not_filled_with_more(slots, decoder, exactness):
    full, short = texts(192, 10)
    slots.read(1, 0, full, 1)
    for row in (0, 2):
        slots.read(row, 0, short, 1)
    found = slots.step([0, 2], [5, 6], [10, 10])
    assert near(found[1], expected(decoder, [*short, 6])[-1], exactness)
    assert near(slots.read(1, 191, full[-1:], 1), expected(decoder, full)[-1:], exactness)


def test_after_an_error_the_rows_are_as_before(slots, decoder, exactness, engine):
    if engine["engine"] == "torch":
        pytest.skip("PyTorch has no such error")
    [ids] = texts(20)
    slots.read(0, 0, ids, 1)
    with pytest.raises(KeylmError, match="could not decode"):
        slots.read(0, 20, [400], 1)  # no such token
    assert near(slots.read(0, 20, [5, 6], 1), expected(decoder, [*ids, 5, 6])[-1:], exactness)
