"""What is measured of a training from inside it, without an extra pass: what flows through layers, and the path."""

from landscape.monitors.flow import Flow
from landscape.monitors.path import ParameterPath
from landscape.monitors.statistics import BINS, WINDOW, depth_slope, sign_coherence, sign_coherence_by_chance

__all__ = ["BINS", "WINDOW", "Flow", "ParameterPath", "depth_slope", "sign_coherence", "sign_coherence_by_chance"]
