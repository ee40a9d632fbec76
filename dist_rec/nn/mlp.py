"""Multi-layer perceptrons. Shapes: B rows, I and O columns."""

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        inputs: I, columns of the input.
        sizes: columns of each layer's output; the last one is O.
        dropout: probability of dropping a hidden unit.
        batch_norm: normalise each hidden layer before its ReLU.
        last_linear: True leaves the last layer without normalisation, ReLU and dropout.

    Maps [B, I] to [B, O].
    """

    def __init__(
        self, inputs: int, sizes: tuple[int, ...], *, dropout: float = 0.0, batch_norm: bool = False, last_linear: bool
    ) -> None:
        layers: list[nn.Module] = []
        for number, size in enumerate(sizes, 1):
            layers.append(nn.Linear(inputs, size))
            inputs = size
            if last_linear and number == len(sizes):
                break
            if batch_norm:
                layers.append(nn.BatchNorm1d(size))
            layers.append(nn.ReLU(inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.outputs = inputs

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] → [B, O]."""
        return super().forward(x_BI)
