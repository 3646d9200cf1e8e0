"""Finding hyper-parameters: the range test, searches over fields of a run, and the recipe in seven steps."""

from models.space import Space
from models.tuning.lr_range import LrRange
from models.tuning.recipe import Recipe, Step
from models.tuning.search import Search, best_trials
from models.tuning.sensitivity import lr_sensitivity, uniform_guess

__all__ = ["LrRange", "Recipe", "Search", "Space", "Step", "best_trials", "lr_sensitivity", "uniform_guess"]
