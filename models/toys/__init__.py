"""Losses of one or two parameters whose answers are known, and the races of optimizers over them."""

from models.toys import surfaces
from models.toys.hessians import definite_share
from models.toys.online import ARRIVED, FORMS, adam_path, online
from models.toys.paths import Racer, follow, read_racers
from models.toys.questions import Race, rows
from models.toys.racing import NEWTONS, RACERS, TOLERANCE, basins, race, surface_toy, sweep
from models.toys.registry import TOYS, OnlineToy, Toy

__all__ = [
    "ARRIVED",
    "FORMS",
    "NEWTONS",
    "RACERS",
    "TOLERANCE",
    "TOYS",
    "OnlineToy",
    "Race",
    "Racer",
    "Toy",
    "adam_path",
    "basins",
    "definite_share",
    "follow",
    "online",
    "race",
    "read_racers",
    "rows",
    "surface_toy",
    "surfaces",
    "sweep",
]
