"""`camelid quantize`: a model becomes a smaller one, and what that cost is said."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camelid.errors import UserError

if TYPE_CHECKING:
    from camelid.checkpoint.verify import LogitDifference
    from camelid.quantization.quantise import TensorError


def quantize(
    model: Annotated[str, typer.Argument(help="A model: a file or folder of any format, a name, or a hub id.")],
    to: Annotated[str, typer.Option("--to", help="Block format of the matrices: q8_0, q4_0 or q4_1.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The GGUF file; <model>-<format>.gguf here unless given.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A text file like what the model will read; with it the errors that count are made small."),
    ] = None,
    held_out: Annotated[Path | None, typer.Option(help="Another text file, to compare both models on.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Most tokens of the held-out text to read.")] = 8192,
    head: Annotated[str, typer.Option(help="Format of embedding and output matrix: same, q8_0 or f16.")] = "q8_0",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a model with fewer bits, and say what it cost. The GGUF file loads in llama.cpp too."""
    import json
    from dataclasses import asdict

    from camelid.checkpoint.find import open_model
    from camelid.checkpoint.verify import compare_logits
    from camelid.quantization.quantise import quantise_model
    from camelid.quantization.settings import QuantisationSettings
    from camelid.settings import validate

    settings = validate(QuantisationSettings, {"encoding": to, "head_encoding": head}, "quantize")
    stored = open_model(model)
    target = output or Path(f"{stored.path.stem}-{to}.gguf")
    texts = [_read_text(path) if path else None for path in (calibration, held_out)]
    tokenizer = stored.load_tokenizer()
    seen, unseen = (tokenizer.encode(text) if text is not None else None for text in texts)
    errors = quantise_model(stored, target, settings, seen)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    difference = compare_logits(stored, open_model(target), unseen[:tokens], bos_id) if unseen else None
    if as_json:
        tree = {
            "path": str(target),
            "num_bytes": target.stat().st_size,
            "tensors": [asdict(error) for error in errors],
            "held_out": asdict(difference) if difference else None,
        }
        typer.echo(json.dumps(tree, indent=1))
        return
    _print_report(errors, difference)
    typer.echo(target)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start:,}); convert it first") from error


def _print_report(errors: "Sequence[TensorError]", difference: "LogitDifference | None") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "matrices", "error of values", "error of outputs", box=None)
    for layer, group in _by_layer(errors).items():
        outputs = [error.output_error for error in group if error.output_error is not None]
        table.add_row(
            layer,
            ", ".join(sorted({error.encoding for error in group})),
            f"{_mean(error.relative_error for error in group):.2%}",
            f"{_mean(outputs):.2%}" if outputs else "not measured: no calibration text",
        )
    console = Console(stderr=True)
    console.print(table)
    if difference is None:
        console.print("Perplexity was not compared: name a text with --held-out.")
        return
    before, after = difference.perplexities
    console.print(
        f"On {difference.num_tokens:,} tokens of held-out text: perplexity {before:.4f} before and {after:.4f} after "
        f"({after / before - 1:+.2%}), divergence {difference.kl_nats:.5f} nats a token, same likeliest token "
        f"{difference.agreement:.1%}."
    )


def _by_layer(errors: "Sequence[TensorError]") -> "dict[str, list[TensorError]]":
    groups: dict[str, list[Any]] = {}
    for error in errors:
        parts = error.name.split(".")
        groups.setdefault(parts[1] if parts[0] == "layers" else parts[0], []).append(error)
    return groups


def _mean(values: Any) -> float:
    numbers = list(values)
    return float(sum(numbers) / len(numbers))
