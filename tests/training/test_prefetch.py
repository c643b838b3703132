"""Batches that are ready early are the same batches, and what goes wrong with one is heard where it is taken."""

import threading

import numpy as np
import pytest
import torch

from keylm.data.curriculum import Batch
from keylm.recipe.schema import Training
from keylm.training.prefetch import Feed, Prefetcher, feed

CPU = torch.device("cpu")


def nothing(step: int) -> Feed:
    return Feed([], np.array([step]), np.array([step]), step)


def test_a_prepared_step_is_begun_at_once_and_made_only_once():
    begun, ready = [], threading.Event()

    def work(step: int) -> Feed:
        begun.append(step)
        ready.set()
        return nothing(step)

    ahead = Prefetcher(work, end=3)
    assert ahead.take(0).text_bytes == 0
    ready.clear()
    ahead.prepare(1)
    assert ready.wait(10)
    assert ahead.take(1).text_bytes == 1
    assert begun == [0, 1]
    ahead.prepare(3)
    assert ahead.take(2).text_bytes == 2
    assert begun == [0, 1, 2], "there is no step 3"


def test_another_step_than_expected_is_loaded_then():
    ahead = Prefetcher(nothing, end=100)
    for step in (5, 6, 50, 0):
        assert ahead.take(step).text_bytes == step
        ahead.prepare(step + 1)


def test_what_fails_early_is_told_where_the_step_is_taken():
    def work(step: int) -> Feed:
        if step == 1:
            raise KeyboardInterrupt
        return nothing(step)

    ahead = Prefetcher(work, end=3)
    ahead.prepare(1)
    with pytest.raises(KeyboardInterrupt):
        ahead.take(1)
    assert ahead.take(2).text_bytes == 2


@pytest.mark.parametrize("masks", [True, False])
def test_a_feed_holds_the_batch_in_micro_batches(masks: bool):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 9, (5, 8))
    labels[1, :3] = -100
    batch = Batch(
        tokens=generator.integers(0, 9, (5, 8)),
        labels=labels,
        documents=np.repeat([[0, 0, 0, 1, 1, 1, 1, 1]], 5, axis=0).astype(np.int32),
        sources=np.array([0, 1, 1, 0, 2]),
    )
    settings = Training(batch_tokens=40, context=8, micro_batch_windows=2, document_masks=masks)
    lengths = np.arange(9)
    found = feed(batch, settings, lengths, CPU)
    assert [len(part.tokens) for part in found.parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.tokens for part in found.parts]), torch.from_numpy(batch.tokens))
    assert torch.equal(torch.cat([part.labels for part in found.parts]), torch.from_numpy(labels))
    assert all(
        (part.packing.document_ids is not None) == masks and part.packing.cu_seqlens is None for part in found.parts
    )
    assert found.trained.tolist() == [8, 5, 8, 8, 8]
    assert found.text_bytes == labels[labels >= 0].sum()
