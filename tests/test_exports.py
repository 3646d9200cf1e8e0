"""What leaves as VTK, CSV, a page or an animation comes back with another reader as it was."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkDataSet
from vtkmodules.vtkIOXML import (
    vtkXMLImageDataReader,
    vtkXMLPolyDataReader,
    vtkXMLRectilinearGridReader,
    vtkXMLStructuredGridReader,
)

from landscape import figures
from landscape.figures.animations import shown_snapshots
from tests.answers import curvature_answer, slice_answer, surface_answer, volume_answer
from tests.test_report_browser import BROWSER, OPTIONS

READERS = {
    "vts": vtkXMLStructuredGridReader,
    "vtr": vtkXMLRectilinearGridReader,
    "vti": vtkXMLImageDataReader,
    "vtp": vtkXMLPolyDataReader,
}


def read(content: bytes, kind: str, folder: Path) -> vtkDataSet:
    """A file of ours as ParaView reads it."""
    path = folder / f"answer.{kind}"
    path.write_bytes(content)
    reader = READERS[kind]()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    assert reader.GetErrorCode() == 0
    return reader.GetOutput()


def arrays(data: vtkDataSet) -> dict[str, np.ndarray]:
    points = data.GetPointData()
    found = [points.GetArray(i) for i in range(points.GetNumberOfArrays())]
    return {array.GetName(): vtk_to_numpy(array) for array in found}


def places(data: vtkDataSet) -> np.ndarray:
    return np.array([data.GetPoint(i) for i in range(data.GetNumberOfPoints())])


def path_answer() -> xr.Dataset:
    answer = surface_answer(trajectory=True)
    answer["trajectory_loss"] = ("snapshot", np.geomspace(2.0, 0.02, 12), {"units": "nats"})
    return answer


# VTK


def test_a_warped_surface_comes_back_point_by_point(tmp_path: Path):
    answer = surface_answer(resolution=(7, 4), radius=(1.0, 0.5))
    answer["loss"][2, 3], answer["loss"][5, 0] = np.nan, np.inf
    answer["loss"].attrs["units"] = 'na"ts<&>'
    data = read(figures.surface_vts(answer), "vts", tmp_path)
    assert data.GetClassName() == "vtkStructuredGrid"
    dims = [0, 0, 0]
    data.GetDimensions(dims)
    assert dims == [7, 4, 1]
    found, at = arrays(data), places(data)
    loss = {
        (a, b): answer.loss[i, j].item() for i, a in enumerate(at_of(answer, 0)) for j, b in enumerate(at_of(answer, 1))
    }
    for point, value, height in zip(at, found["loss"], found["height"], strict=True):
        expected = loss[point[0], point[1]]
        np.testing.assert_equal(value, expected)
        if np.isfinite(expected):
            assert point[2] == height == np.log10(expected)
    hidden = ~np.isfinite(found["loss"])
    np.testing.assert_array_equal(found["vtkGhostType"] & 2 != 0, hidden)
    assert np.isnan(found["height"][hidden]).all() and np.isfinite(at).all() and hidden.sum() == 2
    assert {"loss", "accuracy", "test_loss", "done", "height"} <= set(found) and found["done"].dtype == np.uint8
    array = data.GetPointData().GetArray("loss")
    assert array.GetInformation().Get(array.UNITS_LABEL()) == 'na"ts<&>'
    assert data.GetFieldData().GetAbstractArray("command").GetValue(0) == answer.attrs["command"]


def at_of(answer: xr.Dataset, axis: int) -> list[float]:
    return answer[("alpha", "beta")[axis]].values.tolist()


def test_a_surface_that_is_not_wide_stands_on_its_own_height(tmp_path: Path):
    answer = surface_answer(resolution=(5, 3))
    found = read(figures.surface_vts(answer, metric="accuracy"), "vts", tmp_path)
    np.testing.assert_array_equal(places(found)[:, 2], answer.accuracy.values.ravel(order="F"))
    assert "vtkGhostType" not in arrays(found)


def test_a_flat_grid_keeps_its_axes_and_bits(tmp_path: Path):
    answer = surface_answer(resolution=(6, 4), seeds=2)
    answer["loss"][1, 2, 3] = np.nan
    data = read(figures.surface_vtr(answer, seed=1), "vtr", tmp_path)
    np.testing.assert_array_equal(vtk_to_numpy(data.GetXCoordinates()), answer.alpha)
    np.testing.assert_array_equal(vtk_to_numpy(data.GetYCoordinates()), answer.beta)
    np.testing.assert_array_equal(vtk_to_numpy(data.GetZCoordinates()), [0])
    np.testing.assert_array_equal(arrays(data)["loss"].reshape(4, 6).T, answer.loss[1])


def test_a_transposed_answer_makes_the_same_file():
    answer = surface_answer(resolution=(6, 4))
    assert figures.surface_vts(answer) == figures.surface_vts(answer.transpose("beta", "alpha"))


def test_a_volume_comes_back_as_structured_points(tmp_path: Path):
    answer = volume_answer(resolution=(7, 5, 3))
    answer["loss"][1, 2, 0] = np.nan
    data = read(figures.volume_vti(answer), "vti", tmp_path)
    assert data.GetDimensions() == (7, 5, 3)
    assert data.GetOrigin() == (-1, -0.5, -0.25)
    np.testing.assert_allclose(data.GetSpacing(), [1 / 3, 0.25, 0.25], rtol=1e-15)
    np.testing.assert_array_equal(arrays(data)["loss"].reshape(3, 5, 7).transpose(2, 1, 0), answer.loss)
    uneven = answer.assign_coords(alpha=answer.alpha**3)
    with pytest.raises(ValueError, match="expected evenly spaced points along alpha for .vti; write .vtr instead"):
        figures.volume_vti(uneven)
    flat = read(figures.surface_vtr(uneven), "vtr", tmp_path)
    np.testing.assert_array_equal(vtk_to_numpy(flat.GetXCoordinates()), uneven.alpha)


def test_a_trajectory_follows_its_surface_and_keeps_its_steps(tmp_path: Path):
    answer = path_answer()
    data = read(figures.trajectory_vtp(answer), "vtp", tmp_path)
    assert (data.GetNumberOfVerts(), data.GetNumberOfLines()) == (12, 1)
    found, at = arrays(data), places(data)
    corners = [i for i in range(data.GetNumberOfPoints()) if np.isfinite(found["loss"][i])]
    np.testing.assert_array_equal(at[corners, 0], answer.trajectory_alpha)
    np.testing.assert_array_equal(at[corners, 1], answer.trajectory_beta)
    np.testing.assert_array_equal(found["step"][corners], answer.snapshot_step)
    np.testing.assert_array_equal(found["loss"][corners], answer.trajectory_loss)
    np.testing.assert_array_equal(found["off_plane"][corners], answer.trajectory_off_plane)
    over = at[:, 2] - np.log10(found["loss_of_the_surface"])
    lift = 0.01 * np.log10((answer.loss.max() / answer.loss.min()).item())
    np.testing.assert_allclose(over, lift, rtol=1e-9)
    exact = answer.loss.interp(alpha=at[7, 0], beta=at[7, 1]).item()
    assert found["loss_of_the_surface"][7] == pytest.approx(exact)


def test_a_trajectory_breaks_where_it_leaves_the_window(tmp_path: Path):
    answer = path_answer()
    answer["trajectory_alpha"][4] = -9.0
    data = read(figures.trajectory_vtp(answer), "vtp", tmp_path)
    assert (data.GetNumberOfVerts(), data.GetNumberOfLines()) == (11, 2)
    assert np.isfinite(places(data)).all()
    assert 80 not in arrays(data)["step"][np.isfinite(arrays(data)["loss"])]
    answer["trajectory_alpha"][:] = -9.0
    assert figures.trajectory_vtp(answer) is None
    assert figures.trajectory_vtp(path_answer() * np.nan) is None
    assert figures.trajectory_vtp(surface_answer(seeds=2)) is None


# CSV


def test_a_surface_as_csv_has_a_row_a_point(tmp_path: Path):
    answer = surface_answer(resolution=(4, 3))
    answer["loss"][1, 2], answer["loss"][2, 0] = np.nan, np.inf
    answer["alpha"].attrs["units"] = "multiples of the direction"
    content = figures.tables(answer)[""]
    (tmp_path / "surface.csv").write_bytes(content)
    frame = pd.read_csv(tmp_path / "surface.csv")
    assert list(frame) == [
        "alpha (multiples of the direction)",
        "beta",
        "loss (nats)",
        "accuracy",
        "test_loss (nats)",
        "done",
    ]
    np.testing.assert_array_equal(frame["loss (nats)"].to_numpy().reshape(4, 3), answer.loss)
    np.testing.assert_array_equal(frame["beta"].to_numpy()[:3], answer.beta)
    assert set(frame["done"]) == {1}
    plain = np.genfromtxt(tmp_path / "surface.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(plain["loss_nats"].reshape(4, 3), answer.loss)
    assert figures.tables(answer.transpose("beta", "alpha"))[""] == content
    assert list(figures.tables(answer)) == [""]


def test_seeds_volumes_and_slices_as_csv():
    several = pd.read_csv(BytesIO(figures.tables(slice_answer(seeds=3, resolution=5))[""]))
    answer = slice_answer(seeds=3, resolution=5)
    assert len(several) == 15 and list(several)[:2] == ["seed", "alpha"]
    np.testing.assert_array_equal(several["loss (nats)"].to_numpy().reshape(3, 5), answer.loss)
    np.testing.assert_array_equal(several["loss_median"].to_numpy().reshape(3, 5)[1], answer.loss_median)
    np.testing.assert_array_equal(several["step_ratio"].to_numpy()[::5], answer.step_ratio)
    volume = volume_answer(resolution=(4, 3, 2))
    rows = pd.read_csv(BytesIO(figures.tables(volume)[""]))
    assert list(rows)[:3] == ["alpha", "beta", "gamma"]
    np.testing.assert_array_equal(rows["loss (nats)"].to_numpy().reshape(4, 3, 2), volume.loss)
    assert "smallest_eigenvalue" in pd.read_csv(BytesIO(figures.tables(curvature_answer())[""]))


def test_trajectory_and_computed_points_have_tables_of_their_own():
    answer = path_answer()
    answer["point_alpha"], answer["point_loss"] = ("point", [0.1, 0.2, 0.3]), ("point", [1.0, 2.0, 3.0])
    answer["point_held_out"] = ("point", [True, False, True])
    found = {name: pd.read_csv(BytesIO(content)) for name, content in figures.tables(answer).items()}
    assert list(found) == ["", "trajectory", "points"]
    np.testing.assert_array_equal(found["trajectory"]["snapshot_step"], answer.snapshot_step)
    np.testing.assert_array_equal(found["trajectory"]["trajectory_loss (nats)"], answer.trajectory_loss)
    assert found["points"]["point_held_out"].tolist() == [1, 0, 1]
    assert len(found[""]) == answer.loss.size


def test_a_strange_unit_stays_in_its_cell():
    answer = surface_answer(resolution=(2, 2))
    answer["loss"].attrs["units"] = 'a,"b"\nc'
    rows = list(csv.reader(StringIO(figures.tables(answer)[""].decode())))
    assert rows[0][2].startswith('loss (a,"b"') and {len(row) for row in rows} == {6}


# Pages


def test_a_page_needs_nothing_else_and_takes_no_markup():
    answer = surface_answer(resolution=(5, 4)).assign_attrs(command="landscape <script>alert(1)</script>")
    text = figures.page(answer, figures.interactive_surface(answer), "<b>title</b>")
    head = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text[:2000] + head)
    assert "<title>&lt;b&gt;title&lt;/b&gt;</title>" in text and "<script>alert" not in text
    assert "landscape &lt;script&gt;" in text and "Plotly" in text
    assert figures.page(answer, figures.interactive_surface(answer), "<b>title</b>") == text


def test_hovering_tells_distance_and_origin():
    answer = surface_answer(resolution=(5, 3), radius=(1.0, 1.0))
    answer["step_ratio_alpha"], answer["step_ratio_beta"], answer["cosine"] = 0.3, 0.4, 0.0
    answer["evaluated"] = (("alpha", "beta"), np.zeros((5, 3), dtype=bool))
    answer["evaluated"][4, 2] = True
    text = figures.interactive_surface(answer).data[0].text
    assert text[2][4].endswith("<br>0.5 filter norms away<br>computed")  # 3, 4, 5
    assert text[1][4].endswith("<br>0.3 filter norms away<br>interpolated")
    answer["cosine"] = 1.0
    assert "0.7 filter norms away" in figures.interactive_surface(answer).data[0].text[2][4]
    assert "away" not in figures.interactive_surface(answer.drop_vars("cosine")).data[0].text[2][4]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; install Debian's package `chromium`")
@pytest.mark.parametrize("answer", [surface_answer(resolution=(9, 7)), volume_answer()], ids=["surface", "volume"])
def test_a_page_draws_itself_in_a_browser(answer, tmp_path: Path):
    draw = figures.interactive_volume if "gamma" in answer.dims else figures.interactive_surface
    page = tmp_path / "page.html"
    page.write_text(figures.page(answer, draw(answer), "a surface"), "utf-8")
    command = [str(BROWSER), *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "gl-container" in done.stdout and "<canvas" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line and "Error" in line]


# Animations


def test_frames_show_the_trajectory_growing():
    frames = figures.animation_frames(path_answer(), dpi=100)
    assert len(frames) == 12 and {frame.size for frame in frames} == {frames[0].size}
    assert not any(side % 2 for side in frames[0].size)
    # Vermillion, #D55E00: more of it in every second frame, at the head of the path.
    reddish = [np.abs(np.asarray(frame, int) - [0xD5, 0x5E, 0]).sum(axis=2) < 30 for frame in frames]
    seen = [int(picture.sum()) for picture in reddish]
    assert all(later > earlier for earlier, later in zip(seen[:-2:2], seen[2::2], strict=True))
    columns = [np.nonzero(picture)[1].max() for picture in reddish]
    assert columns == sorted(columns)  # α only grows on this path


def test_many_snapshots_get_sixty_frames():
    shown = shown_snapshots(1000)
    assert len(shown) == 60 and (shown[0], shown[-1]) == (0, 999)
    assert shown_snapshots(2).tolist() == [0, 1]


def test_a_gif_runs_once_around_and_rests(tmp_path: Path):
    frames = figures.animation_frames(path_answer(), dpi=100)
    content = figures.gif(frames)
    assert len(content) < 300_000
    with Image.open(BytesIO(content)) as image:
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
            last = np.asarray(image.convert("RGB"), int)
        assert image.info["loop"] == 0
    assert len(durations) == 12 and durations[-1] == durations[0] + 1500
    assert np.abs(last - np.asarray(frames[-1], int)).mean() < 3  # 256 colours instead of all


def test_an_animation_needs_the_trajectory_of_a_run():
    with pytest.raises(ValueError, match="expected the trajectory of a run in the answer"):
        figures.animation_frames(surface_answer())
    with pytest.raises(ValueError, match="trajectory of a run"):
        figures.animation_frames(path_answer().assign_attrs(directions="through"))


def test_mp4_without_ffmpeg_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match=r"mp4 needs the program ffmpeg on PATH.*install it .*or ask for gif"):
        figures.mp4([])
    with pytest.raises(ValueError, match="mp4 needs the program ffmpeg"):
        figures.require_formats(["mp4"])


def test_ffmpeg_gets_every_frame_and_its_failure_is_told(tmp_path: Path, monkeypatch):
    """A program in its place that keeps what it was given."""
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncat > {tmp_path}/pixels\necho "$@" > {tmp_path}/said\nfor last; do :; done\necho ok > "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "white", "black")]
    assert figures.mp4(frames) == b"ok\n"
    pixels = (tmp_path / "pixels").read_bytes()
    assert pixels[: 4 * 72] == b"".join(frame.tobytes() for frame in frames)
    assert pixels[4 * 72 :] == 3 * frames[-1].tobytes()  # 1.5 s of rest at 2 frames a second
    assert "-s 6x4" in (tmp_path / "said").read_text() and "yuv420p" in (tmp_path / "said").read_text()
    program.write_text("#!/bin/sh\ncat > /dev/null\necho Unknown encoder >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match="ffmpeg failed: Unknown encoder; ask for gif instead"):
        figures.mp4(frames)


@pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine; install Debian's package `ffmpeg`"
)
def test_an_mp4_is_a_film_of_the_right_size():
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "white")]
    content = figures.mp4(frames)
    assert content[4:8] == b"ftyp"
    read = ["ffmpeg", "-loglevel", "error", "-i", "-", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(read, input=content, capture_output=True, check=True).stdout
    film = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3)
    assert len(film) == 6  # with the rest
    assert np.abs(film[0].reshape(-1, 3).mean(axis=0) - [255, 0, 0]).max() < 6  # what the colour space rounds


# All formats of an answer


def test_each_format_is_written_where_it_suits(tmp_path: Path):
    answers = {
        "surface-1": path_answer(),
        "surface-2": surface_answer(seeds=2, resolution=(5, 4)),
        "surface-3": volume_answer(),
        "slice-4": slice_answer(),
        "curvature-surface-5": curvature_answer(),
        "surface-6": surface_answer(resolution=(5, 1)),
    }
    formats = ["html", "gif", "vtk", "csv"]
    for name, answer in answers.items():
        files = figures.write_files(answer, name, tmp_path, formats)
        assert all(path.stat().st_size > 100 for path in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            *(f"surface-1{e}" for e in (".csv", "-trajectory.csv", ".gif", ".html", ".vts", ".vtr", "-trajectory.vtp")),
            *(f"surface-2{e}" for e in (".csv", "-seed0.html", "-seed1.html")),
            *(f"surface-2-seed{s}.{e}" for s in (0, 1) for e in ("vts", "vtr")),
            *(f"surface-3{e}" for e in (".csv", ".html", ".vti")),
            "slice-4.csv",
            *(f"curvature-surface-5{e}" for e in (".csv", ".html", ".vts", ".vtr")),
            "surface-6.csv",
        ]
    )


def test_unknown_formats_are_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"expected figure formats among .*pdf.*, html, vtk, csv, gif, mp4; got bmpx"):
        figures.write_files(surface_answer(), "surface-1", tmp_path / "new", ["csv", "bmpx"])
    assert not (tmp_path / "new").exists()
    assert figures.pictures_among(["pdf", "gif", "svg", "csv"]) == ["pdf", "svg"]
