"""`camelid generate`: a prompt becomes text."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from camelid.cli.options import DeviceOption, DraftOption, ModelOption, RunnerOption, ThreadsOption

if TYPE_CHECKING:
    from camelid.inference.engine import Statistics


def generate(
    prompt: Annotated[str, typer.Argument(help="The beginning to continue; - reads it from standard input.")],
    model: ModelOption,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 is no limit.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens up to this probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(help="Choose among tokens at least this share as likely as the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens that stand in the text are rarer.")] = 1.0,
    stop: Annotated[list[str], typer.Option(help="A text that ends the answer; can be given several times.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    runner: RunnerOption = "auto",
    threads: ThreadsOption = 0,
    device: DeviceOption = "cpu",
    draft: DraftOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Continue a prompt. The text goes to standard output as it is written, all else to standard error."""
    import json
    import sys
    import time

    from camelid import Llama
    from camelid.checkpoint.find import open_model

    text = sys.stdin.read() if prompt == "-" else prompt
    way: dict[str, Any] = {"device": device, "runner": runner, "num_threads": threads, "draft": draft}
    stored = open_model(model)
    context = min(stored.config.max_sequence_length, _most_positions(text, max_tokens))
    llama = Llama.load(stored, **way, max_sequences=1, context=context)
    sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop,
        "seed": seed,
    }
    start = time.perf_counter()
    first = 0.0
    pieces = []
    for piece in llama.stream(text, **sampling):
        first = first or time.perf_counter() - start
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    speed = {"seconds": time.perf_counter() - start, "seconds_to_first_text": first}
    if as_json:
        counts = {
            name: getattr(llama.engine.statistics, name) for name in ("num_prompt_tokens", "num_tokens", "accept_rate")
        }
        record = {"prompt": text, "text": "".join(pieces), **counts, **speed, **sampling}
        typer.echo(json.dumps(record, ensure_ascii=False))
    else:
        sys.stdout.write("\n")
        sys.stderr.write(_say_speed(llama.engine.statistics, **speed))


def _most_positions(text: str, max_tokens: int) -> int:
    """What a request can need of the cache, before there is a tokenizer to count with."""
    import unicodedata

    # A byte makes one token at most, but a tokenizer may spell characters out before it cuts.
    spellings = (text, unicodedata.normalize("NFKC", text))
    num_bytes = max(len(spelling.encode(errors="replace")) for spelling in spellings)
    return max(max_tokens, 1) + 2 * num_bytes + 16


def _say_speed(statistics: "Statistics", seconds: float, seconds_to_first_text: float) -> str:
    drafted = f", {statistics.accept_rate:.0%} of the guesses right" if statistics.num_drafted else ""
    return (
        f"{statistics.num_tokens} tokens in {seconds:.1f} s, {statistics.num_tokens / seconds:.0f} tokens/s, the first "
        f"after {seconds_to_first_text:.2f} s{drafted}\n"
    )
