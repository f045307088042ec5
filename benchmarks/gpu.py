"""The same work on a GPU as on the processor: are results equal, how fast is a step of training, how large may it be?

In under eight minutes on one GPU: equality of interpolation and of training with the CPU; a step of training for the
default's and the paper's settings, with its share of what the device does in matrix products; a Visium-like pair and a
whole slide end to end; and the largest lattice that a step of the paper's network fits into memory on. Without a GPU
the same rows are measured on the processor, at small sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import arguments, timed, write
from torch.utils.flop_counter import FlopCounterMode

import c2sti
from c2sti import benchmark
from c2sti._types import Lattice
from c2sti.nn.c2sti import C2STiConfig, Network, fresh
from c2sti.nn.inputs import ModelInputs
from c2sti.training import TrainConfig, make_examples, train

PAPER = C2STiConfig.paper(resnet=False)
SIDES = (64, 128, 256, 512, 1024)  # bins of the lattices that are tried


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    options = arguments(__doc__, given)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = options.quick or device == "cpu"
    rows = chain(
        equality(device, small),
        steps(device, small, options.repeats),
        end_to_end(device, small),
        largest(device, (16,) if small else SIDES),
    )
    name = torch.cuda.get_device_name() if device == "cuda" else "none"
    return write("gpu", options, rows, gpu=name)


def equality(device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Largest difference of what the processor and the device give, for one pair and a few steps of training."""
    tissue = c2sti.datasets.phantom(seed=0, size=10 if small else 40, n_genes=60 if small else 1000)
    pair = tissue.series([0.0, 300.0])
    paper = C2STiConfig.paper(resnet=False, n_components=8, channels=4, histology_channels=4, panel=16, bins=32)
    models = {"gp": "gp", "c2sti": "c2sti", "paper": c2sti.C2STi(replace(paper, start="baseline"))}
    for name, model in models.items():
        found = [c2sti.tl.interpolate(*pair, model=model, device=d, show_progress_bar=False) for d in ("cpu", device)]
        difference = np.nanmax(np.abs(found[0].layers["c2sti_1"] - found[1].layers["c2sti_1"]))
        yield {"what": f"equal: {name}", "largest_difference": float(difference)}
    cases = benchmark.simulated_cases(1, size=(8, 11), n_genes=40)
    how = TrainConfig(steps=3, panel=16, motion=0.0)
    losses = [
        train(make_examples(cases, paper, device=d), config=paper, how=how, device=d, show_progress_bar=False).card
        for d in ("cpu", device)
    ]
    first, second = (np.array(card["history"]["loss"]) for card in losses)
    yield {"what": "equal: three steps of paper()", "largest_difference": float(np.abs(first - second).max())}


def steps(device: str, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Seconds and operations of a step on one example, beside the rate of a large matrix product."""
    settings = {
        "default": (C2STiConfig(), 64, 128),
        "paper": (PAPER, PAPER.panel, PAPER.bins),
    }
    for dtype in (torch.float32, torch.bfloat16):
        limit = _rate_of_products(device, 256 if small else 8192, dtype)
        for name, (config, n_genes, side) in settings.items():
            config, n_genes, side = (replace(config, channels=4), 8, 24) if small else (config, n_genes, side)
            network, inputs = fresh(config, 0).to(device), inputs_of(n_genes, side, device)
            step, row = _step_of(network, inputs, dtype), {"what": f"step: {name}, {str(dtype).removeprefix('torch.')}"}
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                with FlopCounterMode(display=False) as counter:
                    step()
                found = timed(_synchronised(step, device), repeats)
            except torch.OutOfMemoryError as error:
                yield row | {"error": str(error).splitlines()[0]}
                continue
            rate = counter.get_total_flops() / found["wall_s"]
            memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
            yield row | found | {"tflops": rate / 1e12, "share": rate / limit, "memory_gb": memory}


def end_to_end(device: str, small: bool) -> Iterator[dict[str, Any]]:
    """``tl.interpolate`` of three sections, from counts in memory to layers in memory (or factors)."""
    for name, size, n_genes in (("pair", 60, 15_000), ("slide", 300, 1_000)):
        size, n_genes = (10, 50) if small else (size, n_genes)
        pair = c2sti.datasets.phantom(seed=0, size=size, n_genes=n_genes).series([0.0, 300.0], image=False)
        seconds = {}
        for where in dict.fromkeys(("cpu", device)):
            start = time.perf_counter()
            c2sti.tl.interpolate(*pair, n_slices=3, device=where, show_progress_bar=False)
            seconds[f"{where}_s"] = time.perf_counter() - start
        yield {"what": f"interpolate: {name}", "spots": pair[0].n_obs, "genes": n_genes, **seconds}


def largest(device: str, sides: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The widest lattice on which a step of the paper's network fits into the device's memory."""
    fits = 0
    for side in sides:
        try:
            _step_of(fresh(PAPER, 0).to(device), inputs_of(PAPER.panel, side, device))()
        except torch.OutOfMemoryError:
            break
        fits = side
    yield {"what": "largest lattice of paper()", "bins": fits, "tried": list(sides)}


def inputs_of(n_genes: int, side: int, device: str, n_maps: int = 180) -> ModelInputs:
    """Random inputs of a network: a square lattice whose bins all hold tissue."""
    generator = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, side, side, generator=generator)

    panel = tuple(torch.stack([maps(n_genes) - 0.5, torch.ones(n_genes, side, side)], dim=1) for _ in range(2))
    lattice, images, ends = Lattice((0.0, 0.0), 1.0, (side, side)), (maps(3), maps(3)), (maps(n_maps), maps(n_maps))
    chosen, scale, graph = torch.arange(n_genes), torch.ones(n_genes), torch.eye(n_genes)
    return ModelInputs(lattice, (0.0, 1.0), panel, chosen, scale, images, graph, ends, (None, None)).to(device)


def _step_of(network: Network, inputs: ModelInputs, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad()
        with torch.autocast(inputs.ends[0].device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            found, deformation = network(inputs, 0.4)
        (found.square().mean() + deformation.displacement.square().mean()).backward()

    return step


def _synchronised(work: Callable[[], None], device: str) -> Callable[[], None]:
    def done() -> None:
        work()
        if device == "cuda":
            torch.cuda.synchronize()

    return done


def _rate_of_products(device: str, n: int, dtype: torch.dtype) -> float:
    """Floating point operations a second of a matrix product."""
    a = torch.rand(n, n, device=device).to(dtype)
    found = timed(_synchronised(lambda: (a @ a).sum(), device), 3)  # type: ignore[arg-type, return-value]
    return 2 * n**3 / found["wall_s"]


if __name__ == "__main__":
    main()
