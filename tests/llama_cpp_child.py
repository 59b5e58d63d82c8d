"""What llama.cpp computes, for tests; runs under an interpreter that has llama-cpp-python, and imports nothing of ours.

    python llama_cpp_child.py evaluate REQUEST.json OUT.npz
    python llama_cpp_child.py quantise SOURCE.gguf OUT.gguf TYPE

A request names a model, prompts of token ids, and how many tokens to add to each, always the likeliest one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

F32 = 0


def evaluate(request: Any) -> dict[str, Any]:
    """For each prompt its tokens and those that follow, `tokens.N`, and the logits after each of them, `logits.N`."""
    longest = max(map(len, request["prompts"])) + request["num_tokens"]
    llama = llama_cpp.Llama(
        request["model"],
        n_ctx=longest + 1,
        n_batch=longest + 1,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=F32,
        type_v=F32,
        verbose=False,
    )
    results = {}
    for number, prompt in enumerate(request["prompts"]):
        tokens = list(prompt)
        llama.reset()
        llama.eval(tokens)
        for _ in range(request["num_tokens"]):
            tokens.append(int(np.argmax(llama.scores[len(tokens) - 1])))
            llama.eval(tokens[-1:])
        results[f"tokens.{number}"] = np.array(tokens)
        results[f"logits.{number}"] = np.array(llama.scores[: len(tokens)])
    return results


def quantise(source: str, target: str, file_type: int) -> None:
    """Lets llama.cpp quantise every matrix of a file in one way."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = file_type, True, 2
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) == 0


def main() -> None:
    """Does what the command line says."""
    what, source, target, *rest = sys.argv[1:]
    if what == "evaluate":
        np.savez(target, **evaluate(json.loads(Path(source).read_text(encoding="utf-8"))))
    else:
        quantise(source, target, int(rest[0]))


if __name__ == "__main__":
    main()
