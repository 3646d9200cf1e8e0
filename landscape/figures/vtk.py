"""Surfaces, volumes and trajectories as VTK files for ParaView, written without VTK: XML with exact binary numbers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.figures.labels import SYMBOLS, at_seed
from landscape.figures.planes import Plane, Scale
from landscape.figures.trajectories import trajectory_of
from landscape.text import clean

_TYPES = {"f8": "Float64", "f4": "Float32", "i8": "Int64", "i4": "Int32", "u1": "UInt8"}
_PARTS = 16  # of the way from a snapshot to the next, so that the line follows the surface
_LIFT = 0.01  # of the range of heights, by which a trajectory floats over its surface
_HIDDEN = 2  # vtkDataSetAttributes::HIDDENPOINT: cells with such a corner are not drawn


@dataclass(frozen=True)
class Array:
    """A named array of a file, one row a point."""

    values: NDArray[np.generic]  # (N,) or (N, 3)
    units: str = ""


@dataclass
class Piece:
    """One data set of VTK: its kind, its size, its points and what is known at each."""

    kind: str
    extent: tuple[int, ...] = ()  # points along x, y, z
    attributes: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, arrays: Mapping[str, Array]) -> None:
        """Add a group of arrays, such as PointData."""
        self.parts.append(f"<{tag}>{''.join(_data_array(name, array) for name, array in arrays.items())}</{tag}>")


def surface_vts(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0) -> bytes:
    """A surface as a StructuredGrid, warped to its height, with every metric at its points.

    x is α, y is β, z the metric, or its log10 where it spans more than a factor of three (array `height`). Points
    whose height is not finite lie at the lowest one and are hidden by `vtkGhostType`; their values stay as stored.

    Args:
        surface: The answer of the probe Surface or CurvatureSurface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable that gives the height.
        seed: Which of several direction seeds, by position.

    Returns:
        The content of a `.vts` file.
    """
    one = at_seed(surface, seed)
    plane = Plane.of(one, metric)
    scale = Scale.over([plane])
    height = scale.heights(plane.gaps) if scale else plane.gaps
    seen = np.isfinite(height)
    shown = np.where(seen, height, height[seen].min() if seen.any() else 0.0)
    x, y = np.meshgrid(plane.x, plane.y, indexing="ij")
    points = np.stack([_x_fastest(v) for v in (x, y, shown)], axis=1)
    arrays = _point_arrays(one, ("alpha", "beta"))
    arrays["height"] = Array(_x_fastest(height), "log10 of the metric" if scale and scale.is_log else "")
    if not seen.all():
        arrays["vtkGhostType"] = Array(_x_fastest(np.where(seen, 0, _HIDDEN).astype(np.uint8)))
    piece = Piece("StructuredGrid", (plane.x.size, plane.y.size, 1))
    piece.add("PointData", arrays)
    piece.add("Points", {"Points": Array(points)})
    return _file(piece, one)


def surface_vtr(surface: xr.Dataset, *, seed: int = 0) -> bytes:
    """A surface or a volume as a flat RectilinearGrid on its own axes, with every metric at its points.

    Args:
        surface: An answer over (alpha, beta) or (alpha, beta, gamma), or of several seeds.
        seed: Which of several direction seeds, by position.

    Returns:
        The content of a `.vtr` file.
    """
    one = at_seed(surface, seed)
    axes = [axis for axis in SYMBOLS if axis in one.dims]
    places = [np.asarray(one[axis].values, dtype=float) for axis in axes] + [np.zeros(1)] * (3 - len(axes))
    piece = Piece("RectilinearGrid", tuple(len(values) for values in places))
    piece.add("PointData", _point_arrays(one, axes))
    piece.add("Coordinates", {name: Array(values) for name, values in zip(("x", "y", "z"), places, strict=True)})
    return _file(piece, one)


def volume_vti(volume: xr.Dataset) -> bytes:
    """A volume on evenly spaced axes as ImageData (structured points), with every metric at its points.

    Args:
        volume: The answer of the probe Surface with three axes: dims (alpha, beta, gamma).

    Returns:
        The content of a `.vti` file: x is α, y is β, z is γ.

    Raises:
        ValueError: If an axis is not evenly spaced.
    """
    axes = list(SYMBOLS)
    places = [np.asarray(volume[axis].values, dtype=float) for axis in axes]
    for axis, values in zip(axes, places, strict=True):
        if not np.allclose(np.diff(values), np.diff(values).mean(), rtol=1e-6):
            raise ValueError(f"expected evenly spaced points along {axis} for .vti; write .vtr instead")
    spacing = [float(np.diff(values).mean()) if len(values) > 1 else 1.0 for values in places]
    piece = Piece(
        "ImageData",
        tuple(len(values) for values in places),
        {
            "Origin": " ".join(repr(float(values[0])) for values in places),
            "Spacing": " ".join(map(repr, spacing)),
        },
    )
    piece.add("PointData", _point_arrays(volume, axes))
    return _file(piece, volume)


def trajectory_vtp(surface: xr.Dataset, *, metric: str = "loss") -> bytes | None:
    """A trajectory as PolyData just over the surface of `surface_vts`, with step, loss and off-plane share.

    Each snapshot is a vertex; the line between them follows the surface, with NaN for what is known at snapshots
    alone. Where the surface has no value, outside its window or beside a gap, the line is broken and snapshots are
    left out.

    Args:
        surface: The answer of the probe Surface with a trajectory.
        metric: The variable that gives the height.

    Returns:
        The content of a `.vtp` file; None if no snapshot lies on the surface.
    """
    trajectory = trajectory_of(surface)
    if trajectory is None:
        return None
    plane = Plane.of(surface, metric)
    scale = Scale.over([plane])
    if scale is None:
        return None
    parts = _PARTS if trajectory.is_path else 1
    under = trajectory.heights(plane.x, plane.y, plane.gaps, parts)
    kept = np.flatnonzero(np.isfinite(under))
    if not kept.size:
        return None
    lift = _LIFT * float(np.ptp(scale.heights(np.array([scale.low, scale.high]))))
    points = np.column_stack([trajectory.along(parts), scale.heights(under) + lift])[kept]
    runs = np.split(np.arange(kept.size), np.flatnonzero(np.diff(kept) > 1) + 1)
    lines = [run for run in runs if len(run) > 1] if trajectory.is_path else []
    marks = [np.array([i]) for i in np.flatnonzero(kept % parts == 0)]
    sizes = {"NumberOfPoints": kept.size, "NumberOfVerts": len(marks), "NumberOfLines": len(lines)}
    piece = Piece("PolyData", attributes={name: str(size) for name, size in sizes.items()})
    steps = np.interp(kept / parts, np.arange(trajectory.step.size), trajectory.step)
    own = {"loss": (trajectory.loss, "nats"), "off_plane": (trajectory.off_plane, "share of the distance")}
    arrays = {"step": Array(steps, "optimizer updates"), f"{metric}_of_the_surface": Array(under[kept])}
    for name, (values, units) in own.items():
        arrays[name] = Array(np.where(kept % parts == 0, values[kept // parts], np.nan), units)
    piece.add("PointData", arrays)
    piece.add("Points", {"Points": Array(points)})
    piece.add("Verts", _cells(marks))
    piece.add("Lines", _cells(lines))
    return _file(piece, surface)


def _point_arrays(answer: xr.Dataset, axes: Sequence[str]) -> dict[str, Array]:
    """Every number or truth value over exactly these axes, α fastest."""
    return {
        clean(name, 60): Array(_x_fastest(variable.transpose(*axes).values), str(variable.attrs.get("units", "")))
        for name, variable in answer.data_vars.items()
        if set(variable.dims) == set(axes) and variable.dtype.kind in "fiub"
    }


def _x_fastest(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Flat in the order of VTK: the first axis runs fastest."""
    return values.ravel(order="F")


