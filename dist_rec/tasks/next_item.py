"""Next-item recommendation: which item of the catalog comes next in a session?

Losses compare the target with all rows of the catalog or with samples that all queries of the global batch share: the
other targets of that batch, more by a power of their popularity, or both (Hidasi and Karatzoglou 2018, section 3); and
with negatives of each target's own.

Row 0 of the item table stands for all items that training never saw: it is not ranked, and as a target it comes last.

Shapes: Q queries of this process, V targets of all of them end to end, S samples, N negatives of each target, I items
with row 0.
"""

from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from dist_rec.core.batch import Batch
from dist_rec.core.collective import Gathered, gather_over_processes
from dist_rec.core.head import Ids
from dist_rec.data.counts import load_counts
from dist_rec.data.negatives import Negatives
from dist_rec.data.samples import Samples
from dist_rec.data.shards import Dataset
from dist_rec.embedding import catalog_losses
from dist_rec.embedding.ranking import places
from dist_rec.embedding.scores import LOGSUMEXP, CatalogScores
from dist_rec.tasks import task
from dist_rec.tasks.implicit import USER
from dist_rec.tasks.ranking_metrics import RankingConfig, RankingMetrics
from dist_rec.tasks.top_n import and_row_0, evidence_of, row_of

# Of an item that training never saw, which is never sampled.
TINY = 1e-12


