"""Shapes and types in annotations are checked under pytest: the hook must come before any import of zprime."""

from collections.abc import Iterator

import jaxtyping
import pytest

hook = jaxtyping.install_import_hook("zprime", "beartype.beartype")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations as users have them, unchecked: for the errors that our own code raises for wrong shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
