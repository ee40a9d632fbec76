"""Batch normalisation over the global batch.

Shapes: B rows of this process, C columns.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core.collective import alone, sum_over_processes


class BatchNorm(nn.Module):
    """Ioffe and Szegedy 2015, algorithm 1, with statistics over all processes; on one process PyTorch's operator.

    Two small sums over processes a step make the result independent of the assignment of rows to processes and keep
    the running statistics equal on all of them. A process may have no rows. With fewer than two rows in all there is no
    variance, and the running statistics are used.

    Args:
        columns: C.
        momentum: weight of a batch in the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, columns: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(columns))
        self.bias = nn.Parameter(torch.zeros(columns))
        self.register_buffer("running_mean", torch.zeros(columns))
        self.register_buffer("running_var", torch.ones(columns))
        self.momentum, self.eps = momentum, eps

    def forward(self, x_BC: Tensor) -> Tensor:
        """[B, C] → [B, C] of the same type, computed in the type of the parameters."""
        with torch.autocast(x_BC.device.type, enabled=False):
            x = x_BC.to(self.weight.dtype)
            if not self.training or (alone() and len(x) > 1):
                running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
                y = functional.batch_norm(x, *running, *affine, self.training, self.momentum, self.eps)
                return y.to(x_BC.dtype)
            mean, var = self._statistics(x)
            scale = self.weight * (var + self.eps).rsqrt()
            return torch.addcmul(self.bias - mean * scale, x, scale).to(x_BC.dtype)

    def _statistics(self, x_BC: Tensor) -> tuple[Tensor, Tensor]:
        sums = sum_over_processes(torch.cat([x_BC.sum(0), x_BC.new_full((1,), x_BC.shape[0])]))
        rows = sums[-1].detach()
        enough, at_least_one = rows >= 2, rows.clamp(min=1)
        mean = torch.where(enough, sums[:-1] / at_least_one, self.running_mean)
        # A second sum, of squares about the mean: E[x²] - E[x]² cancels where the mean is large.
        squares = sum_over_processes((x_BC - mean).square().sum(0))
        var = torch.where(enough, squares / at_least_one, self.running_var)
        with torch.no_grad():
            momentum = self.momentum * enough
            unbiased = var * (rows / (rows - 1).clamp(min=1))
            self.running_mean += momentum * (mean - self.running_mean)
            self.running_var += momentum * (unbiased - self.running_var)
        return mean, var
