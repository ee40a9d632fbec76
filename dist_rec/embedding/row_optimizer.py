"""Optimizers without an FBGEMM kernel, on the rows of the batch, under any sharding.

FBGEMM looks the rows up; a hook detaches its output and stores the gradient of the output. The gradient of a row is the
sum over the bags that hold it: a lookup again, with rows and bags exchanged. `step` gathers the touched rows and their
state, applies a `RowRule` and scatters them back. Only `step` changes weights, so lookups without a step (evaluation,
an exception) cost nothing, and gradients of several backward passes add up.

Cost: on one CPU thread a step of lookup and update with Adam or FTRL takes 2.2 to 2.6 times as long as under
FBGEMM's row-wise Adagrad, whose state is one number a row, and about as long as under its fused Adagrad
(`benchmarks/row_optimizer.py`). Adam and FTRL keep two numbers a weight, and columns are padded to a multiple of four:
the weight of a linear model under FTRL takes 48 bytes.
"""

from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor, nn
from torchrec.optim import Adam
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.embedding.catalog import ShardedCatalog
from dist_rec.embedding.kernels import Kernel, add_state, add_step, kernels, stacked, table_names
from dist_rec.embedding.layer import embedding_layer
from dist_rec.embedding.row_rules import Rows, by_row, row_gradients, sum_by_row
from dist_rec.embedding.updates import Fused


class RowOptimizer(KeyedOptimizer):
    """Updates the tables that have a row rule or are tied to a catalog, and counts the steps of FBGEMM's Adam.

    It owns no parameters: its state is part of the state of TorchRec's fused optimizer of the same tables, under the
    names of FBGEMM's form of the rule where there is one. So `model.fused_optimizer` saves, loads and reshards it and
    has the learning rates, and a checkpoint of Adam on CPUs can be continued on GPUs. Build it once, before the first
    training step.

    Args:
        model: a model with sharded tables.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__({}, {}, [])
        self._tables: list[_RowTables | _AdamSteps] = []
        updates = embedding_layer(model).updates
        catalogs = {module.tied: module for module in model.modules() if isinstance(module, ShardedCatalog)}
        for kernel in kernels(model):
            tables = table_names(kernel)
            match updates[tables[0]]:
                case Rows() as update:
                    tied = [(place, catalogs[table]) for place, table in enumerate(tables) if table in catalogs]
                    self._tables.append(_RowTables(kernel, update, tied))
                case Fused(optimizer) if optimizer is Adam:
                    self._tables.append(_AdamSteps(kernel))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Applies the gradients since the last step; does nothing without a backward pass."""
        for tables in self._tables:
            tables.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops gradients that no step has used."""
        for tables in self._tables:
            tables.zero_grad()


class _RowTables:
    """The tables of one FBGEMM kernel, concatenated to a matrix of R rows and D columns."""

    def __init__(self, kernel: Kernel, update: Rows, tied: list[tuple[int, ShardedCatalog]]) -> None:
        self._update, self._group = update, kernel.fused_optimizer.param_groups[0]
        module = kernel.emb_module
        assert module.pooling_mode in (PoolingMode.SUM, PoolingMode.NONE)
        self._is_pooled = module.pooling_mode == PoolingMode.SUM
        shards = module.split_embedding_weights()
        self._weights_RD = stacked(shards)
        fused_state = [stacked(list(parts)) for parts in zip(*module.split_optimizer_states(), strict=True)]
        self._state = fused_state or update.rule.initial_state(self._weights_RD)
        self._step = torch.zeros((), dtype=torch.int64)
        rows = [len(shard) for shard in shards]
        first_rows = [0, *accumulate(rows[:-1])]
        self._first_row_F = torch.tensor([first_rows[table] for table in module.feature_table_map]).to(shards[0].device)
        self._tied = [(first_rows[table], catalog) for table, catalog in tied]
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._distinct = False
        if not fused_state:
            for name, state_RD in zip(update.rule.state, self._state, strict=True):
                add_state(kernel, name, state_RD.split(rows))
        add_step(kernel, self._step)
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
        """Stores the row gradients of a lookup of F features.

        Args:
            output: float32 [B, F D], or [V, D] without pooling; has its gradient.
            indices: rows of the features' tables, [V].
            offsets: bounds of the bags in `indices`, [F B + 1], features one after the other.
            per_sample_weights: weights of the ids, [V].
        """
        assert output.grad is not None
        gradient, output.grad = output.grad, None
        features, dim = len(self._first_row_F), self._weights_RD.shape[1]
        bags = (len(offsets) - 1) // features
        lengths = offsets.diff()
        rows_V = indices + self._first_row_F.repeat_interleave(lengths.view(features, bags).sum(1))
        if not self._is_pooled:
            assert per_sample_weights is None
            self._add(rows_V, gradient.reshape(-1, dim), distinct=False)
            return
        # The gradient of bag (f, b) is row (b, f).
        place = torch.arange(bags * features, device=rows_V.device).view(bags, features).t().reshape(-1)
        place_V = place.repeat_interleave(lengths)
        self._add(*row_gradients(rows_V, place_V, gradient.reshape(-1, dim), per_sample_weights), distinct=True)

    def _add(self, rows_V: Tensor, gradient_VD: Tensor, distinct: bool) -> None:
        """Adds gradients of rows, which are distinct and ascending or not, to those of the next step."""
        self._distinct = distinct and not self._gradients
        self._gradients.append((rows_V, gradient_VD))

    def step(self) -> None:
        for first_row, catalog in self._tied:
            if (gradient := catalog.take_tied_gradient()) is not None:
                rows_V, gradient_VD = by_row(gradient)
                self._add(rows_V + first_row, gradient_VD / dist.get_world_size(), distinct=False)
        if not self._gradients:
            return
        self._step += 1
        rows_U, gradient_UD = self._gradients[0]
        if not self._distinct:
            rows_U, gradient_UD = sum_by_row(*(torch.cat(tensors) for tensors in zip(*self._gradients, strict=True)))
        self._gradients = []
        matrices = [self._weights_RD, *self._state]
        self._update.update(matrices, rows_U, gradient_UD, float(self._group["lr"]), int(self._step))

    def zero_grad(self) -> None:
        self._gradients = []
        for _, catalog in self._tied:
            catalog.take_tied_gradient()


class _AdamSteps:
    """The step count of FBGEMM's fused Adam, set before each lookup in training.

    FBGEMM itself counts lookups, also those of an evaluation, and TorchRec does not save this count.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._step, self._looked_up = torch.zeros((), dtype=torch.int64), False
        add_step(kernel, self._step)
        kernel.emb_module.register_forward_pre_hook(self._before_lookup)

    def _before_lookup(self, module: Any, args: tuple[()]) -> None:
        if torch.is_grad_enabled():
            for count in (module.iter, module.iter_cpu):
                count.fill_(int(self._step))
            self._looked_up = True

    def step(self) -> None:
        self._step += self._looked_up
        self._looked_up = False

    def zero_grad(self) -> None:
        """Does nothing: FBGEMM has applied the gradients in the backward pass."""
