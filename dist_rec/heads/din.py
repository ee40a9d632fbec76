"""DIN: Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction" (equation 3).

Departures: ReLU in place of Dice, difference and element-wise product of item and target in place of their outer
product, no mini-batch aware regularisation. As in the paper, attention weights are not normalised, which keeps the
intensity of an interest.

Shapes: B rows, V items of all histories, D dimension.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import ID_KINDS, Manifest
from dist_rec.nn.fields import Fields
from dist_rec.nn.mlp import MLP


class Attention(nn.Module):
    """Sum over a row's history of a(item, target) * item, where `a` is an MLP."""

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = MLP(4 * dim, (*hidden, 1), last_linear=True)

    def forward(self, target_BD: Tensor, history: head.Sequence) -> Tensor:
        """[B, D]."""
        items_VD = history.values
        row_V = torch.repeat_interleave(history.lengths, output_size=len(items_VD))
        target_VD = target_BD.index_select(0, row_V)
        pairs = torch.cat([items_VD, target_VD, items_VD - target_VD, items_VD * target_VD], dim=1)
        weighted_VD = self.weight(pairs).to(items_VD.dtype) * items_VD
        return torch.zeros_like(target_BD).index_add(0, row_V, weighted_VD)


class DIN(head.Head):
    """An MLP on all features, the target item, and the interest in it, an attention-weighted sum of the history."""

    class Config(config.Config):
        """Features and sizes of the model."""

        target: str
        """Categorical column of the item that may be clicked."""
        history: str
        """Sequence column of the user's former items; it shares the target's table."""
        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        attention: tuple[PositiveInt, ...] = (80, 40)
        """Hidden layers of the attention's MLP."""
        hidden: tuple[PositiveInt, ...] = (200, 80)
        """Hidden layers of the MLP."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the MLP's hidden units."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """Target and history from one table without pooling; the other id features pooled."""
        target, history = manifest.column(config.target), manifest.column(config.history)
        if target.kind != "categorical" or history.kind != "sequence" or target.table != history.table:
            raise UserError(
                f"head 'din' needs a categorical target and a sequence of the same table; {target.name!r} is "
                f"{target.kind} of table {target.table}, {history.name!r} is {history.kind} of table {history.table}"
            )
        items = head.Lookup("items", (target.name, history.name), config.dim, pooling="none")
        others = _others(config, manifest)
        return (items, head.Lookup("factors", others, config.dim)) if others else (items,)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.target, self.history = config.target, config.history
        # Target and interest are two fields beside the other features.
        self.fields = Fields(manifest, len(_others(config, manifest)) + 2, config.dim)
        self.attention = Attention(config.dim, config.attention)
        inputs = self.fields.count * config.dim
        self.deep = MLP(inputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        items = inputs.sequences["items"]
        target_BD = items[self.target].values
        ids = [torch.stack([target_BD, self.attention(target_BD, items[self.history])], dim=1)]
        if "factors" in inputs.pooled:
            ids.append(inputs.pooled["factors"])
        return self.deep(self.fields(inputs.dense, torch.cat(ids, dim=1)).flatten(1)).squeeze(1)


def _others(config: DIN.Config, manifest: Manifest) -> tuple[str, ...]:
    return tuple(name for name in manifest.names(*ID_KINDS) if name not in (config.target, config.history))
