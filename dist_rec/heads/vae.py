"""Mult-VAE and Mult-DAE: Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering" (section 2).

A row of the data has all items of a user. An encoder maps them to a latent vector z, a decoder maps z to a score of
every item; the first layer is the lookup, the last one the catalog. The variational autoencoder draws z from a
distribution q(z | items), and its loss is that of the items plus β KL(q(z | items) ‖ N(0, 1)); in evaluation z is the
mean. The denoising autoencoder computes z itself. In training, dropout leaves out part of the input items.

Departure: without hidden layers scores are linear in tanh(z), in the paper in z.

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
    """An encoder and a decoder of tanh layers."""

    class Config(config.Config):
        """Columns and sizes of the model, likelihood of the items."""

        history: str = "history"
        """Column of the input items, a weighted bag."""
        target: str = "target"
        """Column of the items to predict; in training the input items."""
        likelihood: Literal["multinomial", "gaussian", "logistic"] = "multinomial"
        """Likelihood of the items: equation 2, 3 or 4."""
        variational: bool = True
        """Whether z is drawn from a distribution; false is the denoising autoencoder."""
        hidden: tuple[PositiveInt, ...] = (600,)
        """Hidden layers of the encoder; the decoder has them in reverse order."""
        latent: int = Field(200, gt=0)
        """Dimension of z, L."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Dropout probability of the input items."""
        beta: float = Field(0.2, ge=0)
        """Upper limit of β."""
        anneal_steps: int = Field(2000, gt=0)
        """Training steps in which β would rise from 0 to 1 without its limit."""
        confidence: float = Field(1.0, gt=0)
        """c of the Gaussian likelihood for a user's items."""
        background: float = Field(0.1, gt=0)
        """c of the Gaussian likelihood for all other items."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The encoder's first layer, on L2-normalised items."""
        dim, items = _encoder_sizes(config)[0], id_features(manifest, (config.history,))
        return (head.Lookup("encoder", items, dim, pooling="sqrtn", dropout=config.dropout),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The decoder's last layer.

        Raises:
            UserError: for the logistic likelihood of ratings above 1; its loss would have no lower bound.
        """
        highest = manifest.transform.get("labels", {}).get("max", 1.0)
        if config.likelihood == "logistic" and highest > 1:
            raise UserError(
                f'head.likelihood = "logistic" needs items without ratings, but ratings go up to {highest:g}; prepare '
                "the data with --implicit"
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
        """The decoder's last hidden layer [B, D], β KL [B], and the loss of the items."""
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
    """Columns of the lookup and of each layer after it; the last are mean and log variance of z, or z."""
    return (*config.hidden, config.latent * (1 + config.variational))


def _decoder_sizes(config: VAE.Config) -> tuple[int, ...]:
    """Columns of z and of each layer after it; the last are the catalog's."""
    return (config.latent, *reversed(config.hidden))
