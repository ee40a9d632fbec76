"""Initial parameters from earlier runs: tables by their names, and other heads' parameters by `Head.adopt`."""

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardedTensor
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.core.errors import UserError
from dist_rec.core.head import Head, find_head
from dist_rec.core.process import Process
from dist_rec.core.table_name import TableName, by_table
from dist_rec.embedding.layer import embedding_layer
from dist_rec.embedding.sharded_tensors import parts
from dist_rec.train.config import RunConfig
from dist_rec.train.run_folder import RunFolder
from dist_rec.train.state import state_of


def start_from(
    model: DistributedModelParallel, runs: tuple[str, ...], process: Process, optimizer: KeyedOptimizer | None = None
) -> None:
    """Loads the best checkpoints of runs into a new model, with any number of processes and any sharding.

    Tables of the same name are copied; `Head.adopt` takes parameters of the runs' heads. With an optimizer its state
    and the whole model are those of the one run.

    Raises:
        UserError: if a run has no checkpoint, no table of the model, or a table of another size; with an optimizer, if
            any tensor is missing there or has another size.
    """
    head = next(module for module in model.modules() if isinstance(module, Head))
    dims = embedding_layer(model).dims
    adopted = []
    for run in runs:
        folder = RunFolder(Path(run))
        _check_widths(folder.config, run, head, dims)
        checkpoints = folder.checkpoints(process)
        if optimizer is not None:
            return checkpoints.load(checkpoints.find("best"), model, optimizer)
        adopted.append(_load(model, checkpoints.path(checkpoints.find("best")), run))
    with torch.no_grad():
        head.adopt(adopted, partial(_rows, model, dims))
    return None


def _check_widths(config: RunConfig, run: str, head: Head, dims: dict[TableName, int]) -> None:
    """Compares the dimensions that the heads asked for: tables of different dimensions are padded to the same size."""
    for lookup in find_head(config.head_name).lookups(config.head_config(), head.manifest):
        for feature in lookup.features:
            table = TableName(lookup.name, head.manifest.table_of(feature))
            if dims.get(table, lookup.dim) != lookup.dim:
                raise UserError(
                    f"{run}: {table} has {lookup.dim} columns, this model's has {dims[table]}; give both heads the "
                    "same sizes, such as head.dim (biases are columns too)"
                )


def _load(model: DistributedModelParallel, path: Path, run: str) -> dict[str, Tensor]:
    """Loads the tables; returns the parameters of the saved head by their names in it."""
    reader = dcp.FileSystemReader(path)
    saved = {
        name: value
        for name, value in reader.read_metadata().state_dict_metadata.items()
        if isinstance(value, TensorStorageMetadata)
    }
    live = state_of(model, None)
    tables = {name: value for name, value in live.items() if TableName.of_parameter(name) and name in saved}
    for name, value in tables.items():
        if value.size() != saved[name].size:
            raise UserError(
                f"{run}: {name} has size {[*saved[name].size]}, this model's has {[*value.size()]}; use the same data, "
                "and heads of the same sizes, such as head.dim (biases are columns too)"
            )
    if not tables:
        raise UserError(f"pretrained.runs: {run} has no table of this model; name a run with a table of the same name")
    head = {
        name: torch.empty(value.size, dtype=value.properties.dtype)
        for name, value in saved.items()
        if name.startswith("model.") and ".head." in name
    }
    dcp.load({**tables, **head}, storage_reader=reader)
    return {name.split(".head.", 1)[1]: value for name, value in head.items()}


def _rows(model: DistributedModelParallel, dims: dict[TableName, int], name: str, ids: Tensor) -> Tensor:
    """Rows of a sharded table, without padding, gathered from all processes; see `TableRows`."""
    table = TableName.parse(name)
    weights = by_table(state_of(model, None).items())[table]
    if not isinstance(weights, ShardedTensor):
        return weights[ids, : dims[table]]
    found = torch.zeros(len(ids), weights.size(1), device=next(model.parameters()).device)
    for part in parts(weights):
        height, width = part.tensor.shape
        here = (ids >= part.row) & (ids < part.row + height)
        found[here, part.column : part.column + width] = part.tensor[ids[here] - part.row]
    dist.all_reduce(found)
    return found[:, : dims[table]]
