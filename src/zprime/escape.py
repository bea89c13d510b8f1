"""Text from outside (names of columns, files, folders, labels) made safe to show: one function a renderer.

HTML is escaped by its templates, after `visible`.
"""

import re

HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\ud800-\udfff\U000e0001-\U000e007f\U000e0100-\U000e01ef]"
)
"""Characters that control a terminal, the direction or the lines of a text, or show nothing; and what is no character.

The joiners U+200C and U+200D and the variation selectors U+FE00 to U+FE0F are not among them: emoji and several
scripts are spelled with them.
"""
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
MARKUP = re.compile(
    r"[\\`*<>&~$#]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # inside a word it is no emphasis
    r"|\[(?![-+.\d]+, )|\](?=[(\[:])"  # an interval, as in [0.1, 0.2], is no link
)


def visible(text: str) -> str:
    r"""The text on one line, with every hidden character as Python spells it, e.g. ESC as `\x1b`: for a terminal."""
    return HIDDEN.sub(_code, text)


def visible_lines(text: str) -> str:
    """As `visible`, with its line breaks as they are."""
    return "\n".join(map(visible, text.split("\n")))


def markdown(text: str) -> str:
    """The text as Markdown that shows it as it is, within a paragraph."""
    return MARKUP.sub(r"\\\g<0>", visible(text))


LONGEST = 48
"""Characters of a text in a figure, at most: longer ones would leave no room for what is drawn."""


def label(text: str) -> str:
    """The text for a figure: shortened in the middle, without an underscore in front, which hides it from legends."""
    text = visible(text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-(LONGEST // 2 - 1) :]}"
    return f" {text}" if text.startswith("_") else text


def _code(hidden: re.Match[str]) -> str:
    at = ord(hidden[0])
    short = f"\\x{at:02x}" if at < 0x100 else f"\\u{at:04x}" if at < 0x10000 else f"\\U{at:08x}"
    return SHORT.get(hidden[0], short)
