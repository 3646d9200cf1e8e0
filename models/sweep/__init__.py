"""Sweeps over fields of a run: what to train, as one job that goes on where it was interrupted."""

from models.space import Space
from models.sweep.cost import Estimate, estimate
from models.sweep.files import Written, read_file, read_options
from models.sweep.plan import Plan
from models.sweep.sweep import Counts, Sweep

__all__ = ["Counts", "Estimate", "Plan", "Space", "Sweep", "Written", "estimate", "read_file", "read_options"]
