"""zprime explain."""

from pathlib import Path

from zprime import artifact, outputs
from zprime.cli.console import give, product, say
from zprime.cli.folder import Folder
from zprime.reporting.explain import explain as answer


def explain(run: Folder, *, out: Path | None = None) -> None:
    """Answer the question, why a VAE draws z' from N(0, I), with the numbers of a run.

    Parameters
    ----------
    run
        Folder of a run that `zprime audit` has been through, or of an audit.
    out
        Markdown file to write it to, instead of printing it.
    """
    if out is not None:
        outputs.check_output(out, run)
    text = answer(run)
    if out is None:
        from rich.markdown import Markdown

        product(Markdown(text, hyperlinks=False))
    else:
        artifact.make_folder(out.parent)
        artifact.write_file(out, text.encode())
        say(f"Answer: {out}")
    give({"answer": text} if out is None else {"answer": out})
