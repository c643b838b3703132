"""Muon for the matrices of the blocks, AdamW for the rest, as one optimizer.

Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon) takes the Nesterov momentum of a matrix's gradient
and replaces its singular values by about one, through five Newton–Schulz steps. The learning rate is in his
units: an update has spectral norm near 1, times sqrt(max(1, rows/columns)). Matrices of one shape are stacked, for
few batched matmuls; sharded ones are exchanged for the steps (sharding.py).

Orthogonal updates of a matrix that is not square are unequal along its longer side: units of a feed-forward layer
that get little gradient get small updates, and weight decay shrinks them until they are dead (LOG.md).
`normalise_neurons` gives all of them updates of one length, as NorMuon (arXiv:2510.05491) without second moments.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from keylm.base.errors import KeylmError
from keylm.recipe.schema import Optimizer as Settings
from keylm.training.sharding import is_sharded, local, on_whole_matrices

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: steep at zero, so five steps bring singular values from 0.01 up to about 0.7 … 1.2."""


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; `momentum` is set by the caller before each step."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, normalise_neurons: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})
        self._direction = _equal_neurons if normalise_neurons else orthogonalise

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
        """Update parameters of one shape together; of sharded ones, the local rows."""
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [local(self.state[parameter]["momentum"]) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        if is_sharded(parameters[0]):
            updates = on_whole_matrices(self._direction, nesterov, parameters[0])
        else:
            updates = self._direction(nesterov)
        rows, columns = parameters[0].shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        weights = [local(parameter) for parameter in parameters]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(updates.unbind()), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return [n, rows, columns] with singular values near one, in fp32; bf16 inside on a GPU.

    A step is a·X + (b·G + c·G²)·X with G = X·Xᵀ; sums and factors are fused into the matmuls, which saves passes
    over the matrices.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal.float()


def _equal_neurons(matrices: Tensor) -> Tensor:
    """Return `orthogonalise` of [n, rows, columns] with vectors of one length along the longer side, in fp32.

    They are as long as they would be if the others, which are orthonormal, were spread evenly over them. One that is
    shorter than a ten-thousandth of that is left shorter: it has no direction to speak of.
    """
    orthogonal = orthogonalise(matrices)
    rows, columns = orthogonal.shape[-2:]
    length = (min(rows, columns) / max(rows, columns)) ** 0.5
    norms = orthogonal.norm(dim=-1 if rows >= columns else -2, keepdim=True)
    equal: Tensor = orthogonal * (length / norms.clamp(min=1e-4 * length))
    return equal


class Optimizers:
    """Muon and AdamW over one model; state is saved and loaded by parameter name."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self._settings = settings
        self._parameters = dict(model.named_parameters())
        kinds: dict[str, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self._parameters.items():
            kinds[_kind(name, parameter)].append(parameter)
        rate, decay = settings.muon_learning_rate, settings.muon_weight_decay
        self.muon = Muon(kinds.pop("matrix"), rate, decay, settings.muon_normalise_neurons)
        # One launch for all parameters of a group; its step count is then on the GPU.
        self._fused = all(parameter.is_cuda for parameter in self._parameters.values())
        self.adamw = torch.optim.AdamW(
            [{"params": parameters, **_adamw(kind, settings)} for kind, parameters in kinds.items()],
            eps=settings.adam_eps,
            fused=True if self._fused else None,
        )
        self._all: dict[str, torch.optim.Optimizer] = {"muon": self.muon, "adamw": self.adamw}
        self._means: dict[str, Tensor] = {}
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

    @torch.no_grad()
    def average(self, rate: float | None, *, ends: bool) -> None:
        """Move the mean of the weights towards them by `rate`; None: there is none. If `ends`, it becomes the weights.

        The first call starts it from the weights. A mean over the decay is better than its last weights (LOG.md), as
        for the tail of stochastic gradient descent (Polyak & Juditsky, SIAM J. Control Optim. 30, 1992).
        """
        if rate is None:
            return
        weights = [local(parameter) for parameter in self._parameters.values()]
        if not self._means:
            self._means = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        means = [local(self._means[name]) for name in self._parameters]
        torch._foreach_lerp_(means, weights, rate)
        if ends:
            torch._foreach_copy_(weights, means)
            self._means = {}

    def skip(self) -> None:
        """Forget the gradients of a step that trained nothing."""
        for optimizer in self._all.values():
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the whole state as `optimizer/value/parameter` → tensor."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._parameters.items()}
        moments = {
            f"{kind}/{key}/{names[parameter]}": value
            for kind, optimizer in self._all.items()
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }
        return moments | {f"average/mean/{name}": mean for name, mean in self._means.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave. Raises KeylmError where a parameter is not this model's."""
        for path, value in tensors.items():
            kind, key, name = path.split("/", 2)
            if kind not in (*self._all, "average") or name not in self._parameters:
                raise KeylmError(f"optimizer state {path!r} does not belong to this model; accepted: the same recipe")
            parameter = self._parameters[name]
            if kind == "average":
                self._means[name] = value.to(parameter.device).clone()
                continue
            # Plain AdamW counts its steps on the CPU, the fused one where the parameter is.
            device = torch.device("cpu") if key == "step" and not self._fused else parameter.device
            self._all[kind].state[parameter][key] = value.to(device).clone()

    def blank_state(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors for the state of these `names` to be read into, laid out (and sharded) as this model's."""
        blank = {}
        for path in names:
            _, key, name = path.split("/", 2)
            if key == "step" or name not in self._parameters:
                blank[path] = torch.zeros(())
            else:
                blank[path] = torch.zeros_like(self._parameters[name], requires_grad=False)
        return blank


def _kind(name: str, parameter: Tensor) -> str:
    """Return which of the recipe's learning rates a parameter uses."""
    if name == "model.embed_tokens.weight":
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    return "norm" if parameter.ndim == 1 else "matrix"


def _adamw(kind: str, settings: Settings) -> dict[str, Any]:
    """Return AdamW's settings for parameters of this kind."""
    rates = {
        "embedding": settings.embedding_learning_rate,
        "head": settings.head_learning_rate,
        "norm": settings.norm_learning_rate,
    }
    return {"lr": rates[kind], "betas": settings.adam_betas, "weight_decay": 0.0}
