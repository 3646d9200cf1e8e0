"""Callbacks for any Lightning Trainer: training dynamics, probes while a model trains, averages of its weights.

They change nothing in the training: not a parameter, gradient, mode or random number. What they record is kept in a
journal as it comes, and sealed when the training ends, however it ends. A training that goes on from a checkpoint
goes on in the same files.
"""

from landscape.callbacks.averaging import WeightAveraging
from landscape.callbacks.dynamics import TrainingDynamics
from landscape.callbacks.probing import ProbeEvery

__all__ = ["ProbeEvery", "TrainingDynamics", "WeightAveraging"]
