"""What is said of a run in words: one line about each product, and who wins on the held-out text."""

from collections.abc import Iterable, Sequence
from typing import Any

from camelid.artifact import Manifest
from camelid.progress import format_count

_OWN_NAME = "this model"


def describe_product(manifest: Manifest) -> str:
    """The numbers of a finished product that a person wants to see first; empty for a kind without any."""
    facts = manifest.facts
    match manifest.kind:
        case "corpus":
            return _describe_corpus(facts)
        case "tokenizer":
            rates = (f"{rate:.2f} bytes per token of {source}" for source, rate in facts["bytes_per_token"].items())
            return f"{facts['vocab_size']:,} pieces, {join_names(rates)}"
        case "dataset":
            train, held_out = (
                format_count(sum(source["num_tokens"] for source in facts["splits"][split].values()), "tokens")
                for split in ("train", "held_out")
            )
            return f"{train} to train on, {held_out} held out"
        case "train":
            parameters = format_count(facts["num_parameters"], "parameters")
            tokens = format_count(facts["num_tokens"], "tokens")
            return f"{parameters}, trained on {tokens}, last loss {facts['final_loss']:.3f} nats per token"
        case "evaluation":
            size = format_count(facts["num_bytes"], "bytes")
            return f"{facts['bits_per_byte']:.3f} bits per byte on {size} of text that the model has never seen"
        case _:
            return ""


def rank_compressors(results: dict[str, Any]) -> list[tuple[str, float, bool]]:
    """Name, bits per byte and whether it is the model, of all that were measured on the held-out text, best first.

    Args:
        results: content of the evaluation's results.json.
    """
    rows = [(compressor_name(row), row["bits_per_byte"], False) for row in results["compressors"]]
    return sorted([*rows, (_OWN_NAME, results["bits_per_byte"], True)], key=lambda row: row[1])


def judge(model: float, rows: Sequence[dict[str, Any]]) -> str:
    """Says which compressors the model beats, and which beat it.

    Args:
        model: held-out bits per byte of the model.
        rows: compressors with their bits per byte on the same text.
    """
    rows = sorted(rows, key=lambda row: row["bits_per_byte"])
    better = [row for row in rows if row["bits_per_byte"] < model]
    beaten = [row for row in rows if model < row["bits_per_byte"]]
    sentences = [f"The model needs {model:.3f} bits for a byte of text that it has never seen."]
    if beaten:
        nearest = beaten[0]
        than = f" than {compressor_name(nearest)}, the nearest" if len(beaten) > 1 else ""
        share = 1 - model / nearest["bits_per_byte"]
        sentences.append(f"It beats {_name_compressors(beaten, rows)}, with {share:.1%} fewer bits{than}.")
    if better:
        best = better[0]
        than = f" than {compressor_name(best)}, the best" if len(better) > 1 else ""
        excess = model / best["bits_per_byte"] - 1
        sentences.append(f"It loses to {_name_compressors(better, rows)}, with {excess:.1%} more bits{than}.")
    return " ".join(sentences)


def compressor_name(row: dict[str, Any]) -> str:
    """A compressor with what it was given before the held-out text."""
    return f"{row['name']} after the training text" if row["with_training_text"] else str(row["name"])


def format_share(share: float) -> str:
    """A share of one in percent: whole ones from ten on, two digits below."""
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


def join_names(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = list(names)
    return f"{', '.join(others)} and {last}" if others else last


def _describe_corpus(facts: dict[str, Any]) -> str:
    sources = facts["sources"].values()

    def amount(split: str) -> str:
        documents = sum(source[f"{split}_documents"] for source in sources)
        num_bytes = sum(source[f"{split}_bytes"] for source in sources)
        return f"{documents:,} documents ({format_count(num_bytes, 'bytes')})"

    num_dropped = sum(n for source in sources for reasons in source["dropped"].values() for n in reasons.values())
    return f"{amount('train')} to train on, {amount('held_out')} held out, {num_dropped:,} dropped"


def _name_compressors(some: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    return "every compressor here" if len(some) == len(rows) > 1 else join_names(map(compressor_name, some))
