"""Synthetic click logs have Criteo's form, the promised statistics, and the truth they tell."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dist_rec.core.errors import UserError
from dist_rec.data import synthetic
from dist_rec.data.synthetic import CATEGORIES, INTEGERS, Block, ClickModel, Tally, Text, synthesize
from dist_rec.prepare.criteo.tsv import MARGIN, Fields, hexadecimal


def read(folder: Path) -> Fields:
    parts = sorted(folder.glob("part_*.tsv.gz"))
    return Fields.find(MARGIN + b"".join(gzip.decompress(part.read_bytes()) for part in parts), 40)


def test_the_form_and_the_statistics(tmp_path: Path) -> None:
    truth = synthesize(60_000, tmp_path / "raw", files=3, workers=1)
    fields = read(tmp_path / "raw")
    assert fields.rows == 60_000
    label = fields.bit(0)
    assert label.mean() == pytest.approx(truth.click_rate)
    assert truth.click_rate == pytest.approx(0.26, abs=0.02)
    assert truth.bayes_auc == pytest.approx(0.80, abs=0.02)
    assert json.loads((tmp_path / "raw" / "truth.json").read_text())["bayes_auc"] == truth.bayes_auc
    for field, (median, _, missing) in enumerate(INTEGERS, start=1):
        present = fields.length_FN[field] > 0
        assert 1 - present.mean() == pytest.approx(missing, abs=0.01)
        assert np.median(fields.integer(field)[present]) == pytest.approx(median, rel=0.1, abs=1)
    assert fields.integer(2).min() == -3
    for field, (distinct, missing) in enumerate(CATEGORIES, start=14):
        length = fields.length_FN[field]
        assert (length == 0).mean() == pytest.approx(missing, abs=0.01)
        assert set(length.tolist()) <= {0, 8}
        counts = np.sort(np.unique(hexadecimal(fields.word(field))[length > 0], return_counts=True)[1])[::-1]
        assert counts.size <= distinct
        assert counts.size == distinct or distinct > 1000
        # Of a density that falls as 1 / x from 1 to distinct + 1, the part below 2.
        assert counts[0] / counts.sum() == pytest.approx(np.log(2) / np.log(distinct + 1), rel=0.2)


def test_the_best_auc_is_that_of_the_true_probabilities() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 1.5, 20_000)
    probability = 1 / (1 + np.exp(-logit))
    label = rng.random(logit.size) < probability
    halves = [Tally.of(label[rows], logit[rows]) for rows in (slice(9000), slice(9000, None))]
    truth = (halves[0] + halves[1]).truth(seed=0)
    assert truth.bayes_auc == pytest.approx(roc_auc_score(label, probability), abs=2e-5)
    assert truth.bayes_logloss == pytest.approx(log_loss(label, probability), abs=2e-6)
    assert truth.click_rate == label.mean()


def test_text_says_what_was_drawn() -> None:
    block = Block.draw(np.random.default_rng(0), 500)
    label = np.arange(500) % 3 == 0
    fields = Fields.find(MARGIN + Text().lines(label, block), 40)
    assert (fields.bit(0) == label).all()
    for index in range(len(INTEGERS)):
        assert (fields.integer(1 + index) == np.where(block.no_integer_IN[index], 0, block.integer_IN[index])).all()
    for index in range(len(CATEGORIES)):
        value, rank = hexadecimal(fields.word(14 + index)), block.rank_CN[index]
        present = ~block.no_category_CN[index]
        assert (fields.length_FN[14 + index] == 8 * present).all()
        assert len(set(zip(rank[present], value[present], strict=True))) == np.unique(rank[present]).size
        assert np.unique(value[present]).size == np.unique(rank[present]).size


def test_rare_and_missing_ids_carry_no_signal() -> None:
    model, rng = ClickModel(1), np.random.default_rng(0)
    block = Block.draw(rng, 1000)
    rank = block.rank_CN.copy()
    rare = (rank >= synthetic.SIGNAL_RANKS) | block.no_category_CN
    assert rare.any()
    rank[rare] = 10**6
    other = Block(block.integer_IN, block.no_integer_IN, rank, block.no_category_CN)
    np.testing.assert_array_equal(model.logit(block), model.logit(other))
    rank[:, 0] = (rank[:, 0] + 1) % 2
    assert model.logit(other)[0] != model.logit(block)[0]


def test_bytes_follow_from_seed_alone(tmp_path: Path) -> None:
    def contents(name: str, seed: int, workers: int) -> list[bytes]:
        synthesize(3_001, tmp_path / name, files=2, seed=seed, workers=workers)
        return [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]

    first = contents("a", 0, 1)
    assert first == contents("b", 0, 2)
    assert not set(first) & set(contents("c", 1, 1))
    assert [zlib.decompress(part, 31).count(b"\n") for part in first[:2]] == [1501, 1500]


def test_more_files_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--files 4 must be from 1 to the number of rows, 3"):
        synthesize(3, tmp_path / "raw", files=4)
