"""AdamW that touches only the rows it is given: inactive rows keep value and momentum bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RowwiseAdamW:
    """AdamW (Loshchilov and Hutter 2019) with one step count a row, so that a row's first step is bias-corrected
    as if the optimiser had just begun, whenever it comes.

    parameters: named tensors (rows, …), changed in place. Dense AdamW moves rows without gradient by their momentum.
    """

    def __init__(self, parameters: Mapping[str, Tensor], betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        self.parameters = dict(parameters)
        self.betas, self.weight_decay, self.eps = betas, weight_decay, eps
        self.mean = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.square = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = {
            name: torch.zeros(p.shape[0], dtype=torch.int32, device=p.device) for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, name: str, rows: Int[Tensor, "n"] | None, grad: Float[Tensor, "n *k"], lr: float) -> None:
        """One step of the named parameter's rows (all of them where rows is None) with grad, a row each."""
        state = (self.parameters[name], self.mean[name], self.square[name], self.steps[name])
        value, mean, square, steps = state if rows is None else [tensor.index_select(0, rows) for tensor in state]
        beta1, beta2 = self.betas
        steps += 1
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        shape = (-1,) + (1,) * (value.ndim - 1)
        correction1 = (1 - beta1 ** steps.to(value.dtype)).view(shape)
        correction2 = (1 - beta2 ** steps.to(value.dtype)).view(shape)
        if self.weight_decay:
            value.mul_(1 - lr * self.weight_decay)
        denominator = (square / correction2).sqrt_().add_(self.eps)
        value.sub_((mean / correction1).div_(denominator), alpha=lr)
        if rows is not None:
            for whole, part in zip(state, (value, mean, square, steps), strict=True):
                whole.index_copy_(0, rows, part)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"mean": dict(self.mean), "square": dict(self.square), "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for kind, own in (("mean", self.mean), ("square", self.square), ("steps", self.steps)):
            for name, tensor in own.items():
                tensor.copy_(state[kind][name])
