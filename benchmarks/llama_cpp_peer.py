"""Runs llama.cpp for the benchmarks of inference, under an interpreter that has llama-cpp-python.

    python llama_cpp_peer.py MODEL.gguf THREADS FLASH_ATTENTION [CONTEXT]

Reads one task a line and answers with its wall and processor seconds:

    prompt T          one pass over T tokens
    decode T S        T tokens of each of S sequences, one of each a pass, after 16 tokens of each
    logits FROM TO    one pass over the int32 tokens in a file; logits of all go to another as float32
    requests FILE     answers to the prompts in a JSON file, [[ids, number of new tokens], ...], sixteen at once

    python llama_cpp_peer.py --quantize FROM.gguf TO.gguf q4_0|q8_0

requantises a model instead.
"""

import array
import ctypes
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np

PROMPT_OF_SEQUENCES = 16
CONTEXT = 4096
MAX_SEQUENCES = 16
BATCH = 512


@dataclass
class Slot:
    """A request under way."""

    pending: list[int]
    num_cached: int
    num_left: int


class Peer:
    """A loaded model that decodes batches of made-up tokens."""

    def __init__(self, path: str, num_threads: int, flash_attention: int, context: int = CONTEXT):
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, BATCH, BATCH
        params.n_seq_max = MAX_SEQUENCES
        params.n_threads = params.n_threads_batch = num_threads
        params.flash_attn_type = flash_attention
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def pass_once(self, tokens: list[int], positions: list[int], sequences: list[int], wanted: set[int]) -> None:
        """One forward pass; logits of the places in `wanted`."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence) in enumerate(zip(tokens, positions, sequences, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token % self._vocab_size, position, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = i in wanted
        assert llama_cpp.llama_decode(self._context, batch) == 0
        llama_cpp.llama_get_logits(self._context)

    def clear(self) -> None:
        """Forgets all sequences."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def measure(self, what: str, num_tokens: int, num_sequences: int) -> tuple[float, float]:
        """Wall and processor seconds of one measurement."""
        self.clear()
        if what == "prompt":
            started = time.perf_counter(), time.process_time()
            self.pass_once(list(range(1, num_tokens + 1)), list(range(num_tokens)), [0] * num_tokens, {num_tokens - 1})
        else:
            sequences = list(range(num_sequences))
            for sequence in sequences:
                prompt = list(range(1, PROMPT_OF_SEQUENCES + 1))
                self.pass_once(prompt, list(range(len(prompt))), [sequence] * len(prompt), {len(prompt) - 1})
            started = time.perf_counter(), time.process_time()
            for step in range(num_tokens):
                position = PROMPT_OF_SEQUENCES + step
                self.pass_once([step + 1] * num_sequences, [position] * num_sequences, sequences, set(sequences))
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def write_logits(self, source: str, target: str) -> tuple[float, float]:
        """Logits of every token of a sequence; wall and processor seconds."""
        tokens = array.array("i", Path(source).read_bytes())
        self.clear()
        started = time.perf_counter(), time.process_time()
        self.pass_once(list(tokens), list(range(len(tokens))), [0] * len(tokens), set(range(len(tokens))))
        seconds = time.perf_counter() - started[0], time.process_time() - started[1]
        logits = llama_cpp.llama_get_logits(self._context)
        Path(target).write_bytes(ctypes.string_at(logits, 4 * len(tokens) * self._vocab_size))
        return seconds

    def answer_requests(self, source: str) -> tuple[float, float]:
        """Continuous batching as llama.cpp's server does it, without HTTP and choosing greedily; the two seconds."""
        waiting = deque(json.loads(Path(source).read_text()))
        free, slots = list(range(MAX_SEQUENCES)), dict[int, Slot]()
        self.clear()
        started = time.perf_counter(), time.process_time()
        while waiting or slots:
            while free and waiting:
                prompt, num_new = waiting.popleft()
                slots[free.pop()] = Slot(prompt, 0, num_new)
            for sequence in self._advance(slots):
                memory = llama_cpp.llama_get_memory(self._context)
                assert llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
                del slots[sequence]
                free.append(sequence)
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def _advance(self, slots: dict[int, Slot]) -> list[int]:
        """One pass, those that write first and then as much of the prompts as there is room for; who has ended."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        last: dict[int, int] = {}
        for sequence, slot in sorted(slots.items(), key=lambda item: len(item[1].pending)):
            part = slot.pending[: BATCH - len(tokens)]
            tokens += part
            positions += range(slot.num_cached, slot.num_cached + len(part))
            sequences += [sequence] * len(part)
            slot.num_cached += len(part)
            slot.pending = slot.pending[len(part) :]
            if part and not slot.pending:
                last[sequence] = len(tokens) - 1
        self.pass_once(tokens, positions, sequences, set(last.values()))
        for sequence, place in last.items():
            logits = llama_cpp.llama_get_logits_ith(self._context, place)
            slots[sequence].pending = [int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())]
            slots[sequence].num_left -= 1
        return [sequence for sequence in last if not slots[sequence].num_left]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def quantize(source: str, target: str, encoding: str) -> None:
    """Writes the model again, all matrices in one encoding."""
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}[encoding]
    params.allow_requantize = params.pure = True
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0


def answer(path: str, *numbers: str) -> None:
    """Answers until the input ends."""
    peer = Peer(path, *map(int, numbers))
    print("ready", flush=True)
    for line in sys.stdin:
        what, *arguments = line.split()
        if what == "logits":
            print(*peer.write_logits(*arguments), flush=True)
        elif what == "requests":
            print(*peer.answer_requests(*arguments), flush=True)
        else:
            num_tokens, num_sequences = [*map(int, arguments), 1][:2]
            print(*peer.measure(what, num_tokens, num_sequences), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--quantize":
        quantize(*sys.argv[2:])
    else:
        answer(*sys.argv[1:])
