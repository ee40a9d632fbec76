"""Mult-VAE and Mult-DAE: Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering" (section 2).

A row of the data has all items of a user, which go through an encoder to a latent vector z, and from there through a
decoder to a score of every item. A variational one learns a distribution of z that is kept close to N(0, 1): loss of
the items under z drawn from it, plus β KL(q(z | items) ‖ N(0, 1)); in evaluation z is its mean. The denoising one has
no distribution. Both leave out part of the items that they see in training. The first layer is the lookup, the last
one the catalog.

Departs from the paper without hidden layers: scores, which would be linear in a drawn z, are linear in tanh(z) then.

Shapes: B rows, D hidden units, L latent dimension.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.noise import noise
from dist_rec.core.schema import Manifest
from dist_rec.embedding.catalog_losses import gaussian, logistic
from dist_rec.embedding.scores import CatalogScores
from dist_rec.nn.fields import id_features


class VAE(head.CatalogHead):
    """Encoder and decoder of tanh layers."""

    class Config(config.Config):
        """Sizes of the model, likelihood of the items."""

        history: str = "history"
        """Weighted bag of the items that are seen."""
        target: str = "target"
        """Items to rebuild; in training the same."""
        likelihood: Literal["multinomial", "gaussian", "logistic"] = "multinomial"
        """Equation 2, 3 or 4."""
        variational: bool = True
        """Whether z is drawn; False is the denoising autoencoder."""
        hidden: tuple[PositiveInt, ...] = (600,)
        """Hidden layers of the encoder; the decoder's are the same in reverse."""
        latent: int = Field(200, gt=0)
        """Dimension of z, L."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Of the items that are seen."""
        beta: float = Field(0.2, ge=0)
        """The most that β becomes."""
        anneal_steps: int = Field(2000, gt=0)
        """Training steps in which β would rise from 0 to 1."""
        confidence: float = Field(1.0, gt=0)
        """Of a user's items, c of the Gaussian likelihood."""
        background: float = Field(0.1, gt=0)
        """Of all other items."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The encoder's first layer, on L2-normalised items."""
        dim, items = _encoder_sizes(config)[0], id_features(manifest, (config.history,))
        return (head.Lookup("encoder", items, dim, pooling="sqrtn", dropout=config.dropout),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The decoder's last layer.

        Raises:
            UserError: for the logistic likelihood of ratings above 1, whose loss has no lower bound.
        """
        highest = manifest.transform.get("labels", {}).get("max", 1.0)
        if config.likelihood == "logistic" and highest > 1:
            raise UserError(
                f'head.likelihood = "logistic" is of items that are there or not, and ratings go up to {highest:g}: '
                "prepare the data with --implicit"
            )
        return head.Catalog("decoder", config.target, _decoder_sizes(config)[-1])

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        encoder, decoder = pairwise(_encoder_sizes(config)), pairwise(_decoder_sizes(config))
        self.bias = nn.Parameter(torch.zeros(_encoder_sizes(config)[0]))
        self.encoder = nn.Sequential(*(layer for sizes in encoder for layer in (nn.Tanh(), nn.Linear(*sizes))))
        bounded = [] if config.variational and config.hidden else [nn.Tanh()]
        self.decoder = nn.Sequential(
            *bounded, *(layer for sizes in decoder for layer in (nn.Linear(*sizes), nn.Tanh()))
        )

    def forward(self, inputs: head.Inputs) -> head.Query:
        """What is scored against the items, [B, D], β KL, [B], and the likelihood of the items."""
        code_BE = self.encoder(inputs.pooled["encoder"].squeeze(1) + self.bias)
        own = {"multinomial": None, "gaussian": self._gaussian, "logistic": logistic}[self.config.likelihood]
        if not self.config.variational:
            return head.Query(self.decoder(code_BE), loss=own)
        mean_BL, log_variance_BL = code_BE.to(self.bias.dtype).chunk(2, dim=1)
        if not self.training:
            return head.Query(self.decoder(mean_BL))
        z_BL = mean_BL + noise.normal_like(mean_BL) * (log_variance_BL / 2).exp()
        beta = min(inputs.step / self.config.anneal_steps, self.config.beta)
        return head.Query(self.decoder(z_BL), beta * kl_from_normal(mean_BL, log_variance_BL), loss=own)

    def _gaussian(self, scores: CatalogScores, targets: head.Ids) -> Tensor:
        return gaussian(scores, targets, self.config.confidence, self.config.background)


def kl_from_normal(mean_BL: Tensor, log_variance_BL: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)), [B]: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", appendix B."""
    return (mean_BL.square() + log_variance_BL.exp() - log_variance_BL - 1).sum(1) / 2


def _encoder_sizes(config: VAE.Config) -> tuple[int, ...]:
    """Columns of the lookup and of each layer after it; the last has mean and log variance of z, or z."""
    return (*config.hidden, config.latent * (1 + config.variational))


def _decoder_sizes(config: VAE.Config) -> tuple[int, ...]:
    """Columns of z and of each layer after it; the catalog scores the last."""
    return (config.latent, *reversed(config.hidden))
