"""The server of `zprime explore`: this machine only, bounded requests, nothing but the page; and the command."""

import contextlib
import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import own_code
import small
from exploring import D, N, explorer
from test_exporting_onnx import needs_onnx
from zprime import artifact, exploring
from zprime.cli import main
from zprime.errors import UsageError
from zprime.exploring import Server
from zprime.exploring.server import AT_ONCE, LONGEST, Site
from zprime.exploring.static import RUNTIME
from zprime.interrupts import Stopped
from zprime.latent import Aggregated
from zprime.own_model import OwnModel
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.sampling import GenerativeModel


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(explorer()) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server, path: str, *, host: str | None = None, method: str = "GET", secret: bool = True) -> Any:
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {"Host": server.hosts[0] if host is None else host}
    connection.request(method, f"/{server.secret}/{path}" if secret else path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def raw(server: Server, request: str) -> str:
    """The first line of the answer to a request as it is written here."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.makefile().readline().strip()


def test_only_this_machine_can_connect(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/{server.secret}/"
    assert len(server.secret) >= 20


FOREIGN = ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""]
PATHS = ["nothing", "../pyproject.toml", "%2e%2e/explorer.py", "page/index.html", "/etc/passwd", "onnx.js"]
FILES = {"": "text/html", "explore.js": "text/javascript", "model.js": "text/javascript", "explore.css": "text/css"}


@pytest.mark.parametrize("host", FOREIGN)
def test_another_hosts_name_is_refused(server: Server, host: str) -> None:
    """A page elsewhere whose name was made to mean this machine gets nothing (DNS rebinding)."""
    for path in ("", "scene.json", "decode?z=0,0,0"):
        status, _, body = ask(server, path, host=host.format(port=server.server_port))
        assert status == 403
        assert b"for the machine that it runs on" in body


def test_no_host_or_two_are_refused(server: Server) -> None:
    path, host = f"/{server.secret}/", server.hosts[0]
    assert raw(server, f"GET {path} HTTP/1.0\r\n\r\n").split()[1] == "403"
    assert raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n").split()[1] == "403"
    assert raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost:{server.server_port}\r\n\r\n").split()[1] == "200"


def test_who_does_not_know_the_address_gets_nothing(server: Server) -> None:
    for path in ("/", "/scene.json", f"/{server.secret[:-1]}/scene.json", f"/{server.secret}x/scene.json", "/%C3%A9"):
        assert ask(server, path, secret=False)[0] == 404
    assert raw(server, f"GET /é HTTP/1.1\r\nHost: {server.hosts[0]}\r\n\r\n").split()[1] == "404"


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_a_request_names_a_file(server: Server, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
def test_it_answers_get_alone(server: Server, method: str) -> None:
    status, headers, _ = ask(server, "scene.json", method=method)
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers


def test_the_page_comes_with_a_policy_that_loads_nothing_from_elsewhere(server: Server) -> None:
    for path, kind in FILES.items():
        status, headers, body = ask(server, path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
        assert "Python" not in headers["Server"]
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body


def test_what_is_asked_is_what_the_explorer_answers(server: Server) -> None:
    e = explorer()
    for path, right in (
        ("scene.json", e.scene()),
        ("decode?z=0.5,-1,0&source=gaussian", e.decode([0.5, -1.0, 0.0], "gaussian")),
        ("row?rows=4", e.row(4)),
        ("shared?rows=4,5,6", e.shared([4, 5, 6])),
        ("between?rows=4,9&source=gaussian", e.between(4, 9, "gaussian")),
        ("try?setting=components&value=2", e.trying("components", 2.0)),
    ):
        status, headers, body = ask(server, path)
        assert (status, headers.get_content_type()) == (200, "application/json")
        assert json.loads(body) == right


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("decode", "z: expected numbers"),
        ("decode?z=", "z: expected numbers"),
        ("decode?z=1,2", f"z: expected {D} numbers, got 2"),
        ("decode?z=1,2,nan", "z: expected finite numbers"),
        ("decode?z=1,2,x", "z: expected numbers"),
        ("decode?z=1,2,3&source=nothing", "source: expected one of prior"),
        ("decode?a=1&b=1&c=1&d=1&e=1", "query: expected name=value"),
        ("decode?z=" + "1," * LONGEST, "expected at most"),
        ("row?rows=-1", "rows: expected 1 to 64 whole numbers"),
        (f"row?rows={N}", "rows: expected 1 to 64 different numbers"),
        ("row?rows=1e1", "rows: expected 1 to 64 whole numbers"),
        ("shared?rows=1,1", "rows: expected 1 to 64 different numbers"),
        ("shared?rows=" + ",".join(map(str, range(65))), "rows: expected 1 to 64 whole numbers"),
        ("between?rows=1", "rows: expected two"),
        ("try?setting=rank&value=1", "setting: expected one of"),
        ("try?setting=components&value=3", "components: expected one of"),
        ("try?setting=components", "value: expected numbers"),
    ],
)
def test_what_cannot_be_answered_says_why(server: Server, path: str, said: str) -> None:
    answer = server.site.answer(*path.split("?", 1)) if "?" in path else server.site.answer(path, "")
    assert answer.status == 400
    assert said in json.loads(answer.body)["error"]
    if len(path) < LONGEST:
        assert ask(server, path)[0] == 400


def test_what_a_decoder_raises_is_told() -> None:
    def broken(z: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of luck")

    e = explorer(trials=False)
    answer = Site(replace(e, model=replace(e.model, decoder=broken))).answer("decode", "z=0,0,0")
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": "RuntimeError: out of luck"}


def test_a_first_line_without_end_is_refused(server: Server) -> None:
    assert raw(server, f"GET /{'x' * 70_000} HTTP/1.1\r\n\r\n").split()[1] == "414"


def test_connections_beyond_a_number_are_closed() -> None:
    with Server(explorer(trials=False)) as made, contextlib.ExitStack() as silent:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        for _ in range(AT_ONCE):
            silent.enter_context(socket.create_connection(("127.0.0.1", made.server_port)))
        try:
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                [ask(made, "") for _ in range(20)]
        finally:
            made.shutdown()


def test_a_port_that_is_taken_or_none_is_refused(server: Server) -> None:
    with pytest.raises(UsageError, match=f"port: {server.server_port} cannot be used .*leave --port out"):
        Server(explorer(trials=False), server.server_port)
    for port in (-1, 70_000):
        with pytest.raises(UsageError, match="port: expected a number from 0"):
            Server(explorer(trials=False), port)


# -- the command -------------------------------------------------------------------------------------------------------


def call(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, argv)])
    code = end.value.code
    return code if isinstance(code, int) else 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explored")
    job, _ = small.run(folder / "run", small.table(folder / "rows.npz"))
    return job.path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a server would serve, which Ctrl-C ends at once."""
    seen: list[Any] = []

    def serve(self: Server) -> None:
        seen.append(self.site)
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(Server, "serve_forever", serve)
    return seen


def test_the_command_serves_a_run_until_ctrl_c(
    run: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--json", "explore", run) == 0
    assert json.loads(capsys.readouterr().out)["url"].startswith("http://127.0.0.1:")
    (site,) = served
    scene = json.loads(site.answer("scene.json", "").body)
    assert {"prior", "gaussian", "mixture", "aggregated"} <= {s["name"] for s in scene["sources"]}
    assert scene["columns"] == [f"x{j}" for j in range(5)]
    data = np.load(run.parent / "rows.npz")["x"]
    x = site.explorer.row(0)["x"]["values"]
    np.testing.assert_allclose(x, data[scene["rows"]["ids"][0]], rtol=1e-3)  # the row, in its units
    made = site.explorer.trying("components", 2.0)
    assert made["nearer"] is not None


def test_a_run_whose_data_are_gone_is_shown_without_rows(run: Path, served: list[Any], tmp_path: Path) -> None:
    data = run.parent / "rows.npz"
    data.rename(tmp_path / "away.npz")
    try:
        assert call("explore", run, "--from", "mixture+p5") == 0
    finally:
        (tmp_path / "away.npz").rename(data)
    explored = served[0].explorer
    assert explored.choice == "mixture+p5"
    assert explored.row(0)["x"] is None
    assert explored.trying("components", 2.0)["copies"] is None


def test_a_model_of_ones_own_is_asked_for_again(
    served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was not audited, too: the first fit is shown."""
    place = own_code.folder(tmp_path / "own")
    model = ["--model", f"{place / 'mymodel.py'}:build", "--model-weights", str(place / "w.pt")]
    run = place / "run"
    assert call("train", *model, "--data", place / "rows.npz", "--out", run, "--quiet") == 0
    assert call("encode", run, *model, "--quiet") == 0
    assert call("fit", run, "--kinds", "gaussian", "--quiet") == 0
    (place / "ran").unlink()
    capsys.readouterr()
    assert call("explore", run) == 2
    assert "zprime runs no code that it was not told to run" in " ".join(capsys.readouterr().err.split())
    assert not (place / "ran").exists()
    assert call("explore", run, *model) == 0
    e = served[0].explorer
    assert e.choice == "gaussian"
    z = torch.tensor([0.5, -0.5])
    right = RunFolder(run, OwnModel(*model[1::2])).vae.decode(z[None]).mean[0]
    np.testing.assert_allclose(e.decode(z.tolist())["x"]["values"], right.detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--static", "{}/out"], "runtime: expected the folder of onnxruntime-web"),
        (["--static", "{}/out", "--runtime", "{}"], "runtime: expected onnxruntime-web's ort.wasm.min.mjs in"),
        (["--runtime", "{}"], "expected --static DIR too"),
        (["--allow-rows"], "expected --static DIR too"),
        (["--from", "nothing"], "from: expected one of prior"),
        (["--port", "99999"], "port: expected a number from 0"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Path, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("explore", run, *[o.format(tmp_path) for o in options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_shipped_generator_has_nothing_to_serve(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explore", run / "generator") == 2
    assert "has no posteriors to show; write a page with --static" in " ".join(capsys.readouterr().err.split())


# -- the folder without a server ---------------------------------------------------------------------------------------


def runtime(folder: Path) -> Path:
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).write_text(name)
    return folder


@needs_onnx
def test_the_folder_holds_the_page_and_no_row(tmp_path: Path) -> None:
    e, place = explorer(), runtime(tmp_path / "ort")
    model = GenerativeModel(
        e.sources["gaussian"], e.model.decoder, e.model.shift, e.model.scale, e.model.image, "passes"
    )
    made = exploring.write(tmp_path / "out", model, place)
    page = {"draw.js", "explore.css", "explore.js", "index.html", "model.js"}
    assert set(made.files) == {*page, *RUNTIME, "README.md", "decoder.onnx", "scene.json"}
    scene = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert scene["rows"] is None
    assert scene["tries"] == {}
    import onnxruntime

    z, noise = torch.randn(6, D, generator=stream(0, "z")), scene["noise"]
    normal = (z - torch.tensor(noise["mean"])) @ torch.tensor(noise["inverse"]).T
    session = onnxruntime.InferenceSession((tmp_path / "out" / "decoder.onnx").read_bytes())
    x, back = session.run(["x", "z"], {"uniform": np.full(6, noise["uniform"]), "normal": normal.numpy()})
    np.testing.assert_allclose(back, z.numpy(), rtol=1e-4, atol=1e-5)
    right = e.model.decoder.decode(z).mean  # type: ignore[union-attr]
    np.testing.assert_allclose(x, right.detach().numpy(), rtol=1e-4, atol=1e-5)  # 0 to 1, as the page shows images
    with pytest.raises(UsageError, match="there lies an artefact of kind explorer, which would be lost"):
        model.export(tmp_path / "out")
    assert artifact.read(tmp_path / "out").kind == "explorer"


def test_what_sample_refuses_the_folder_refuses_too(tmp_path: Path) -> None:
    e, place = explorer(), runtime(tmp_path / "ort")
    p = e.posteriors
    rows = GenerativeModel(Aggregated(p.mean, p.scale), e.model.decoder, image=e.model.image)
    with pytest.raises(UsageError, match="stores functions of single training rows"):
        exploring.write(tmp_path / "out", rows, place)
    copies = GenerativeModel(e.sources["gaussian"], e.model.decoder, image=e.model.image, copying="copies")
    with pytest.raises(UsageError, match="unfit to publish"):
        exploring.write(tmp_path / "out", copies, place)
    assert not (tmp_path / "out").exists()
