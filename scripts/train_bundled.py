"""Train the checkpoint that comes with the package, or one that has not seen a patient, on the measured series.

    python scripts/train_bundled.py --data DIR                    the bundled checkpoint, into c2sti/weights
    python scripts/train_bundled.py --data DIR --without A --out folds/A --series her2st
    python scripts/train_bundled.py --quick                       a small one on simulated tissue, to see that all works

Besides held-out sections as they were measured, it learns from the same with their tissue moved a little, and from made
tissue, whose motion is known. DIR holds the sections as `c2sti.datasets` stores them, `her2st/her2st_A1.h5ad` and so
on. A run that was stopped continues when the same command is given again. All is done in one thread: with more, sums
come out in another order, and training makes of that other weights that are as good.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

import c2sti
from c2sti import benchmark
from c2sti._tasks import one_thread
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.training import TrainConfig, make_examples, train

WEIGHTS = Path(c2sti.__file__).parent / "weights"


def main() -> None:
    """Read the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("C2STI_DATA", "data")))
    parser.add_argument("--out", type=Path, default=None, help="folder of the checkpoint")
    parser.add_argument("--series", nargs="+", default=["her2st", "heart", "stahl"])
    parser.add_argument("--without", default="", help="her2st patients to leave out, e.g. A or AB")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    out = given.out or (Path("quick") if given.quick else WEIGHTS)
    config = benchmark.QUICK["default"] if given.quick else C2STiConfig()
    how = TrainConfig(
        steps=given.steps or (60 if given.quick else TrainConfig().steps),
        seed=given.seed,
        save_every=10,
    )
    start = time.perf_counter()
    hidden = (
        benchmark.simulated_cases(4, size=(8, 11), n_genes=60)
        if given.quick
        else benchmark.training_cases(given.data, given.series, without=given.without)
    )
    with tqdm(total=len(hidden), desc="looking at sections") as bar:
        examples = make_examples(hidden, config, device=given.device, progress=lambda case: bar.update())
    model = train(examples, config=config, how=how, folder=out / "state", device=given.device)
    series = [] if given.quick else benchmark.series_of(given.series, without=given.without)
    model.card |= {
        "series": [benchmark.MADE] if given.quick else [*given.series, benchmark.MADE],
        "without": sorted(given.without),
        "sections": benchmark.fingerprints(series, given.data),
        "version": c2sti.__version__,
        **benchmark.provenance(time.perf_counter() - start, given.device),
    }
    model.save(out, overwrite=True)
    C2STi.load(out)
    shutil.rmtree(out / "state", ignore_errors=True)  # a run of few steps has kept none
    print(f"wrote {out} ({len(examples)} held-out sections, {how.steps} steps, {model.card['seconds']} s)")


if __name__ == "__main__":
    with one_thread():
        main()
