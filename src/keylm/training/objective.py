"""What training minimises: cross-entropy of the next tokens, a z-loss, and the pair loss of typo sources.

Invariant: the gradients are those of the plain formulas (tests/training/test_objective.py), though the logits are
never there all at once: they are worked out some rows at a time, and their gradient with them, while they are still
in the cache.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from keylm.model import Decoder

CACHED_LOGITS = 1 << 19
"""Logits worked out at once on a CPU: 2 MiB in fp32, a core's own cache."""
GPU_LOGITS = 1 << 27
"""The same on a GPU: 0.5 GiB in fp32."""


class Losses(NamedTuple):
    """The sums over a micro-batch of B windows; all but the total are detached."""

    total: Tensor
    """fp32 []: what backward starts from"""
    windows: Tensor
    """fp32 [B]: cross-entropy of each window, in nats"""
    others: Tensor
    """fp32 [2]: z-loss, weighted pair loss"""


class Objective(nn.Module):
    """A decoder with its losses; shapes: B windows, L tokens."""

    def __init__(self, decoder: Decoder, z_loss: float, pair_weight: float) -> None:
        super().__init__()
        self.decoder, self._z_loss, self._pair_weight = decoder, z_loss, pair_weight

    def forward(self, tokens: Tensor, documents: Tensor | None, labels: Tensor, partners: Tensor | None) -> Losses:
        """Return the losses of a micro-batch: int64 [B, L] each, documents int32.

        `labels` are -100 where no loss is taken, `partners` -1 where there is none, or None.
        """
        hidden = self.decoder.model(tokens, documents)
        head = self.decoder.lm_head.weight
        # The z-loss keeps the softmax's denominator near 1 (PaLM, arXiv 2204.02311).
        total, losses, z_loss = _HeadLoss.apply(hidden.flatten(0, 1), head, labels.flatten(), self._z_loss)  # type: ignore[no-untyped-call]
        pair = hidden.new_zeros((), dtype=torch.float32)
        if partners is not None:
            pair = self._pair_weight * partner_loss(self.decoder.lm_head, hidden, partners)
        return Losses(total + pair, losses.view_as(labels).sum(dim=1), torch.stack([z_loss, pair.detach()]))


def partner_loss(head: nn.Module, hidden: Tensor, partners: Tensor) -> Tensor:
    """Return the sum over pairs of KL(next token behind the clean word || behind its noisy twin), in nats; fp32 [].

    head [H] → [V]; hidden [B, L, H]; partners int64 [B, L]: the clean position, -1 where there is none. No gradient
    flows to the clean side, which is the teacher (Kojima et al., TACL 2025).
    """
    rows, noisy = torch.nonzero(partners >= 0, as_tuple=True)
    clean = partners[rows, noisy]
    with torch.no_grad():
        teacher = head(hidden[rows, clean]).float().log_softmax(dim=-1)
    student = head(hidden[rows, noisy]).float().log_softmax(dim=-1)
    divergence: Tensor = (teacher.exp() * (teacher - student)).sum()
    return divergence


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy plus z-loss of `hidden @ weight.T`, with the gradients of both made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, ...]:
        """Return the total (fp32 []), each row's cross-entropy (fp32 [N]) and the z-loss (fp32 []).

        hidden [N, H]; weight [V, H]; labels int64 [N], -100 where no loss is taken. Under autocast the products are
        bf16; the softmax is fp32 always.
        """
        head = weight.to(hidden.dtype)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        losses = hidden.new_zeros(len(labels), dtype=torch.float32)
        z_sum = hidden.new_zeros((), dtype=torch.float32)
        rows = max(1, (GPU_LOGITS if hidden.is_cuda else CACHED_LOGITS) // len(weight))
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            trained, chosen = labels[part] >= 0, labels[part].clamp(min=0)[:, None]
            logits = (hidden[part] @ head.T).float()
            denominators = logits.logsumexp(dim=-1)
            losses[part] = (denominators - logits.gather(1, chosen)[:, 0]) * trained
            z_sum += (denominators * trained).square().sum()
            # d(denominator)/d(logits) is the softmax; the chosen logit counts against it.
            slope = logits.sub_(denominators[:, None]).exp_()
            slope *= ((1 + 2 * z_loss * denominators) * trained)[:, None]
            slope.scatter_add_(1, chosen, -trained.float()[:, None])
            slope = slope.to(hidden.dtype)
            hidden_gradient[part] = slope @ head
            weight_gradient += slope.T @ hidden[part]
        ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses.sum() + z_loss * z_sum, losses, z_loss * z_sum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what forward made; only the total carries a gradient."""
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], weight_gradient * gradients[0], None, None
