"""The first token comes at once: what `camelid generate` loads, and the cache that it asks the system for."""

import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from command_line import CommandLine

from camelid import Llama
from camelid.tokenizer.byte_pair import BytePairTokenizer

MODEL = "smollm2-135m-instruct"
NOT_NEEDED = (
    "torch",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sentencepiece",
    "transformers",
    "zstandard",
    "camelid.artifact",
    "camelid.checkpoint.gguf_write",
    "camelid.checkpoint.hf_safetensors",
    "camelid.corpus",
    "camelid.model.llama",
    "camelid.pipeline",
    "camelid.recipe",
    "camelid.training",
)


def test_generate_loads_only_what_writing_needs() -> None:
    code = (
        "import sys\nfrom camelid.cli import main\n"
        f"sys.argv = ['camelid', 'generate', '-m', '{MODEL}', '--max-tokens', '2', '--temperature', '0', 'Goats are']\n"
        "try:\n    main()\nfinally:\n"
        f"    print('loaded:', *[name for name in {NOT_NEEDED!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "loaded:"
    assert done.stdout.strip()


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each model that is loaded from now on."""
    seen: list[int] = []
    load = Llama.load

    def watch(*arguments: Any, **named: Any) -> Llama:
        llama = load(*arguments, **named)
        seen.append(llama.engine.context)
        return llama

    monkeypatch.setattr(Llama, "load", watch)
    return seen


def test_the_cache_is_for_one_request(camelid: CommandLine, contexts: list[int]) -> None:
    outcome = camelid("generate", "-m", MODEL, "--max-tokens", 8, "--temperature", 0, "A goat is")
    assert outcome.code == 0
    assert len(contexts) == 1
    assert 12 < contexts[0] < 64
    camelid("generate", "-m", MODEL, "--max-tokens", 9000, "--stop", "a", "--temperature", 0, "A goat is")
    assert contexts[1:] == [8192]


def test_a_tokenizer_that_spells_out_has_room_enough(
    camelid: CommandLine, contexts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\ufdfa" * 5
    spelt_out = len(unicodedata.normalize("NFKC", text).encode())
    encode = BytePairTokenizer._encode
    monkeypatch.setattr(BytePairTokenizer, "_encode", lambda self, _: encode(self, "a") * spelt_out)
    outcome = camelid("generate", "-m", MODEL, "--max-tokens", 2, "--temperature", 0, text)
    assert outcome.code == 0, outcome.err
    assert len(contexts) == 1
    assert spelt_out == 165 < contexts[0] < 8192
