"""Write docs/cli.md from the command line's own help: python tools/cli.py."""

import re
from pathlib import Path

from zprime.cli import app
from zprime.cli.helping import EXAMPLES

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Command line

*Written by `make cli-docs` from the help of the commands themselves; a test compares the two.*

Four options go with every command: `--config FILE` (TOML, a table for each verb), `--quiet`, `--json`, `--threads N`.
A flag has precedence over an environment variable (`ZPRIME_LATENTS=16`), that over the TOML file, and that over the
default.

Exit codes: 0 done, 2 usage, 3 artefact missing or altered, 4 numbers not finite, 5 data, 6 memory ran out or a worker
process was ended, 129 the terminal was closed (SIGHUP), 130 interrupted (Ctrl-C), 141 the reader of the output is gone,
143 terminated (SIGTERM), 1 other errors. After 6, 129, 130 and 143 finished results are kept, and the same command goes
on from there.
"""
EXAMPLE = "\n\nExample: `{}`"
EVERYWHERE = re.compile(r"^\* `--(config|quiet|json|threads)\b.*\n", re.M)


def text() -> str:
    """The page."""
    app.config = ()  # a command that ran in this process has put the environment there
    made = app.generate_docs(output_format="markdown")
    commands = made[made.index("## zprime run") :]
    commands = EVERYWHERE.sub("", commands).replace("```console", "```text")
    commands = re.sub(r"\*\*Parameters\*\*:\s*(?=\n## |\Z)", "", commands)
    commands = re.sub(r", `?--empty-[\w-]+", "", commands)
    for verb, example in EXAMPLES.items():
        usage = re.compile(rf"(## zprime {verb}\n\n```text\n.*?```)", re.S)
        commands = usage.sub(lambda found, line=example: found[1] + EXAMPLE.format(line), commands)
    return HEAD + "\n" + re.sub(r"\n{3,}", "\n\n", commands).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(text())
