"""HSTU: Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", section 3.2, as it is compared with other sequential recommenders there (section 4.1.1).

The items of a user go through layers that project each position, let it look at those before it without softmax, and
gate what it finds. What a position becomes is scored against all items, as a prediction of the next one. A row of the
data has as many targets as positions to learn from, or fewer, which follow its last positions.

As in the authors' code and not in the paper, a layer normalises its input, and vectors of positions are added to those
of items. Left out is the attention's bias of time. The loss is the task's (`next_item`).

Shapes: B rows, V items of all histories end to end, Q targets of all rows, D dimension, H heads, K columns of a head's
queries and keys, E of its values.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core.schema import Manifest
from dist_rec.nn.attention import PointwiseAttention
from dist_rec.nn.dropout import Dropout
from dist_rec.nn.histories import HistoryConfig, HistoryHead
from dist_rec.nn.sequences import Sequences


class HSTU(HistoryHead):
    """Layers of sequential transduction over the items of a history."""

    class Config(HistoryConfig):
        """Sizes of the model, how items are scored."""

        layers: int = Field(2, gt=0)
        """Layers of transduction."""
        heads: int = Field(1, gt=0)
        """Heads of attention, H."""
        key: int = Field(50, gt=0)
        """Columns of a head's queries and keys, K."""
        value: int = Field(50, gt=0)
        """Columns of a head's values, E."""
        temperature: float | None = Field(0.05, gt=0)
        """What cosines are divided by to become scores; none: scores are products, of any length."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def encode(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """See `HistoryHead.encode`."""
        for layer in self.layers:
            x_VD = layer(x_VD, sequences)
        return x_VD


class Layer(nn.Module):
    """Projection, attention and gate, with a residual (equations 1 to 3)."""

    def __init__(self, config: HSTU.Config) -> None:
        super().__init__()
        values, keys = config.heads * config.value, config.heads * config.key
        self.norm, self.gate_norm = _norm(config.dim), _norm(values)
        self.project = nn.Linear(config.dim, 2 * (values + keys))
        self.attention = PointwiseAttention(config.longest, config.heads, config.key, config.value)
        self.dropout, self.output = Dropout(config.dropout), nn.Linear(values, config.dim)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        for layer in (self.project, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """[V, D] → [V, D]."""
        projected_VC = functional.silu(self.project(self.norm(x_VD)))
        values = self.output.in_features
        u_VE, vqk_VC = projected_VC.split((values, projected_VC.shape[1] - values), dim=1)
        gated_VE = u_VE * self.gate_norm(self.attention(vqk_VC, sequences))
        return x_VD + self.output(self.dropout(gated_VE, sequences.lengths_B))


def _norm(columns: int) -> nn.LayerNorm:
    return nn.LayerNorm(columns, eps=1e-6, elementwise_affine=False)
