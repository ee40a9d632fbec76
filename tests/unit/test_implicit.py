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
from dist_rec.core.head import Inputs, find_head
from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset
from dist_rec.prepare.engine import prepare
from dist_rec.prepare.ratings.source import Options, RatingFiles
from dist_rec.prepare.ratings.split import splitter
from dist_rec.tasks.implicit import Implicit
from dist_rec.train.recommender import Objective, Precise
from dist_rec.train.spec import _check_columns

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
    training = split == "train"
    loader = Loader(
        dataset,
        split,
        LoaderConfig(path=dataset.path),
        batch=16,
        features=task.training_columns if training else task.evaluation_columns,
        rank=rank,
        world=world,
        seed=3,
        shuffle=training,
        transform=task.for_training(dataset, seed=3) if training else task.for_evaluation(dataset),
    )
    return list(loader.batches(0, 2 * loader.steps_per_epoch))


def ungrouped(dataset: Dataset, task: Implicit) -> Iterator[Batch]:
    """Training rows as an evaluation reads them: none has candidates."""
    config = LoaderConfig(path=dataset.path)
    return Loader(dataset, "train", config, batch=16, features=task.evaluation_columns).batches(0, 1)


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


def test_groups_and_lengths(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(negatives=3))
    for batch in batches(dataset, task, "train"):
        assert batch.groups.present.all() and batch.groups.known.all()
        assert batch.groups.present.shape == (len(batch.labels), 4) and len(batch.labels) == len(batch.weights)
        assert 4 * len(batch.labels) == batch.rows == int(batch.ids["user"].lengths().sum())


def test_fewer_candidates_do_not_count(dataset: Dataset) -> None:
    task = Implicit(Implicit.Config(candidates=CANDIDATES + 2))
    for batch in batches(dataset, task, "test"):
        rank_B, targets_B, members_B = task.evidence(-torch.arange(batch.rows).float(), batch)
        known_B = batch.ids["item"].values().view(-1, 3 + CANDIDATES)[:, 0] > 0
        assert (rank_B[~known_B] == CANDIDATES).all()
        assert not rank_B[known_B].any() and (targets_B == 1).all() and (members_B == 1 + CANDIDATES).all()
        rank_B, _, _ = task.evidence(torch.arange(batch.rows).float(), batch)
        assert (rank_B == CANDIDATES).all()
    with pytest.raises(UserError, match="16 of 16 rows have no candidates and cannot be ranked"):
        task.for_evaluation(dataset)(next(iter(ungrouped(dataset, task))), 0)
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
    (tmp_path / "candidates").write_text("(u0,new)\ti9\tnone\n(u1,i9)\tnone\ti9\n(u2,other)\ti9\ti1\n")
    split = splitter("leave-one-out", {"negatives": str(tmp_path / "candidates"), "validation": False})
    train, test = ([str(tmp_path / name)] for name in ("train", "test"))
    prepare(RatingFiles(train, split, Options(), test), tmp_path / "data")
    task = Implicit(Implicit.Config(candidates=3))
    batch = batches(Dataset(tmp_path / "data"), task, "test")[0]
    unknown_B = batch.ids["item"].values() == 0
    places_B2, _, members_B = task.evidence(unknown_B.float(), batch)
    # Beside an unknown item and behind a known one; before an unknown one; behind two known ones.
    assert places_B2.tolist() == [[1, 2], [0, 0], [2, 2]]
    assert members_B.tolist() == [3, 2, 3]


def test_a_single_row_without_candidates_is_refused(dataset: Dataset) -> None:
    task, config = Implicit(Implicit.Config()), LoaderConfig(path=dataset.path)
    loader = Loader(dataset, "test", config, batch=USERS, features=task.evaluation_columns, shuffle=False)
    batch = next(iter(loader.batches(0, 1)))
    lengths = batch.ids.lengths().view(3, USERS).clone()
    lengths[2, 4] = 0
    emptied = torch.cat([batch.ids.values()[: 2 * USERS], batch.ids["candidates"].values()[CANDIDATES:]])
    ids = KeyedJaggedTensor(batch.ids.keys(), emptied, lengths=lengths.view(-1))
    with pytest.raises(UserError, match="1 of 12 rows have no candidates and cannot be ranked"):
        task.for_evaluation(dataset)(replace(batch, ids=ids), 0)
    with pytest.raises(UserError, match="1 of 12 rows have no candidates and cannot be ranked"):
        _among_candidates(Pop(seen_matrix(dataset)), replace(batch, ids=ids), seen_matrix(dataset))


