"""AutoInt: Song et al. 2019, "Automatic Feature Interaction Learning via Self-Attentive Neural Networks" (eq. 5 to 9).

With hidden layers it is AutoInt+, which adds the score of an MLP (section 5.5 of the paper).
"""

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.mlp import MLP


class Interaction(nn.Module):
    """Multi-head self-attention between fields, with a linear shortcut and ReLU; its dot products are not scaled.

    Maps [B, F, I] to [B, F, heads * width].
    """

    def __init__(self, inputs: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        # Queries, keys, values and shortcut are one matrix product.
        self.project = nn.Linear(inputs, 4 * heads * width, bias=False)

    def forward(self, x_BFI: Tensor) -> Tensor:
        """[B, F, I] → [B, F, heads * width]."""
        q_BHFW, k_BHFW, v_BHFW, shortcut_BHFW = (
            self.project(x_BFI).unflatten(2, (4, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        # Plain products: PyTorch's fused attention is several times slower on CPUs for so few and short vectors.
        weights_BHFF = (q_BHFW @ k_BHFW.transpose(2, 3)).softmax(3, dtype=q_BHFW.dtype)
        return (weights_BHFF @ v_BHFW + shortcut_BHFW).relu().transpose(1, 2).flatten(2)


class AutoInt(FieldsHead):
    """Self-attention between fields, and an MLP."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        layers: int = Field(3, gt=0)
        """Number of attention layers."""
        heads: int = Field(2, gt=0)
        """Attention heads of a layer."""
        width: int = Field(16, gt=0)
        """Dimension of a head."""
        hidden: tuple[PositiveInt, ...] = ()
        """Hidden layers of the MLP; without any there is no MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the MLP's hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        fields, width = self.fields.count, config.heads * config.width
        sizes = (config.dim, *[width] * (config.layers - 1))
        self.interactions = nn.Sequential(*[Interaction(size, config.heads, config.width) for size in sizes])
        self.last = nn.Linear(fields * width, 1)
        mlp = (*config.hidden, 1)
        self.deep = MLP(fields * config.dim, mlp, dropout=config.dropout, last_linear=True) if config.hidden else None

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = self.fields(inputs.dense, inputs.pooled["factors"])
        score_B1 = self.last(self.interactions(x_BFD).flatten(1))
        if self.deep is not None:
            score_B1 = score_B1 + self.deep(x_BFD.flatten(1))
        return score_B1.squeeze(1)
