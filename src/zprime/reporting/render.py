"""Templates filled in: HTML of which everything is escaped, with style and script inlined and named by their hashes."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zprime.escape import visible_lines
from zprime.reporting.glossary import glossed

UNIT = re.compile(r"(?<=\d) (?![±+(\[])|(?<=±) |(?<=%) (?=p$)")
"""The blank between a number and its unit, after `±`, and in `1 % p`."""
NOTHING = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
"""A page loads nothing: no script, style or image but those inside it."""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zprime.reporting", "templates"),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_inline(name) for name in ("style.css", "script.js"))
    policy = f"{NOTHING}; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    environment.filters["glossed"] = lambda text: glossed(visible_lines(text))
    environment.filters["unbroken"] = unbroken
    environment.globals |= {"style": style, "script": script, "policy": Markup(policy)}
    return environment


def _seen(value: Any) -> Any:
    """A text with its hidden characters spelled out; what is markup already stays."""
    return visible_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def unbroken(text: str) -> str:
    """A cell's text, whose lines do not break between a number and its unit, or after `±`."""
    return UNIT.sub("\u00a0", text)


def _inline(name: str) -> Markup:
    """A file of ours, which goes into the page as it is."""
    return Markup(resources.files("zprime.reporting").joinpath("templates", name).read_text("utf-8"))


def _hash(block: str) -> str:
    """By which a browser knows an inline block (Content Security Policy Level 3, section 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}"


def render(template: str, **content: Any) -> str:
    """A page as text."""
    return _environment().get_template(template).render(**content)
