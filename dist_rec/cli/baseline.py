"""`dist-rec baseline`: scores of recommenders that are fitted in one pass, for comparison with trained ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core.log import shown, to_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dist_rec.baselines.ranked import Baseline

baseline = typer.Typer(
    help="Score recommenders that need no training, on a folder of [bold]dist-rec prepare ratings[/bold].",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Argument(help="A prepared folder, with candidates or with histories of users.")]
SplitName = Annotated[str, typer.Option(help="Split to score; the model is always fitted on the training split.")]
Cutoffs = Annotated[
    list[int] | None, typer.Option("--cutoff", min=1, help="Length of the ranked lists to score. Repeatable.")
]


@baseline.command(no_args_is_help=True)
def pop(data: Data, split: SplitName = "test", cutoff: Cutoffs = None, as_json: AsJson = False) -> None:
    """Rank items by their number of users, the same for everybody.

    dist-rec baseline pop data/ml1m
    """
    from dist_rec.baselines.pop import Pop

    _score("pop", Pop, data, split, cutoff, as_json)


@baseline.command(no_args_is_help=True)
def item_knn(
    data: Data,
    neighbors: Annotated[
        int | None, typer.Option(min=1, help="Nearest neighbors kept for each item; all if not given.")
    ] = None,
    shrinkage: Annotated[
        float, typer.Option(min=0, help="Shrinks similarities that rest on few users towards 0; a number of users.")
    ] = 0.0,
    split: SplitName = "test",
    cutoff: Cutoffs = None,
    as_json: AsJson = False,
) -> None:
    """Rank items by their cosine similarity to the items of a user (Deshpande and Karypis 2004).

    dist-rec baseline item-knn data/ml1m --neighbors 200
    """
    from dist_rec.baselines.item_knn import ItemKNN

    _score("item_knn", lambda seen_UI: ItemKNN(seen_UI, neighbors, shrinkage), data, split, cutoff, as_json)


def _score(
    name: str,
    fit: "Callable[[csr_array], Baseline]",
    data: Path,
    split: str,
    cutoffs: list[int] | None,
    as_json: bool,
) -> None:
    from dist_rec.baselines.ranked import score_split, seen_matrix
    from dist_rec.data.shards import Dataset

    dataset = Dataset(data)
    seen_UI = seen_matrix(dataset)
    scores = score_split(fit(seen_UI), dataset, split, seen_UI, tuple(cutoffs) if cutoffs else None)
    typer.echo(shown(scores))
    if as_json:
        typer.echo(to_json({"baseline": name, "data": str(data), "split": split, **scores}))
