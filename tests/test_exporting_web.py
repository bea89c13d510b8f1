"""The ONNX file in a browser: onnxruntime-web makes what torch makes of the same random numbers."""

import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_exporting import noise, of
from test_exporting_onnx import needs_onnx, vae
from zprime.exporting import from_noise
from zprime.sampling import GenerativeModel

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / "build" / "onnxruntime-web"))
TOOL = ROOT / "tools" / "onnx_web.py"
N = 40
PAGE = """<!doctype html><script type="module">
import * as ort from "/ort.wasm.min.mjs";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = "/";
window.version = ort.env.versions.web;
window.draw = async (name, uniform, normal, columns) => {
  const session = await ort.InferenceSession.create(`/${name}/generator.onnx`, {executionProviders: ["wasm"]});
  const made = await session.run({
    uniform: new ort.Tensor("float64", Float64Array.from(uniform), [uniform.length]),
    normal: new ort.Tensor("float32", Float32Array.from(normal), [uniform.length, columns]),
  });
  return {x: [...made.x.data], shape: made.x.dims, z: [...made.z.data]};
};
window.ready = true;
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    """Files of the exported folder and of onnxruntime-web, as one folder."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def translate_path(self, path: str) -> str:
        here = super().translate_path(path)
        there = FOLDER / path.lstrip("/")
        return here if Path(here).exists() or "/" in path.lstrip("/") else str(there)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on this machine."""
    if not (FOLDER / "VERSION").exists():
        pytest.skip(f"no onnxruntime-web in {FOLDER} (python tools/onnx_web.py {FOLDER}; or set ONNXRUNTIME_WEB)")
    folder = tmp_path_factory.mktemp("web")
    (folder / "index.html").write_text(PAGE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def page(served: tuple[Path, str], browser: Any) -> Iterator[Any]:
    """A page that has loaded onnxruntime-web; at the end, nothing was asked of another machine."""
    wrong: list[str] = []
    opened = browser.new_page()
    opened.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    opened.on("request", lambda r: r.url.startswith((served[1], "blob:")) or wrong.append(f"request: {r.url}"))
    opened.goto(served[1])
    opened.wait_for_function("window.ready")
    yield opened
    opened.close()
    assert not wrong


@needs_onnx
@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "network", "likelihood"),
    [
        ("gaussian", "mlp", "gaussian"),
        ("mixture", "conv", "bernoulli"),
        ("exemplars", "mlp", "bernoulli"),
        ("vamp", "conv", "gaussian"),
    ],
)
def test_a_browser_makes_what_torch_makes(
    name: str, network: str, likelihood: str, served: tuple[Path, str], page: Any
) -> None:
    """x' in units of 0 to 16 and z', of the same uniform and normal numbers."""
    latent, decoder = of(name), vae((1, 8, 8), network, likelihood)
    shift, scale = torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), 16.0)
    model = GenerativeModel(latent, decoder, shift, scale, (1, 8, 8), "passes")
    model.export(served[0] / name, onnx=True, allow_rows=True)
    drawn = from_noise(latent)
    uniform, normal = noise(drawn, N)
    made = page.evaluate(
        "([name, uniform, normal, columns]) => draw(name, uniform, normal, columns)",
        [name, uniform.tolist(), normal.flatten().tolist(), drawn.columns],
    )
    z = drawn(uniform, normal)
    with torch.no_grad():
        x = scale * decoder.decode(z).mean + shift
    assert made["shape"] == [N, 1, 8, 8]
    assert float(x.std(0).mean()) > 1e-3  # x' depends on z', so that a wrong z' would show
    np.testing.assert_allclose(np.reshape(made["z"], (N, -1)), z.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.reshape(made["x"], x.shape), x.numpy(), rtol=1e-5, atol=1e-5 * 16)


@pytest.mark.browser
def test_the_runtime_is_the_pinned_one(page: Any) -> None:
    assert page.evaluate("version") == tool().VERSION
    said = f"onnxruntime-web {tool().VERSION}"
    assert said in (ROOT / "docs" / "publishing.md").read_text()
    assert said in (ROOT / "docs" / "dependencies.md").read_text()


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("onnx_web", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_archive_is_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "onnxruntime-web.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(SystemExit, match="expected SHA-512 q0y.*got .*nothing is unpacked"):
        tool().checked(archive)


def test_a_version_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    found = tool()
    (tmp_path / "VERSION").write_text(f"{found.VERSION}\n")
    found.fetch(tmp_path)
    (tmp_path / "VERSION").write_text("0.0.0\n")
    with pytest.raises(FileNotFoundError, match="npm"):
        found.fetch(tmp_path)
