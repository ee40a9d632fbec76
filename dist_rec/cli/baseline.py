"""`dist-rec baseline`: scores of recommenders that are fit in one pass, to hold the others against."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_rec.core.log import shown, to_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dist_rec.baselines.ranked import Baseline

baseline = typer.Typer(
    help="Score recommenders without training, on a folder of [bold]dist-rec prepare ratings[/bold].",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Argument(help="A prepared folder, with candidates or with histories of users.")]
SplitName = Annotated[str, typer.Option(help="Split that is scored; what is fit is always the training split.")]
Cutoffs = Annotated[
    list[int] | None, typer.Option("--cutoff", min=1, help="Length of the lists that are judged. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@baseline.command(no_args_is_help=True)
def pop(data: Data, split: SplitName = "test", cutoff: Cutoffs = None, as_json: AsJson = False) -> None:
    """Items by how many users have them: what everybody gets.

    dist-rec baseline pop data/ml1m
    """
    from dist_rec.baselines.pop import Pop

    _score("pop", Pop, data, split, cutoff, as_json)


@baseline.command(no_args_is_help=True)
def item_knn(
    data: Data,
    neighbors: Annotated[
        int | None, typer.Option(min=1, help="Nearest items that are kept of each item; all if not given.")
    ] = None,
    shrinkage: Annotated[
        float, typer.Option(min=0, help="Draws similarities that few users speak for to 0; in users.")
    ] = 0.0,
    split: SplitName = "test",
    cutoff: Cutoffs = None,
    as_json: AsJson = False,
) -> None:
    """Items by their cosine similarity to what a user has (Deshpande and Karypis 2004).

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
