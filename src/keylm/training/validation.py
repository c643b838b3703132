"""Validation: loss and bits per byte of a fixed sample of each source's held-out windows.

Bits per byte is the text's code length under the model over its UTF-8 bytes, whatever the tokenizer; special tokens are
not text and count on neither side.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from keylm.data.curriculum import permute, stack
from keylm.data.shards import Window
from keylm.data.store import ShardStore
from keylm.recipe.schema import Training
from keylm.training.distributed import Ranks
from keylm.training.prefetch import MicroBatch, label_bytes, micro_batches

TokenLosses = Callable[[MicroBatch], Tensor]
"""A micro-batch to the cross-entropy of each label, fp32 [B, L] in nats, 0 where the label is -100."""


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in nats, fp32 [..., L], of logits [..., L, V] and labels int64 [..., L]; 0 at -100."""
    logits = logits.float()
    chosen = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (logits.logsumexp(dim=-1) - chosen) * (labels >= 0)


@torch.no_grad()
def validate(
    losses: TokenLosses,
    store: ShardStore,
    sources: Sequence[str],
    byte_lengths: npt.NDArray[np.int64],
    windows: int,
    settings: Training,
    ranks: Ranks,
) -> dict[str, dict[str, float]]:
    """Return {"loss": {source: nats per token}, "bits_per_byte": {source: …}} over up to `windows` windows a source.

    Documents never see each other here, however the model is trained, so that figures compare.
    byte_lengths: int64 [V]. Sources without held-out documents are left out. All micro-batches are of one size, which a
    compiled model likes, and every rank has as many, which a sharded one needs.
    """
    drawn = [
        (index, permute(number, held_out, f"validation/{source}"))
        for index, source in enumerate(sources)
        for held_out in [store.held_out(source)]
        for number in range(min(windows, held_out))
    ]
    settings, size = settings.model_copy(update={"document_masks": True}), settings.micro_batch_windows
    sums = np.zeros((len(sources), 4))  # loss, tokens, loss of tokens that are text, their bytes
    for start in range(ranks.rank * size, len(drawn) + ranks.rank * size, ranks.world_size * size):
        picks = drawn[start : start + size]
        some = [store.window(sources[index], 0, window, "validation") for index, window in picks]
        sums_of_windows = _window_sums(losses, some, byte_lengths, settings, ranks.device)
        np.add.at(sums, np.array([index for index, _ in picks], dtype=np.int64), sums_of_windows)
    totals = ranks.sum(torch.from_numpy(sums)).tolist()
    result: dict[str, dict[str, float]] = {"loss": {}, "bits_per_byte": {}}
    for source, (loss, tokens, text_loss, text_bytes) in zip(sources, totals, strict=True):
        if tokens and text_bytes:
            result["loss"][source] = loss / tokens
            result["bits_per_byte"][source] = text_loss / math.log(2) / text_bytes
    return result


def _window_sums(
    losses: TokenLosses,
    windows: list[Window],
    byte_lengths: npt.NDArray[np.int64],
    settings: Training,
    device: torch.device,
) -> npt.NDArray[np.float64]:
    """Return each window's [loss, tokens, loss of tokens that are text, their bytes], fp64 [windows, 4]."""
    found = window_losses(losses, windows, settings, device)
    labels = np.array([window.labels for window in windows], dtype=np.int64).reshape(-1, settings.context)
    sizes = label_bytes(labels, byte_lengths)
    parts = [found.sum(axis=1), (labels >= 0).sum(axis=1), (found * (sizes > 0)).sum(axis=1), sizes.sum(axis=1)]
    return np.stack(parts, axis=1).astype(np.float64)


def window_losses(
    losses: TokenLosses, windows: list[Window], settings: Training, device: torch.device
) -> npt.NDArray[np.float64]:
    """Return each label's cross-entropy, fp64 [windows, L] in nats, 0 at -100; always computes a whole micro-batch."""
    missing = settings.micro_batch_windows - len(windows)
    batch = stack([*windows, *[blank_window(settings.context)] * missing], [0] * settings.micro_batch_windows)
    [part] = micro_batches(batch, settings, device)
    return losses(part.to(device)).double().cpu().numpy()[: len(windows)]


def blank_window(context: int) -> Window:
    """Return a window of which nothing is learnt, to fill a micro-batch."""
    nothing = np.zeros(context, dtype=np.int64)
    return Window(tokens=nothing.astype(np.uint16), labels=nothing - 100, documents=nothing.astype(np.int32))
