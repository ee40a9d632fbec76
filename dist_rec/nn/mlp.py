"""Multi-layer perceptrons. Shapes: B rows, I and O columns."""

from torch import Tensor, nn

from dist_rec.nn.dropout import ReLUDropout
from dist_rec.nn.fields import FactoredFields
from dist_rec.nn.norm import BatchNorm


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: [B, I] → [B, O].

    Args:
        inputs: I, columns of the input.
        sizes: columns of each layer's output; the last one is O.
        dropout: dropout probability of the hidden units; one for all layers, or one for each hidden layer.
        batch_norm: whether each hidden layer is normalised before its ReLU.
        last_linear: whether the last layer has no normalisation, ReLU and dropout.
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

    def of_fields(self, fields: FactoredFields) -> Tensor:
        """Output for the concatenated fields, [B, O]."""
        first, *rest = self
        assert isinstance(first, nn.Linear)
        x_BO = fields.linear(first)
        for layer in rest:
            x_BO = layer(x_BO)
        return x_BO
