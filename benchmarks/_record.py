"""What every benchmark shares: how something is timed, what is said of the machine, and the file that comes out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

PACKAGES = ("c2sti", "anndata", "numpy", "scipy", "torch")


def arguments(text: str | None, given: Sequence[str] | None, **more: dict[str, Any]) -> argparse.Namespace:
    """Options that all benchmarks have, and those of one of them."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="the least of so many runs counts")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    for name, how in more.items():
        parser.add_argument(f"--{name}", **how)
    return parser.parse_args(given)


def timed(work: Callable[[], object], repeats: int, *, warm: bool = True) -> dict[str, float]:
    """Seconds of the processor and of the wall, the least of some runs after one that does not count."""
    if warm:
        work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall_s": min(walls), "cpu_s": min(cpus), "wall_s_most": max(walls), "cpu_s_most": max(cpus)}


def peak_mb() -> float:
    """The most memory that this process has held, MB; it never goes down again."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict[str, Any]:
    """Where this runs, with how many threads, and how busy it was."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads(), **{p["prefix"]: p["num_threads"] for p in threadpool_info()}},
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def write(name: str, given: argparse.Namespace, rows: Iterable[dict[str, Any]], **more: Any) -> Path:
    """Print each row when it is found, write all of them beside the machine and the seed, and say where."""
    given.out.mkdir(parents=True, exist_ok=True)
    path, found = Path(given.out) / f"{name}.json", []
    for row in rows:
        print({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in row.items()}, flush=True)
        found.append(row)
    record = {"benchmark": name, "machine": machine(), "seed": given.seed, "quick": given.quick, **more, "rows": found}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, by least squares; NaN for fewer than two sizes."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-9)), 1)[0])
