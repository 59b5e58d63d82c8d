"""The card says what the manifests say, and names what nothing says."""

from pathlib import Path

import pytest

from camelid.artifact import read_manifest
from camelid.checkpoint.describe import describe
from camelid.checkpoint.find import open_model
from camelid.report.model_card import find_run, render_model_card


def card_of(model: str | Path) -> str:
    stored = open_model(model)
    return render_model_card(describe(stored), find_run(stored.path))


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0].strip()


def test_card_of_a_trained_model_follows_its_manifests(tiny_run: Path) -> None:
    card = card_of(tiny_run)
    train = read_manifest(tiny_run / "train")
    assert f"| parameters | {train.facts['num_parameters']:,} |" in section(card, "Architecture")
    assert "| peak learning rate | 0.01 |" in section(card, "Training")
    assert "| notes | 100.00% |" in section(card, "Data")
    assert f"{train.facts['held_out']['notes']['bits_per_byte']:.1f}" in section(card, "Evaluation")
    lineage = section(card, "Lineage")
    for stage in ("corpus", "tokenizer", "dataset", "train", "evaluation"):
        assert f"| {stage} | {read_manifest(tiny_run / stage).digest[:12]} |" in lineage
    assert "training data" not in section(card, "What is not known")


def test_card_of_foreign_weights_says_what_is_unknown() -> None:
    card = card_of("smollm2-135m-instruct")
    assert "| parameters | 134,515,008 |" in section(card, "Architecture")
    assert "q4_1" in section(card, "Quantisation")
    assert "chat template" in section(card, "Tokenizer")
    for title in ("Data", "Training", "Evaluation", "Lineage"):
        assert section(card, title).startswith("Unknown")
    assert "training data and mixture" in section(card, "What is not known")


@pytest.mark.parametrize("text", ["a | b", "line\nbreak"])
def test_cells_hold_any_text(tiny_run: Path, text: str) -> None:
    description = describe(open_model(tiny_run))
    card = render_model_card({**description, "metadata": {"license": text, "name": text}}, None)
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in rows if "what" not in line}) <= 2
