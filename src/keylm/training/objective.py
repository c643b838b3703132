"""The training objective: next-token cross-entropy, a z-loss, and the pair loss of typo sources.

Invariant: the gradients are those of the plain formulas (tests/training/test_objective.py), though the logits are
never all in memory: they are computed a few rows at a time, together with their gradient, while they are in cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keylm.model.attention import Packing
from keylm.model.decoder import Decoder
from keylm.training.prefetch import MicroBatch
from keylm.training.validation import token_losses

CACHED_LOGITS = 1 << 19
"""Logits computed at once on a CPU: 2 MiB in fp32, a core's own cache."""
GPU_ROWS = 1 << 13
"""Rows computed at once on a GPU: 0.2 GB of logits in 16 bits with 12,020 tokens."""
GPU_COLUMNS = 128
"""On a GPU the head is padded to a multiple of this: 12,020 columns would rule out the fast matmul kernels."""


class Losses(NamedTuple):
    """The sums over a micro-batch of B windows; all but the total are detached."""

    total: Tensor
    """fp32 []: call backward on this"""
    windows: Tensor
    """fp32 [B]: cross-entropy of each window, in nats"""
    others: Tensor
    """fp32 [2]: z-loss, weighted pair loss"""


class Objective(nn.Module):
    """A decoder with its losses; shapes: B windows, L tokens."""

    def __init__(self, decoder: Decoder, z_loss: float, pair_weight: float) -> None:
        super().__init__()
        self.decoder, self._z_loss, self._pair_weight = decoder, z_loss, pair_weight
        self._loss_and_grad = loss_and_grad

    def compile_parts(self, *, apart: bool = False) -> None:
        """Compile the layers, in groups or each `apart`, and the softmax."""
        self.decoder.model.compile_layers(apart=apart)
        self._loss_and_grad = torch.compile(loss_and_grad, dynamic=False)

    def forward(self, tokens: Tensor, labels: Tensor, packing: Packing, partners: Tensor | None) -> Losses:
        """Return the losses of a micro-batch; the arguments are those of `MicroBatch`."""
        hidden = self.decoder.model(tokens, packing)
        head = self.decoder.lm_head.weight
        # The z-loss keeps the softmax's denominator near 1 (PaLM, arXiv 2204.02311).
        total, losses, z_loss = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, 1), head, labels.flatten(), self._z_loss, self._loss_and_grad
        )
        pair = hidden.new_zeros((), dtype=torch.float32)
        if partners is not None:
            pair = self._pair_weight * partner_loss(self.decoder.lm_head, hidden, partners)
        return Losses(total + pair, losses.view_as(labels).sum(dim=1), torch.stack([z_loss, pair.detach()]))

    def token_losses(self, part: MicroBatch) -> Tensor:
        """Return the cross-entropy of each label alone, fp32 [B, L] in nats, 0 where it is -100; a window at a time."""
        rows = zip(self.decoder.model(part.tokens, part.packing), part.labels, strict=True)
        return torch.stack([token_losses(self.decoder.lm_head(hidden), labels) for hidden, labels in rows])


def partner_loss(head: nn.Module, hidden: Tensor, partners: Tensor) -> Tensor:
    """Return the sum over pairs of KL(next token after the clean word || after its noisy twin), in nats; fp32 [].

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


LossAndGrad = Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor, Tensor]]


def loss_and_grad(logits: Tensor, labels: Tensor, z_loss: float, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's cross-entropy (fp32 [N]), the sum of squared log-denominators (fp32 []), and the gradient.

    logits [N, V or more]: columns from `vocabulary` on are padding; labels int64 [N], -100 where there is no loss.
    The gradient is that of cross-entropy plus z-loss, in the logits' shape and dtype. May overwrite `logits`.
    """
    trained, chosen = labels >= 0, labels.clamp(min=0)[:, None]
    values = logits.float()
    if logits.shape[1] > vocabulary:
        columns = torch.arange(logits.shape[1], device=logits.device)
        values = values.masked_fill(columns >= vocabulary, -torch.inf)
    denominators = values.logsumexp(dim=-1)
    losses = (denominators - values.gather(1, chosen)[:, 0]) * trained
    squares = (denominators * trained).square().sum()
    # d(denominator)/d(logits) is the softmax; minus 1 at the label.
    factors = ((1 + 2 * z_loss * denominators) * trained)[:, None]
    if logits.is_cuda:  # this form compiles into one pass
        columns = torch.arange(logits.shape[1], device=logits.device)
        grad_logits = (values - denominators[:, None]).exp() * factors - (columns == chosen) * trained.float()[:, None]
        return losses, squares, grad_logits.to(logits.dtype)
    grad_logits = values.sub_(denominators[:, None]).exp_()
    grad_logits *= factors
    grad_logits.scatter_add_(1, chosen, -trained.float()[:, None])
    return losses, squares, grad_logits.to(logits.dtype)


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy plus z-loss of `hidden @ weight.T`, with the gradients of both computed in forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, loss_and_grad: LossAndGrad
    ) -> tuple[Tensor, ...]:
        """Return the total (fp32 []), each row's cross-entropy (fp32 [N]) and the z-loss (fp32 []).

        hidden [N, H]; weight [V, H]; labels int64 [N], -100 where there is no loss. Under autocast the matmuls are
        in its dtype, as `hidden` is; the softmax is always fp32.
        """
        head, rows = weight.to(hidden.dtype), max(1, CACHED_LOGITS // len(weight))
        if hidden.is_cuda:
            head, rows = F.pad(head, (0, 0, 0, -len(weight) % GPU_COLUMNS)), GPU_ROWS
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        losses = hidden.new_zeros(len(labels), dtype=torch.float32)
        z_sum = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            losses[part], squares, grad_logits = loss_and_grad(hidden[part] @ head.T, labels[part], z_loss, len(weight))
            z_sum += squares
            torch.mm(grad_logits, head, out=grad_hidden[part])
            grad_weight += grad_logits.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight[: len(weight)].to(weight.dtype))
        z_term = z_loss * z_sum
        ctx.mark_non_differentiable(losses, z_term)
        return losses.sum() + z_term, losses, z_term

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients from forward; only the total carries one."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_outputs[0], grad_weight * grad_outputs[0], None, None, None
