"""What look-up gains where a text repeats its prompt, and costs elsewhere: python benchmarks/inference_lookup.py DATA

SmolLM2 is asked to write passages again, to correct them, to sum them up, and to write functions again with type hints;
and it goes on where passages and functions end. So small a model often does something else than it is asked; by two
examples it is shown summaries that quote and functions with an argument renamed, and then does as larger models do.
Each text is written without guesses and with them, in turn, and must be the same. `repeated` is the share of its tokens
that end a run of four which the prompt has too; rows are those beyond one a token.
"""

import argparse
import ast
import copy
import difflib
import fnmatch
import glob
import gzip
import heapq
import inspect
import json
import platform
import random
import re
import shlex
import shutil
import statistics
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from camelid import Llama
from camelid.inference.request import SamplingSettings
from camelid.processor import processor_name
from camelid.tokenizer.chat import render_chat

MODEL = "smollm2-135m-instruct"
NUM_TOKENS = 300
FUNCTIONS = (
    (heapq.merge, heapq.nsmallest, random.Random.sample, shlex.split, statistics.quantiles, textwrap.wrap),
    (
        fnmatch.filter,
        difflib.get_close_matches,
        random.Random.choices,
        shutil.which,
        statistics.mode,
    ),
)
SHORT_FUNCTIONS = (
    (textwrap.shorten, statistics.variance, difflib.ndiff, glob.glob),
    (random.Random.choices, statistics.fmean, glob.iglob, copy.copy),
)
"""Three of them have room in a prompt."""
PROSE = {
    "repeat": "Repeat this text word for word:\n\n{}",
    "correct": "Correct the spelling and grammar of this text and write it out in full:\n\n{}",
    "sum up": "Summarize this text, quoting its own sentences:\n\n{}",
}
CODE = {
    "repeat": "Repeat this Python code exactly:\n\n```python\n{}\n```",
    "edit": "Add type hints to this Python code and write it out in full:\n\n```python\n{}\n```",
}


def make_prompts(llama: Llama, data: Path, part: int) -> Iterator[tuple[str, list[int]]]:
    """Kind and tokens of each prompt; the drafter's numbers were chosen on part 0."""
    with gzip.open(data / "text" / "wikitext-2-raw" / "wiki.test.raw.gz", "rt", encoding="utf-8") as file:
        articles = file.read(400_000 * (part + 1))[400_000 * part :]
    with tarfile.open(data / "text" / "english_novels.tar.gz") as archive:
        novel = archive.extractfile([member for member in archive if member.isfile()][part])
        assert novel is not None
        texts = {"articles": articles, "novel": novel.read()[50_000:400_000].decode(errors="ignore")}
    rng = random.Random(3)
    sources = {
        name: rng.sample([line for line in map(str.strip, text.splitlines()) if 600 < len(line) < 1200], 4)
        for name, text in texts.items()
    }
    for name, passages in sources.items():
        for text in show_examples(passages, first_sentences):
            yield f"sum up {name}, shown", llama.tokenizer.encode(text)
    for text in show_examples(read_functions(SHORT_FUNCTIONS[part]), rename_argument):
        yield "edit code, shown", llama.tokenizer.encode(text)
    sources["code"] = read_functions(FUNCTIONS[part])
    for name, passages in sources.items():
        for task, words in (CODE if name == "code" else PROSE).items():
            for text in passages:
                yield f"{task} {name}", render_chat(llama.tokenizer, [{"role": "user", "content": words.format(text)}])
        for text in passages:
            yield f"go on with {name}", llama.tokenizer.encode(text)[:300]


def read_functions(functions: Iterable[Callable[..., object]]) -> list[str]:
    """Their source text, not indented."""
    return [textwrap.dedent(inspect.getsource(function)) for function in functions]


def show_examples(texts: list[str], change: Callable[[str], str]) -> Iterator[str]:
    """For each text a prompt that shows two others and their changed forms, and ends where its own would begin."""
    for place in range(len(texts)):
        first, second, last = (texts[place - step] for step in (2, 1, 0))
        shown = "".join(f"Before:\n{text}\n\nAfter:\n{change(text)}\n\n\n" for text in (first, second))
        yield f"{shown}Before:\n{last}\n\nAfter:\n"


def first_sentences(text: str) -> str:
    """The first three, as WikiText and novels write them."""
    return " ".join(re.split(r"(?<=[.!?]) +", text)[:3])


def rename_argument(source: str) -> str:
    """A function whose first argument has a longer name."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    name = next(argument.arg for argument in function.args.args if argument.arg != "self")
    return re.sub(rf"\b{name}\b", f"{name}_given", source)


def choose_settings(kind: str) -> SamplingSettings:
    """How a kind of text is written, and where what was shown ends."""
    if kind.startswith("go on"):
        return SamplingSettings(temperature=0.8, max_tokens=NUM_TOKENS)  # greedy text that goes on ends in a loop
    stop: tuple[str, ...] = ()
    if kind.endswith("shown"):
        stop = ("\n\n",) if kind.startswith("sum up") else ("\n\n\n",)
    return SamplingSettings(temperature=0, max_tokens=NUM_TOKENS, stop=stop)


def count_repeated(prompt: list[int], tokens: list[int], run: int = 4) -> int:
    """Tokens that end a run of `run` tokens which the prompt has too."""
    known = {tuple(prompt[place : place + run]) for place in range(len(prompt) - run + 1)}
    return sum(tuple(tokens[place : place + run]) in known for place in range(len(tokens) - run + 1))


def write(llama: Llama, prompt: list[int], settings: SamplingSettings) -> tuple[list[int], float, int]:
    """The tokens, the seconds from the first to the last, and the rows beyond one a token."""
    before = llama.engine.statistics
    lost = before.num_drafted - before.num_accepted
    tokens: list[int] = []
    start = 0.0
    for token in llama.stream_ids(prompt, settings):
        start = start or time.perf_counter()
        tokens.append(token)
    after = llama.engine.statistics
    return tokens, time.perf_counter() - start, after.num_drafted - after.num_accepted - lost


def main() -> None:
    parser = argparse.ArgumentParser(description="Gain and cost of look-up.")
    parser.add_argument("data", type=Path, help="The folder of data that lies beside the checkout.")
    parser.add_argument("--part", type=int, choices=(0, 1), default=1, help="Which of two sets of texts.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    plain, drafting = (Llama.load(MODEL, draft=draft, max_sequences=1) for draft in ("none", "lookup"))
    sums: dict[str, list[float]] = {}
    for kind, prompt in make_prompts(plain, arguments.data, arguments.part):
        settings = choose_settings(kind)
        tokens, seconds, _ = write(plain, prompt, settings)
        found, seconds_drafting, lost = write(drafting, prompt, settings)
        assert found == tokens, f"{kind}: another text with guesses"
        measured = (len(tokens), seconds, seconds_drafting, lost, count_repeated(prompt, tokens))
        sums[kind] = [a + b for a, b in zip(sums.get(kind, [0.0] * 5), measured, strict=True)]
    figures = {}
    for kind, (written, alone, guided, extra, repeated) in sums.items():
        figures[kind] = {
            "tokens": int(written),
            "repeated": round(repeated / written, 3),
            "tokens_per_second": round(written / alone, 1),
            "times": round(alone / guided, 3),
            "extra_rows": round(extra / written, 4),
        }
        print(f"{kind:20}", *(f"{name} {value}" for name, value in figures[kind].items()))
    if arguments.out:
        about = {"processor": processor_name(), "python": platform.python_version(), "model": MODEL}
        arguments.out.write_text(json.dumps({**about, "kinds": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
