"""Scores of held-out sections, one small file for each method, network and case: what is there is not computed again.

A case is a run of held-out sections between two others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from c2sti import metrics
from c2sti._atomic import put
from c2sti._types import TARGET_SUM, FloatArray, Interpolator, Lattice
from c2sti.benchmark._leave_out import Target, depths, pair_of, scores_of, target_of, windows
from c2sti.benchmark._networks import Method, Network
from c2sti.benchmark._series import Series, Source
from c2sti.models import _checkpoint
from c2sti.models.c2sti import C2STi
from c2sti.models.gp import Descriptions
from c2sti.nn.c2sti import C2STiConfig

# Of PSNR and SSIM: log1p of the 1e4 to which the counts of a spot are scaled, the most that a value can be. One number
# for all genes, sections and methods.
DATA_RANGE = float(np.log1p(TARGET_SUM))
SEED = 0  # of what is random in a prediction; the seeds of a table are those of the training


@dataclass(frozen=True)
class Job:
    """One method, by one network where it is trained, on one case, and the file that keeps its scores."""

    method: Method
    network: Network | None
    series: Series
    n_slices: int
    place: int  # index of the section before the held-out ones
    case: str  # names it and the one behind them
    file: Path

    @property
    def weights(self) -> str:
        """Hash of the weights, from the settings of the checkpoint; empty where there are none."""
        if self.network is None:
            return ""
        return json.loads((self.network.folder / _checkpoint.SETTINGS).read_text())["weights"]

    def kept(self) -> list[dict[str, Any]] | None:
        """Scores that were kept, one row a held-out section; None where there are none, or of other weights."""
        if not self.file.is_file():
            return None
        found = json.loads(self.file.read_text())
        return found["rows"] if found["weights"] == self.weights else None

    def model(self, configs: Mapping[str, C2STiConfig]) -> Interpolator:
        """What is scored: a method as it is given, an untrained network, or a trained one."""
        if self.network is None:
            return self.method.naive or C2STi(self.method.config(configs))
        model = self.network.load()
        return self.method.control(model) if self.method.control and isinstance(model, C2STi) else model


def jobs(
    source: Source,
    methods: Sequence[Method],
    networks: Sequence[Network],
    n_slices: Sequence[int],
    folder: Path,
    *,
    context: bool,
) -> list[Job]:
    """Everything to be scored, case by case. A section is never scored by a network that has seen its patient."""
    below = folder / ("context" if context else "pair")
    found = []
    for series in source.scored:
        names, own = series.names, [n for n in networks if series.patient in ("", n.fold)]
        for s in n_slices:
            for a in range(len(names) - s - 1):  # none where the series is too short to hold out as many
                case = f"{names[a]}..{names[a + s + 1]}"
                for method in methods:
                    for network in [n for n in own if n.method.name == method.trained_as] if method.trained else [None]:
                        place = "" if network is None else f"{network.fold}/{network.seed}"
                        file = below / method.name / place / f"{case}.json"
                        found.append(Job(method, network, series, s, a, case, file))
    return found


def score(
    todo: Sequence[Job],
    source: Source,
    *,
    configs: Mapping[str, C2STiConfig],
    n_genes: int,
    context: bool,
    device: str,
) -> Iterator[Job]:
    """Compute the scores of jobs and keep them, job by job; those of one case that follow each other share its pair."""
    models: dict[tuple[str, str], Interpolator] = {}
    for (series, n_slices, place), of_case in groupby(todo, lambda job: (job.series, job.n_slices, job.place)):
        slices = source.read(series)
        window = list(windows(depths(slices, None), n_slices))[place]
        pair, genes = pair_of(slices, window, n_genes, context=context)
        known = Descriptions(pair, device=device, seed=SEED)
        targets = [target_of(slices[i], pair, genes) for i in window.held_out]
        if source.truth is not None:
            scored = zip(window.held_out, targets, strict=True)
            targets = [(xy, source.truth(series, i, xy, genes), ceiling) for i, (xy, _, ceiling) in scored]
        for job in of_case:
            called = job.method.name, str(job.network)
            if called not in models:
                models[called] = job.model(configs)
            rows = [
                {"section": series.names[i], "position": position} | _scored(models[called], known, target, position)
                for i, position, target in zip(window.held_out, window.positions, targets, strict=True)
            ]
            job.file.parent.mkdir(parents=True, exist_ok=True)
            put(job.file, (json.dumps({"weights": job.weights, "rows": rows}, indent=1) + "\n").encode())
            yield job


def _scored(method: Interpolator, known: Descriptions, target: Target, position: float) -> dict[str, Any]:
    bound, (xy, measured, _) = known.bound(method), target
    start = time.process_time()  # of the processor: other programs do not count
    prediction = bound(known.pair, xy, [position], device=known.device, seed=SEED, progress=lambda share: None)
    predicted = prediction.slices[0].expression()
    seconds = time.process_time() - start + known.seconds(method)
    return scores_of(predicted, target) | {
        "psnr": metrics.psnr(predicted, measured, data_range=DATA_RANGE),
        "ssim": _ssim(predicted, measured, xy, known.pair.lattice),
        "seconds": seconds,
    }


def _ssim(predicted: FloatArray, measured: FloatArray, xy: FloatArray, lattice: Lattice) -> float:
    """SSIM of the gene maps, mean over genes and over the bins that hold a spot; NaN on fewer than 7 bins a side.

    A bin shows the spot nearest to its centre, on both sides: neither the gaps between irregular spots nor the empty
    slide around the tissue become structure that every method gets right.
    """
    if min(lattice.shape) < metrics.WINDOW:
        return float("nan")
    nearest = KDTree(xy).query(lattice.centres)[1]
    maps = [np.asarray(x)[nearest].T.reshape(-1, *lattice.shape) for x in (predicted, measured)]
    index = lattice.bins(xy)
    mask = np.zeros(lattice.shape, dtype=bool)
    mask.flat[index[index >= 0]] = True
    return metrics.ssim(maps[0], maps[1], data_range=DATA_RANGE, mask=mask)


def collect(done: Sequence[Job]) -> pd.DataFrame:
    """All scores as one table: a row for each method, network and held-out section."""
    rows = []
    for job in done:
        network = job.network
        head = {"series": job.series.group, "block": job.series.name, "n_slices": job.n_slices, "case": job.case}
        head |= {
            "method": job.method.name,
            "fold": network.fold if network else "",
            "seed": network.seed if network else 0,
        }
        rows += [head | row for row in job.kept() or []]
    return pd.DataFrame(rows)
