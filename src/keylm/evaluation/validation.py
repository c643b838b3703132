"""Validation: loss and bits per byte of a fixed draw of each source's held-out windows.

Bits per byte is the code length of the text under the model, over its length in UTF-8 bytes; it does not depend
on the tokenizer. Special tokens stand for no text and are counted on neither side.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keylm.data.curriculum import Batch, permute, stack
from keylm.data.store import ShardStore
from keylm.training.distributed import Ranks


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in nats, fp32 [B, L], of logits [B, L, V] and labels int64 [B, L]; 0 at -100."""
    logits = logits.float()
    chosen = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (logits.logsumexp(dim=-1) - chosen) * (labels >= 0)


def label_bytes(labels: Tensor, byte_lengths: Tensor) -> Tensor:
    """Return how many UTF-8 bytes of text each label stands for, int64 like `labels`; 0 where it is -100."""
    return byte_lengths[labels.clamp(min=0)] * (labels >= 0)


@torch.no_grad()
def validate(
    model: nn.Module,
    store: ShardStore,
    sources: Sequence[str],
    byte_lengths: Tensor,
    windows: int,
    micro_batch: int,
    ranks: Ranks,
    autocast: torch.autocast,
) -> dict[str, dict[str, float]]:
    """Return {"loss": {source: nats per token}, "bits_per_byte": {source: …}} over up to `windows` windows a source.

    Documents never see each other here, however the model is trained, so that figures compare.
    byte_lengths: int64 [V] on the ranks' device. Sources without held-out documents are left out.
    """
    result: dict[str, dict[str, float]] = {"loss": {}, "bits_per_byte": {}}
    for source in sources:
        held_out = store.held_out(source)
        if not held_out:
            continue
        sums = torch.zeros(4, dtype=torch.float64)
        drawn = [permute(index, held_out, f"validation/{source}") for index in range(min(windows, held_out))]
        mine = drawn[ranks.rank :: ranks.world_size]
        for start in range(0, len(mine), micro_batch):
            some = [store.window(source, 0, index, "validation") for index in mine[start : start + micro_batch]]
            with autocast:
                sums += _sums(model, stack(some, [0] * len(some)), byte_lengths, ranks.device)
        loss, tokens, text_loss, size = ranks.sum(sums.to(ranks.reduce_device)).tolist()
        if tokens and size:
            result["loss"][source] = loss / tokens
            result["bits_per_byte"][source] = text_loss / math.log(2) / size
    return result


def _sums(model: nn.Module, batch: Batch, byte_lengths: Tensor, device: torch.device) -> Tensor:
    """Return [loss, tokens, loss of tokens that are text, their bytes], fp64 on the CPU."""
    labels = torch.from_numpy(batch.labels).to(device)
    tokens = torch.from_numpy(batch.tokens).to(device)
    losses = token_losses(model(tokens, torch.from_numpy(batch.documents).to(device)), labels)
    sizes = label_bytes(labels, byte_lengths)
    parts = [losses.sum(), (labels >= 0).sum(), (losses * (sizes > 0)).sum(), sizes.sum()]
    return torch.tensor([part.item() for part in parts], dtype=torch.float64)
