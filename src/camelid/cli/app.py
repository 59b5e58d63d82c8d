"""The commands, put together, and the one place where errors become sentences and exit codes."""

import signal
import sys
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from camelid import __version__
from camelid.cli import (
    bench,
    chat,
    checkpoint,
    corpus,
    dataset,
    doctor,
    generate,
    quantize,
    report,
    run,
    tokenizer,
    train,
)
from camelid.errors import StoppedError, UserError

_INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(
    name="camelid",
    help="Open and efficient foundation language models, from raw text to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


app.command("run")(run.run)
app.add_typer(corpus.app, name="corpus")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(dataset.app, name="dataset")
app.command("train")(train.train)
app.add_typer(checkpoint.app, name="checkpoint")
app.command("quantize")(quantize.quantize)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def main() -> NoReturn:
    """Runs the command line: 0 done, 2 something the person can mend, 128 + n stopped by signal n."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except StoppedError as error:
        _fail(str(error), 128 + error.signal_number)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}; see camelid --help", 2)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    # Typer may raise an interrupt, or return the exit code that it makes of one.
    if code == _INTERRUPTED:
        _fail("stopped", code)
    sys.exit(code or 0)


def _fail(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"camelid: {sentence}\n")
    sys.exit(code)
