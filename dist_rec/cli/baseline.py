"""`dist-rec baseline`: scores of recommenders that are fit in one pass, to hold the others against."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core.errors import UserError
from dist_rec.core.log import shown, to_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dist_rec.baselines.ranked import Baseline
    from dist_rec.baselines.ranked_sessions import SessionBaseline
    from dist_rec.data.shards import Dataset

    Scores = Callable[[Dataset, str, tuple[int, ...] | None], dict[str, float]]

baseline = typer.Typer(
    help="Score recommenders that need no training, on a folder of [bold]dist-rec prepare ratings[/bold] or "
    "[bold]sessions[/bold].",
    no_args_is_help=True,
)

Data = Annotated[
    Path, typer.Argument(help="A prepared folder: of ratings, with candidates or with histories of users; or sessions.")
]
Clicks = Annotated[Path, typer.Argument(help="A folder of `dist-rec prepare sessions`.")]
SplitName = Annotated[str, typer.Option(help="Split to score; the model is always fitted on the training split.")]
Cutoffs = Annotated[
    list[int] | None, typer.Option("--cutoff", min=1, help="Length of the ranked lists to score. Repeatable.")
]
Seen = Annotated[
    str | None,
    typer.Option(help="Sessions: column of items that are not recommended again; all are if not given."),
]


@baseline.command(no_args_is_help=True)
def pop(
    data: Data, split: SplitName = "test", cutoff: Cutoffs = None, seen: Seen = None, as_json: AsJson = False
) -> None:
    """Items by how many users have them, or how many events of sessions: what everybody gets.

    dist-rec baseline pop data/ml1m
    """
    from dist_rec.baselines.pop import Pop
    from dist_rec.baselines.session_pop import SessionPop
    from dist_rec.data.counts import load_counts

    scores = _of_sessions(lambda dataset: SessionPop(load_counts(dataset)), seen)
    _score("pop", scores, data, split, cutoff, as_json, ratings=_of_ratings(Pop, seen))


@baseline.command(no_args_is_help=True)
def s_pop(
    data: Clicks, split: SplitName = "test", cutoff: Cutoffs = None, seen: Seen = None, as_json: AsJson = False
) -> None:
    """Items of the session so far by their number in it, then all by events in training (Hidasi et al. 2016).

    dist-rec baseline s-pop data/clicks
    """
    from dist_rec.baselines.session_pop import SPop
    from dist_rec.data.counts import load_counts

    scores = _of_sessions(lambda dataset: SPop(load_counts(dataset)), seen)
    _score("s_pop", scores, data, split, cutoff, as_json)


@baseline.command(no_args_is_help=True)
def item_knn(
    data: Data,
    neighbors: Annotated[
        int | None, typer.Option(min=1, help="Nearest items that are kept of each item; all if not given.")
    ] = None,
    shrinkage: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Draws similarities that little speaks for to 0; if not given 0, or 20 for sessions.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Sessions: power of the last item's number; that of another item has 1 - alpha, so that less draws "
            "popular ones more to 0; 0.5 if not given.",
        ),
    ] = None,
    distinct: Annotated[
        bool, typer.Option(help="Sessions: count an item of a session once, not all of its events.")
    ] = False,
    split: SplitName = "test",
    cutoff: Cutoffs = None,
    seen: Seen = None,
    as_json: AsJson = False,
) -> None:
    """Items by their cosine similarity to what a user has (Deshpande and Karypis 2004), or to a session's last item.

    Of a session's last item i and another item j it is c_ij / ((n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha)):
    n_i are the events of i, and c_ij those in sessions that have j, as in the code of Hidasi et al. 2016.

        dist-rec baseline item-knn data/ml1m --neighbors 200
    """
    from dist_rec.baselines.item_knn import ItemKNN
    from dist_rec.baselines.last_item import LastItem
    from dist_rec.baselines.sessions import Sessions

    def fit(dataset: "Dataset") -> LastItem:
        sessions = Sessions.of_training(dataset)
        return LastItem.item_knn(
            sessions, neighbors, 20.0 if shrinkage is None else shrinkage, 0.5 if alpha is None else alpha, distinct
        )

    ratings = _of_ratings(lambda seen_UI: ItemKNN(seen_UI, neighbors, shrinkage or 0.0), seen, alpha)
    _score("item_knn", _of_sessions(fit, seen), data, split, cutoff, as_json, ratings=ratings)


@baseline.command(no_args_is_help=True)
def markov(
    data: Clicks,
    smoothing: Annotated[
        float,
        typer.Option(min=0, help="Events after each item that come as often as they do in all of training, by share."),
    ] = 0.0,
    split: SplitName = "test",
    cutoff: Cutoffs = None,
    seen: Seen = None,
    as_json: AsJson = False,
) -> None:
    """Items by how often they came next after a session's last item in training: a Markov chain of first order.

    dist-rec baseline markov data/clicks --smoothing 1
    """
    from dist_rec.baselines.last_item import LastItem
    from dist_rec.baselines.sessions import Sessions
    from dist_rec.data.counts import load_counts

    def fit(dataset: "Dataset") -> LastItem:
        return LastItem.markov(Sessions.of_training(dataset), load_counts(dataset), smoothing)

    _score("markov", _of_sessions(fit, seen), data, split, cutoff, as_json)


def _of_sessions(fit: "Callable[[Dataset], SessionBaseline]", seen: str | None) -> "Scores":
    from dist_rec.baselines.ranked_sessions import score_sessions

    return lambda dataset, split, cutoffs: score_sessions(fit(dataset), dataset, split, cutoffs, seen)


def _of_ratings(fit: "Callable[[csr_array], Baseline]", seen: str | None, alpha: float | None = None) -> "Scores":
    from dist_rec.baselines.ranked import score_split, seen_matrix

    def scores(dataset: "Dataset", split: str, cutoffs: tuple[int, ...] | None) -> dict[str, float]:
        for option, value in (("seen", seen), ("alpha", alpha)):
            if value is not None:
                raise UserError(f"--{option} is for folders of `dist-rec prepare sessions`; {dataset.path} is none")
        seen_UI = seen_matrix(dataset)
        return score_split(fit(seen_UI), dataset, split, seen_UI, cutoffs)

    return scores


def _score(
    name: str,
    sessions: "Scores",
    data: Path,
    split: str,
    cutoffs: list[int] | None,
    as_json: bool,
    ratings: "Scores | None" = None,
) -> None:
    from dist_rec.baselines.sessions import has_sessions
    from dist_rec.data.shards import Dataset

    dataset = Dataset(data)
    judge = sessions if has_sessions(dataset.manifest) else ratings
    if judge is None:
        raise UserError(f"{data} has no sessions; make it with `dist-rec prepare sessions`")
    scores = judge(dataset, split, tuple(cutoffs) if cutoffs else None)
    typer.echo(shown(scores))
    if as_json:
        typer.echo(to_json({"baseline": name, "data": str(data), "split": split, **scores}))
