"""NeuMF: He et al. 2017, "Neural Collaborative Filtering" (equations 7 to 13).

GMF is a weighted inner product of user and item, the MLP reads their concatenation, and NeuMF has one output layer on
both; each part has embeddings of its own. `parts` = "gmf" or "mlp" leaves one part.
"""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import id_features
from dist_rec.nn.mlp import MLP


class NeuMF(head.Head):
    """GMF and an MLP on the embeddings of a user and an item."""

    class Config(config.Config):
        """Sizes of the model."""

        parts: Literal["both", "gmf", "mlp"] = "both"
        """Parts of the model."""
        factors: int = Field(32, gt=0)
        """Dimension of GMF, the paper's predictive factors."""
        hidden: tuple[PositiveInt, ...] = Field((128, 64, 32), min_length=1)
        """Hidden layers of the MLP; its embeddings of a user and of an item are as wide as the first."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the hidden units."""
        tradeoff: float = Field(0.5, ge=0, le=1)
        """α of equation 13: weight of a pre-trained GMF's last layer; that of the MLP has weight 1 - α."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """A vector of the user and of the item for each part."""
        pair = id_features(manifest, ("user", "item"))
        gmf = head.Lookup("gmf", pair, config.factors)
        mlp = head.Lookup("mlp", pair, config.hidden[0])
        return {"both": (gmf, mlp), "gmf": (gmf,), "mlp": (mlp,)}[config.parts]

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.deep = None
        if config.parts != "gmf":
            self.deep = MLP(2 * config.hidden[0], config.hidden, dropout=config.dropout, last_linear=False)
        products = config.factors if config.parts != "mlp" else 0
        self.parts, self.tradeoff = config.parts, config.tradeoff
        self.last = nn.Linear(products + (self.deep.outputs if self.deep else 0), 1)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        factors = []
        if "gmf" in inputs.pooled:
            factors.append(inputs.pooled["gmf"].prod(1))
        if self.deep is not None:
            factors.append(self.deep(inputs.pooled["mlp"].flatten(1)))
        return self.last(torch.cat(factors, dim=1)).squeeze(1)

    def adopt(self, pretrained: list[dict[str, Tensor]], rows: head.TableRows) -> None:
        """See `Head.adopt`; the last layers of a GMF and an MLP are joined by equation 13."""
        if len(pretrained) != 2:
            return super().adopt(pretrained, rows)
        self._check_parts(pretrained)
        pretrained = sorted(pretrained, key=_is_mlp)
        inner = [{name: state[name] for name in state if not name.startswith("last.")} for state in pretrained]
        super().adopt(inner, rows)
        parts = zip((self.tradeoff, 1 - self.tradeoff), pretrained, strict=True)
        scaled = [(share * state["last.weight"], share * state["last.bias"]) for share, state in parts]
        with torch.no_grad():
            self.last.weight.copy_(torch.cat([weight for weight, _ in scaled], dim=1))
            self.last.bias.copy_(torch.stack([bias for _, bias in scaled]).sum(0))

    def _check_parts(self, pretrained: list[dict[str, Tensor]]) -> None:
        if self.parts != "both" or sorted(map(_is_mlp, pretrained)) != [False, True]:
            raise UserError(
                'two pretrained.runs need head.parts="both"; give one run of head.parts="gmf" and one of "mlp"'
            )
        inputs = sum(state["last.weight"].shape[1] for state in pretrained)
        if inputs != self.last.in_features or {*pretrained[0], *pretrained[1]} != {*self.state_dict()}:
            raise UserError(
                "the parameters of the pre-trained GMF and MLP do not fit this head; give all three the same "
                "head.factors and head.hidden"
            )


def _is_mlp(state: dict[str, Tensor]) -> bool:
    """Whether a head's parameters are those of an MLP; a GMF has no hidden layers."""
    return any(name.startswith("deep.") for name in state)
