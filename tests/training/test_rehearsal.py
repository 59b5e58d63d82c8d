"""A step without values against what a step with values is known to hold and send."""

import subprocess
import sys

import pytest

from camelid.model.config import ModelConfig
from camelid.parallel.settings import MeshSettings
from camelid.planning.shapes import count_parameters
from camelid.training import rehearsal as rehearsal_module
from camelid.training.rehearsal import Rehearsal, rehearse
from camelid.training.settings import TrainSettings

_CONFIG = ModelConfig(dim=64, num_layers=3, num_heads=4, num_kv_heads=4, ffn_hidden_dim=128, vocab_size=256)


def _rehearse(**mesh: int) -> Rehearsal:
    settings = TrainSettings(
        steps=10,
        sequence_length=32,
        batch_tokens=32 * 16,
        warmup_steps=1,
        microbatch_sequences=2,
        recompute="by_hand",
        mesh=MeshSettings(**mesh),
    )
    return rehearse(_CONFIG, settings)


def test_shards_hold_their_part_and_send_every_weight() -> None:
    rehearsal = _rehearse(shard=4)
    weights = 4 * count_parameters(_CONFIG)
    assert rehearsal.weights == rehearsal.gradients == weights // 4
    assert rehearsal.optimizer == pytest.approx(2 * weights // 4, abs=4 * 100)
    # Layers travel in bfloat16, before and after they are dropped; embedding, norm and head once, in float32.
    ends = 4 * (2 * _CONFIG.vocab_size * _CONFIG.dim + _CONFIG.dim)
    layers = (weights - ends) // 2
    num_microbatches = 2
    gathered = num_microbatches * (2 * layers + ends)
    assert rehearsal.sent["allgather"] == gathered * 3 // 4
    assert rehearsal.sent["reduce_scatter"] == weights * 3 // 4


def test_parts_of_matrices_hold_a_part_of_the_activations() -> None:
    whole, half = _rehearse(shard=2), _rehearse(shard=2, tensor=2)
    assert half.activations < 0.75 * whole.activations
    assert half.weights < 0.6 * whole.weights


def test_layers_that_are_not_rehearsed_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = _CONFIG.model_copy(update={"num_layers": 5})
    settings = TrainSettings(
        steps=10, sequence_length=32, batch_tokens=512, warmup_steps=1, mesh=MeshSettings(shard=2, tensor=2)
    )
    found = rehearsal_module.rehearse(deep, settings)
    monkeypatch.setattr(rehearsal_module, "_NUM_LAYERS", 5)
    assert found == rehearsal_module.rehearse(deep, settings)


@pytest.mark.slow
def test_the_largest_model_over_the_papers_number_of_processes() -> None:
    code = (
        "import resource, sys\n"
        "sys.argv = ['camelid', 'train', 'llama-65b', '--dry-run']\n"
        "from camelid.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "2,048 processes" in done.stdout
    assert int(done.stderr.splitlines()[-1]) < 4e9
