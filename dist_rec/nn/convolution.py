"""Convolutions over a short sequence of vectors: Tang and Wang 2018, "Personalized Top-N Sequential Recommendation via
Convolutional Sequence Embedding" (section 3.2).

The L vectors of a row are an image of L x D. A horizontal filter of height h is as wide as the image and slides over
its L - h + 1 runs of h vectors; a vertical filter is a weighted sum of the L vectors.

A filter in one place is a column of a matrix, zero outside the filter. All filters in all places are one matrix, and
one product with the images computes them. For the authors' sizes these are twice as many multiplications as in a
convolution, but in bfloat16 on one CPU thread forward and backward take a quarter of the time of a product for each
height, and a twentieth of `nn.Conv2d`'s.

Shapes: B rows, L vectors, D dimension, I = L D inputs, N horizontal filters of each height, P places of a filter, K
vertical filters, C columns of the matrix, O = N L + K D outputs.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["relu", "tanh", "sigmoid"]
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class SequenceConvolution(nn.Module):
    """Horizontal filters of the heights 1 to L with their maximum over all places, and vertical filters.

    Args:
        length: L.
        dim: D.
        horizontal: number of horizontal filters of each height, N.
        vertical: number of vertical filters, K.
        activation: of the horizontal filters. It never falls, so the maximum is taken before it.
    """

    def __init__(self, length: int, dim: int, horizontal: int, vertical: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.dim, self.filters, self.activation = dim, horizontal, ACTIVATIONS[activation]
        # Linear layers start from the same distributions as `nn.Conv2d`.
        self.horizontal = nn.ModuleList(nn.Linear(height * dim, horizontal) for height in range(1, length + 1))
        self.vertical = nn.Linear(length, vertical)
        self.outputs = horizontal * length + vertical * dim

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, L D], vector after vector → [B, O]: the horizontal filters by height, then each vertical one."""
        places = range(len(self.horizontal), 0, -1)
        columns = [*(count * self.filters for count in places), self.vertical.out_features * self.dim]
        *of_heights, of_length, vertical = functional.linear(x_BI, *self._matrix(x_BI.shape[1])).split(columns, dim=1)
        # Filters of height L have one place. The gradient of `amax` would take twice as long.
        largest = [x_BC.unflatten(1, (-1, self.filters)).max(1).values for x_BC in of_heights]
        return torch.cat([self.activation(torch.cat([*largest, of_length], dim=1)), vertical], dim=1)

    def _matrix(self, inputs: int) -> tuple[Tensor, Tensor]:
        """Weights [C, I] and biases [C] of all filters in all places."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for layer in self.horizontal:
            assert isinstance(layer, nn.Linear)
            starts = range(0, inputs - layer.in_features + 1, self.dim)
            weights += [functional.pad(layer.weight, (start, starts[-1] - start)) for start in starts]
            biases += [layer.bias] * len(starts)
        eye_DD = torch.eye(self.dim, dtype=self.vertical.weight.dtype, device=self.vertical.weight.device)
        weights.append(torch.kron(self.vertical.weight, eye_DD))
        biases.append(self.vertical.bias.repeat_interleave(self.dim))
        return torch.cat(weights), torch.cat(biases)
