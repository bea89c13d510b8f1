"""The page without a server: one decoder as an ONNX file, which onnxruntime-web runs in the browser.

The folder holds no row of the data and no posterior: draws of p(z) and r(z), the decoder, and the page.
"""

import json
from pathlib import Path
from typing import Any

import torch

from zprime import artifact, exporting, memory
from zprime.artifact import Artifact, Manifest
from zprime.decoders import as_decoder
from zprime.distribution import LatentDistribution, Prior, is_standard
from zprime.errors import UsageError
from zprime.exploring.explorer import COLUMNS, DRAWS, NUMBERS
from zprime.exploring.scene import Axes, numbers
from zprime.exploring.server import PAGE, page_file
from zprime.exporting import FromNoise
from zprime.leaks import check_leaks
from zprime.rng import stream
from zprime.sampling import GenerativeModel

KIND = "explorer"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web."""
TRIED = 8
"""Components that are looked at for one with a width in every direction."""
README = """# z' from {label}

    python -m http.server --bind 127.0.0.1 8000

in this folder, then http://127.0.0.1:8000 in a browser: browsers load no module from a file. Nothing is asked of
another machine. The page draws z' and decodes it with `decoder.onnx`, by onnxruntime-web in one thread.

{says}
"""


def write(
    path: str | Path,
    model: GenerativeModel,
    runtime: str | Path,
    *,
    prior: LatentDistribution | None = None,
    allow_copies: bool = False,
    allow_rows: bool = False,
) -> Artifact:
    """Write the folder in one step; an earlier one there is replaced when this one is complete.

    Args:
        path: the folder to make.
        model: decoder, units and r(z).
        runtime: the folder of onnxruntime-web, from which three files are copied.
        prior: what r(z) is shown beside; None is N(0, I).
        allow_copies: write even where an audit found that the samples copy training rows.
        allow_rows: write even a latent distribution that stores functions of single training rows.

    Raises:
        UsageError: as `GenerativeModel.export` with `onnx`; or no onnxruntime-web in `runtime`; or no z can be decoded
            that r(z) itself would not draw.
    """
    check_leaks(model.latent, model.copying, allow_copies=allow_copies, allow_rows=allow_rows)
    path, runtime = Path(path), Path(runtime)
    exporting.check_place(path, KIND)
    files = {name: _runtime(runtime / name) for name in RUNTIME}
    drawn = exporting.from_noise(model.latent)
    scene = _scene(model, drawn, Prior(drawn.d) if prior is None else prior)
    files |= {name: page_file(name) for name in PAGE} | {"model.js": page_file("onnx.js")}
    files["scene.json"] = json.dumps(scene, separators=(",", ":"), allow_nan=False).encode()
    units = (model.shift, model.scale) if model.image is None else (torch.zeros(()), torch.ones(()))  # of the page
    files["decoder.onnx"] = exporting.to_onnx(drawn, as_decoder(model.decoder), *units)
    files["README.md"] = README.format(label=model.latent.label, says=model.says()).encode()
    return artifact.write(path, Manifest(KIND, {"label": model.latent.label, "says": model.says()}), extra=files)


def _runtime(file: Path) -> bytes:
    if not file.is_file():
        raise UsageError(
            f"runtime: expected onnxruntime-web's {file.name} in {file.parent}, found none; unpack the package "
            "onnxruntime-web of npm, and name its folder dist"
        )
    return file.read_bytes()


def _scene(model: GenerativeModel, drawn: FromNoise, prior: LatentDistribution) -> dict[str, Any]:
    r = model.latent
    n = max(20, min(DRAWS, NUMBERS // (3 * r.d)))
    draws = {"prior": prior.sample(n, rng=stream(0, "explore", prior.label))}
    if r.label != prior.label:
        draws[r.kind] = r.sample(n, rng=stream(0, "explore", r.label))
    labels = {"prior": prior.label, r.kind: r.label}
    columns, span = _columns(model, next(reversed(draws.values())))
    axes = Axes.of(next(reversed(draws.values())))
    return {
        "name": r.label,
        "d": r.d,
        "image": None if model.image is None else list(model.image),
        "columns": columns,
        "span": span,
        "axes": {"names": list(axes.names), "directions": [numbers(u) for u in axes.directions.T]},
        "standard": is_standard(prior),
        "sources": [{"name": s, "label": labels[s], "draws": [numbers(z) for z in zs]} for s, zs in draws.items()],
        "choice": next(reversed(draws)),
        "rows": None,
        "tries": {},
        "noise": noise_of(drawn),
    }


def _columns(model: GenerativeModel, z: torch.Tensor) -> tuple[list[str], list[list[float]]]:
    if model.image is not None:
        return [], []
    with torch.no_grad():
        x = model.restore(as_decoder(model.decoder).decode(z.float()).mean.float()).flatten(1)[:, :COLUMNS]
    span = zip(numbers(x.amin(0)), numbers(x.amax(0)), strict=True)
    return [f"x{j}" for j in range(x.shape[1])], [list(pair) for pair in span]


def noise_of(drawn: FromNoise) -> dict[str, Any]:
    """The random numbers that give a wanted z: `uniform`, and `normal = inverse (z - mean)`.

    They are of the widest component; through it any z can be reached, however unlikely.

    Raises:
        UsageError: no component has a width in all directions.
    """
    memory.need(8 * drawn.d * drawn.columns, "explore: the map from z to random numbers", "leave --static out")
    factor, which = drawn.factor, drawn.which
    best, least = -1, 0.0
    parts: dict[int, torch.Tensor] = {}
    edge = torch.cat([torch.zeros(1, dtype=torch.float64), drawn.cumulative.double()])
    share = edge[1:] - edge[:-1]
    drawn_at_all = (share > 1e-9).nonzero().flatten()
    narrow = drawn.scale[drawn_at_all].double().amin(1)
    for k in drawn_at_all[narrow.argsort(descending=True)].tolist()[:TRIED]:
        wide = torch.diag(drawn.scale[k].double())
        own = torch.zeros(drawn.d, drawn.columns - drawn.d, dtype=torch.float64)
        if factor is not None and which is not None and int(which[k]) >= 0:
            own = factor[int(which[k])].double()
        parts[k] = torch.cat([wide, own], 1)
        width = float(torch.linalg.svdvals(parts[k])[-1])
        if width > least:
            best, least = k, width
    if least < 1e-6:
        raise UsageError("static: expected a component with a width in every direction, got none; take another --from")
    inverse = torch.linalg.pinv(parts[best])
    return {
        "uniform": float((edge[best] + edge[best + 1]) / 2),
        "mean": drawn.mean[best].tolist(),
        "inverse": [[float(f"{v:.9g}") for v in row] for row in inverse.tolist()],
        "columns": drawn.columns,
    }