def test_losses_by_their_definitions(dataset: Dataset) -> None:
    batch = batches(dataset, Implicit(Implicit.Config(negatives=2)), "train")[0]
    scores_QG = torch.randn(len(batch.labels), 3)
    chosen_QG = torch.tensor([[1.0, 0, 0]] * len(scores_QG))
    logistic_Q = functional.binary_cross_entropy_with_logits(scores_QG, chosen_QG, reduction="none").mean(1)
    bpr_Q = -functional.logsigmoid(scores_QG[:, :1] - scores_QG[:, 1:]).mean(1)
    for loss, expected_Q in (("logistic", logistic_Q), ("bpr", bpr_Q)):
        task = Implicit(Implicit.Config(loss=loss, negatives=2))
        torch.testing.assert_close(task.loss(scores_QG.view(-1), batch), expected_Q)


LOSSES = ("logistic", "bpr", "squared")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squared_loss_and_its_gradient_are_those_of_a_plain_computation(dataset: Dataset, dtype: torch.dtype) -> None:
    weight, task = 0.3, Implicit(Implicit.Config(loss="squared", negative_weight=0.3, negatives=2))
    batch = batches(dataset, task, "train")[0]
    rows = len(batch.labels)
    scores = torch.randn(rows * 3, dtype=dtype, requires_grad=True)
    loss_Q = task.loss(scores, batch)
    loss_Q.sum().backward()
    assert loss_Q.dtype == dtype and scores.grad is not None
    of_groups = scores.detach().view(rows, 3).tolist()
    plain = [((1 - first) ** 2 + weight * second**2 + weight * third**2) / 3 for first, second, third in of_groups]
    slopes = [(2 / 3 * (one - 1), 2 / 3 * weight * two, 2 / 3 * weight * three) for one, two, three in of_groups]
    torch.testing.assert_close(loss_Q, torch.tensor(plain, dtype=dtype))
    torch.testing.assert_close(scores.grad.view(rows, 3), torch.tensor(slopes, dtype=dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_of_the_global_batch_is_the_mean_over_processes(dataset: Dataset, loss: str) -> None:
    task = Implicit(Implicit.Config(loss=loss, negatives=3))
    objective, score = Objective(task), torch.randn(USERS + 1, ITEMS + 1)

    def loss_of(batch: Batch) -> torch.Tensor:
        scores = score[pairs(batch, 1).flatten(0, 1).unbind(1)]
        return objective(scores, scores, batch)[0]

    dealt = zip(*(batches(dataset, task, "train", rank, 3) for rank in range(3)), strict=True)
    for batch, parts in zip(batches(dataset, task, "train"), dealt, strict=True):
        torch.testing.assert_close(loss_of(batch), sum(map(loss_of, parts)) / 3)


@pytest.mark.parametrize(("name", "settings"), [("mf", {}), ("mf", {"biases": False}), ("neumf", {})])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_heads_learn_from_the_squared_loss(dataset: Dataset, name: str, settings: dict, precision: str) -> None:
    torch.manual_seed(0)
    task = Implicit(Implicit.Config(loss="squared", negative_weight=0.5, negatives=2))
    batch, head = batches(dataset, task, "train")[0], find_head(name)
    config = head.Config(**settings)
    precise = Precise(head(config, dataset.manifest), precision, torch.device("cpu"))
    pooled = {x.name: torch.randn(batch.rows, 2, x.dim) / 10 for x in head.lookups(config, dataset.manifest)}
    for x_BFD in pooled.values():
        x_BFD.requires_grad_()
    optimizer = torch.optim.Adam([*precise.parameters(), *pooled.values()], lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        scores = precise(Inputs(dense=batch.dense, pooled=pooled), batch)
        loss, output = Objective(task)(scores, scores, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(output.loss))
    assert losses[-1] < 0.25 * losses[0]


def test_places_do_not_depend_on_the_loss(dataset: Dataset) -> None:
    squared, logistic = (Implicit(Implicit.Config(loss=loss)) for loss in ("squared", "logistic"))
    batch = batches(dataset, squared, "test")[0]
    scores = torch.randn(batch.rows)
    for one, other in zip(squared.evidence(scores, batch), logistic.evidence(scores, batch), strict=True):
        assert torch.equal(one, other)


def test_weights_of_negatives_are_checked() -> None:
    with pytest.raises(UserError, match=r"task\.negative_weight"):
        Implicit.Config.parse({"loss": "squared", "negative_weight": 0.0}, "task.")
    with pytest.raises(UserError, match="loss 'bpr' does not weight negatives; leave it at 1, or set loss"):
        Implicit.Config.parse({"loss": "bpr", "negative_weight": 0.5}, "task.")
    assert Implicit.Config.parse({"loss": "squared", "negative_weight": 0.5}).negative_weight == 0.5
    assert Implicit.Config.parse({"loss": "bpr", "negative_weight": 1.0}).negative_weight == 1
