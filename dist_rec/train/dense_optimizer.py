"""The optimizer of the dense parameters: PyTorch's, or with momentum the rules that tables have."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dist_rec.embedding.row_rules import SGD, Adagrad, Momentum
from dist_rec.train.config import OptimizerConfig


def dense_optimizer(config: OptimizerConfig, parameters: list[Tensor]) -> Optimizer:
    """The optimizer of a config."""
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.momentum:
        rule = SGD() if config.name == "sgd" else Adagrad(config.eps)
        return MomentumOptimizer(parameters, Momentum(rule, config.momentum), **settings)
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, eps=config.eps, fused=True, **settings)
        case "adagrad":
            return torch.optim.Adagrad(parameters, eps=config.eps, fused=True, **settings)
        case "sgd":
            return torch.optim.SGD(parameters, fused=True, **settings)


class MomentumOptimizer(Optimizer):
    """Adagrad, which has no momentum in PyTorch, and SGD, whose velocity there is without the learning rate.

    Args:
        parameters: of any shapes.
        rule: what updates them.
        lr: learning rate.
        weight_decay: L2; weight_decay times a parameter is added to its gradient.
    """

    def __init__(self, parameters: list[Tensor], rule: Momentum, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._rule = rule
        for parameter in parameters:
            state = rule.initial_state(parameter.detach())
            self.state[parameter] = dict(zip(rule.state, state, strict=True))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Applies the gradients; a parameter without one stands still."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                    state = [self.state[parameter][name] for name in self._rule.state]
                    self._rule.update(parameter, gradient, state, float(group["lr"]), step=1)  # which it does not read
