"""Raw click logs in Criteo's format, drawn from a known model: for demos, tests and measurements without real data.

Ids are skewed (density ∝ 1/rank), values are missing about as often as in the Kaggle data, and clicks are drawn from
a logit that is linear in the log counts and in latent weights of frequent ids, plus products of two ids' latents.
Since the true probabilities are known, so is the best AUC that any model can reach.

Shapes: N rows of a block; 13 integers (I) and 26 categories (C) a row.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.core.errors import UserError
from dist_rec.data.shards import new_folder
from dist_rec.data.workers import Report, Workers, available_cpus

# In the Kaggle training data: median and 95th percentile of each integer, and share of rows where it is missing.
INTEGERS = (
    (1, 15, 0.45), (3, 521, 0.0), (6, 75, 0.21), (4, 26, 0.21), (2796, 63375, 0.03), (32, 479, 0.22), (3, 65, 0.04),
    (7, 42, 0.001), (39, 436, 0.04), (1, 2, 0.45), (1, 11, 0.04), (0, 4, 0.77), (4, 29, 0.21),
)  # fmt: skip
# Distinct values of each category, at most a million, and share of rows where it is missing.
CATEGORIES = (
    (1_460, 0.0), (583, 0.0), (1_000_000, 0.03), (1_000_000, 0.03), (305, 0.0), (24, 0.12), (12_517, 0.0), (633, 0.0),
    (3, 0.0), (93_145, 0.0), (5_683, 0.0), (1_000_000, 0.03), (3_194, 0.0), (27, 0.0), (14_992, 0.0), (1_000_000, 0.03),
    (10, 0.0), (5_652, 0.0), (2_173, 0.44), (4, 0.44), (1_000_000, 0.03), (18, 0.76), (15, 0.0), (286_181, 0.03),
    (105, 0.44), (142_572, 0.44),
)  # fmt: skip
PAIRS = ((0, 5), (1, 7), (4, 13), (8, 10), (14, 16), (17, 22))
"""Pairs of categories whose latents are multiplied."""
INTEGER_LIMIT = 1 << 17
INTEGER_SHIFT = 3
"""Criteo's integers go down to -3; here the second one does."""
SIGNAL_RANKS = 100
"""Ids beyond this rank have no weight of their own, which would be too rare to learn."""
CLICK_RATE = 0.26
LOGIT_DEVIATION = 1.35
"""Standard deviation of the logit; the best AUC is about 0.80 at this click rate."""
BLOCK_ROWS = 1 << 14
PROBABILITY_BINS = 1 << 16


@dataclass(frozen=True)
class Block:
    """Rows before they are formatted as text."""

    integer_IN: NDArray[np.int64]
    no_integer_IN: NDArray[np.bool_]
    rank_CN: NDArray[np.int64]
    """Rank of each id by frequency, from 0."""
    no_category_CN: NDArray[np.bool_]

    @classmethod
    def draw(cls, rng: np.random.Generator, rows: int) -> "Block":
        """Draws rows; features are independent of each other."""
        median, high, no_integer = (np.array(column)[:, None] for column in zip(*INTEGERS, strict=True))
        shift = np.zeros_like(median)
        shift[1] = INTEGER_SHIFT
        center = np.log(median + shift + 0.5)
        spread = (np.log(high + shift + 0.5) - center) / 1.645
        normal = rng.standard_normal((len(INTEGERS), rows), np.float32)
        integer = np.floor(np.exp(center + spread * normal)).astype(np.int64) - shift
        distinct, no_category = (np.array(column, np.float32)[:, None] for column in zip(*CATEGORIES, strict=True))
        uniform = rng.random((len(CATEGORIES), rows), np.float32)
        rank = np.exp2(uniform * np.log2(distinct + 1)).astype(np.int64) - 1
        return cls(
            np.minimum(integer, INTEGER_LIMIT - 1),
            rng.random((len(INTEGERS), rows), np.float32) < no_integer,
            np.minimum(rank, distinct.astype(np.int64) - 1),
            rng.random((len(CATEGORIES), rows), np.float32) < no_category,
        )


