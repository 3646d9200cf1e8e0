"""The commands of the command line, a family a file: they parse, build, call, store and print. No mathematics.

Importing this package adds all of them to `commands.program.cli`.
"""

from commands import (
    averages,
    comparing,
    descent,
    drawing,
    paths,
    probing,
    showing,
    sweeps,
    toys,
    training,
    tuning,
)

__all__ = [
    "averages",
    "comparing",
    "descent",
    "drawing",
    "paths",
    "probing",
    "showing",
    "sweeps",
    "toys",
    "training",
    "tuning",
]
