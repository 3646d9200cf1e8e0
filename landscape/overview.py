"""One line about a run: whether it is finished, and the numbers that runs are compared by."""

from __future__ import annotations

from typing import Any

from landscape.store import Store, StoreError
from landscape.store.lock import is_held
from landscape.summary import summarize

_LARGE = {"trajectory"}  # answers that no number of the overview comes from


def overview(store: Store, name: str) -> dict[str, Any]:
    """Collect the row of one run.

    Args:
        store: The folder of the run.
        name: What to call it.

    Returns:
        ``run``, ``state``, and what was measured of `landscape.summary.summarize`. A run with a damaged file
        is ``damaged``, has the ``reason``, and no numbers.
    """
    try:
        answers = {answer: store.read(answer) for answer in store.names() if answer not in _LARGE}
        about = store.load_json("run") if (store.path / "run.json").exists() else {}
    except StoreError as error:
        return {"run": name, "state": "damaged", "reason": str(error)}
    return {"run": name, "state": state(store), **summarize(answers, about.get("examples_sha256"))}


def state(store: Store) -> str:
    """Say whether a run is running, interrupted or finished, from its lock and what lies in it.

    No field says so that a killed process could leave behind wrong. Training that has begun leaves `resume`
    weights, and the final ones only when it is done.
    """
    if is_held(store.path):
        return "running"
    in_training = (store.path / "resume.safetensors").exists() and not (store.path / "weights.safetensors").exists()
    return "interrupted" if in_training or any(store.path.glob("*.journal")) else "finished"
