"""The configuration of a run: each component's own config, put together."""

from typing import Any, Literal

from pydantic import Field

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError
from dist_rec.core.head import find_head
from dist_rec.data.loader import LoaderConfig
from dist_rec.embedding.tables import EmbeddingConfig
from dist_rec.tasks.click import Click
from dist_rec.tasks.implicit import Implicit
from dist_rec.tasks.next_item import NextItem
from dist_rec.tasks.rating import Rating
from dist_rec.tasks.task import Task
from dist_rec.tasks.top_n import TopN
from dist_rec.train.schedule import ScheduleConfig

TASKS: tuple[type[Task], ...] = (Click, Rating, Implicit, TopN, NextItem)
HOW_NOT_WHAT = (
    "data.path",
    "data.threads",
    "data.prefetch",
    "embedding.sharding",
    "train.device",
    "train.eval_batch",
    "train.log_every",
    "checkpoint.",
)
"""Keys that say how a run is carried out: free to change when it goes on."""


class OptimizerConfig(Config):
    """The optimizer of the dense parameters (those of the embeddings are in `embedding`)."""

    name: Literal["adam", "adagrad", "sgd"] = "adam"
    """Update rule."""
    lr: float = Field(0.001, gt=0)
    """Learning rate."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adam and Adagrad. A larger one keeps rounding in gradients near zero from growing."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty on the dense parameters."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the dense gradient; a longer one is scaled down. Not set: no clipping."""


class TrainConfig(Config):
    """How long and how."""

    batch: int = Field(2048, gt=0)
    """Rows of a global batch, dealt to all processes; of a recurrent head, its lanes."""
    epochs: int = Field(1, gt=0)
    """Passes over the training split."""
    steps: int | None = Field(None, gt=0)
    """Stop after this many global steps instead of `epochs`."""
    evaluate_every: int | None = Field(None, gt=0)
    """Steps between evaluations on the validation split; not set: after each epoch."""
    eval_batch: int = Field(8192, gt=0)
    """Rows of a global batch in evaluation."""
    patience: int | None = Field(None, gt=0)
    """Stop after this many evaluations without a better score; not set: never."""
    precision: Literal["bf16", "fp32", "fp64"] = "bf16"
    """Of the dense part. bf16: its matrix products alone; parameters and sums are float32, as embeddings always are.
    fp64: all of it, so that rounding does not tell a run on other processes from this one; takes twice as long as fp32.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    on_nonfinite: Literal["error", "skip"] = "error"
    """What a loss that is not a number does: stop the run, or leave the batch out (one more exchange a step)."""
    log_every: int = Field(100, gt=0)
    """Steps between lines of metrics.jsonl and TensorBoard."""


class PretrainedConfig(Config):
    """Runs that the parameters start from."""

    runs: tuple[str, ...] = ()
    """Their folders: tables of the same name are taken over, and what the head makes of their heads."""


class CheckpointConfig(Config):
    """When the whole state is saved."""

    every: int | None = Field(None, gt=0)
    """Steps between checkpoints; not set: at each evaluation."""
    keep: int = Field(2, gt=0)
    """Newest checkpoints that are kept, beside the best one."""
    asynchronous: bool = True
    """Training goes on while a copy of the state is written; the copy takes as much host memory as the state."""


class RunConfig(Config):
    """Everything that defines a run; the number of processes is not among it."""

    seed: int = Field(0, ge=0, lt=1 << 63)
    """Of initial weights, order of rows and dropout."""
    task: Click.Config | Rating.Config | Implicit.Config | TopN.Config | NextItem.Config = Field(
        Click.Config(), discriminator="name"
    )
    """What is predicted; its `name`, and its own keys."""
    data: LoaderConfig
    """Where the rows come from."""
    head: dict[str, Any]
    """The recommender: its `name`, and its own keys (`dist-rec heads NAME` lists them)."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """The sharded embedding layer."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Of the dense parameters."""
    pretrained: PretrainedConfig = PretrainedConfig()
    """What the run starts from."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Of the learning rates."""
    train: TrainConfig = TrainConfig()
    """Length, evaluation, precision."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""

    def head_config(self) -> Config:
        """The head's own config, checked against its keys."""
        values = dict(self.head)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise UserError("missing key 'head.name'; `dist-rec heads` lists the heads")
        return find_head(name).Config.parse(values, "head.")

    def changes(self, other: "RunConfig") -> list[str]:
        """Keys that differ from another config and matter for the result, as `key: theirs → ours`."""
        ours, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{key}: {theirs.get(key)} → {ours.get(key)}"
            for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key) and _says_what(key)
        ]

    @property
    def head_name(self) -> str:
        """The name by which the head is found."""
        return self.head["name"]


def _says_what(key: str) -> bool:
    of_some = key.startswith(("embedding.lookups.", "embedding.tables.")) and key.endswith(".sharding")
    return not (of_some or key.startswith(HOW_NOT_WHAT))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
