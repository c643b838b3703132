"""Muon for the matrices of the blocks, AdamW for embedding, head and norms, as one optimizer.

Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon) takes the Nesterov momentum of a matrix's gradient
and replaces its singular values by about one, through five Newton–Schulz steps. The learning rate is in his
units: an update has spectral norm near 1, times sqrt(max(1, rows/columns)). Matrices of the same shape are
stacked, so that the steps are a few batched products instead of a loop over every matrix.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from keylm.errors import KeylmError
from keylm.recipe_sections import Optimizer as Settings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: steep at zero, so five steps bring singular values from 0.01 up to about 0.7 … 1.2."""


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; `momentum` is set by the caller before each step."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures here
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape together."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = orthogonalise(torch.stack(nesterov))
        rows, columns = parameters[0].shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return [n, rows, columns] with singular values near one, in fp32; bf16 inside on a GPU."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal.float()


class Optimizers:
    """Muon and AdamW over one model; state goes in and out by parameter name."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self._settings = settings
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        matrices, groups = [], defaultdict(list)
        for name, parameter in model.named_parameters():
            if name == "model.embed_tokens.weight":
                groups[settings.embedding_learning_rate].append(parameter)
            elif name == "lm_head.weight":
                groups[settings.head_learning_rate].append(parameter)
            elif parameter.ndim == 1:
                groups[settings.norm_learning_rate].append(parameter)
            else:
                matrices.append(parameter)
        self.muon = Muon(matrices, settings.muon_learning_rate, settings.muon_weight_decay)
        self.adamw = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            betas=settings.adam_betas,
            eps=settings.adam_eps,
            weight_decay=0.0,
        )
        self._all = {"muon": self.muon, "adamw": self.adamw}
        self._base_rates = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in self._all.items()
        }

    def step(self, step: int, multiplier: float) -> None:
        """Apply the gradients of `step` with all learning rates times `multiplier`, and clear them."""
        ramp = min(1.0, step / max(1, self._settings.muon_momentum_steps))
        start, end = self._settings.muon_momentum_start, self._settings.muon_momentum
        for group in self.muon.param_groups:
            group["momentum"] = start + (end - start) * ramp
        for name, optimizer in self._all.items():
            for group, rate in zip(optimizer.param_groups, self._base_rates[name], strict=True):
                group["lr"] = rate * multiplier
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def skip(self) -> None:
        """Forget the gradients of a step that trained nothing."""
        for optimizer in self._all.values():
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the whole state as `optimizer/value/parameter` → tensor."""
        return {
            f"{kind}/{key}/{self._names[parameter]}": value
            for kind, optimizer in self._all.items()
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave. Raises KeylmError where a parameter is not this model's."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        for path, value in tensors.items():
            kind, key, name = path.split("/", 2)
            if kind not in self._all or name not in parameters:
                raise KeylmError(f"optimizer state {path!r} does not belong to this model; accepted: the same recipe")
            parameter = parameters[name]
            # AdamW keeps its step count on the CPU unless it is captured in a CUDA graph.
            device = value.device if key == "step" else parameter.device
            self._all[kind].state[parameter][key] = value.to(device).clone()
