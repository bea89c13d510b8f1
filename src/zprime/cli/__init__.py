"""The command line: one verb a file, loaded when it is called, so that `zprime --help` needs no torch."""

import logging
import os
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, Parameter
from cyclopts.config import Env, Toml

from zprime import __version__, interrupts, memory, stdio
from zprime.cli.console import OPTIONS
from zprime.cli.ending import ended
from zprime.cli.folder import check_there
from zprime.cli.helping import EPILOGUE, EXAMPLES, Help, shown_default
from zprime.errors import UsageError, ZprimeError

app = App(
    name="zprime",
    help="From which distribution should z' be drawn? Measured, on your model and your data.",
    version=__version__,
    default_parameter=Parameter(show_default=shown_default),
    help_formatter=Help(),
    help_epilogue=EPILOGUE,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
VERBS = {
    "init": "Write a commented Python file by which a VAE of your own comes to the command line.",
    "run": "Do everything: train, encode, fit, audit, report. What is already done is used again.",
    "train": "Read and split a data set, and train a VAE on it.",
    "encode": "Encode the three splits of a run into posteriors.",
    "fit": "Fit latent distributions to a run's posteriors.",
    "audit": "Measure every fitted latent distribution on held-out data, with verdicts.",
    "refine": "Go on training a run with what was fitted in place of the prior, in RUN/refined/NAME.",
    "explain": "Answer why a VAE draws z' from N(0, I), and whether it should, with the numbers of a run.",
    "report": "Write the page of a run again and print its table, or one page that compares several runs.",
    "sample": "Draw z' and x' from a run or a shipped generator.",
    "export": "Write a folder by which anyone can draw z' with NumPy alone, and x' from one ONNX file.",
    "explore": "Look at a latent space in a browser on this machine: move z' and see x', switch what it is drawn from.",
    "card": "Write a model card of what a run ships, with the metrics of its audit.",
    "verify": "Measure a run again as its audit records, and say whether every number of audit and card is the same.",
    "codes": "Write the codes of a run's rows to a Parquet file, for tools that show points.",
    "kinds": "List every kind of latent distribution: what it stores, its cost, when to use it.",
    "doctor": "Say which versions, kernels and instruction set are in use, and why no better ones.",
}
"""In the order of work."""
for _at, (_verb, _help) in enumerate(VERBS.items()):
    app.command(
        f"zprime.cli.{_verb}:{_verb}",
        name=_verb,
        help=_help,
        sort_key=_at,
        help_epilogue=f"Example: {EXAMPLES[_verb]}",
    )


MOST_THREADS = 4096
SHARED = ("run", "train", "encode", "fit", "audit", "sample")
"""Verbs whose work the processes of a job share; any other is the work of the process that is asked."""


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML file with a table for each verb, e.g. [run] latents = 16.")
    ] = None,
    quiet: Annotated[
        bool,
        Parameter(negative="", help="Print errors, and the answers of verbs that only answer (explain); no more."),
    ] = False,
    json: Annotated[
        bool, Parameter(negative="", help="Print the result as JSON on standard output, and nothing else there.")
    ] = False,
    threads: Annotated[
        int, Parameter(help="CPU threads; 0 takes one for small networks, all cores for convolutions and matrices.")
    ] = 0,
) -> Callable[[], object]:
    """From which distribution should z' be drawn? Measured, on your model and your data.

    A flag goes before an environment variable (ZPRIME_LATENTS=16), that before the TOML file, that before the default.
    """
    if config is not None:
        _check_config(config)
    if not 0 <= threads <= MOST_THREADS:
        raise UsageError(f"threads: expected a number from 0 to {MOST_THREADS}, got {threads}")
    OPTIONS.quiet, OPTIONS.json, OPTIONS.threads = quiet, json, threads
    level = logging.ERROR if quiet else logging.INFO
    logging.getLogger("zprime").setLevel(level)
    app.config = [Env("ZPRIME_", command=False), *([Toml(config)] if config else [])]
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    for name, value in bound.arguments.items():
        if any("\0" in str(v) for v in (value if isinstance(value, tuple) else (value,))):
            raise UsageError(f"{name}: expected text without the character of code 0, got {value!r}")
    check_there(bound.arguments.get("run", ()))  # what every verb calls the folder that it works on
    return partial(command, *bound.args, **bound.kwargs)  # with all modules loaded that the verb needs


def _check_config(config: Path) -> None:
    """Raise `UsageError` unless it is a TOML file."""
    if not config.is_file():
        raise UsageError(f"config: expected a TOML file, found none at {config}")
    try:
        tomllib.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"config: {config} is not a readable TOML file in UTF-8 ({error}); correct it") from error


app.meta.suppress_keyboard_interrupt = False
app.meta.config = [Env("ZPRIME_", command=False)]


def main(argv: list[str] | None = None, *, loaded: Callable[[], None] = lambda: None) -> NoReturn:
    """Run the command line, and exit; `loaded` is called when all modules are that the command needs.

    Exit codes: 0 done, 2 usage, 3 artefact, 4 numbers, 5 data, 6 memory or a worker process, 129 the terminal was
    closed, 130 interrupted, 141 the reader of the output is gone, 143 terminated; 1 for other errors.
    """
    from zprime.cli.console import handler, keep_memory

    stdio.fill()
    keep_memory()
    logger, messages = logging.getLogger("zprime"), handler()
    level = logger.level
    logger.addHandler(messages)
    try:
        with interrupts.listening() as heard:
            several = os.environ.get("WORLD_SIZE", "1") != "1" and _shared(argv)  # as torchrun says
            code = _code_of_several(argv, heard, messages, loaded) if several else _code(argv, heard, loaded)
    finally:  # what called main() from Python has its logger as before
        logger.removeHandler(messages)
        logger.setLevel(level)
    sys.exit(code)


def _shared(argv: list[str] | None) -> bool:
    """Whether the command is one whose work several processes share."""
    words = sys.argv[1:] if argv is None else argv
    return _verb_of(words) in SHARED and not {"--help", "-h", "--version"} & {*words}


def _verb_of(words: list[str]) -> str:
    return next((word for word in words if word in VERBS), "")


def _code_of_several(
    argv: list[str] | None, heard: interrupts.Listener, messages: logging.Handler, loaded: Callable[[], None]
) -> int:
    """The same as one of several processes: rank 0 runs the command, the others help, and print errors alone."""
    from zprime.distributed import lead, rank  # which load torch

    loaded()
    messages.addFilter(lambda record: not rank() or record.levelno >= logging.ERROR)
    try:
        return lead(partial(_code, argv, heard, lambda: None)) or 0
    except ZprimeError as error:
        return ended(error, heard, "")


def _code(argv: list[str] | None, heard: interrupts.Listener, loaded: Callable[[], None]) -> int:
    """Run one command; its exit code."""
    verb = _verb_of(sys.argv[1:] if argv is None else argv)
    try:
        try:
            if verb:
                memory.need_libraries()  # before the module of the verb loads them
            call = app.meta(argv, exit_on_error=False, print_error=False)
            loaded()
            heard.working = True
            if call is None:  # of --help and --version, whose text is all that was asked for
                stdio.need_reader()
            else:
                call()
            sys.stdout.flush()  # a broken pipe is noticed here, not when Python ends
        finally:
            heard.working = False  # what comes now ends at once
    except BaseException as error:
        return ended(error, heard, verb)
    return 0
