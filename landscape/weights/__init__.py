"""Weights on disk: written as safetensors, never as pickles; read from strangers as data, never as code."""

from landscape.weights.digest import digest_tensors
from landscape.weights.errors import WeightsError
from landscape.weights.files import load_weights, save_weights
from landscape.weights.fit import fit_weights, fitting_prefix
from landscape.weights.state import decode_state, encode_state

__all__ = [
    "WeightsError",
    "decode_state",
    "digest_tensors",
    "encode_state",
    "fit_weights",
    "fitting_prefix",
    "load_weights",
    "save_weights",
]
