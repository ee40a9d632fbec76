"""`dist-rec heads`."""

from typing import Annotated

import typer


def heads(
    name: Annotated[str | None, typer.Argument(help="Show the keys of this head and their defaults.")] = None,
) -> None:
    """List the recommenders, or the keys of one of them."""
    import inspect
    from typing import get_type_hints

    from rich.console import Console
    from rich.table import Table

    from dist_rec.core.head import Head, find_head, head_names

    def described(head: type[Head]) -> str:
        return inspect.getdoc(inspect.getmodule(head)) or ""

    console = Console()
    if name is None:
        table = Table("head", "source", title="Heads: head.name = …", title_justify="left")
        for known in head_names():
            table.add_row(known, described(find_head(known)).partition("\n")[0])
        console.print(table)
        return
    head = find_head(name)
    console.print(described(head), markup=False)
    table = Table("key", "type", "default", "meaning")
    types = get_type_hints(head.Config)
    for key, field in head.Config.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default())
        annotation = types[key]
        shown = str(annotation) if hasattr(annotation, "__args__") else getattr(annotation, "__name__", str(annotation))
        table.add_row(f"head.{key}", shown, default, " ".join((field.description or "").split()))
    console.print(table)
