"""Implicit feedback: groups of a positive and others, and what is made of their scores."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.baselines.pop import Pop
from dist_rec.baselines.ranked import _among_candidates, seen_matrix
from dist_rec.core.batch import Batch
from dist_rec.core.errors import UserError
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import splitter
from dist_rec.tasks.implicit import Implicit
from dist_rec.train.model import _check_columns

USERS, ITEMS, EACH, CANDIDATES = 12, 30, 7, 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("implicit")
    random = np.random.default_rng(0)
    chosen = [(user, item) for user in range(USERS) for item in random.choice(ITEMS, EACH, replace=False)]
    (folder / "raw").write_text("".join(f"{user}\t{item}\t1\t{when}\n" for when, (user, item) in enumerate(chosen)))
    options = Options(implicit=True)
    split = splitter("leave-one-out", {"draw": CANDIDATES})
    prepare(RatingFiles([str(folder / "raw")], split, options), folder / "data")
    return Dataset(str(folder / "data"))


def batches(dataset: Dataset, task: Implicit, split: str, rank: int = 0, world: int = 1) -> list:
    loader = Loader(
        dataset,
        split,
        LoaderConfig(path=dataset.path),
        batch=16,
        features=task.columns(split == "train"),
        rank=rank,
        world=world,
        seed=3,
        shuffle=split == "train",
        expand=task.expand(dataset, split == "train", seed=3),
    )
    return list(loader.batches(0, 2 * loader.steps_per_epoch))


def unexpanded(dataset: Dataset, task: Implicit) -> Iterator[Batch]:
    """Training rows as an evaluation reads them: none has candidates."""
    config = LoaderConfig(path=dataset.path)
    return Loader(dataset, "train", config, batch=16, features=task.columns(False)).batches(0, 1)


def pairs(batch: object, members: int) -> torch.Tensor:
    """User and item of each member, [B, G, 2]."""
    return torch.stack([batch.ids[name].values().view(-1, members) for name in ("user", "item")], dim=2)


def test_negatives_are_drawn_anew_and_never_a_user_s_own(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(negatives=3))
    own = {tuple(pair) for batch in batches(dataset, task, "train") for pair in pairs(batch, 4)[:, 0].tolist()}
    assert len(own) == USERS * (EACH - 2)
    drawn = [pairs(batch, 4)[:, 1:] for batch in batches(dataset, task, "train")]
    for batch in drawn:
        assert not own & {tuple(pair) for group in batch.tolist() for pair in group}
        assert (batch[:, :, 1] > 0).all()
    half = len(drawn) // 2
    assert not torch.equal(torch.cat(drawn[:half]).sort(0)[0], torch.cat(drawn[half:]).sort(0)[0])


def test_groups_do_not_depend_on_the_number_of_processes(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(negatives=3))
    alone = batches(dataset, task, "train")
    dealt = [batches(dataset, task, "train", rank, 3) for rank in range(3)]
    for batch, *parts in zip(alone, *dealt, strict=True):
        groups = torch.cat([pairs(part, 4).flatten(1) for part in parts])
        assert sorted(groups.tolist()) == sorted(pairs(batch, 4).flatten(1).tolist())
        assert len({part.ids.stride() for part in parts}) == 1


def test_labels_and_lengths(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(negatives=3))
    for batch in batches(dataset, task, "train"):
        labels_BG = batch.labels.view(-1, 4)
        assert (labels_BG[:, 0] == 1).all() and not labels_BG[:, 1:].any()
        assert len(batch.labels) == len(batch.weights) == len(batch.dense) == int(batch.ids["user"].lengths().sum())


def test_fewer_candidates_do_not_count(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(candidates=CANDIDATES + 2))
    for batch in batches(dataset, task, "test"):
        rank_B, targets_B, members_B = task.evidence(
            -torch.arange(len(batch.labels)).float(), batch.labels, batch.weights
        )
        known_B = batch.ids["item"].values().view(-1, 3 + CANDIDATES)[:, 0] > 0
        assert (rank_B[~known_B] == CANDIDATES).all()
        assert not rank_B[known_B].any() and (targets_B == 1).all() and (members_B == 1 + CANDIDATES).all()
        rank_B, _, _ = task.evidence(torch.arange(len(batch.labels)).float(), batch.labels, batch.weights)
        assert (rank_B == CANDIDATES).all()
    with pytest.raises(UserError, match="16 of 16 rows have no candidates and cannot be ranked"):
        task.expand(dataset, False, 3)(next(iter(unexpanded(dataset, task))), 0)
    assert len(batches(dataset, task, "test", rank=13, world=14)) == 2, "a process without rows"
    with pytest.raises(UserError, match=r"a row has 5 candidates; set task\.candidates"):
        batches(dataset, Implicit(Implicit.Config(candidates=4)), "test")


def test_data_without_candidates_are_refused_before_training(dataset: Dataset) -> None:
    manifest, task = dataset.manifest, Implicit(Implicit.Config())
    _check_columns(task, manifest)
    columns = tuple(column for column in manifest.columns if column.name != "candidates")
    without = manifest.model_copy(update={"columns": columns})
    with pytest.raises(UserError, match="the task reads the column 'candidates', and the data has item, label, user"):
        _check_columns(task, without)
    _check_columns(task, without.model_copy(update={"splits": {"train": manifest.splits["train"]}}))


def test_items_that_training_never_saw_come_last(tmp_path: Path) -> None:
    known = [(f"u{user}", f"i{item}") for user in range(3) for item in range(4)] + [("u5", "i9"), ("u5", "i1")]
    tested = [("u0", "new"), ("u1", "i9"), ("u2", "other")]
    for name, pairs_of in (("train", known), ("test", tested)):
        (tmp_path / name).write_text("".join(f"{user}\t{item}\t1\n" for user, item in pairs_of))
    (tmp_path / "candidates").write_text("(u0,new)\ti9\tnone\n(u1,i9)\tnone\ti9\n(u2,other)\ti9\ti9\n")
    split = splitter("leave-one-out", {"negatives": str(tmp_path / "candidates"), "validation": False})
    train, test = ([str(tmp_path / name)] for name in ("train", "test"))
    prepare(RatingFiles(train, split, Options(), test), tmp_path / "data")
    task = Implicit(Implicit.Config(candidates=3))
    batch = batches(Dataset(tmp_path / "data"), task, "test")[0]
    unknown_B = batch.ids["item"].values() == 0
    places_B2, _, members_B = task.evidence(unknown_B.float(), batch.labels, batch.weights)
    # Beside an unknown item and behind a known one; before an unknown one; behind two known ones.
    assert places_B2.tolist() == [[1, 2], [0, 0], [2, 2]]
    assert members_B.tolist() == [3, 2, 3]


def test_a_single_row_without_candidates_is_refused(dataset: Dataset) -> None:
    task, config = Implicit(Implicit.Config()), LoaderConfig(path=dataset.path)
    loader = Loader(dataset, "test", config, batch=USERS, features=task.columns(False), shuffle=False)
    batch = next(iter(loader.batches(0, 1)))
    lengths = batch.ids.lengths().view(3, USERS).clone()
    lengths[2, 4] = 0
    emptied = torch.cat([batch.ids.values()[: 2 * USERS], batch.ids["candidates"].values()[CANDIDATES:]])
    ids = KeyedJaggedTensor(batch.ids.keys(), emptied, lengths=lengths.view(-1))
    with pytest.raises(UserError, match="1 of 12 rows have no candidates and cannot be ranked"):
        task.expand(dataset, False, 3)(replace(batch, ids=ids), 0)
    with pytest.raises(UserError, match="1 of 12 rows have no candidates and cannot be ranked"):
        _among_candidates(Pop(seen_matrix(dataset)), replace(batch, ids=ids), seen_matrix(dataset))


def test_losses_by_their_definitions() -> None:
    scores, weights = torch.randn(2, 3), torch.tensor([[1.0] * 3, [2.0] * 3])
    labels = torch.tensor([[1.0, 0, 0]] * 2)
    logistic = functional.binary_cross_entropy_with_logits(scores, labels, weights, reduction="none").mean(1).sum()
    bpr = sum(weights[b, 0] * -functional.logsigmoid(scores[b, 0] - scores[b, n]) for b in range(2) for n in (1, 2)) / 2
    for loss, expected in (("logistic", logistic), ("bpr", bpr)):
        task = Implicit(Implicit.Config(loss=loss, negatives=2))
        torch.testing.assert_close(task.loss_sum(scores.view(-1), labels.view(-1), weights.view(-1)), expected)
