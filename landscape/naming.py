"""Objects by name: "package.module:name"."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any


def named_object(target: str) -> Any:
    """Import what "package.module:name" names; this runs the code of that module.

    The folder at hand is searched last, so that a file there cannot stand in for an installed module.

    Raises:
        ValueError: If it is not written so, or there is no such module or nothing of that name in it (with the
            nearest one).

    Example:
        >>> named_object("math:floor")(2.5)
        2
    """
    module_name, _, name = target.partition(":")
    if not (module_name and name):
        raise ValueError(
            f"expected 'package.module:name', got {target!r}; write the module, a colon, and the name in it"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module {error.name!r}, wanted for {target!r}; install it or go where it is"
        ) from error
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = f" ({module.__file__})" if getattr(module, "__file__", None) else ""
        raise ValueError(f"module {module_name!r}{where} has nothing called {name!r}{hint}")
    return getattr(module, name)
