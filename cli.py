"""The command line: `commands` holds what it can do. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os

from commands.program import cli


def main() -> None:
    """Run the command line."""
    # Idle OpenMP threads that spin make small networks many times slower when anything else runs; set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli(prog_name="landscape")


if __name__ == "__main__":
    main()
