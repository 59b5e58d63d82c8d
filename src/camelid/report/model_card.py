"""A model card in Markdown: what is known of a model from its files and manifests, and what is not."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from camelid.errors import UserError
from camelid.progress import format_count, format_duration
from camelid.report.run import Run, read_run

_SHORT_DIGEST = 12
_CHECKPOINT_DEPTH = 3  # <run>/train/checkpoints/step-...


def find_run(model: Path) -> Run | None:
    """The run that trained a checkpoint, where the checkpoint still lies in its folder."""
    folders = [model, *model.resolve().parents[:_CHECKPOINT_DEPTH]]
    for folder in folders:
        if (folder / "train").is_dir() or (folder / "train.partial").is_dir():
            try:
                return read_run(folder)
            except UserError:
                return None
    return None


def render_model_card(description: Mapping[str, Any], run: Run | None) -> str:
    """The card as Markdown.

    Args:
        description: what `checkpoint.describe.describe` says.
        run: the run that trained the model, None where that is not known.
    """
    name = _name(description, run)
    sections = [
        f"# {name}",
        _summarise(description),
        "## Architecture",
        _table(_architecture(description)),
        "## Data",
        *_data(run),
        "## Training",
        *_training(description, run),
        "## Evaluation",
        *_evaluation(run),
        "## Quantisation",
        _quantisation(description),
        "## Tokenizer",
        _tokenizer(description),
        "## Licence",
        _licence(description, run),
        "## Lineage",
        *_lineage(description, run),
        "## What is not known",
        _unknown(description, run),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def _name(description: Mapping[str, Any], run: Run | None) -> str:
    return str(description["metadata"].get("name") or (run.name if run else "") or Path(description["path"]).stem)


def _summarise(description: Mapping[str, Any]) -> str:
    size = format_count(description["num_parameters"], "parameters")
    return (
        f"A language model of the LLaMA architecture with {size}, stored as {description['format']} in "
        f"{format_count(description['num_bytes'], 'bytes')}. Camelid wrote this card from the model's files."
    )


def _architecture(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    shape = description["architecture"]
    scaling = shape["rope_scaling"]
    return [
        ("parameters", f"{description['num_parameters']:,}"),
        ("layers", f"{shape['num_layers']}"),
        ("width", f"{shape['dim']:,}"),
        ("feed-forward width (SwiGLU)", f"{shape['ffn_hidden_dim']:,}"),
        ("query heads", f"{shape['num_heads']} of size {shape['head_dim']}"),
        ("key/value heads", f"{shape['num_kv_heads']}"),
        ("vocabulary", f"{shape['vocab_size']:,}"),
        ("output layer", "tied to the embedding" if shape["is_head_tied"] else "of its own"),
        ("context", f"{shape['max_sequence_length']:,} tokens"),
        ("rotary base", f"{shape['rope_theta']:,.0f}"),
        ("rotary scaling", f"Llama 3, {scaling['factor']:g} times" if scaling else "none"),
        ("norm", f"RMSNorm before each sub-layer, epsilon {shape['norm_eps']:g}"),
    ]


def _data(run: Run | None) -> list[str]:
    if run is None or "corpus" not in run.manifests:
        return ["Unknown: the files do not say what the model was trained on."]
    sources = run.facts("corpus").get("sources", {})
    parts = []
    if run.mixture:
        rows = [(row["source"], f"{row['share']:.2%}", f"{row['epochs']:.2f}") for row in run.mixture]
        parts.append(_table(rows, ("source", "share of the training", "epochs")))
    kept = [(name, _books(facts)) for name, facts in sources.items()]
    parts.append(_table(kept, ("source", "documents")))
    return parts


def _books(facts: Any) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in facts.items() if isinstance(value, int))


def _training(description: Mapping[str, Any], run: Run | None) -> list[str]:
    settings = run.train_settings if run else (description["manifest"] or {}).get("settings")
    if not settings:
        return ["Unknown: the files do not say how the model was trained."]
    names = (
        ("steps", "optimizer steps"),
        ("batch_tokens", "tokens a step"),
        ("sequence_length", "sequence length"),
        ("learning_rate", "peak learning rate"),
        ("final_learning_rate_share", "share of it at the end"),
        ("warmup_steps", "warm-up steps"),
        ("beta1", "AdamW beta 1"),
        ("beta2", "AdamW beta 2"),
        ("weight_decay", "weight decay"),
        ("gradient_clip", "gradient clipping"),
    )
    rows = [(label, _number(settings[name])) for name, label in names if name in settings]
    if run and run.steps:
        rows.append(("tokens seen", f"{run.steps[-1]['num_tokens']:,}"))
        rows.append(("last training loss", f"{run.steps[-1]['loss']:.4f} nats a token"))
        rows.append(("time in optimizer steps", format_duration(run.training_seconds)))
    produced = run.manifests["train"].produced if run and "train" in run.manifests else {}
    rows += [
        (key.replace("_", " "), str(produced[key])) for key in ("device", "compute_dtype", "torch") if key in produced
    ]
    return [_table(rows)]


def _evaluation(run: Run | None) -> list[str]:
    if run is None or not run.results:
        return ["Unknown: there is no evaluation beside the model."]
    rows = [
        (source, f"{facts['bits_per_byte']:.4f}", f"{facts['nats_per_token']:.4f}", f"{facts['num_bytes']:,}")
        for source, facts in run.results["sources"].items()
    ]
    return [_table(rows, ("held-out text", "bits per byte", "nats per token", "bytes"))]


def _quantisation(description: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in description["encodings"].items())
    bits = f"{description['bits_per_weight']:.2f} bits a weight"
    is_plain = set(description["encodings"]) <= {"f32", "f16", "bf16"}
    return f"{'None' if is_plain else 'Weights are quantised in blocks'}: {shares}; {bits}."


def _tokenizer(description: Mapping[str, Any]) -> str:
    tokenizer = description["tokenizer"]
    if "missing" in tokenizer:
        return f"Unknown: {tokenizer['missing']}"
    bos = "begins with BOS" if tokenizer["adds_bos"] else "does not begin with BOS"
    chat = "It has a chat template." if tokenizer["has_chat_template"] else "It has no chat template."
    return f"{tokenizer['kind']} with {tokenizer['vocab_size']:,} ids; a prompt {bos}. {chat}"


def _licence(description: Mapping[str, Any], run: Run | None) -> str:
    stated = description["metadata"].get("license") or description["metadata"].get("licence")
    if stated:
        return f"The file states: {stated}"
    if run is not None:
        return "Of the weights: not stated. The licences of the training texts are in the corpus, document by document."
    return "Unknown: the files state none."


def _lineage(description: Mapping[str, Any], run: Run | None) -> list[str]:
    rows: list[tuple[str, ...]] = []
    if run is not None:
        for stage, manifest in run.manifests.items():
            inputs = ", ".join(f"{name} {digest[:_SHORT_DIGEST]}" for name, digest in manifest.inputs.items())
            rows.append((stage, manifest.digest[:_SHORT_DIGEST], inputs or "-"))
    elif manifest := description["manifest"]:
        inputs = ", ".join(f"{name} {digest[:_SHORT_DIGEST]}" for name, digest in manifest["inputs"].items())
        rows.append((manifest["kind"], manifest["digest"][:_SHORT_DIGEST], inputs or "-"))
    if not rows:
        return ["Unknown: the model has no manifest."]
    return [_table(rows, ("product", "SHA-256", "made from"))]


def _unknown(description: Mapping[str, Any], run: Run | None) -> str:
    unknown = {
        "training data and mixture": run is None or "corpus" not in run.manifests,
        "training settings": run is None and not description["manifest"],
        "evaluation": run is None or not run.results,
        "licence": not description["metadata"].get("license"),
        "intended use, risks, biases": True,
    }
    return "\n".join(f"- {subject}" for subject, is_unknown in unknown.items() if is_unknown)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value:g}"


def _table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = ("what", "value")) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
