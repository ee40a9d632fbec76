"""Optimizers that FBGEMM has no kernel for, on the rows of the batch, under any sharding.

FBGEMM looks the rows up; a hook cuts its backward off and catches the gradient of its output instead. The gradient of
a row is the sum over the bags that hold it, which is a lookup again, with rows and bags exchanged. `step` gathers the
touched rows and their state, applies a `RowRule` and scatters them back. Weights change in `step` alone, so lookups
without a step (evaluation, an exception) cost nothing, and gradients of several backward passes add up.

What it costs: on one CPU thread a step of lookup and update with Adam or FTRL takes 2.2 to 2.6 times as long as under
FBGEMM's row-wise Adagrad, whose state is one number a row, and about as long as under its fused Adagrad
(`benchmarks/row_optimizer.py`). Adam keeps two numbers a weight, FTRL two, and columns are filled up to a multiple of
four: the weight of a linear model under FTRL takes 48 bytes.
"""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import ShardedEmbeddingModule
from torchrec.distributed.types import Shard, ShardedTensor
from torchrec.optim import SGD, RowWiseAdagrad
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.embedding.catalog import ShardedCatalog
from dist_rec.embedding.row_rules import RowUpdate, row_gradients, row_rule, rule_of
from dist_rec.embedding.tables import EmbeddingConfig, EmbeddingTable

Kernel: TypeAlias = BatchedFusedEmbedding | BatchedFusedEmbeddingBag


def rows_only(table: EmbeddingTable) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """What to give TorchRec as fused optimizer of a table that `RowOptimizer` will update; it never runs.

    It is SGD, which has no state, or row-wise Adagrad, whose state TorchRec shards in its own way. TorchRec groups
    tables by `_batch_key` and hands it to no kernel: all tables of a kernel share a rule and a width.
    """
    unused = RowWiseAdagrad if table.settings.optimizer == "rowwise_adagrad" else SGD
    return unused, {"lr": table.settings.lr, "_batch_key": repr((table.padded_dim, *_rule_settings(table)))}


def _rule_settings(table: EmbeddingTable) -> tuple[object, ...]:
    return tuple(value for name, value in table.settings if name not in ("init", "sharding"))


class RowOptimizer(KeyedOptimizer):
    """Updates the tables that have a row rule or are tied to a catalog, and counts the steps of FBGEMM's Adam.

    It owns no parameters: its state is put among that of TorchRec's fused optimizer of the same tables, under the
    names of the fused form where there is one. So `model.fused_optimizer` saves, loads and reshards it and has the
    learning rates, and a checkpoint of Adam on CPUs goes on on GPUs. Build it once, before the first training step.

    Args:
        model: with sharded tables.
        config: their settings.
    """

    def __init__(self, model: nn.Module, config: EmbeddingConfig) -> None:
        super().__init__({}, {}, [])
        self._tables: list[_RowTables | _AdamSteps] = []
        catalogs = {module.tied: module for module in model.modules() if isinstance(module, ShardedCatalog)}
        for kernel in kernels(model):
            settings = config.settings(kernel.config.embedding_tables[0].name)
            tied = [
                (place, catalogs[table.name])
                for place, table in enumerate(kernel.config.embedding_tables)
                if table.name in catalogs
            ]
            rule = rule_of(settings) if tied else row_rule(settings, kernel.split_embedding_weights()[0].device)
            if rule is not None:
                self._tables.append(_RowTables(kernel, RowUpdate(rule, settings.weight_decay), tied))
            elif kernel.emb_module.optimizer == EmbOptimType.ADAM:
                self._tables.append(_AdamSteps(kernel))
            for weights in [weights for _, weights, state in _states(kernel) if not state]:
                # torch.distributed.checkpoint saves no empty entry, and fails to load one where a table has no shard.
                del kernel.fused_optimizer.state[weights]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Applies the gradients since the last step; nothing where there was no backward pass."""
        for tables in self._tables:
            tables.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops gradients that no step has used."""
        for tables in self._tables:
            tables.zero_grad()


