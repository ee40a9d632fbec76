"""Multi-layer perceptrons. Shapes: B rows, I and O columns."""

from torch import Tensor, nn

from dist_rec.nn.dropout import ReLUDropout
from dist_rec.nn.fields import FactoredFields
from dist_rec.nn.norm import BatchNorm


class MLP(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        inputs: I, columns of the input.
        sizes: columns of each layer's output; the last one is O.
        dropout: probability of dropping a hidden unit; one for all layers, or one for each hidden layer.
        batch_norm: normalise each hidden layer before its ReLU.
        last_linear: True leaves the last layer without normalisation, ReLU and dropout.

    Maps [B, I] to [B, O].
    """

    def __init__(
        self,
        inputs: int,
        sizes: tuple[int, ...],
        *,
        dropout: float | tuple[float, ...] = 0.0,
        batch_norm: bool = False,
        last_linear: bool,
    ) -> None:
        dropouts = dropout if isinstance(dropout, tuple) else (dropout,) * len(sizes)
        layers: list[nn.Module] = []
        for number, size in enumerate(sizes, 1):
            layers.append(nn.Linear(inputs, size))
            inputs = size
            if last_linear and number == len(sizes):
                break
            if batch_norm:
                layers.append(BatchNorm(size))
            p = dropouts[number - 1]
            layers.append(ReLUDropout(p) if p else nn.ReLU(inplace=True))
        super().__init__(*layers)
        self.outputs = inputs

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] → [B, O]."""
        return super().forward(x_BI)

    def of_fields(self, fields: FactoredFields) -> Tensor:
        """[B, O], of all fields end to end."""
        first, *rest = self
        assert isinstance(first, nn.Linear)
        x_BO = fields.linear(first)
        for layer in rest:
            x_BO = layer(x_BO)
        return x_BO
