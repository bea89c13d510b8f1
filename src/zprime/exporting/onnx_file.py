"""The whole generator as one ONNX file: random numbers in, x' and z' out."""

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime import memory
from zprime.decoding import dtype_of
from zprime.errors import UsageError
from zprime.exporting.from_noise import FromNoise
from zprime.vae import Decoder, Told

NEEDED = ("onnx", "onnxscript")
SOME = 4  # draws that the generator is traced with
LARGEST = 1 << 31  # bytes of one file in ONNX's format
OPERATOR = re.compile(r"op='([\w.]+)'")
CALL = re.compile(r"The following call raised this error:\s+File \"[^\"]*\", line \d+, in \S+\s+(.+)")


def to_onnx(
    drawn: FromNoise,
    decoder: Decoder,
    shift: Float[Tensor, "*datum"],
    scale: Float[Tensor, "*datum"],
    *,
    given: Any = None,
) -> bytes:
    """The content of an ONNX file with all weights in it.

    Inputs `uniform`, float64 [n], in [0, 1), and `normal`, float32 [n, columns]; outputs `x`, the mean of p(x|z') in
    the units of the data, float32, and `z`, float32 [n, d]. n is free.

    Args:
        drawn: z' as a function of random numbers.
        decoder: p(x|z), on the CPU or moving z there by itself.
        shift: what is added to the decoded x', after it was scaled: then it is in the units of the data.
        scale: what the decoded x' is multiplied with.
        given: the condition of all samples, of a decoder that is told any; x' then has it behind it.

    Raises:
        UsageError: onnx or onnxscript is missing; the decoder takes conditions and none is given; or it cannot be
            written in ONNX: the message names the operator, or the line of its code, that stands in the way.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"export: an ONNX file takes {' and '.join(missing)}; run pip install 'zprime[onnx]'")
    memory.need(4 * sum(t.numel() for t in drawn.tensors().values()), "export: r(z) as an ONNX file", "leave onnx out")
    whole = _Generator(drawn, decoder, shift, scale).eval()
    with torch.no_grad(), _quiet():
        p = decoder.decode(torch.zeros(1, drawn.d, dtype=whole.dtype))
        if isinstance(p, Told):
            if given is None:
                raise UsageError(
                    "export: this decoder is told conditions beside z, and an ONNX file is of one of them; say which "
                    "by --given (in Python: given=), or leave onnx out"
                )
            whole.told = p.conditions(given, 1)
        return _content(_converted(_traced(whole, drawn.columns)))


class _Generator(nn.Module):
    """Random numbers -> (x', z'). The decoder is no submodule: what it does not use, as an encoder, stays out."""

    def __init__(self, drawn: FromNoise, decoder: Decoder, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.drawn, self.decode, self.dtype = drawn, decoder.decode, dtype_of(decoder)
        self.shift, self.scale = shift.float(), scale.float()
        self.told: Tensor | None = None

    def forward(self, uniform: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        z = self.drawn(uniform, normal)
        p = self.decode(z.to(self.dtype))
        if self.told is not None and isinstance(p, Told):
            p = p.given(self.told.expand(z.shape[0], -1))
        return p.mean.float() * self.scale + self.shift, z


def _traced(whole: nn.Module, columns: int) -> torch.export.ExportedProgram:
    n = torch.export.Dim("n")
    some = torch.full((SOME,), 0.5, dtype=torch.float64), torch.zeros(SOME, columns)
    try:
        return torch.export.export(whole, some, dynamic_shapes={"uniform": {0: n}, "normal": {0: n}}, strict=False)
    except Exception as error:  # torch.export raises what it meets, of any type
        if memory.ran_out(error) is not None:
            raise
        said = str(error)
        if "specialized it to be a constant" in said:
            why = "it fixes the number of rows; write z.shape[0] where it says len(z)"
        else:
            call = CALL.search(said)
            first = said.strip().splitlines()[0] if said.strip() else type(error).__name__
            why = f"it stops at `{call[1].strip()}` ({first})" if call else first
        raise UsageError(f"export: torch.export cannot trace decode(z).mean: {why}") from error


def _converted(program: torch.export.ExportedProgram) -> Any:
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["uniform", "normal"],
            output_names=["x", "z"],
        )
        assert made is not None  # so with dynamo
        return made.model_proto
    except Exception as error:  # torch.onnx raises internal types, with the operator in their text only
        if memory.ran_out(error) is not None:
            raise
        operator = OPERATOR.search(str(error))
        why = f"ONNX has no operator for {operator[1]}" if operator else str(error).strip().splitlines()[0]
        raise UsageError(
            f"export: the decoder cannot be written as an ONNX file: {why}; write it with other operators, or leave "
            "onnx out"
        ) from error


def _content(model: Any) -> bytes:
    """The bytes, without what the exporter notes of this machine: paths and lines of code."""
    if (size := model.ByteSize()) >= LARGEST:
        raise UsageError(f"export: an ONNX file holds 2 GB at most, this one would have {size:,} bytes; leave onnx out")
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = "n"
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks to developers, and without checks of values in distributions: they cannot be traced."""
    logger, checks = logging.getLogger("torch.onnx"), Distribution._validate_args
    level = logger.level
    logger.setLevel(logging.ERROR)
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
        Distribution.set_default_validate_args(checks)