class _RowTables:
    """The tables of one FBGEMM kernel, one below the other as a matrix of R rows and D columns."""

    def __init__(self, kernel: Kernel, update: RowUpdate, tied: list[tuple[int, ShardedCatalog]]) -> None:
        self._update, self._group = update, kernel.fused_optimizer.param_groups[0]
        module = kernel.emb_module
        assert module.pooling_mode in (PoolingMode.SUM, PoolingMode.NONE)
        self._is_pooled = module.pooling_mode == PoolingMode.SUM
        shards = module.split_embedding_weights()
        self._weights_RD = _stacked(shards)
        fused_state = [_stacked(list(parts)) for parts in zip(*module.split_optimizer_states(), strict=True)]
        self._state = fused_state or update.rule.initial_state(self._weights_RD)
        self._step = torch.zeros((), dtype=torch.int64)
        rows = [len(shard) for shard in shards]
        first_rows = [0, *accumulate(rows[:-1])]
        self._first_row_F = torch.tensor([first_rows[table] for table in module.feature_table_map]).to(shards[0].device)
        self._tied = [(first_rows[table], catalog) for table, catalog in tied]
        self._gradients: list[tuple[Tensor, Tensor]] = []
        if not fused_state:
            for name, state_RD in zip(update.rule.state, self._state, strict=True):
                _share(kernel, name, state_RD.split(rows))
        _share_step(kernel, self._step)
        module.register_forward_hook(self._looked_up, with_kwargs=True)

    def _looked_up(self, module: nn.Module, args: tuple[()], inputs: dict[str, Any], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        assert inputs.keys() <= {"indices", "offsets", "per_sample_weights"}, inputs.keys()
        leaf = output.detach().requires_grad_()
        leaf.register_post_accumulate_grad_hook(partial(self._receive, **inputs))
        return leaf

    @torch.no_grad()
    def _receive(
        self, output: Tensor, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None
    ) -> None:
        """Takes the gradient of a lookup of F features.

        Args:
            output: float32 [B, F D], or [V, D] without pooling, with its gradient.
            indices: rows of the features' tables, [V].
            offsets: of the bags in `indices`, [F B + 1], features one after the other.
            per_sample_weights: factors, [V].
        """
        assert output.grad is not None
        gradient, output.grad = output.grad, None
        features, dim = len(self._first_row_F), self._weights_RD.shape[1]
        bags = (len(offsets) - 1) // features
        lengths = offsets.diff()
        rows_V = indices + self._first_row_F.repeat_interleave(lengths.view(features, bags).sum(1))
        if self._is_pooled:
            # Bag (f, b) got row (b, f) of the gradient.
            place = torch.arange(bags * features, device=rows_V.device).view(bags, features).t().reshape(-1)
            place_V = place.repeat_interleave(lengths)
        else:
            place_V = torch.arange(len(rows_V), device=rows_V.device)
        self._gradients.append(row_gradients(rows_V, place_V, gradient.reshape(-1, dim), per_sample_weights))

    def step(self) -> None:
        """See `RowOptimizer.step`."""
        for first_row, catalog in self._tied:
            if (gradient := catalog.take_tied_gradient()) is not None:
                rows_U, gradient_UD = _by_row(gradient)
                self._gradients.append((rows_U + first_row, gradient_UD / dist.get_world_size()))
        if not self._gradients:
            return
        self._step += 1
        rows_U, gradient_UD = _sum_by_row(self._gradients)
        self._gradients = []
        matrices = [self._weights_RD, *self._state]
        self._update.rows(matrices, rows_U, gradient_UD, float(self._group["lr"]), int(self._step))

    def zero_grad(self) -> None:
        """See `RowOptimizer.zero_grad`."""
        self._gradients = []
        for _, catalog in self._tied:
            catalog.take_tied_gradient()


def _by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    return torch.arange(len(gradient), device=gradient.device), gradient


def _sum_by_row(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    rows, gradients = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return row_gradients(rows, torch.arange(len(rows), device=rows.device), gradients)


class _AdamSteps:
    """The step count of FBGEMM's fused Adam.

    By itself it counts lookups, those of an evaluation too, and is not among what TorchRec saves.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._step, self._looked_up = torch.zeros((), dtype=torch.int64), False
        _share_step(kernel, self._step)
        kernel.emb_module.register_forward_pre_hook(self._before_lookup)

    def _before_lookup(self, module: Any, args: tuple[()]) -> None:
        if torch.is_grad_enabled():
            for count in (module.iter, module.iter_cpu):
                count.fill_(int(self._step))
            self._looked_up = True

    def step(self) -> None:
        """See `RowOptimizer.step`."""
        self._step += self._looked_up
        self._looked_up = False

    def zero_grad(self) -> None:
        """See `RowOptimizer.zero_grad`; the fused update has been made already."""


def kernels(model: nn.Module) -> Iterator[Kernel]:
    """The FBGEMM kernels that hold the lookups' tables on this process."""
    for sharded in model.modules():
        if isinstance(sharded, ShardedEmbeddingModule):  # its lookups are none of its submodules
            for lookup in sharded._lookups:
                yield from (module for module in lookup.modules() if isinstance(module, Kernel))


def _stacked(parts: list[Tensor]) -> Tensor:
    """Neighbouring views of one storage, [rows of each, ...], as one view [R, ...]."""
    starts = accumulate((part.numel() for part in parts), initial=parts[0].storage_offset())
    assert all(part.storage_offset() == start for part, start in zip(parts, starts, strict=False))
    assert len({part.shape[1:] for part in parts}) == 1
    return parts[0].as_strided((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].stride())


def _share(kernel: Kernel, name: str, parts: tuple[Tensor, ...]) -> None:
    """Puts state of the weights' shape, a tensor for each table of the kernel, into its fused optimizer."""
    by_table: dict[str, list[Tensor]] = {}
    for table, part in zip(kernel.config.embedding_tables, parts, strict=True):
        by_table.setdefault(table.name, []).append(part)
    for table, weights, state in _states(kernel):
        shards = [
            Shard(part, shard.metadata) for part, shard in zip(by_table[table], weights.local_shards(), strict=True)
        ]
        state[f"{table}.{name}"] = ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, weights.metadata(), process_group=weights._process_group
        )


def _share_step(kernel: Kernel, step: Tensor) -> None:
    for table, _, state in _states(kernel):
        state[f"{table}.step"] = step


def _states(kernel: Kernel) -> Iterator[tuple[str, ShardedTensor, dict[str, Any]]]:
    """Name, weights and state of each table in the fused optimizer of a kernel."""
    optimizer = kernel.fused_optimizer
    for key, weights in optimizer.params.items():
        yield key.rsplit(".", 2)[-2], weights, optimizer.state[weights]
