"""What training minimises: cross-entropy of the next tokens, a z-loss, and the pair loss of typo sources.

Invariant: the gradients are those of the plain formulas (tests/training/test_objective.py), though the logits are
never there all at once: they are worked out some rows at a time, and their gradient with them, while they are still
in the cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keylm.attention import Packing
from keylm.evaluation.validation import token_losses
from keylm.model import Decoder
from keylm.training.feeding import MicroBatch
from keylm.training.future import Future

CACHED_LOGITS = 1 << 19
"""Logits worked out at once on a CPU: 2 MiB in fp32, a core's own cache."""
GPU_ROWS = 1 << 13
"""Rows worked out at once on a GPU: 0.2 GB of logits in 16 bits with 12,020 tokens."""
GPU_COLUMNS = 128
"""On a GPU the head's rows are filled up to a multiple of this: 12,020 columns would keep products off fast kernels."""


class Losses(NamedTuple):
    """The sums over a micro-batch of B windows; all but the total are detached."""

    total: Tensor
    """fp32 []: what backward starts from"""
    windows: Tensor
    """fp32 [B]: cross-entropy of each window, in nats"""
    others: Tensor
    """fp32 [3]: z-loss, weighted pair loss, weighted loss of the second prediction"""


class Objective(nn.Module):
    """A decoder with its losses; shapes: B windows, L tokens."""

    def __init__(
        self, decoder: Decoder, z_loss: float, pair_weight: float, future: Future | None = None, future_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.decoder, self._z_loss, self._pair_weight = decoder, z_loss, pair_weight
        self.future, self._future_weight = future, future_weight
        self._slopes = slopes

    def compile_parts(self, *, apart: bool = False) -> None:
        """Compile the layers, some together or each `apart`, and the softmax."""
        self.decoder.model.compile_layers(apart=apart)
        self._slopes = torch.compile(slopes, dynamic=False)

    def forward(self, tokens: Tensor, labels: Tensor, packing: Packing, partners: Tensor | None) -> Losses:
        """Return the losses of a micro-batch; the arguments are those of `MicroBatch`."""
        hidden = self.decoder.model(tokens, packing)
        head = self.decoder.lm_head.weight
        # The z-loss keeps the softmax's denominator near 1 (PaLM, arXiv 2204.02311).
        total, losses, z_loss = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, 1), head, labels.flatten(), self._z_loss, self._slopes
        )
        pair = hidden.new_zeros((), dtype=torch.float32)
        if partners is not None:
            pair = self._pair_weight * partner_loss(self.decoder.lm_head, hidden, partners)
        future = hidden.new_zeros((), dtype=torch.float32)
        if self.future is not None:
            future = self._future_weight * self._future_loss(self.future, hidden, labels)
        others = torch.stack([z_loss, pair.detach(), future.detach()])
        return Losses(total + pair + future, losses.view_as(labels).sum(dim=1), others)

    def _future_loss(self, future: Future, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the tokens after the next ones, where both are learnt, in nats; fp32 []."""
        after = F.pad(labels[:, 1:], (0, 1), value=-100).masked_fill(labels < 0, -100)
        following = self.decoder.model.embed_tokens(labels.clamp(min=0)).to(hidden.dtype)
        state = future(hidden, following)
        total, _, _ = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            state.flatten(0, 1), self.decoder.lm_head.weight, after.flatten(), 0.0, self._slopes
        )
        return total

    def token_losses(self, part: MicroBatch) -> Tensor:
        """Return the cross-entropy of each label alone, fp32 [B, L] in nats, 0 where it is -100; a window at a time."""
        rows = zip(self.decoder.model(part.tokens, part.packing), part.labels, strict=True)
        return torch.stack([token_losses(self.decoder.lm_head(hidden), labels) for hidden, labels in rows])


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


Slopes = Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor, Tensor]]


def slopes(logits: Tensor, labels: Tensor, z_loss: float, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's cross-entropy (fp32 [N]), the sum of squared log-denominators (fp32 []), and the slope of both.

    logits [N, V or more]: columns from `vocabulary` on are no tokens; labels int64 [N], -100 where no loss is taken.
    The slope is that of cross-entropy plus z-loss, in the logits' shape and dtype. May overwrite `logits`.
    """
    trained, chosen = labels >= 0, labels.clamp(min=0)[:, None]
    values = logits.float()
    if logits.shape[1] > vocabulary:
        columns = torch.arange(logits.shape[1], device=logits.device)
        values = values.masked_fill(columns >= vocabulary, -torch.inf)
    denominators = values.logsumexp(dim=-1)
    losses = (denominators - values.gather(1, chosen)[:, 0]) * trained
    squares = (denominators * trained).square().sum()
    # d(denominator)/d(logits) is the softmax; the chosen logit counts against it.
    factors = ((1 + 2 * z_loss * denominators) * trained)[:, None]
    if logits.is_cuda:  # what compiles into one pass
        columns = torch.arange(logits.shape[1], device=logits.device)
        slope = (values - denominators[:, None]).exp() * factors - (columns == chosen) * trained.float()[:, None]
        return losses, squares, slope.to(logits.dtype)
    slope = values.sub_(denominators[:, None]).exp_()
    slope *= factors
    slope.scatter_add_(1, chosen, -trained.float()[:, None])
    return losses, squares, slope.to(logits.dtype)


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy plus z-loss of `hidden @ weight.T`, with the gradients of both made on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, slopes: Slopes
    ) -> tuple[Tensor, ...]:
        """Return the total (fp32 []), each row's cross-entropy (fp32 [N]) and the z-loss (fp32 []).

        hidden [N, H]; weight [V, H]; labels int64 [N], -100 where no loss is taken. Under autocast the products are
        in its dtype, as `hidden` is; the softmax is fp32 always.
        """
        head, rows = weight.to(hidden.dtype), max(1, CACHED_LOGITS // len(weight))
        if hidden.is_cuda:
            head, rows = F.pad(head, (0, 0, 0, -len(weight) % GPU_COLUMNS)), GPU_ROWS
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        losses = hidden.new_zeros(len(labels), dtype=torch.float32)
        z_sum = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            losses[part], squares, slope = slopes(hidden[part] @ head.T, labels[part], z_loss, len(weight))
            z_sum += squares
            torch.mm(slope, head, out=hidden_gradient[part])
            weight_gradient += slope.T @ hidden[part]
        ctx.save_for_backward(hidden_gradient, weight_gradient[: len(weight)].to(weight.dtype))
        z_term = z_loss * z_sum
        ctx.mark_non_differentiable(losses, z_term)
        return losses.sum() + z_term, losses, z_term

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what forward made; only the total carries a gradient."""
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], weight_gradient * gradients[0], None, None, None
