"""SmolLM2 as it is shipped (Q4_1), computed by Camelid in float32 and by transformers on the same numbers.

The weights are decoded by the `gguf` package and laid out by names written here: neither Camelid's reader nor its
decoder is on transformers' side.
"""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from camelid import Llama
from camelid.checkpoint.find import open_model

MODEL = "smollm2-135m-instruct"
PROMPTS = (
    "The llama is",
    "Once upon a time, in a village between two mountains,",
    "def fibonacci(n):\n",
    "The capital of Peru is Lima. The capital of Chile is",
    "Photosynthesis is the process by which",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,\n\nI am writing to",
    "import numpy as np\n\nclass Matrix:\n",
    "Der schnelle braune Fuchs",
    "What is the difference between a llama and an alpaca?",
    "Ingredients: two eggs, 200 g of flour,",
    "In 1969 the first human beings",
    "SELECT name, COUNT(*) FROM animals",
    "The theorem states that for every prime p",
    "<html>\n<head>\n",
    "Il était une fois",
    "He opened the door and saw",
    "The three laws of motion are",
    "Q: How many legs does a spider have?\nA:",
    "\tfor (int i = 0; i < n; i++)",
)
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def rename(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"
    return f"{_NAMES[parts[0]]}.weight"


def unpermute(values: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """GGUF's pairs of neighbouring rows, put back into halves of each head."""
    out = np.empty_like(values)
    head_dim = len(values) // num_heads
    for head in range(num_heads):
        rows = values[head * head_dim : (head + 1) * head_dim]
        out[head * head_dim : (head + 1) * head_dim] = np.concatenate((rows[0::2], rows[1::2]))
    return out


@pytest.fixture(scope="module")
def theirs() -> Any:
    path = open_model(MODEL).path
    reader = gguf.GGUFReader(path)
    weights = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        heads = {"attn_q": 9, "attn_k": 3}.get(tensor.name.split(".")[2] if tensor.name.startswith("blk") else "")
        weights[rename(tensor.name)] = torch.from_numpy(unpermute(values, heads) if heads else np.array(values))
    config = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    model: Any = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> Llama:
    return Llama.load(MODEL, runner="torch")


@torch.inference_mode()
def compare(llama: Llama, theirs: Any, prompts: tuple[str, ...], num_tokens: int) -> tuple[int, float]:
    """Number of tokens that both chose, and the largest divergence in nats at any position."""
    completions = llama.complete(list(prompts), max_tokens=num_tokens, temperature=0, ignore_eos=True)
    num_equal, largest = 0, 0.0
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = llama.tokenizer.encode(prompt)
        tokens = torch.tensor([[*ids, *completion.tokens]])
        expected: Tensor = theirs(input_ids=tokens).logits[0].double()
        found = llama.model(tokens)[0].double()
        chosen = expected[len(ids) - 1 : -1].argmax(-1)
        assert chosen.tolist() == list(completion.tokens), prompt
        num_equal += len(completion.tokens)
        log_expected, log_found = expected.log_softmax(-1), found.log_softmax(-1)
        divergence = (log_expected.exp() * (log_expected - log_found)).sum(-1)
        largest = max(largest, divergence.max().item())
    return num_equal, largest


@pytest.mark.slow
def test_twenty_prompts(llama: Llama, theirs: Any) -> None:
    num_equal, divergence = compare(llama, theirs, PROMPTS, 128)
    assert num_equal == 20 * 128
    assert divergence < 1e-6
