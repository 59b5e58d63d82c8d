"""Configurations and presets, against the paper's own table."""

import json
from pathlib import Path

import pytest
import torch

from camelid.errors import UserError
from camelid.model.config import ModelConfig, ModelSettings, ffn_hidden_dim_rule
from camelid.model.initialize import initialize
from camelid.model.llama import Transformer
from camelid.model.presets import PRESETS
from camelid.planning.shapes import count_parameters, parameter_shapes
from camelid.settings import validate

# Table 2 of the paper, with exact counts of the released architecture.
_PAPER = {
    "llama-7b": (6_738_415_616, 11008),
    "llama-13b": (13_015_864_320, 13824),
    "llama-33b": (32_528_943_616, 17920),
    "llama-65b": (65_285_660_672, 22016),
}


@pytest.mark.parametrize("name", _PAPER)
def test_the_paper_s_sizes_on_the_meta_device(name: str) -> None:
    config = ModelSettings(preset=name).resolve(32000)
    with torch.device("meta"):
        model = Transformer(config)
    num_parameters, ffn_hidden_dim = _PAPER[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert count_parameters(config) == num_parameters
    assert config.ffn_hidden_dim == ffn_hidden_dim
    assert config.head_dim == 128


def test_the_paper_s_sizes_equal_the_reference_file(shared_data: Path) -> None:
    reference = json.loads((shared_data.parent / "reference" / "llama_paper.json").read_text(encoding="utf-8"))
    for row in reference["models"]["table"]:
        config = ModelSettings(preset=row["name"].lower()).resolve(32000)
        found = (count_parameters(config), config.dim, config.num_layers, config.num_heads, config.ffn_hidden_dim)
        keys = ("params_exact", "dim", "n_layers", "n_heads", "ffn_hidden_dim")
        assert found == tuple(row[key] for key in keys)


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_of_a_preset_are_those_of_the_model(name: str) -> None:
    config = ModelSettings(preset=name).resolve(1000)
    with torch.device("meta"):
        weights = Transformer(config).weights()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == parameter_shapes(config)


def test_smallest_preset_has_about_a_million_parameters() -> None:
    assert 0.8e6 < count_parameters(ModelSettings(preset="1m").resolve(1024)) < 1.3e6


def test_width_rule() -> None:
    assert [ffn_hidden_dim_rule(dim) for dim in (256, 512, 4096)] == [768, 1536, 11008]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"preset": "lama-7b"}, "did you mean 'llama-7b'"),
        ({"dim": 64}, "num_layers is not given"),
        ({"dim": 65, "num_layers": 1, "num_heads": 2}, "does not divide into 2 heads"),
        ({"dim": 66, "num_layers": 1, "num_heads": 2}, "head size 33"),
        ({"dim": 64, "num_layers": 1, "num_heads": 4, "num_kv_heads": 3}, "do not divide into 3"),
        ({"preset": "1m", "n_layers": 3}, "did you mean 'num_layers'"),
    ],
)
def test_impossible_shapes_are_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(ModelSettings, tree, "recipe.toml")


def test_first_values_depend_on_seed_and_name_alone() -> None:
    config = ModelConfig(dim=64, num_layers=2, num_heads=2, num_kv_heads=1, ffn_hidden_dim=96, vocab_size=50)
    models = [Transformer(config) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(seed * 17)
        initialize(model, seed)
    first, same, other = (model.weights() for model in models)
    for name, weight in first.items():
        assert torch.equal(weight, same[name])
        if weight.dim() > 1:
            assert not torch.equal(weight, other[name])
    assert first["tok_embeddings.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert first["layers.1.attention.wo.weight"].std() == pytest.approx(0.01, rel=0.05)
