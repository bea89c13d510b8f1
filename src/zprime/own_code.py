"""A function of the user's own that builds a model, and the file of its weights.

Code runs by `Code.run` alone, so only where the user named it. Weights are opened without running any.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import io
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch

from zprime import memory
from zprime.calls import theirs
from zprime.errors import UsageError

THEIRS = (Exception, SystemExit)
"""What a script of the user's may end with."""
EXAMPLE = "mymodel.py:build or package.module:function"
TAKES_ONE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


@final
@dataclass(frozen=True)
class Guard:
    """Names the user's file and line where its code raises an error.

    Attributes:
        place: the code, as it was given.
        file: where it lies.
    """

    place: str
    file: Path

    @contextlib.contextmanager
    def __call__(self, what: str, advice: Callable[[str], str] | None = None) -> Iterator[None]:
        """Turn what the user's code raises into an error that names it and its line.

        Args:
            what: what is being done.
            advice: what to do about an error of such a text.

        Raises:
            UsageError: the block raised an error that is none of zprime's, and memory did not run out.
        """

        def says(error: BaseException) -> str:
            way = "" if advice is None else f"; {advice(str(error))}"
            return f"model: {self.place}: {what} failed: {self._told(error)}{way}"

        with theirs(says, kinds=THEIRS):
            yield

    def _told(self, error: BaseException) -> str:
        """An error in one line, with the last line of the user's file that it passed."""
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.file)]
        if isinstance(error, SyntaxError) and error.filename == str(self.file):
            lines = [error.lineno]
        at = f" ({self.file.name}, line {lines[-1]})" if lines else ""
        message = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        return f"{type(error).__name__}{': ' if message else ''}{message}{at}"


@final
@dataclass(frozen=True)
class Code:
    """A function in a file, read and not run, and weights beside it.

    Attributes:
        place: the file, or the name of the module, as it was given.
        function: its name.
        file: where the code lies.
        content: of that file.
        weights_file: where the weights lie; None without any.
        weights: content of that file.
    """

    place: str
    function: str
    file: Path
    content: bytes = field(repr=False)
    weights_file: Path | None = None
    weights: bytes = field(default=b"", repr=False)

    @classmethod
    def read(cls, named: str, weights: str = "") -> "Code":
        """Read the file of a function, `mymodel.py:build` or `package.module:function`, and that of its weights.

        Of a module, the packages that it is in are imported to find it.

        Raises:
            UsageError: there is no such file or module, or it cannot be read.
        """
        place, _, function = named.rpartition(":")
        if not place or not function.isidentifier():
            raise UsageError(f"model: expected {EXAMPLE}, got {named!r}")
        before = sys.modules.get(place)
        file = Path(place).expanduser() if _is_path(place) else _file_of(place)
        weights_file = Path(weights).expanduser() if weights else None
        content = b"" if weights_file is None else _content("model-weights", weights_file)
        code = cls(place, function, file, _content("model", file), weights_file, content)
        if before is None and place in sys.modules:  # a package that it is in imports it
            _note(code)
        return code

    @property
    def named(self) -> str:
        """File and function as a run records them: `mymodel.py:build`, wherever the file lies."""
        return f"{self.file.name if _is_path(self.place) else self.place}:{self.function}"

    @property
    def sha256(self) -> str:
        """Of the file of the code."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """Of the file of the weights; empty without any."""
        return "" if self.weights_file is None else hashlib.sha256(self.weights).hexdigest()

    def run(self) -> Any:
        """What the function answers: of no argument, or of the weights as their file holds them.

        Where it takes no argument and there are weights, it answers a torch module, and they are put into that. What
        it prints goes to standard error.

        Raises:
            UsageError: there is no such function, it raised an error, or the weights cannot be used.
        """
        with self._path(), contextlib.redirect_stdout(sys.stderr):
            with self.guard("importing it"):
                module = self._module()
            function = getattr(module, self.function, None)
            if not callable(function):
                known = [
                    n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
                ]
                raise UsageError(
                    f"model: expected a function {self.function} in {self.place}, got none of this name; there is "
                    f"{', '.join(known) or 'no function'}"
                )
            least, most = _arguments(function)
            if least > 1 or (least and self.weights_file is None):
                what = "takes weights: say where their file is, --model-weights FILE"
                if least > 1:
                    what = f"takes {least} arguments; expected build(), or build(weights)"
                raise UsageError(f"model: {self.function} of {self.place} {what}")
            if self.weights_file is None:
                with self.guard(f"{self.function}()"):
                    return function()
            weights = _opened(self.weights_file, self.weights)
            if most:
                with self.guard(f"{self.function}(weights)"):
                    return function(weights)
            with self.guard(f"{self.function}()"):
                answer = function()
            return self._filled(answer, weights)

    @property
    def guard(self) -> "Guard":
        """For whatever of the user's code is called: it does not keep the weights in memory."""
        return Guard(self.place, self.file)

    def _module(self) -> types.ModuleType:
        """The module, made from the very content that was read."""
        if not _is_path(self.place):
            if self.place not in sys.modules:
                found = importlib.import_module(self.place)
                _note(self)
                return found
            if _IMPORTED.get(self.place) == (sys.modules[self.place].__spec__, self.sha256):
                return sys.modules[self.place]
            # this Python imported it before, maybe with other content: what is recorded by its hash has to be what runs
        module = types.ModuleType(f"zprime_own_{self.file.stem}")
        module.__file__ = str(self.file)
        module.__package__ = "" if _is_path(self.place) else self.place.rpartition(".")[0]
        sys.modules[module.__name__] = module  # dataclasses look their module up
        exec(compile(self.content, str(self.file), "exec"), module.__dict__)
        return module

    @contextlib.contextmanager
    def _path(self) -> Iterator[None]:
        """Find modules as Python does: beside the file, or from this folder."""
        with _first(str(self.file.absolute().parent) if _is_path(self.place) else str(Path.cwd())):
            yield

    def _filled(self, answer: Any, weights: Any) -> Any:
        """A torch module with its weights."""
        hint = f"let it take the weights, def {self.function}(weights), and put them where they belong"
        if not isinstance(answer, torch.nn.Module):
            raise UsageError(
                f"model-weights: expected {self.function} of {self.place} to answer a torch module to put them into, "
                f"got {type(answer).__name__}; {hint}"
            )

        def says(error: BaseException) -> str:
            why = " ".join(str(error).split())[:400]
            what = f"model-weights: {self.weights_file} does not fit {type(answer).__name__}"
            return f"{what} ({why}); give the weights of this model, or {hint}"

        with theirs(says):
            answer.load_state_dict(weights)
        return answer


