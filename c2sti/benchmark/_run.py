"""A run of the benchmark: train what is missing, score what is missing, write the table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from c2sti import _validators
from c2sti.benchmark import _networks
from c2sti.benchmark._networks import OURS, QUICK, STEPS, Method, Network, Recipe, rows_named
from c2sti.benchmark._scores import Job, collect, jobs, score, write
from c2sti.benchmark._series import Material, Source, made, measured
from c2sti.benchmark._tables import draw, markdown, summarise
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.training import OtherRun, Schedule

RUN = "run.json"  # in OUT: what all that lies there has in common
FILES = {"1": "table1", "2": "table2", "ablation": "ablation"}
QUICK_STEPS = 2


@dataclass(frozen=True)
class Settings:
    """Options of the command, see ``python -m c2sti.benchmark --help``."""

    data: Path
    table: str
    out: Path
    seeds: int
    methods: tuple[str, ...]
    slices: tuple[int, ...]
    context: bool
    n_genes: int
    steps: int | None
    rival_steps: int | None
    quick: bool
    device: str
    force: bool

    def __post_init__(self) -> None:
        least = {"seeds": self.seeds, "n-genes": self.n_genes, "slices": min(self.slices)}
        for name, value in {**least, "steps": self.steps, "rival-steps": self.rival_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value} must be at least 1")
        _validators.device(self.device)
        _validators.folder(self.out, "--out")


class Run:
    """All that one command does.

    Parameters
    ----------
    settings
        Options.

    Raises
    ------
    ValueError
        There is no such method; or OUT holds what another version, other sections or other settings made.
    FileNotFoundError
        The data folder holds no series.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.methods: list[Method] = rows_named(settings.methods)
        self.source: Source = made() if settings.quick else measured(settings.data)
        self.ours = QUICK if settings.quick else C2STiConfig()
        steps = settings.steps or (QUICK_STEPS if settings.quick else STEPS)
        self.steps = {m.name: steps if m.model == OURS else settings.rival_steps or steps for m in self.methods}
        if any(method.trained for method in self.methods) and len(self.source.folds) < 2:
            raise ValueError(
                f"{settings.data} holds whole series of {len(self.source.folds)} patients of her2st; to train without "
                "one, two or more are needed. --methods copy linear lowrank gp needs no training"
            )
        self._claim()

    def table(self) -> str:
        """Do what is missing, write the files, and give back the table as Markdown."""
        self._train()
        done = self._score()
        if not done:
            longest = max(len(series.files) for series in self.source.series)
            raise ValueError(
                f"--slices {' '.join(map(str, self.settings.slices))}: the longest series has {longest} sections, of "
                f"which {longest - 2} at most can be hidden in a row"
            )
        rows = collect(done)
        summary = summarise(rows)
        text = markdown(
            self.settings.table,
            summary,
            parameters={m.name: self._parameters(m) for m in self.methods},
            methods=[m.name for m in self.methods],
            about=self._about(),
        )
        stem = FILES[self.settings.table]
        write(self.settings.out / f"{stem}_cases.csv", rows.to_csv(index=False))
        write(self.settings.out / f"{stem}.csv", summary.to_csv(index=False))
        write(self.settings.out / f"{stem}.md", text)
        draw(rows, [m.name for m in self.methods], self.settings.out / f"{stem}.png")
        return text

    @cached_property
    def networks(self) -> list[Network]:
        """Networks of the table, fold by fold: those of one fold share what they are trained on."""
        below = self.settings.out / "networks"
        return [
            Network(method, fold, seed, below / method.name / fold / str(seed))
            for fold in self.source.folds
            for method in self.methods
            if method.trained
            for seed in range(self.settings.seeds)
        ]

    def _claim(self) -> None:
        """Say in OUT what lies there, or see that it agrees."""
        s, file = self.settings, self.settings.out / RUN
        wanted: dict[str, Any] = {"version": version("c2sti"), "source": self.source.name, "n_genes": s.n_genes}
        found = json.loads(file.read_text()) if file.is_file() else {"sections": {}, **wanted}
        differs = next((f"{k} {found.get(k)!r} instead of {v!r}" for k, v in wanted.items() if found.get(k) != v), "")
        known: dict[str, str] = found["sections"]
        other = next((name for name, mark in self.source.prints.items() if known.get(name, mark) != mark), "")
        differs = differs or (other and f"section {other} was another")
        if differs and not s.force:
            raise ValueError(
                f"{s.out} holds a run of other settings ({differs}); name another --out, or do it anew with --force"
            )
        if differs:
            shutil.rmtree(s.out / "scores", ignore_errors=True)
            known = {}
        _validators.new_folder(s.out, "--out")
        write(file, json.dumps({**wanted, "sections": known | self.source.prints}, indent=1) + "\n")

    def _train(self) -> None:
        missing = [network for network in self.networks if not self._finished(network)]
        if not missing:
            return
        steps = [self.steps[network.method.name] for network in missing]
        with tqdm(total=sum(steps), desc="training", unit="step") as bar:
            material = Material(
                self.source, self.ours, device=self.settings.device, progress=lambda word: bar.set_postfix_str(word)
            )
            for i, network in enumerate(missing):
                bar.set_description(f"training {network} ({i + 1} of {len(missing)})")

                def progress(step: int, loss: float, before: int = sum(steps[:i])) -> None:
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                    bar.update(before + step + 1 - bar.n)  # a run that continues begins in the middle

                self._fit(network, material, progress)

    def _fit(self, network: Network, material: Material, progress: Callable[[int, float], object]) -> None:
        fit = partial(
            _networks.fit,
            network,
            self._recipe(network),
            material,
            self._schedule(network),
            device=self.settings.device,
            progress=progress,
        )
        try:
            fit()
        except OtherRun as error:
            if not self.settings.force:
                raise ValueError(f"{error}; --force does so") from error
            _networks.forget(network)
            fit()

    def _finished(self, network: Network) -> bool:
        try:
            return _networks.check(network, self._recipe(network))
        except ValueError:
            if not self.settings.force:
                raise
            _networks.forget(network)
            return False

    def _schedule(self, network: Network) -> Schedule:
        return network.method.schedule(self.steps[network.method.name], network.seed)

    def _recipe(self, network: Network) -> Recipe:
        return Recipe.of(network, self.source, self.ours, self._schedule(network))

    def _score(self) -> Sequence[Job]:
        s = self.settings
        every = jobs(self.source, self.methods, self.networks, s.slices, s.out / "scores", context=s.context)
        missing = [job for job in every if job.kept() is None]
        with tqdm(total=len(missing), desc="scoring", unit="case", disable=not missing) as bar:

            def progress(job: Job) -> None:
                bar.set_postfix_str(f"{job.case} {job.method.name}", refresh=False)
                bar.update()

            score(
                missing,
                self.source,
                config=self.ours,
                n_genes=s.n_genes,
                context=s.context,
                device=s.device,
                progress=progress,
            )
        return every

    def _parameters(self, method: Method) -> int:
        """Numbers that a method has learnt."""
        network = next((network for network in self.networks if network.method is method), None)
        if network is None:
            return 0
        model = _networks.load(network)
        return sum(p.numel() for p in model.network.parameters()) if isinstance(model, C2STi) else model.n_parameters

    def _about(self) -> str:
        s, folds = self.settings, self.source.folds
        seen = "Methods that can use them see the sections beyond the two." if s.context else "All see two sections."
        if not self.networks:
            return seen
        steps = dict.fromkeys(str(self.steps[network.method.name]) for network in self.networks)
        return (
            f"Networks: {s.seeds} seed{'s' if s.seeds > 1 else ''}, {' or '.join(steps)} steps, trained on "
            f"{self.source.taught} without the patient that is scored ({', '.join(folds)} in turn). Other series are "
            f"scored by the networks of all folds, which have seen none of them. {seen}"
        )
