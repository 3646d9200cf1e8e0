"""The registry that architectures add themselves to.

An architecture is a function `(input_shape, num_classes, *, options) -> nn.Module` whose keyword-only
parameters are its options: `width`, `depth`, `norm`, `activation`, `skip`, `heads`, `patch`, those that make sense for
it.
"""

from __future__ import annotations

from models.registry import Registry

ARCHITECTURES = Registry("model")
