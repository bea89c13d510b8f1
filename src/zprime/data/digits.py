"""The built-in data set."""

from pathlib import Path

import numpy as np

from zprime.data.source import Reader, Source
from zprime.errors import UsageError


def read_digits(path: Path) -> Source:
    """The 1,797 handwritten digits, 8 x 8, that scikit-learn ships."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("data digits: needs scikit-learn; pip install 'zprime[digits]'") from error
    digits = load_digits()
    return Source("digits", digits.images[:, None].astype(np.float32), digits.target.astype(np.int64), top=16.0)


def _is_digits(path: Path) -> bool:
    return str(path) == "digits"


DIGITS = Reader("digits", "the 1,797 images of 8 x 8 that scikit-learn ships", _is_digits, read_digits)
