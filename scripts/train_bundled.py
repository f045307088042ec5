"""Train the checkpoint that comes with the package, or one that has not seen a patient, on the measured series.

    python scripts/train_bundled.py --data DIR                    the bundled checkpoint, into c2sti/weights
    python scripts/train_bundled.py --data DIR --without A --out folds/A --series her2st
    python scripts/train_bundled.py --quick                       a small one on made tissue, to see that all works

Besides hidden sections as they were measured, it learns from the same with their tissue moved a little, and from made
tissue, whose motion is known. DIR holds the sections as `c2sti.datasets` stores them, `her2st/her2st_A1.h5ad` and so
on. A run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from tqdm.auto import tqdm

import c2sti
from c2sti import benchmark, grid
from c2sti.model import C2STi, C2STiConfig
from c2sti.training import Case, TrainConfig, elastic, make_examples, train

WEIGHTS = Path(c2sti.__file__).parent / "weights"
MOST = 2  # sections hidden in a row
N_MADE = 32  # made tissues
QUICK = C2STiConfig(channels=4, panel=24, n_programmes=12, n_splits=1)


def measured(data: Path, series: list[str], without: str) -> Iterator[tuple[str, list[AnnData]]]:
    """Every series in order of depth, in one frame."""
    names = {
        **{f"her2st {p}": [f"her2st/her2st_{p}{i}" for i in range(1, 7)] for p in "ABCD" if p not in without},
        # Sections 1 and 2 share most of their spots, count for count: one of them is left out.
        "heart": [f"dev_heart/heart6.5_{i}" for i in range(2, 10)],
        "stahl": [f"stahl_bc/BC{i}" for i in range(1, 5)],
    }
    for name, files in names.items():
        if name.split()[0] not in series:
            continue
        sections = [ad.read_h5ad(data / f"{file}.h5ad") for file in files]
        if name == "heart":
            yield name, [registered(s) for s in sections]
        else:
            c2sti.pp.align_series(sections)
            yield name, sections


def registered(section: AnnData) -> AnnData:
    """A section of the heart in the frame into which its authors registered it, in µm."""
    xyz = section.obsm["spatial_3d"]
    section.obsm["spatial_aligned"] = xyz[:, :2]
    section.obs["z_um"] = xyz[:, 2].mean()
    section.uns.pop("spatial", None)
    return section


def cases(name: str, sections: list[AnnData]) -> list[Case]:
    """Hidden sections of a series."""
    grids = [grid.read_slice(s, name=f"{name} {i + 1}", spatial_key="spatial_aligned") for i, s in enumerate(sections)]
    return benchmark.hidden_cases(grids, most=MOST)


def moved(hidden: list[Case]) -> list[Case]:
    """The cases of a series without context, each with its tissue moved twice."""
    alone = [case for case in hidden if not case.pair.context]
    return [elastic(case, seed=2 * i + again) for i, case in enumerate(alone) for again in (0, 1)]


def made(seed: int, size: tuple[int, int] = (14, 22), n_genes: int = 200) -> Case:
    """A section of a made tissue: how big it is, how fast it moves and changes, and where it was cut, by the seed."""
    rng = np.random.default_rng([7, seed])
    tissue = c2sti.datasets.phantom(
        seed=1000 + seed,
        n_genes=n_genes,
        size=int(rng.integers(*size)),
        motion=float(rng.uniform(0.3, 1.0)),
        change=float(rng.uniform(0.3, 1.0)),
    )
    gap, t = float(rng.uniform(150, 500)), float(rng.choice([1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4]))
    layout = str(rng.choice(["square", "hex"]))
    a, hidden, b = (tissue.section(z, layout=layout) for z in (0.0, t * gap, gap))
    pair, genes = grid.make_pair(grid.read_slice(a), grid.read_slice(b))
    xy = hidden.obsm["spatial"]
    # The truth without noise, which only made tissue has.
    truth = sp.csr_array(tissue.expression(xy, t * gap)[:, hidden.var_names.get_indexer(genes)])

    def motion(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tissue.displacement(points, t * gap, 0.0), tissue.displacement(points, t * gap, gap)

    return Case(pair, xy, t, truth, f"made tissue {seed}", motion)


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
    config = QUICK if given.quick else C2STiConfig()
    how = TrainConfig(
        steps=given.steps or (60 if given.quick else TrainConfig().steps),
        seed=given.seed,
        save_every=10,
    )
    start = time.perf_counter()
    if given.quick:
        hidden = [made(seed, size=(8, 11), n_genes=60) for seed in range(4)]
    else:
        series = [cases(name, sections) for name, sections in measured(given.data, given.series, given.without)]
        hidden = [
            *(case for found in series for case in (*found, *moved(found))),
            *(made(seed) for seed in range(N_MADE)),
        ]
    with tqdm(total=len(hidden), desc="looking at sections") as bar:
        examples = make_examples(hidden, config, device=given.device, progress=lambda case: bar.update())
    model = train(examples, config=config, how=how, folder=out / "state", device=given.device)
    model.card |= {
        "series": ["made tissue"] if given.quick else [*given.series, "made tissue"],
        "without": sorted(given.without),
        "seconds": round(time.perf_counter() - start),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {given.device}",
        "not for": "differences between conditions, replicates, diagnosis; inserted sections are estimates",
    }
    model.save(out)
    C2STi.load(out)
    shutil.rmtree(out / "state")
    print(f"wrote {out} ({len(examples)} hidden sections, {how.steps} steps, {model.card['seconds']} s)")


if __name__ == "__main__":
    main()
