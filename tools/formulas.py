"""Typeset the formulas that stand as text on pages: python tools/formulas.py docs/question.md.

`zprime explain` writes for a terminal: p(z|x), KL(q‖p), z′. On a page of the site the same is $p(z \\mid x)$,
$\\mathrm{KL}(q \\Vert p)$ and $z'$. Code, headings, comments, the targets of links and what is typeset already stay as
they are. What is not written in one of the forms below is found by `left` and typeset by hand.
"""

import re
import sys
from pathlib import Path

KEPT = re.compile(
    r"(?ms)^ *```.*?^ *```$|`[^`\n]*`"  # code
    r"|^ *\$\$$.*?^ *\$\$$|\$[^$\n]+\$"  # what is typeset
    r"|<!-- (?!answer|printed)([^>\n]+) -->.*?<!-- /\1 -->|<!--.*?-->"  # what a command measured; other comments
    r"|^#[^\n]*$|!\[[^]\n]*\]\([^)\n]*\)|\]\([^)\n]*\)|<[^>\n]*>|\[[nd]\b[^]\n]*\]"  # headings, pictures, links, shapes
)
INNER = r"(?:[^()\n]|\([^()\n]*\))*"  # what stands between brackets, and itself may have a pair
LETTER = r"(?<![\w’'′./-])(?<!\d )(?:[zx]⁽ⁱ⁾|[zx][′']|[DIKNZchqrxz])(?![\w’'′(=-]|[./]\w| %)"
CALL = rf"\bE_q\[[^][\n]*\]|\bKL\({INNER}\)|\b[pqr](?:_r)?\({INNER}\)|\bN\(0, [I1]\)|\bexp\(I\)|\\?\|D\\?\|"
ATOM = rf"(?:(?:\blog )?(?:{CALL}|{LETTER})|\blog [pqrsNZ]\b)"
NUMBER = r"\s=\s(?>-?\d+(?:\.\d+)?(?:\s±\s\d+(?:\.\d+)?)?)(?!\s%|,\d)"
FORMULA = re.compile(rf"1/√N|{ATOM}(?:(?:\s[=≤+−~-]\s|/){ATOM})*(?:{NUMBER})?")
WRITTEN = {  # longer ones, as `explain` has them
    "**∫ q(z|x) p(x) dx = ∫ p(x, z) dx = p(z).**": r"""$$
\int q(z \mid x)\, p(x)\, dx = \int p(x, z)\, dx = p(z).
$$""",
    "KL(average ‖ p(z)) ≤ KL(data ‖ model) + mean KL(q(z|x) ‖ p(z|x)).": r"""$$
\begin{aligned}
& \mathrm{KL}(\text{average} \;\Vert\; p(z)) \le \mathrm{KL}(\text{data} \;\Vert\; \text{model}) \\
& \qquad + \text{mean } \mathrm{KL}(q(z \mid x) \;\Vert\; p(z \mid x)).
\end{aligned}
$$""",
    "p(x) = ∫ p(x|z) p(z) dz": r"$p(x) = \int p(x \mid z)\, p(z)\, dz$",
    "standard deviation s ": "standard deviation $s$ ",
    "p(z) ∏ p(x⁽ⁱ⁾|z)": r"$p(z) \prod_i p(x^{(i)} \mid z)$",
}
TEX = {
    "\\|": "|",
    " given ": "|",
    "||": "‖",
    "|D|": r"\lvert D \rvert",
    "qbar": r"\bar q",
    "‖": r" \Vert ",
    "|": r" \mid ",
    "=": " = ",
    "KL(": r"\mathrm{KL}(",
    "log ": r"\log ",
    "exp(": r"\exp(",
    "√N": r"\sqrt{N}",
    "⁽ⁱ⁾": "^{(i)}",
    "′": "'",
    "−": "-",
    "±": r"\pm",
    "≤": r"\le",
    "~": r"\sim",
}
SIGNS = re.compile(r"[‖√∏∫Σ≤∝σβεμτ²₂½∞⁽ⁱ⁾]|\b(?:KL|E_q)[([]")


def tex(formula: str) -> str:
    """A formula as LaTeX; words in it stay words."""
    formula = re.sub(r"\b(?!log\b|exp\b|given\b|qbar\b)[a-z]{3,}\b", r"\\text{\g<0>}", formula)
    for written, set_ in TEX.items():
        formula = formula.replace(written, set_)
    return re.sub(r"\s+", " ", formula)


def parts(text: str) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it is kept as it is."""
    out, at = [], 0
    for kept in KEPT.finditer(text):
        out += [(False, text[at : kept.start()]), (True, kept[0])]
        at = kept.end()
    return [*out, (False, text[at:])]


def typeset(text: str) -> str:
    """Markdown with its formulas between dollars; what is typeset already stays."""
    for written, set_ in WRITTEN.items():
        text = text.replace(written, set_)
    return "".join(t if kept else FORMULA.sub(lambda m: f"${tex(m[0])}$", t) for kept, t in parts(text))


def left(text: str) -> list[str]:
    """Formulas of a page that are not typeset."""
    plain = [t for kept, t in parts(text) if not kept]
    return [m[0] for t in plain for form in (FORMULA, SIGNS) for m in form.finditer(t)]


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(typeset(page.read_text()))
        print(page, *left(page.read_text()), sep="\n  ")
