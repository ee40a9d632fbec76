"""The configuration of a run: the configs of its components, put together."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import find_head
from dist_rec.data.loader import LoaderConfig
from dist_rec.embedding.tables import WITH_MOMENTUM, EmbeddingConfig
from dist_rec.tasks.click import Click
from dist_rec.tasks.implicit import Implicit
from dist_rec.tasks.next_item import NextItem
from dist_rec.tasks.rating import Rating
from dist_rec.tasks.task import Task
from dist_rec.tasks.top_n import TopN
from dist_rec.train.schedule import ScheduleConfig

TASKS: tuple[type[Task], ...] = (Click, Rating, Implicit, TopN, NextItem)
EXECUTION_KEYS = (
    "data.path",
    "data.threads",
    "data.prefetch",
    "embedding.sharding",
    "train.device",
    "train.eval_batch",
    "train.log_every",
    "checkpoint.",
)
"""Prefixes of keys that do not affect the result, and may change when a run is resumed."""


class OptimizerConfig(Config):
    """Optimizer of the dense parameters; `embedding` has those of the embeddings."""

    name: Literal["adam", "adagrad", "sgd"] = "adam"
    """Update rule."""
    lr: float = Field(0.001, gt=0)
    """Learning rate."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adam and Adagrad. A larger one amplifies rounding in gradients near zero less."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """μ of SGD and Adagrad: the share of the last step that comes with the next one."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty on the dense parameters."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the dense gradient; a gradient of larger norm is scaled down. Not set: no clipping."""

    @field_validator("momentum")
    @classmethod
    def _has_an_optimizer(cls, momentum: float, info: ValidationInfo) -> float:
        name = info.data.get("name")
        if momentum and name not in WITH_MOMENTUM:
            raise ValueError(f"momentum is for {' and '.join(WITH_MOMENTUM)}, not for {name}")
        return momentum


class TrainConfig(Config):
    """Length, evaluation and precision of the training."""

    batch: int = Field(2048, gt=0)
    """Rows of a global batch, divided among the processes; for a recurrent head, its lanes."""
    epochs: int = Field(1, gt=0)
    """Passes over the training split."""
    steps: int | None = Field(None, gt=0)
    """Stop after this many global steps instead of `epochs`."""
    evaluate_every: int | None = Field(None, gt=0)
    """Steps between evaluations on the validation split; not set: after each epoch."""
    eval_batch: int = Field(8192, gt=0)
    """Rows of a global batch in evaluation."""
    patience: int | None = Field(None, gt=0)
    """Stop after this many consecutive evaluations without a better score (`task.best`); not set: never."""
    least_gain: float = Field(0.0, ge=0)
    """By how much the validation score has to be better than the best so far to become the best."""
    precision: Literal["bf16", "fp32", "fp64"] = "bf16"
    """Precision of the dense part. bf16: matrix products in bfloat16; the rest in float32, like the embeddings.
    fp64: all in float64, so that rounding hardly depends on the number of processes; takes twice as long as fp32.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one, otherwise the CPU."""
    on_nonfinite: Literal["error", "skip"] = "error"
    """If a loss is NaN or infinite: stop the run, or skip the batch (costs one more all-reduce a step)."""
    log_every: int = Field(100, gt=0)
    """Steps between records in metrics.jsonl and TensorBoard."""


class PretrainedConfig(Config):
    """Initial parameters from earlier runs."""

    runs: tuple[str, ...] = ()
    """Folders of runs. Tables of the same name are copied; `Head.adopt` takes parameters of their heads."""
    optimizer: bool = False
    """Whether the state of the optimizers comes along, as in training on each day's new rows: from one run, which had
    the same head, tables and optimizers."""

    @model_validator(mode="after")
    def _comes_from_one_run(self) -> Self:
        if self.optimizer and len(self.runs) != 1:
            raise ValueError(f"the optimizers' state comes from one run, and pretrained.runs has {len(self.runs)}")
        return self


class CheckpointConfig(Config):
    """Saving of the training state."""

    every: int | None = Field(None, gt=0)
    """Steps between checkpoints; not set: at each evaluation. The best model so far and the last one are saved, too."""
    keep: int = Field(2, gt=0)
    """Newest checkpoints of these steps to keep, beside the best and the last one."""
    asynchronous: bool = True
    """Train while a copy of the state is written; the copy takes as much host memory as the state."""


class RunConfig(Config):
    """All settings of a run; the number of processes is not one of them."""

    seed: int = Field(0, ge=0, lt=1 << 63)
    """Seed of the initial weights, the order of rows and dropout."""
    task: Click.Config | Rating.Config | Implicit.Config | TopN.Config | NextItem.Config = Field(
        Click.Config(), discriminator="name"
    )
    """The prediction task: its `name`, and its own keys."""
    data: LoaderConfig
    """The data set, and how it is read."""
    head: dict[str, Any]
    """The recommender: its `name`, and its own keys (`dist-rec heads NAME` lists them)."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """The sharded embedding layer."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the dense parameters."""
    pretrained: PretrainedConfig = PretrainedConfig()
    """Initial parameters from earlier runs."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Schedule of the learning rates."""
    train: TrainConfig = TrainConfig()
    """Length, evaluation and precision."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving of the training state."""

    def head_config(self) -> Config:
        """The head's own config; raises UserError for a key that is missing, unknown or invalid."""
        values = dict(self.head)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise UserError("missing key 'head.name'; `dist-rec heads` lists the heads")
        return find_head(name).Config.parse(values, "head.")

    def changes(self, other: "RunConfig") -> list[str]:
        """Settings that affect the result and differ from another config, as `key: theirs → ours`."""
        ours, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{key}: {theirs.get(key)} → {ours.get(key)}"
            for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key) and _affects_result(key)
        ]

    @property
    def head_name(self) -> str:
        """Name of the head."""
        return self.head["name"]


def _affects_result(key: str) -> bool:
    sharding = key.startswith(("embedding.lookups.", "embedding.tables.")) and key.endswith(".sharding")
    return not (sharding or key.startswith(EXECUTION_KEYS))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
