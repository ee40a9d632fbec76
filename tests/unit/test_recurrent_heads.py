"""GRU4Rec and HRNN against plain references, event by event."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_rec.core.errors import UserError
from dist_rec.core.head import Inputs, Lanes, Query, RecurrentHead, Sequence, find_head
from dist_rec.core.noise import noise
from dist_rec.core.schema import Manifest, Table
from dist_rec.train.config import RunConfig
from dist_rec.train.spec import resolve
from tests.small_sessions import COLUMNS

ITEMS, HIDDEN = 9, 6
MANIFEST = Manifest(columns=COLUMNS, tables={"user": Table(rows=5), "item": Table(rows=ITEMS)}, splits={})


def build(name: str, **settings: Any) -> RecurrentHead:
    torch.manual_seed(0)
    head_class = find_head(name)
    head = head_class(head_class.Config.parse({"hidden": HIDDEN, **settings}), MANIFEST)
    assert isinstance(head, RecurrentHead)
    return head


def step(head: RecurrentHead, x_BD: Tensor, state_BS: Tensor, starts_session: bool, starts_unit: bool) -> Query:
    ones = torch.ones(len(x_BD), dtype=torch.bool)
    lanes = Lanes(torch.arange(len(x_BD)), ones & starts_session, ones & starts_unit)
    found = {"items": {"history": Sequence(x_BD, ones.int())}}
    noise.begin(0, 0, 0, len(x_BD))
    return head(Inputs(torch.empty(len(x_BD), 0), sequences=found, lanes=lanes, state=state_BS))


def read(head: RecurrentHead, sessions: list[Tensor]) -> list[Tensor]:
    """Queries of one unit's sessions, each [T, D]."""
    state_BS, queries = torch.zeros(1, head.state_size(head.config)), []  # type: ignore[arg-type]
    for number, session_TD in enumerate(sessions):
        for place, x_D in enumerate(session_TD):
            if number == place == 0:
                state_BS = torch.zeros_like(state_BS)
            query = step(head, x_D.unsqueeze(0), state_BS, place == 0, number == place == 0)
            assert query.state is not None
            state_BS = query.state
            queries.append(query.vectors[0])
    return queries


def gru_of(cell: nn.Module, inputs: int, hidden: int) -> nn.GRUCell:
    """PyTorch's cell with the same weights."""
    gru = nn.GRUCell(inputs, hidden)
    if inputs:
        gru.weight_ih, gru.bias_ih = cell.input.weight, cell.input.bias  # type: ignore[union-attr, assignment]
    gru.weight_hh, gru.bias_hh = cell.hidden.weight, cell.hidden.bias  # type: ignore[union-attr, assignment]
    return gru


def test_gru4rec_is_pytorch_s_gru() -> None:
    head, session_TD = build("gru4rec", layers=2), torch.randn(7, HIDDEN)
    gru = nn.GRU(HIDDEN, HIDDEN, num_layers=2)
    for layer, cell in enumerate(head.cells):  # type: ignore[arg-type]
        for name, part in (("ih", cell.input), ("hh", cell.hidden)):
            setattr(gru, f"weight_{name}_l{layer}", part.weight)
            setattr(gru, f"bias_{name}_l{layer}", part.bias)
    torch.testing.assert_close(torch.stack(read(head, [session_TD])), gru(session_TD)[0])


def test_gates_may_come_in_as_they_are() -> None:
    head, session_TD = build("gru4rec", embedding="none"), torch.randn(4, 3 * HIDDEN)
    (lookup,) = head.lookups(head.config, MANIFEST)
    assert lookup.dim == 3 * HIDDEN
    separate = build("gru4rec", embedding="separate", dim=3 * HIDDEN)
    cell, of_gates = separate.cells[0], head.cells[0]  # type: ignore[index]
    cell.hidden.load_state_dict(of_gates.hidden.state_dict())
    nn.init.eye_(cell.input.weight)
    nn.init.zeros_(cell.input.bias)
    torch.testing.assert_close(torch.stack(read(head, [session_TD])), torch.stack(read(separate, [session_TD])))


