"""Questions to ask of an objective: each a frozen dataclass, called with the objective, answering with a data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.probes.critical import CriticalPoint
    from landscape.probes.curvature_surface import CurvatureSurface
    from landscape.probes.density import SpectralDensity
    from landscape.probes.gradient_noise import GradientNoise
    from landscape.probes.layers import Layers
    from landscape.probes.rays import Rays
    from landscape.probes.sharpness import Sharpness
    from landscape.probes.slices import Slice, Surface
    from landscape.probes.spectrum import Spectrum
    from landscape.probes.stability import Stability, SubspaceOverlap
    from landscape.probes.symmetry import Symmetry
    from landscape.probes.trace import Trace

BUILT_IN = {
    "slice": "landscape.probes.slices:Slice",
    "surface": "landscape.probes.slices:Surface",
    "curvature-surface": "landscape.probes.curvature_surface:CurvatureSurface",
    "spectrum": "landscape.probes.spectrum:Spectrum",
    "critical-point": "landscape.probes.critical:CriticalPoint",
    "sharpness": "landscape.probes.sharpness:Sharpness",
    "density": "landscape.probes.density:SpectralDensity",
    "trace": "landscape.probes.trace:Trace",
    "layers": "landscape.probes.layers:Layers",
    "stability": "landscape.probes.stability:Stability",
    "subspace-overlap": "landscape.probes.stability:SubspaceOverlap",
    "gradient-noise": "landscape.probes.gradient_noise:GradientNoise",
    "rays": "landscape.probes.rays:Rays",
    "symmetry": "landscape.probes.symmetry:Symmetry",
}

__all__ = [
    "BUILT_IN",
    "CriticalPoint",
    "CurvatureSurface",
    "GradientNoise",
    "Layers",
    "Rays",
    "Sharpness",
    "Slice",
    "SpectralDensity",
    "Spectrum",
    "Stability",
    "SubspaceOverlap",
    "Surface",
    "Symmetry",
    "Trace",
]


def __getattr__(name: str) -> object:
    """Import a probe on first use."""
    for path in BUILT_IN.values():
        module, _, attribute = path.partition(":")
        if attribute == name:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'landscape.probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