class NextItem(task.Task):
    """Losses of a target against samples or all items, and its exact rank among all items."""

    class Config(RankingConfig):
        """The loss, its samples, and what is ranked."""

        name: Literal["next_item"] = "next_item"
        loss: Literal["cross_entropy", "bpr", "bpr_max", "top1", "top1_max", "logistic"] = "cross_entropy"
        """Cross-entropy; BPR and TOP1 of Hidasi et al. 2016; their -max forms of Hidasi and Karatzoglou 2018; logistic
        is the binary cross-entropy of the target and of each sample."""
        in_batch: bool = True
        """Whether the other targets of the global batch are samples."""
        samples: int = Field(2048, ge=0)
        """Samples of a step beside them. Without either, cross-entropy is over the whole catalog."""
        alpha: float = Field(0.75, ge=0)
        """They are drawn in proportion to the number of an item's training events to this power; 0: all alike."""
        logq: bool = False
        """Whether cross-entropy takes the logarithm of an item's probability to be a sample from its score in
        training, since popular items are sampled more often than others."""
        negatives: int = Field(0, ge=0, validate_default=True)
        """Items drawn for each target alone, all alike, from those that the row's user does not have in training."""
        penalty: float = Field(1.0, ge=0)
        """λ of BPR-max: of the squared scores of the samples."""
        seen: str | None = None
        """A column of items that are not recommended again; not set: all items are ranked."""
        cutoffs: tuple[int, ...] = Field((5, 10, 20), min_length=1)
        """Lengths of the lists that are judged."""
        best: str = Field("recall@20", validate_default=True)
        """The metric that early stopping and the best checkpoint go by."""

        measures = ("recall", "mrr", "ndcg", "precision", "map")

        @field_validator("negatives")
        @classmethod
        def _are_of_use(cls, negatives: int, info: ValidationInfo) -> int:
            others, loss = info.data, info.data.get("loss")
            if not (negatives or others.get("samples") or others.get("in_batch")) and loss != "cross_entropy":
                raise ValueError(f"loss {loss!r} compares with samples; draw some, set task.samples or task.in_batch")
            if negatives and others.get("logq"):
                raise ValueError("logq corrects samples that all targets share; set task.samples instead")
            return negatives

        @property
        def is_sampled(self) -> bool:
            """Whether targets are compared with samples instead of the whole catalog."""
            return self.in_batch or self.samples > 0 or self.negatives > 0

    judges = ("catalog",)

    @property
    def training_columns(self) -> tuple[str, ...]:
        """The user, whose items are no negatives."""
        return (USER,) if self.config.negatives else ()

    @property
    def evaluation_columns(self) -> tuple[str, ...]:
        """The seen items."""
        return () if self.config.seen is None else (self.config.seen,)

    def for_training(self, dataset: Dataset, seed: int) -> task.Transform | None:
        """Draws samples and negatives."""
        if not self.config.is_sampled:
            return None
        count_I = load_counts(dataset)
        samples = Samples(count_I, self.config.alpha, seed)
        self._drawn_I, self._share_I = (
            torch.from_numpy(share_I).float() for share_I in (samples.probability_I, count_I / count_I.sum())
        )

        negatives = Negatives.of(dataset, seed) if self.config.negatives else None

        def with_samples(batch: Batch, step: int) -> Batch:
            batch.samples = torch.from_numpy(samples.draw(step, self.config.samples))
            if negatives is not None:
                batch.negatives = self._negatives(batch, step, negatives)
            return batch

        return with_samples

    def _negatives(self, batch: Batch, step: int, negatives: Negatives) -> Tensor:
        """Items for each target that its user does not have, [V, N]."""
        targets = self.targets(batch)
        user_V = batch.column(USER).values[row_of(targets)]
        drawn_VN = negatives.draw(step, user_V.numpy(), targets.values.numpy(), self.config.negatives)
        return torch.from_numpy(drawn_VN)

    def for_evaluation(self, dataset: Dataset) -> task.Transform | None:
        """Nothing is drawn."""
        return None

    def loss(self, scores: CatalogScores, batch: Batch) -> Tensor:
        """The loss of each row's targets, [B], such that its mean over the rows is that over all targets."""
        of_rows = self.targets(batch)
        targets = _of_queries(of_rows, scores)
        every = gather_over_processes(targets.values)
        if self.config.is_sampled:
            loss_V = self._against_samples(scores, targets, every, batch)
        else:
            loss_V = scores.over_rows(LOGSUMEXP).index_select(0, scores.query_of(targets)) - scores.of_pairs(targets)
        rows = len(every.counts) / batch.scale  # of the global batch
        loss_V = loss_V * (rows / max(1, len(every.rows)))
        return loss_V.new_zeros(batch.rows).index_add(0, row_of(of_rows), loss_V)

    def _against_samples(self, scores: CatalogScores, targets: Ids, every: Gathered, batch: Batch) -> Tensor:
        """The loss of each target, [V].

        Args:
            scores: of this process's queries.
            targets: of each query.
            every: the targets of all processes.
            batch: has the drawn samples and negatives.
        """
        drawn_S = every.rows[:0] if batch.samples is None else batch.samples
        ids_S = torch.cat([every.rows, drawn_S]) if self.config.in_batch else drawn_S
        own_VN = self._of_negatives(scores, targets, batch.negatives)
        if self.config.loss == "logistic":
            return catalog_losses.sampled_logistic(scores, targets, ids_S, own_VN)
        if self.config.in_batch:
            sampled_VS = catalog_losses.of_targets(scores.of_rows(ids_S), scores, targets)
            place_V = every.start + torch.arange(len(sampled_VS), device=ids_S.device)
            target_V = sampled_VS.gather(1, place_V.unsqueeze(1)).squeeze(1)
            same_VS = targets.values.unsqueeze(1) == ids_S
        else:
            target_V, sampled_VS, same_VS = catalog_losses.against_samples(scores, targets, ids_S)
        if own_VN is not None:
            sampled_VS = torch.cat([sampled_VS, own_VN], dim=1)
            same_VS = torch.cat([same_VS, torch.zeros_like(own_VN, dtype=torch.bool)], dim=1)
        match self.config.loss:
            case "cross_entropy":
                log_q_S = target_log_q_V = None
                if self.config.logq:
                    log_q_S, target_log_q_V = self._log_probability(
                        [ids_S, targets.values], len(every.rows) * self.config.in_batch, len(drawn_S)
                    )
                return catalog_losses.sampled_softmax(target_V, sampled_VS, same_VS, log_q_S, target_log_q_V)
            case "bpr":
                return catalog_losses.bpr(target_V, sampled_VS, same_VS)
            case "bpr_max":
                return catalog_losses.bpr_max(target_V, sampled_VS, same_VS, self.config.penalty)
            case "top1":
                return catalog_losses.top1(target_V, sampled_VS, same_VS)
            case _:
                return catalog_losses.top1_max(target_V, sampled_VS, same_VS)

    def _of_negatives(self, scores: CatalogScores, targets: Ids, negatives_VN: Tensor | None) -> Tensor | None:
        """Scores of each target's negatives, [V, N]."""
        if negatives_VN is None:
            return None
        num = negatives_VN.shape[1]
        return scores.of_pairs(Ids(negatives_VN.reshape(-1), targets.lengths * num)).view(-1, num)

    def _log_probability(self, ids: list[Tensor], in_batch: int, drawn: int) -> list[Tensor]:
        """Logarithm of items' probability to be a sample, of so many other targets and drawn ones; [S] for ids [S]."""
        self._share_I, self._drawn_I = (share_I.to(ids[0].device) for share_I in (self._share_I, self._drawn_I))
        expected = [in_batch * self._share_I[some_S] + drawn * self._drawn_I[some_S] for some_S in ids]
        return [(some_S / (in_batch + drawn)).clamp(min=TINY).log() for some_S in expected]

    def evidence(self, scores: CatalogScores, batch: Batch) -> task.Evidence:
        """Places of the targets, [V, 2], how many there are for each query and among how many items, [Q] each."""
        given = self.targets(batch)
        targets, seen = _of_queries(given, scores), Ids(given.values[:0], torch.zeros_like(given.lengths))
        if self.config.seen is not None:
            seen = batch.column(self.config.seen)
        if scores.per_target:
            seen = repeated(seen, row_of(given))
        return evidence_of(places(scores, targets, exclude=and_row_0(seen)), targets, seen, scores.table_rows)

    def metrics(self, device: torch.device) -> RankingMetrics:
        """Recall, MRR, NDCG, precision and MAP at the cutoffs; MRR, MAP and AUC of whole rankings."""
        return RankingMetrics(device, self.config.cutoffs, self.config.measures, capped=False)


def _of_queries(targets: Ids, scores: CatalogScores) -> Ids:
    """The targets of rows as those of queries."""
    return Ids(targets.values, torch.ones_like(targets.values)) if scores.per_target else targets


def repeated(ids: Ids, row_V: Tensor) -> Ids:
    """The ids of some rows, in order; a row may come again."""
    lengths_V, starts_B = ids.lengths[row_V], ids.lengths.cumsum(0) - ids.lengths
    ends_V = lengths_V.cumsum(0)
    shift_V = starts_B[row_V] - (ends_V - lengths_V)
    place = torch.arange(int(ends_V[-1]) if len(ends_V) else 0, device=row_V.device)
    return Ids(ids.values[place + shift_V.repeat_interleave(lengths_V)], lengths_V)
