"""`camelid generate`: a prompt becomes text."""

from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A checkpoint, or the folder of a run that trained one.")
]


def generate(
    prompt: Annotated[str, typer.Argument(help="The beginning to continue; - reads it from standard input.")],
    model: ModelOption,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 is no limit.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens up to this probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Print the continuation of a prompt as it is written, and nothing else on standard output."""
    import json
    import sys
    import time

    from camelid import Llama

    llama = Llama.load(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    start = time.perf_counter()
    pieces = []
    for piece in llama.stream(text, **sampling):
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    seconds = time.perf_counter() - start
    continuation = "".join(pieces)
    num_tokens = len(llama.tokenizer.encode(continuation))
    if as_json:
        record = {"prompt": text, "text": continuation, "num_tokens": num_tokens, "seconds": seconds, **sampling}
        typer.echo(json.dumps(record, ensure_ascii=False))
    else:
        sys.stdout.write("\n")
        sys.stderr.write(f"{num_tokens} tokens in {seconds:.1f} s, {num_tokens / seconds:.0f} tokens/s\n")
