"""Update rules, by name: torch's own where it has that form, and ours."""

from models.optimizers.adaptive import AdagradInside, ConstantNadam, Lion, RMSpropInside, UncorrectedAdam
from models.optimizers.gradient_descent import (
    AveragedMomentum,
    HeavyBall,
    NesterovLookAhead,
    NesterovSequences,
    SutskeverMomentum,
)
from models.optimizers.newton import Newton
from models.optimizers.registry import FULL_BATCH, OPTIMIZERS, build_optimizer, check_optimizer, default_lr
from models.optimizers.rule import OwnOptimizer

__all__ = [
    "FULL_BATCH",
    "OPTIMIZERS",
    "AdagradInside",
    "AveragedMomentum",
    "ConstantNadam",
    "HeavyBall",
    "Lion",
    "NesterovLookAhead",
    "NesterovSequences",
    "Newton",
    "OwnOptimizer",
    "RMSpropInside",
    "SutskeverMomentum",
    "UncorrectedAdam",
    "build_optimizer",
    "check_optimizer",
    "default_lr",
]
