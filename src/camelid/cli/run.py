"""`camelid run`: the whole chain of a recipe."""

from pathlib import Path

import typer

from camelid.cli.options import (
    CompareOption,
    DryRunOption,
    OutOption,
    RebuildOption,
    RecipeArgument,
    SetOption,
    run_stages,
)


def run(
    recipe: RecipeArgument,
    out: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    rebuild: RebuildOption = False,
    compare_tokenizer: CompareOption = [],  # noqa: B006
) -> None:
    """Run the whole chain of a recipe, from raw text to a report. Finished stages are skipped."""
    if dry_run:
        from camelid.cli.dry_run import print_plan

        print_plan(recipe, out, set_)
        return
    done = run_stages(recipe, out, set_, compare_tokenizer, "report", rebuild)
    _show_results(done.path("evaluation"))
    typer.echo(done.path("report") / "index.html")


def _show_results(evaluation: Path) -> None:
    """What the evaluation found, and the first thing that the model wrote, on standard error."""
    import json

    from rich.console import Console
    from rich.table import Table

    from camelid.report.sentences import judge, rank_compressors

    results = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = Table("held-out text", "bits per byte", box=None)
    for name, bits_per_byte, is_own in rank_compressors(results):
        table.add_row(name, f"{bits_per_byte:.3f}", style="bold" if is_own else "")
    console.print()
    console.print(table)
    console.print(judge(results["bits_per_byte"], results["compressors"]))
    for sample in results["samples"][:1]:
        console.print(f"\nIt writes, after {sample['prompt']!r}:\n", style="bold")
        console.print(sample["prompt"] + sample["text"] + "\n")
