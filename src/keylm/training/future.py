"""A second prediction in training: the token after the next one.

From the final hidden state at a position and the embedding of the token that follows, a small module makes a state from
which the model's own head predicts the token after that (DeepSeek-V3, arXiv 2412.19437, with a feed-forward part alone).
It is no part of the model and is thrown away when training ends.
"""

import torch
from torch import Tensor, nn

from keylm.model import FeedForward, RMSNorm
from keylm.recipe_sections import Model as Shape


class Future(nn.Module):
    """Shapes: B windows, L tokens, H hidden."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.hidden_norm, self.token_norm, self.inner_norm, self.norm = (
            RMSNorm(shape.hidden_size, shape.rms_norm_eps) for _ in range(4)
        )
        self.join = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, following: Tensor) -> Tensor:
        """Return states [B, L, H] from final hidden states and the embeddings of the next tokens, both [B, L, H]."""
        state = self.join(torch.cat((self.hidden_norm(hidden), self.token_norm(following)), dim=-1))
        after: Tensor = self.norm(state + self.mlp(self.inner_norm(state)))
        return after
