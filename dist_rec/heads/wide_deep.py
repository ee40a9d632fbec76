"""Wide & Deep: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems" (equations 1 to 3).

The wide part is a linear model of id features, among them the crosses that the data was prepared with; the deep part an
MLP on embeddings and dense features. The paper trains the wide part with FTRL: `[embedding.lookups.wide]`. Without
crosses this is "LR & DNN" of the DeepFM paper.
"""

from pydantic import Field
from torch import Tensor

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import Fields, id_features
from dist_rec.nn.mlp import MLP


class WideDeep(head.Head):
    """A linear model plus an MLP."""

    class Config(config.Config):
        """Features and sizes of the model."""

        wide: tuple[str, ...] = ()
        """Id features of the wide part; empty takes all."""
        deep: tuple[str, ...] = ()
        """Id features of the deep part; empty takes all. It has the dense features, too."""
        dim: int = Field(16, gt=0)
        """Embedding dimension of the deep part, D."""
        hidden: tuple[int, ...] = (400, 400, 400)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Of the hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """A weight for each id of the wide part, a vector for each of the deep part."""
        return (
            head.Lookup("wide", id_features(manifest, config.wide), 1),
            head.Lookup("deep", id_features(manifest, config.deep), config.dim),
        )

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.fields = Fields(manifest, len(id_features(manifest, config.deep)), config.dim)
        inputs = self.fields.count * config.dim
        self.deep = MLP(inputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = self.fields(inputs.dense, inputs.pooled["deep"])
        return inputs.pooled["wide"].sum((1, 2)) + self.deep(x_BFD.flatten(1)).squeeze(1)
