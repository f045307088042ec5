"""A run of the benchmark: train what is missing, score what is missing, write the table."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from c2sti import _validators
from c2sti._atomic import put
from c2sti.benchmark._networks import FULL, NETWORK, OURS, PAPER, QUICK, ROWS, STEPS, Network, fit, recipe_of
from c2sti.benchmark._scores import Job, collect, jobs, score
from c2sti.benchmark._series import Material, made, measured, open_st
from c2sti.benchmark._tables import draw, markdown, summarise
from c2sti.training import OtherRun, Schedule

RUN = "run.json"  # in OUT: what all that lies there has in common
FILES = {"1": "table1", "2": "table2", "ablation": "ablation"}
QUICK_STEPS = 2


class Run:
    """All that one command does, by its options: see ``python -m c2sti.benchmark --help``."""

    def __init__(self, options: argparse.Namespace) -> None:
        o = self.options = options
        given = {"seeds": o.seeds, "n-genes": o.n_genes, "steps": o.steps, "rival-steps": o.rival_steps}
        for name, value in {**given, "slices": min(o.slices)}.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value} must be at least 1")
        _validators.device(o.device)
        _validators.folder(o.out, "--out")
        unknown = [name for name in o.methods if name not in ROWS]
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}; those that exist are {', '.join(ROWS)}")
        self.methods = [ROWS[name] for name in dict.fromkeys(o.methods)]
        self.paper = o.protocol == "paper"
        if o.folds and (self.paper or o.quick):
            raise ValueError(
                "--folds names patients of measured sections; leave it out with --quick or a paper protocol"
            )
        if o.quick and o.full:
            raise ValueError("--full is the paper's own size, and --quick a tiny one; give one of them")
        asked = {method.name for method in self.methods}
        for method in self.methods:
            if method.trained_as not in asked:
                raise ValueError(f"--methods {method.name}: it is scored with the network of {method.of!r}; name both")
        self.configs = QUICK if o.quick else FULL if o.full else NETWORK
        if self.paper:
            self.source = open_st(o.data if o.data.is_dir() and o.open_st else None, split=o.split, quick=o.quick)
        else:
            self.source = made() if o.quick else measured(o.data, o.folds)
        steps = o.steps or (QUICK_STEPS if o.quick else STEPS)
        self.steps = {m.name: steps if m.model == OURS else o.rival_steps or steps for m in self.methods}
        folds, trained = self.source.folds, [m for m in self.methods if m.trained]
        # Fold by fold: the networks of one fold share what they are trained on.
        self.networks = [
            Network(method, fold, seed, o.out / "networks" / method.name / fold / str(seed))
            for fold in folds
            for method in trained
            if not method.of
            for seed in range(o.seeds)
        ]
        if trained and not self.paper and not any(map(self.source.lessons, folds)):
            raise ValueError(
                f"{o.data} holds whole series of {len(folds)} patients of her2st; to train without one, two or more "
                "are needed. --methods copy linear lowrank gp needs no training"
            )
        self._claim()

    def table(self) -> str:
        """Do what is missing, write the files, and give back the table as Markdown."""
        o = self.options
        self._train()
        done = self._score()
        if not done:
            longest = max(len(series.files) for series in self.source.scored)
            raise ValueError(
                f"--slices {' '.join(map(str, o.slices))}: the longest series has {longest} sections, of which "
                f"{longest - 2} at most can be held out in a row"
            )
        rows, methods = collect(done), [m.name for m in self.methods]
        summary = summarise(rows)
        models = {network.method.name: network.load() for network in self.networks if network.seed == 0}
        learnt = {name: sum(p.numel() for p in model.network.parameters()) for name, model in models.items()}
        parameters = {m.name: learnt[m.trained_as] for m in self.methods if m.trained_as in learnt}
        text = markdown(o.table, summary, parameters=parameters, methods=methods, about=self._about())
        path = o.out / FILES[o.table]
        put(path.with_name(f"{path.name}_cases.csv"), rows.to_csv(index=False).encode())
        put(path.with_suffix(".csv"), summary.to_csv(index=False).encode())
        put(path.with_suffix(".md"), text.encode())
        draw(rows, methods, path.with_suffix(".png"))
        return text

    def _claim(self) -> None:
        """Write into OUT what all that lies there has in common, or see that it agrees."""
        out, prints = self.options.out, self.source.prints
        file: Path = out / RUN
        wanted = {"version": version("c2sti"), "source": self.source.name, "n_genes": self.options.n_genes}
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"sections": {}, **wanted}
        known: dict[str, str] = found["sections"]
        differs = [f"{k} {found.get(k)!r} instead of {v!r}" for k, v in wanted.items() if found.get(k) != v]
        differs += [f"section {name} was another" for name, mark in prints.items() if known.get(name, mark) != mark]
        if differs and not self.options.force:
            raise ValueError(
                f"{out} holds a run of other settings ({differs[0]}); name another --out, or do it anew with --force"
            )
        if differs:
            shutil.rmtree(out / "scores", ignore_errors=True)
            known = {}
        _validators.new_folder(out, "--out")
        put(file, (json.dumps({**wanted, "sections": known | prints}, indent=1) + "\n").encode())

    def _train(self) -> None:
        missing = [network for network in self.networks if not self._finished(network)]
        if not missing:
            return
        steps = [self.steps[network.method.name] for network in missing]
        with tqdm(total=sum(steps), desc="training", unit="step") as bar:
            material = Material(self.source, self.configs, device=self.options.device, progress=bar.set_postfix_str)
            for i, network in enumerate(missing):
                bar.set_description(f"training {network} ({i + 1} of {len(missing)})")

                def progress(step: int, loss: float, before: int = sum(steps[:i])) -> None:
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                    bar.update(before + step + 1 - bar.n)  # a run that continues begins in the middle

                how, recipe = self._recipe(network)
                train = partial(fit, network, recipe, material, how, device=self.options.device, progress=progress)
                try:
                    train()
                except OtherRun as error:
                    if not self.options.force:
                        raise ValueError(f"{error}; --force does so") from error
                    network.forget()
                    train()

    def _finished(self, network: Network) -> bool:
        try:
            return network.finished(self._recipe(network)[1])
        except ValueError:
            if not self.options.force:
                raise
            network.forget()
            return False

    def _recipe(self, network: Network) -> tuple[Schedule, dict[str, Any]]:
        """How a network is trained, and all that its checkpoint has to say of that."""
        steps, watched = self.steps[network.method.name], bool(self.source.watched)
        how = network.method.schedule(steps, network.seed, watched=watched, full=self.options.full)
        return how, recipe_of(network, self.source, self.configs, how)

    def _score(self) -> Sequence[Job]:
        o = self.options
        every = jobs(self.source, self.methods, self.networks, o.slices, o.out / "scores", context=o.context)
        missing = [job for job in every if job.kept() is None]
        how: dict[str, Any] = {"configs": self.configs, "n_genes": o.n_genes, "context": o.context, "device": o.device}
        with tqdm(total=len(missing), desc="scoring", unit="case", disable=not missing) as bar:
            for job in score(missing, self.source, **how):
                bar.set_postfix_str(f"{job.case} {job.method.name}", refresh=False)
                bar.update()
        return every

    def _about(self) -> str:
        o, folds = self.options, self.source.folds
        given = "Methods that can use them see the sections beyond the two." if o.context else "All see two sections."
        if not self.networks:
            return given
        steps = dict.fromkeys(str(self.steps[network.method.name]) for network in self.networks)
        if self.paper:
            against = "the truth without noise" if self.source.truth else "what was measured"
            k, seeds = self.configs[PAPER], f"{o.seeds} seed{'s' if o.seeds > 1 else ''}"
            return (
                f"{self.source.name.capitalize()}; {seeds}, up to {' or '.join(steps)} steps. The paper's network has "
                f"{k.channels} channels, {k.panel} genes and {k.bins} bins a side. Scores are against {against}."
            )
        return (
            f"Networks: {o.seeds} seed{'s' if o.seeds > 1 else ''}, {' or '.join(steps)} steps, trained on "
            f"{self.source.taught} without the patient that is scored ({', '.join(folds)} in turn). Other series are "
            f"scored by the networks of all folds, which have seen none of them. {given}"
        )