def _cells(cells: Sequence[NDArray[np.int64]]) -> dict[str, Array]:
    empty = np.empty(0, dtype=np.int64)
    return {
        "connectivity": Array(np.concatenate([empty, *cells]).astype(np.int64)),
        "offsets": Array(np.cumsum([len(cell) for cell in cells], dtype=np.int64)),
    }


def _data_array(name: str, array: Array) -> str:
    values = np.ascontiguousarray(array.values)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    values = values.astype(values.dtype.newbyteorder("<"))
    kind = _TYPES[f"{values.dtype.kind}{values.dtype.itemsize}"]
    components = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
    content = b64encode(np.uint64(values.nbytes).astype("<u8").tobytes() + values.tobytes()).decode()
    units = array.units
    about = (
        f'<InformationKey name="UNITS_LABEL" location="vtkDataArray">{_escaped(units)}</InformationKey>'
        if units
        else ""
    )
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{components} format="binary">{content}{about}</DataArray>'


def _escaped(text: str) -> str:
    return quoteattr(clean(text, 60))[1:-1]


def _file(piece: Piece, answer: xr.Dataset) -> bytes:
    """The whole file, with the command that made the answer as field data."""
    extent = " ".join(f"0 {n - 1}" for n in piece.extent)
    whole, part = (f' WholeExtent="{extent}"', f' Extent="{extent}"') if extent else ("", "")
    attributes = "".join(f' {name}="{value}"' for name, value in piece.attributes.items())
    on_whole, on_part = (attributes, "") if piece.kind == "ImageData" else ("", attributes)
    command = clean(answer.attrs.get("command", ""), 1000).encode()
    codes = " ".join(str(code) for code in [*command, 0])
    return (
        f'<?xml version="1.0"?>\n<VTKFile type="{piece.kind}" version="1.0" byte_order="LittleEndian" '
        f'header_type="UInt64"><{piece.kind}{whole}{on_whole}>'
        f'<FieldData><DataArray type="String" Name="command" NumberOfTuples="1" format="ascii">{codes}</DataArray>'
        f"</FieldData><Piece{part}{on_part}>{''.join(piece.parts)}</Piece></{piece.kind}></VTKFile>\n"
    ).encode()
