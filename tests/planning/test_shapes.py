"""FLOPs and bytes against counts that torch makes of the real thing."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from camelid.model.config import ModelConfig
from camelid.model.llama import Transformer
from camelid.planning.memory import cache_bytes_per_token, checkpoint_bytes, estimate_training_memory
from camelid.planning.shapes import count_matrix_parameters, count_parameters, forward_flops_per_token

_CONFIG = ModelConfig(dim=64, num_layers=3, num_heads=4, num_kv_heads=2, ffn_hidden_dim=176, vocab_size=300)


def test_forward_flops_equal_torch_s_count() -> None:
    with torch.device("meta"):
        model = Transformer(_CONFIG)
        tokens = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    # torch counts attention over the whole square, Camelid over the half that the mask leaves.
    whole = forward_flops_per_token(_CONFIG, 2 * 32 - 1)
    assert counter.get_total_flops() == pytest.approx(64 * whole)


def test_embedding_table_is_not_multiplied_but_a_tied_head_is() -> None:
    table = _CONFIG.vocab_size * _CONFIG.dim
    gains = (2 * _CONFIG.num_layers + 1) * _CONFIG.dim
    assert count_matrix_parameters(_CONFIG) == count_parameters(_CONFIG) - table - gains
    tied = _CONFIG.model_copy(update={"is_head_tied": True})
    assert count_parameters(tied) == count_parameters(_CONFIG) - table
    assert count_matrix_parameters(tied) == count_matrix_parameters(_CONFIG)


def test_seven_billion_parameters_take_sixteen_bytes_each_before_activations() -> None:
    config = ModelConfig(dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, ffn_hidden_dim=11008, vocab_size=32000)
    memory = estimate_training_memory(config, microbatch_tokens=2048, compute_bytes=2, loss_chunk_positions=256)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * 6_738_415_616
    assert memory.total == memory.weights + memory.gradients + memory.optimizer + memory.activations + memory.loss
    assert checkpoint_bytes(config) == 12 * 6_738_415_616


def test_cache_of_a_position() -> None:
    assert cache_bytes_per_token(_CONFIG, value_bytes=2) == 2 * 3 * 2 * 16 * 2