def test_the_discounted_sum_has_the_length_of_one_item() -> None:
    head = build("gru4rec", input="discounted", discount=0.5)
    last = build("gru4rec")
    last.load_state_dict(head.state_dict())
    session_TD = torch.eye(HIDDEN)[:4]
    sums_TD = torch.stack([sum(0.5 ** (t - k) * session_TD[k] for k in range(t + 1)) for t in range(4)])
    expected = read(last, [nn.functional.normalize(sums_TD, dim=1)])
    torch.testing.assert_close(torch.stack(read(head, [session_TD])), torch.stack(expected))


@pytest.mark.parametrize("variant", ["init", "all"])
def test_hrnn_by_its_equations(variant: str) -> None:
    head = build("hrnn", variant=variant, user_hidden=4)
    sessions = [torch.randn(length, HIDDEN) for length in (3, 1, 4)]
    session_gru = gru_of(head.session, HIDDEN + 4 * (variant == "all"), HIDDEN)  # type: ignore[arg-type]
    user_gru, init = gru_of(head.user, HIDDEN, 4), head.init  # type: ignore[arg-type]
    h, c, expected = torch.zeros(1, HIDDEN), torch.zeros(1, 4), []
    for number, session_TD in enumerate(sessions):
        if number:
            c = user_gru(h, c)
            h = init(c).tanh()  # type: ignore[operator]
        for x_D in session_TD:
            x = x_D.unsqueeze(0)
            h = session_gru(torch.cat([x, c], dim=1) if variant == "all" else x, h)
            expected.append(h[0])
    torch.testing.assert_close(torch.stack(read(head, sessions)), torch.stack(expected))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gru4rec", {"layers": 2, "embedding_dropout": 0.2, "hidden_dropout": 0.2}),
        ("gru4rec", {"embedding": "none", "input": "discounted"}),
        ("hrnn", {"variant": "init", "user_dropout": 0.2, "init_dropout": 0.2}),
        ("hrnn", {"variant": "all", "hidden_dropout": 0.2}),
    ],
)
def test_a_further_session_has_gradients_to_every_parameter(name: str, settings: dict[str, Any]) -> None:
    head = build(name, **settings)
    dim = head.lookups(head.config, MANIFEST)[0].dim
    state = torch.randn(5, head.state_size(head.config)).abs()  # type: ignore[arg-type]
    query = step(head, torch.randn(5, dim), state, starts_session=True, starts_unit=False)
    query.vectors.square().sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    assert query.state is not None
    assert query.state.shape == state.shape


@pytest.mark.parametrize(
    ("columns", "head", "task", "message"),
    [
        (
            {"history": "bag"},
            {"name": "gru4rec"},
            {},
            r"'history' must be sequence or categorical, and it is bag; .*prepare sessions",
        ),
        ({"target": "categorical"}, {"name": "gru4rec"}, {}, "'target' must be sequence, and it is categorical"),
        ({}, {"name": "hrnn", "user": "history"}, {}, "'history' must be categorical, and it is sequence"),
        ({}, {"name": "hrnn", "user": "visitor"}, {}, "no column 'visitor'"),
        ({}, {"name": "gru4rec"}, {"seen": "history"}, "the task's column 'history' must be a bag"),
    ],
)
def test_data_that_are_no_sessions_are_refused(
    columns: dict[str, Any], head: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    changed = tuple(c.model_copy(update={"kind": columns.get(c.name, c.kind)}) for c in COLUMNS)
    config = RunConfig.parse({"data": {"path": "unused"}, "head": head, "task": {"name": "next_item", **task}})
    with pytest.raises(UserError, match=message):
        resolve(config, MANIFEST.model_copy(update={"columns": changed}))
