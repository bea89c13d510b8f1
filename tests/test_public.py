"""A public page is scanned for every row of the data, in pixels and numbers, and for every name, path, hash and id."""

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import small
from zprime.data import DataSettings
from zprime.reporting.page import html
from zprime.reporting.pictures import data_url, grid, png
from zprime.results.audit import Audit
from zprime.results.public import publish
from zprime.running import Run

Made = tuple[Run, Audit]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run, audit = small.run(tmp_path_factory.mktemp("secret-digits") / "run", Path("digits"))
    return run, small.cleared(audit)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("secret-table")
    rng = np.random.default_rng(0)
    file = folder / "patients7.csv"
    x = 712_000 + 900 * rng.normal(size=(160, 4))
    lines = ["weight_kg,serum_x,height_cm,age_at_onset", *(",".join(f"{v:.3f}" for v in row) for row in x)]
    file.write_text("\n".join(lines) + "\n")
    run, audit = small.run(folder / "run", file)
    return run, small.cleared(audit)


def rows(run: Run) -> torch.Tensor:
    return torch.cat([run.folder.rows[s].x for s in ("train", "selection", "heldout")])


def pictures(page: str) -> Iterator[np.ndarray]:
    for content in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))


def rows_in_pictures(page: str, x: torch.Tensor) -> int:
    """Windows of any picture, at any zoom and place, that equal a row."""
    side = x.shape[-1]
    wanted = {r.tobytes() for r in (x[:, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()}
    found = 0
    for picture in pictures(page):
        for zoom in (1, 2, 4):
            for a in range(zoom):
                for b in range(zoom):
                    thin = picture[a::zoom, b::zoom]
                    if min(thin.shape) < side:
                        continue
                    windows = np.lib.stride_tricks.sliding_window_view(thin, (side, side)).reshape(-1, side, side)
                    found += sum(w.tobytes() in wanted for w in windows)
    return found


def numbers_in(page: str, x: torch.Tensor, digits: tuple[int, ...]) -> set[str]:
    """Values of rows that stand on the page, written in so many significant digits or in full."""
    seen = set(re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?", re.sub(r"data:image/png;base64,[^\"']+", "", page)))
    seen |= {s.replace(",", "") for s in seen}
    values = x.abs().flatten().double().tolist()
    short = {f"{v:.{d}g}" for v in values for d in digits} | {str(np.float32(v)) for v in values}
    return {s for s in short if len(s.replace(".", "").strip("0")) >= 4} & seen


def secrets(run: Run) -> set[str]:
    """Paths, hashes, names of files and of columns in every manifest of a run, and where it lies."""
    found = {str(run.path), run.path.parent.name}
    for file in run.path.rglob("manifest.json"):
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', file.read_text()):
            if (
                re.fullmatch(r"[0-9a-f]{12,}", text)
                or "/tmp" in text
                or text.endswith((".safetensors", ".json", ".csv"))
            ):
                found.add(text)
    data = json.loads((run.path / "data" / "manifest.json").read_text())["config"]
    return found | {
        data["settings"]["data"],
        *run.folder.dataset.names,
        *(["patients7"] if "patients7" in str(data) else []),
    }


def test_no_row_of_images_and_no_string_of_a_manifest(digits: Made) -> None:
    run, audit = digits
    page = html(audit, public=True)
    assert len(list(pictures(page))) == 3
    assert rows_in_pictures(page, rows(run)) == 0
    assert not {s for s in secrets(run) if s in page}


def test_no_value_of_a_table_and_no_string_of_a_manifest(table: Made) -> None:
    run, audit = table
    page = html(audit, public=True)
    dataset = run.folder.dataset
    assert not numbers_in(page, dataset.raw, (4, 5, 6, 7, 8, 9))
    assert not numbers_in(page, rows(run), (6, 7, 8))
    assert len(secrets(run)) > 20
    assert not {s for s in secrets(run) if s in page}


@pytest.mark.parametrize("place", ["data.rows", "near.prior", "data.reconstructions"])
def test_a_row_that_is_shown_is_found(digits: Made, place: str) -> None:
    """The private page, and a planted picture of any zoom, are seen."""
    run, audit = digits
    x = rows(run)
    planted = replace(publish(audit), tensors={**publish(audit).tensors, place: x[:4]})
    assert rows_in_pictures(html(planted), x) >= 4
    assert rows_in_pictures(html(publish(planted)), x) == 0
    for zoom in (1, 2, 4):
        assert rows_in_pictures(f'<img src="{data_url(png(grid(x[5:6], zoom=zoom)))}">', x) >= 1


def test_what_is_planted_on_a_page_is_found(table: Made) -> None:
    run, audit = table
    public = publish(audit)
    raw = run.folder.dataset.raw
    for leak in (f"{float(raw[3, 1]):.3f}", f"{float(raw[3, 1]):.5g}"):
        assert numbers_in(html(replace(public, warnings=[f"row: {leak}"])), raw, (4, 5, 6, 7, 8, 9))
    planted = html(replace(public, warnings=sorted(secrets(run))))
    assert not {s for s in secrets(run) if s not in planted}
    private = html(audit)
    assert len({s for s in secrets(run) if s in private}) > 5


def test_labels_with_few_rows_are_not_told(digits: Made) -> None:
    samples = publish(digits[1]).samples
    assert samples is not None
    assert all(e.fidelity.labels is None for e in samples.entries)  # 60 rows of ten digits
    few = replace(digits[1], thresholds=replace(digits[1].thresholds, few=0))
    told = publish(few).samples
    assert told is not None
    assert any(e.fidelity.labels is not None for e in told.entries)


def test_the_farthest_draws_are_left_out(digits: Made) -> None:
    audit = digits[1]
    draws = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    draws[0] = 900.0
    kept = publish(replace(audit, tensors={**audit.tensors, "map.prior": draws})).tensors["map.prior"]
    assert len(kept) == 990
    assert float(kept.abs().max()) < 10


LABEL = r"(?<!\d)7379(?!\d)"  # and not some digits of a number


def test_no_label_of_few_rows_is_told(tmp_path: Path) -> None:
    """Neither which labels were left out, nor which kinds their parts are of."""
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(150), np.full(145, 71), np.full(5, 7379)].astype(int)
    x = rng.standard_normal((300, 3)) + y[:, None] % 5
    np.savez(tmp_path / "t.npz", x=x.astype("float32"), y=y)
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(tmp_path / "t.npz")), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["conditional"], seed=0)
    audit = job.audit(small.AUDIT, seed=0)
    assert re.search(LABEL, html(audit))
    assert "labels had fewer than 10 rows" in html(audit, public=True).replace("\xa0", " ")
    assert not re.search(LABEL, html(audit, public=True))
    assert "71: mixture" not in html(audit, public=True)
