"""Which settings the tests give to which head: one or more each, on the columns of `tests.small_head.MANIFEST`."""

from typing import Any

from dist_rec.core.head import head_names

ITEMS = {"target": "item", "history": "history"}
BAGS = {"history": "scores", "target": "scores"}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "autoint": [{}, {"hidden": [16]}],
    "autorec": [BAGS, {**BAGS, "f": "sigmoid", "g": "identity"}],
    "dcn_v2": [{"structure": "stacked"}, {"structure": "parallel", "rank": 4}],
    "deepfm": [{}, {"hidden": []}, {"shared": False}],
    "din": [ITEMS],
    "dlrm": [{}, {"interaction": "dcn"}],
    "finalmlp": [{}, {"first_context": ["user"], "second_context": ["item", "tags"]}],
    "llorma": [{"dim": 4, "anchors": 3, "rank": 4}],
    "masknet": [{"structure": "serial"}, {"structure": "parallel"}],
    "mf": [{}, {"biases": False}],
    "neumf": [{}, {"parts": "gmf"}, {"parts": "mlp", "dropout": 0.3}],
    "nfm": [{}, {"hidden": [], "dropout": [0.0], "batch_norm": False}],
    "pnn": [{"product": "inner"}, {"product": "outer"}, {"product": "both"}],
    "rbm": [BAGS, {**BAGS, "gibbs_steps": 2}],
    "vae": [
        {**BAGS, "dropout": 0.0},
        {**BAGS, "dropout": 0.0, "variational": False, "likelihood": "gaussian"},
        {**BAGS, "dropout": 0.0, "hidden": [], "likelihood": "logistic"},
    ],
    "wide_deep": [{}, {"parts": "wide"}, {"parts": "deep"}, {"wide": ["user", "tags"], "deep": ["item"]}],
}
SEQUENCES = ("gru4rec", "hrnn", "caser", "session_mf", "sasrec", "hstu")
"""Heads of sessions, whose tests are `tests.distributed.test_sequence_heads`."""
CASES = [(name, settings) for name in head_names() if name not in SEQUENCES for settings in SETTINGS.get(name, [{}])]
