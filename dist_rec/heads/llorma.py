"""LLORMA: Lee et al. 2013, "Local Low-Rank Matrix Approximation"; trained jointly as in Lee et al. 2016 (section 5.2).

A rating is a weighted mean of local models. Each has an anchor, a user and an item, and its weight w_t is the product
of two kernels: of the angles between the factors of the rating's user and item and those of the anchor. Factors and
anchors come from a matrix factorisation that was trained before (`pretrained.runs` = a run of head `mf` without
biases); without one all weights are 1.

Departures:
- A local model is the global one plus a low-rank product p_t·q_t, and the global model has weight 1 everywhere; in the
  papers a local model has no global part, and the global model is the prediction where no anchor is near.
- The factors are trained further, and angles are those between the current factors and the anchors, which stay fixed;
  the papers' distances are fixed before the local models are trained.
- The kernel of an angle d is max(0, 1 - (d/h)²), which is continuous at the bandwidth h; Lee et al. 2013 have
  (1 - d²) 1[d ≤ h], which is not.

Shapes: B rows, F = 2 features (user and item), A anchors, G global factors, L local factors.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.core.table_name import TableName
from dist_rec.nn.fields import id_features

PAIR = ("user", "item")


class LLORMA(head.Head):
    """Local factorisations around anchors."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(64, gt=0)
        """Factors of the global matrix factorisation, between which angles are measured, G."""
        anchors: int = Field(30, gt=0)
        """Number of local models, A."""
        rank: int = Field(10, gt=0)
        """Factors of a user or an item in each local model, L."""
        bandwidth: float = Field(0.8, gt=0)
        """Angle in radians at and above which a local model has weight 0, h."""

    anchors_FAG: Tensor

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """Global factors, under the name that head `mf` gives them, and local factors."""
        pair = id_features(manifest, PAIR)
        return head.Lookup("factors", pair, config.dim), head.Lookup("local", pair, config.anchors * config.rank)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        self.tables = [(str(TableName("factors", manifest.table_of(name))), manifest.rows_of(name)) for name in PAIR]
        self.register_buffer("anchors_FAG", torch.zeros(len(PAIR), config.anchors, config.dim))

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Ratings, [B]."""
        factors_BFG = inputs.pooled["factors"]
        local_BA = inputs.pooled["local"].prod(1).unflatten(1, (self.config.anchors, -1)).sum(2)
        weight_BA = self._kernel(factors_BFG.detach())
        return factors_BFG.prod(1).sum(1) + (weight_BA * local_BA).sum(1) / (1 + weight_BA.sum(1))

    def _kernel(self, factors_BFG: Tensor) -> Tensor:
        """w of each row and anchor, [B, A]; never in bf16, which does not resolve small angles."""
        with torch.autocast(factors_BFG.device.type, enabled=False):
            unit_FBG = functional.normalize(factors_BFG.to(self.anchors_FAG.dtype).transpose(0, 1), dim=2)
            cosine_FBA = unit_FBG @ self.anchors_FAG.transpose(1, 2)
        scaled_FBA = cosine_FBA.clamp(-1, 1).acos() / self.config.bandwidth
        known = self.anchors_FAG.any()
        return torch.where(known, (1 - scaled_FBA.square()).clamp(min=0).prod(0), 1.0)

    def adopt(self, pretrained: list[dict[str, Tensor]], rows: head.TableRows) -> None:
        """See `Head.adopt`; draws the anchors, small ids more often since these have the most ratings."""
        if any("mean" in state for state in pretrained):
            raise UserError("head 'llorma' takes factors without biases; train the run of `mf` with head.biases=false")
        super().adopt(pretrained, rows)
        generator = torch.Generator().manual_seed(0)
        for own_AG, (table, count) in zip(self.anchors_FAG, self.tables, strict=True):
            drawn_A = torch.rand(len(own_AG), generator=generator).square() * (count - 1)
            own_AG.copy_(functional.normalize(rows(table, 1 + drawn_A.long()), dim=1))
