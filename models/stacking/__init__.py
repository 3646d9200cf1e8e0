"""Runs that differ only in seed, initialization, learning rate and the like, trained together as one stacked model."""

from models.stacking.cost import pays
from models.stacking.grouping import MAY_DIFFER, Group, stackable
from models.stacking.running import train_stack

__all__ = ["MAY_DIFFER", "Group", "pays", "stackable", "train_stack"]
