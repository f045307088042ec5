"""Seconds of a step of training, on simulated tissue, without making the examples ready.

The shipped network's settings, 512 genes of a panel; two trainings of different length, the difference over the
difference of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from _record import arguments, peak_mb, timed, write

from c2sti import benchmark
from c2sti.nn.c2sti import C2STiConfig
from c2sti.training import TrainConfig, make_examples, train


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    options = arguments(__doc__, given, steps={"type": int, "default": 10})
    config = C2STiConfig(channels=4, n_components=8, n_splits=0) if options.quick else C2STiConfig()
    sizes = {"size": (8, 11), "n_genes": 60} if options.quick else {"n_genes": 600}
    cases = benchmark.simulated_cases(1 if options.quick else 2, **sizes)
    examples = make_examples(cases, config, device="cpu")
    ready = timed(lambda: make_examples(cases, config, device="cpu"), 1, warm=False)
    how = replace(TrainConfig(), seed=options.seed)

    def trained(steps: int) -> dict[str, float]:
        work = lambda: train(examples, config=config, how=replace(how, steps=steps), show_progress_bar=False)
        return timed(work, options.repeats, warm=not options.quick)

    few, more = (1, 2) if options.quick else (2, 2 + options.steps)
    short, long = trained(few), trained(more)
    row = {"examples": len(cases), "batch": how.batch, "ready_cpu_s": ready["cpu_s"] / len(cases)}
    row |= {f"step_{key}": (long[key] - short[key]) / (more - few) for key in ("wall_s", "cpu_s")}
    return write("training_step", options, [{**row, "peak_mb": peak_mb()}])


if __name__ == "__main__":
    main()