_IMPORTED: dict[str, tuple[object, str]] = {}
"""Modules that were imported here: name -> what Python found (another object after a reload), and SHA-256 of it."""


def _note(code: Code) -> None:
    """Remember of which content a module is that was just imported."""
    _IMPORTED[code.place] = getattr(sys.modules[code.place], "__spec__", None), code.sha256


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _content(option: str, file: Path) -> bytes:
    try:
        if not file.is_file():
            raise UsageError(f"{option}: expected a file, found none at {file}")
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: {file} cannot be read ({error.strerror})") from error


def _file_of(module: str) -> Path:
    """Where the code of a module lies.

    Raises:
        UsageError: there is no such module, or it is not in a file.
    """
    found = None
    with _first(str(Path.cwd())), contextlib.redirect_stdout(sys.stderr):
        importlib.invalidate_caches()
        try:
            found = importlib.util.find_spec(module)
        except (Exception, SystemExit) as error:  # of the packages that it is in
            if memory.ran_out(error) is not None:
                raise
            missing = (
                isinstance(error, ModuleNotFoundError) and error.name is not None and module.startswith(error.name)
            )
            if not missing:
                raise UsageError(
                    f"model: {module}: importing what it is in failed: {type(error).__name__}: {error}"
                ) from error
    if found is None:
        raise UsageError(
            f"model: expected {EXAMPLE}, got {module!r}, and there is no module of this name here or among those that "
            "are installed"
        )
    if not found.has_location or found.origin is None or not found.origin.endswith(".py"):
        raise UsageError(f"model: expected a module in a .py file, got {module}, which is in none")
    return Path(found.origin)


@contextlib.contextmanager
def _first(folder: str) -> Iterator[None]:
    """A folder where modules are looked for first."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _arguments(function: Callable[..., Any]) -> tuple[int, int]:
    """How many positional arguments a function needs, and takes."""
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some builtins
        return 0, 0
    taken = [p for p in every if p.kind in TAKES_ONE]
    needed = [p for p in taken if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return len(needed), len(taken)


def _opened(file: Path, content: bytes) -> Any:
    """What a file of weights holds, opened so that no code in it runs.

    Raises:
        UsageError: it holds something else than tensors and plain values, or cannot be read.
    """

    def says(error: BaseException) -> str:
        objects = isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error)
        what = "holds objects of Python, and opening it would run code" if objects else "is no readable file of weights"
        way = "save the weights alone, torch.save(vae.state_dict(), FILE), or as .safetensors"
        return f"model-weights: {file} {what} ({type(error).__name__}); {way}"

    with theirs(says):
        if file.suffix.lower() == ".safetensors":
            return safetensors.torch.load(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
