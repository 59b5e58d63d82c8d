"""`camelid checkpoint`: weights are looked at, converted and compared."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Weights of any format: looked at, converted, compared.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
ModelArgument = Annotated[str, typer.Argument(help="A model: a file or folder of any format, a name, or a hub id.")]


@app.command()
def inspect(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Print a model's shape, size, quantisation, tokenizer and licence."""
    import json

    from camelid.checkpoint.describe import describe
    from camelid.checkpoint.find import open_model

    description = describe(open_model(model))
    if as_json:
        typer.echo(json.dumps(description, indent=1, ensure_ascii=False))
    else:
        _print_rows("what", "value", _inspection_rows(description))


@app.command()
def convert(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(help="The file or folder to write; it must not exist.")],
    to: Annotated[str, typer.Option("--to", help="native, huggingface, meta or gguf.")],
    dtype: Annotated[str, typer.Option(help="Type of the matrices: f32, f16, bf16, and in GGUF q8_0, q4_0.")] = "",
    shards: Annotated[int, typer.Option(min=1, help="Model-parallel shards of the Meta format.")] = 1,
) -> None:
    """Write a model in another format, one tensor at a time; values stay as they are unless --dtype is given."""
    import time

    from camelid.checkpoint.convert import convert as convert_model
    from camelid.checkpoint.find import open_model
    from camelid.progress import format_count

    stored = open_model(model)
    start = time.perf_counter()
    convert_model(stored, target, to, dtype=dtype or None, num_shards=shards)
    seconds = time.perf_counter() - start
    num_bytes = sum(tensor.encoding.num_bytes(tensor.shape) for tensor in stored.tensors.values())
    typer.echo(
        f"{format_count(num_bytes, 'bytes')} in {seconds:.1f} s, {format_count(num_bytes / seconds, 'bytes')}/s",
        err=True,
    )
    typer.echo(target)


@app.command()
def verify(
    first: ModelArgument,
    second: Annotated[
        str | None, typer.Argument(help="A model to compare with; without one, the first is read and checked whole.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A text file to compare the logits on.")] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of the text to read.")] = 512,
    as_json: JsonOption = False,
) -> None:
    """Compare two models tensor by tensor and by their logits on a text, or check all bytes of one.

    Exits with 1 when the models differ in any value.
    """
    import json
    from dataclasses import asdict

    from camelid.checkpoint.find import open_model
    from camelid.checkpoint.verify import check, compare_logits, compare_tensors

    model = open_model(first)
    if second is None:
        num_tensors = check(model)
        typer.echo(
            f"{model.path}: {num_tensors} tensors read, every value finite, hashes right where it has a manifest"
        )
        return
    other = open_model(second)
    differences = list(compare_tensors(model, other))
    passage = text.read_text(encoding="utf-8") if text else _PASSAGE
    logits = compare_logits(model, other, model.load_tokenizer().encode(passage)[:max_tokens])
    if as_json:
        tree = {"tensors": [asdict(difference) for difference in differences], "logits": asdict(logits)}
        typer.echo(json.dumps(tree, indent=1))
    else:
        _print_comparison(differences, logits)
    if not all(difference.is_identical for difference in differences):
        raise typer.Exit(1)


_PASSAGE = """Camels belong to the family Camelidae, and so do llamas, alpacas, guanacos and vicunas. The first of them
lived in North America some forty-five million years ago, no larger than a rabbit. Three million years ago some walked
over the land bridge into Asia and became the dromedary and the Bactrian camel; others went south and became the llama.
A llama carries 25 to 30 percent of its weight for 8 to 13 km a day, and lies down when it is given more.

def mean(values):
    return sum(values) / len(values)
"""


def _inspection_rows(description: dict[str, Any]) -> list[tuple[str, str]]:
    from camelid.progress import format_count

    shape = description["architecture"]
    tokenizer = description["tokenizer"]
    scaling = shape["rope_scaling"]
    encodings = ", ".join(f"{name} {share:.1%}" for name, share in description["encodings"].items())
    rows = [
        ("path", description["path"]),
        ("format", description["format"]),
        ("parameters", f"{description['num_parameters']:,} in {description['num_tensors']} tensors"),
        (
            "size",
            f"{format_count(description['num_bytes'], 'bytes')}, {description['bits_per_weight']:.2f} bits a weight",
        ),
        ("stored as", encodings),
        ("layers", f"{shape['num_layers']} of width {shape['dim']}, feed-forward {shape['ffn_hidden_dim']}"),
        ("heads", f"{shape['num_heads']} of size {shape['head_dim']}, {shape['num_kv_heads']} for keys and values"),
        ("vocabulary", f"{shape['vocab_size']:,}{', head tied to the embedding' if shape['is_head_tied'] else ''}"),
        ("context", f"{shape['max_sequence_length']:,} tokens"),
        ("cache", f"{format_count(description['cache_bytes_per_token'], 'bytes')} a token in float16"),
        (
            "rotary base",
            f"{shape['rope_theta']:,.0f}" + (f", stretched {scaling['factor']:g} times" if scaling else ""),
        ),
        ("norm epsilon", f"{shape['norm_eps']:g}"),
        ("tokenizer", tokenizer.get("missing") or _say_tokenizer(tokenizer)),
    ]
    rows += [(name, str(value)) for name, value in description["metadata"].items()]
    if manifest := description["manifest"]:
        rows.append(("made by", f"Camelid {manifest['produced']['camelid_version']}, digest {manifest['digest'][:12]}"))
    return rows


def _say_tokenizer(tokenizer: dict[str, Any]) -> str:
    bos = "a prompt begins with BOS" if tokenizer["adds_bos"] else "no BOS before a prompt"
    chat = "a chat template" if tokenizer["has_chat_template"] else "no chat template"
    return f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} ids, {bos}, {chat}"


def _print_rows(left: str, right: str, rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(left, box=None)
    table.add_column(right, overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    Console().print(table)


def _print_comparison(differences: list[Any], logits: Any) -> None:
    worst = sorted((d for d in differences if not d.is_identical), key=lambda d: -d.relative_error)
    rows = [("tensors", f"{len(differences)}, {len(worst)} of them differ")]
    rows += [
        (
            d.name,
            f"{d.encodings[0]} and {d.encodings[1]}: relative error {d.relative_error:.3g}, largest difference "
            f"{d.max_difference:.3g}",
        )
        for d in worst[:_SHOWN_TENSORS]
    ]
    if len(worst) > _SHOWN_TENSORS:
        rows.append(("", f"and {len(worst) - _SHOWN_TENSORS} more, with smaller errors; --json lists all"))
    rows += [
        ("logits", f"largest difference {logits.max_difference:.3g} over {logits.num_tokens} tokens"),
        ("divergence", f"{logits.kl_nats:.3g} nats a token"),
        ("same likeliest token", f"{logits.agreement:.1%}"),
        ("perplexity", f"{logits.perplexities[0]:.4f} and {logits.perplexities[1]:.4f}"),
    ]
    _print_rows("what", "value", rows)


_SHOWN_TENSORS = 10