class ClickModel:
    """The logistic model from which clicks are drawn; its weights are drawn from a seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 0))
        self._integer_I = rng.normal(0, 0.35, len(INTEGERS))
        # The last rank stands for all rarer ids and for missing values.
        self._linear_CR = rng.normal(0, 0.5, (len(CATEGORIES), SIGNAL_RANKS))
        self._latent_CR = rng.normal(0, 0.7, (len(CATEGORIES), SIGNAL_RANKS))
        self._linear_CR[:, -1] = self._latent_CR[:, -1] = 0
        pilot = self._raw(Block.draw(rng, 1 << 15))
        self._scale = LOGIT_DEVIATION / pilot.std()
        self._shift = _shift_to_rate(pilot * self._scale, CLICK_RATE)

    def logit(self, block: Block) -> NDArray[np.float64]:
        """Logit of a click, (N,)."""
        return self._raw(block) * self._scale + self._shift

    def _raw(self, block: Block) -> NDArray[np.float64]:
        log_IN = np.log1p(np.maximum(block.integer_IN, 0, dtype=np.float32))
        log_IN[block.no_integer_IN] = 0
        total = self._integer_I @ log_IN
        rank_CN = np.minimum(block.rank_CN, SIGNAL_RANKS - 1)
        rank_CN[block.no_category_CN] = SIGNAL_RANKS - 1
        for linear_R, rank_N in zip(self._linear_CR, rank_CN, strict=True):
            total += linear_R[rank_N]
        for first, second in PAIRS:
            total += self._latent_CR[first][rank_CN[first]] * self._latent_CR[second][rank_CN[second]]
        return total


def _shift_to_rate(logit: NDArray[np.float64], rate: float) -> float:
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logit + middle).mean() < rate else (low, middle)
    return low


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logit))


class Text:
    """Formats blocks as lines: writes every field to a fixed place of a byte matrix, then drops the unused bytes."""

    WORD = 8
    WIDTH = 2 + (WORD + 1) * (len(INTEGERS) + len(CATEGORIES))

    def __init__(self) -> None:
        self._decimal = np.arange(-INTEGER_SHIFT, INTEGER_LIMIT).astype("S8").view(np.uint64)
        self._hex = np.array([f"{byte:02x}" for byte in range(256)], "S2").view(np.uint16)

    def lines(self, label_N: NDArray[np.bool_], block: Block) -> bytes:
        """The lines of a block."""
        rows = label_N.size
        matrix = np.empty((rows, self.WIDTH), np.uint8)
        matrix[:, 0] = label_N + ord("0")
        matrix[:, 1 :: self.WORD + 1] = ord("\t")
        matrix[:, -1] = ord("\n")
        words = [*self._integer_words(block), *self._category_words(block)]
        for field, word_N in enumerate(words):
            start = 2 + field * (self.WORD + 1)
            matrix[:, start : start + self.WORD] = word_N.view(np.uint8).reshape(rows, self.WORD)
        flat = matrix.ravel()
        return flat[flat != 0].tobytes()

    def _integer_words(self, block: Block) -> Iterator[NDArray[np.uint64]]:
        for integer_N, missing_N in zip(block.integer_IN, block.no_integer_IN, strict=True):
            yield np.where(missing_N, np.uint64(0), self._decimal[integer_N + INTEGER_SHIFT])

    def _category_words(self, block: Block) -> Iterator[NDArray[np.uint64]]:
        for column, (rank_N, missing_N) in enumerate(zip(block.rank_CN, block.no_category_CN, strict=True)):
            # An odd multiplier permutes the 32-bit numbers, so different ranks get different values.
            value_N = ((rank_N + 1) * 0x9E3779B1 + column * 0x85EBCA6B).astype(">u4")
            word_N = self._hex[value_N.view(np.uint8)].view(np.uint64)
            yield np.where(missing_N, np.uint64(0), word_N)


@dataclass(frozen=True)
class Truth:
    """Known properties of the generated rows: `truth.json`."""

    rows: int
    click_rate: float
    bayes_auc: float
    """AUC of the true probabilities."""
    bayes_logloss: float
    seed: int


@dataclass(frozen=True)
class Tally:
    """Counts of rows by true probability."""

    bins_2P: NDArray[np.int64]
    """Non-clicks and clicks in each bin of probability."""
    loss: float
    """Sum of log losses of the true probabilities."""

    @classmethod
    def of(cls, label_N: NDArray[np.bool_], logit_N: NDArray[np.float64]) -> "Tally":
        """Counts N rows."""
        bin_N = (_sigmoid(logit_N) * PROBABILITY_BINS).astype(np.int64) + label_N * PROBABILITY_BINS
        bins = np.bincount(bin_N, minlength=2 * PROBABILITY_BINS).reshape(2, PROBABILITY_BINS)
        return cls(bins, float(np.logaddexp(0, np.where(label_N, -logit_N, logit_N)).sum()))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.bins_2P + other.bins_2P, self.loss + other.loss)

    def truth(self, seed: int) -> Truth:
        """Click rate, AUC and log loss; rows in one bin count as ties, which costs the AUC less than 1e-5."""
        negatives_P, positives_P = self.bins_2P
        negatives, positives = int(negatives_P.sum()), int(positives_P.sum())
        below_P = negatives_P.cumsum() - negatives_P / 2
        auc = float(positives_P @ below_P) / (negatives * positives) if negatives and positives else math.nan
        rows = negatives + positives
        return Truth(rows, positives / rows, round(auc, 6), round(self.loss / rows, 6), seed)


@dataclass(frozen=True)
class WriteFile:
    """One gzipped file of rows, drawn from its own random stream."""

    path: Path
    rows: int
    seed: int
    index: int

    def run(self, report: Report) -> Tally:
        """Writes the file."""
        rng, model, text = np.random.default_rng((self.seed, 1, self.index)), ClickModel(self.seed), Text()
        tally = Tally(np.zeros((2, PROBABILITY_BINS), np.int64), 0.0)
        packer = zlib.compressobj(level=1, wbits=31)
        with self.path.open("wb") as file:
            for start in range(0, self.rows, BLOCK_ROWS):
                block = Block.draw(rng, min(BLOCK_ROWS, self.rows - start))
                logit_N = model.logit(block)
                label_N = rng.random(logit_N.size) < _sigmoid(logit_N)
                tally += Tally.of(label_N, logit_N)
                file.write(packer.compress(text.lines(label_N, block)))
                report(label_N.size, label_N.size)
            file.write(packer.flush())
        return tally


def synthesize(rows: int, out: Path, files: int = 10, seed: int = 0, workers: int | None = None) -> Truth:
    """Writes `part_<i>.tsv.gz` and `truth.json` into a new folder; the same bytes for the same rows, files and seed.

    Raises:
        UserError: if there are fewer rows than files, or the folder exists.
    """
    if not 1 <= files <= rows:
        raise UserError(f"--files {files} must be from 1 to the number of rows, {rows}")
    digits = len(str(files - 1))
    with new_folder(out) as folder, Workers(min(workers or available_cpus(), files), __name__) as pool:
        tasks = [
            WriteFile(folder / f"part_{index:0{digits}}.tsv.gz", rows // files + (index < rows % files), seed, index)
            for index in range(files)
        ]
        tallies = pool.run(tasks, "synthesize", rows)
        truth = sum(tallies[1:], tallies[0]).truth(seed)
        (folder / "truth.json").write_text(json.dumps(asdict(truth), indent=1) + "\n")
    return truth
