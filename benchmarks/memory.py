"""Peak memory of a command and all its processes, sampled from /proc (Linux).

    python benchmarks/memory.py make demo

The figure is the largest sum of the proportional set sizes of the command's process tree, so that memory shared between
processes counts once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 0.1  # seconds


def tree(root: int) -> list[int]:
    """List a process and everything it has started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting.extend(children.get(found[-1], []))
    return found


def proportional_bytes(process: int) -> int:
    """Proportional set size of one process, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    command = sys.argv[1:] or ["make", "demo"]
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            peak = max(peak, sum(map(proportional_bytes, tree(running.pid))))
            time.sleep(INTERVAL)
    print(f"{' '.join(command)}: peak {peak / 2**30:.2f} GiB, {time.monotonic() - started:.0f} s")
    sys.exit(running.returncode)


if __name__ == "__main__":
    main()
