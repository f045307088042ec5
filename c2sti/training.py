"""Training the network on hidden sections: what is costly is made once, what is random is drawn anew at every step.

A case is a pair, and a section between them that was measured. Its example (scene, basis, truth) does not change while
the network learns; every step turns it, takes some of its genes and compares. Random numbers of a step depend on the
seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from safetensors.torch import load_file, save
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree
from torch import Tensor, nn
from tqdm.auto import tqdm

from c2sti._types import FloatArray, Lattice, Section, SlicePair
from c2sti.model.c2sti import C2STi, C2STiConfig, Network, describe_pair, fresh, look, sample
from c2sti.model.loss import coexpression, correlation, endpoint_error, paper_loss, relative_error, smoothness
from c2sti.model.scene import Basis, Scene

STATE = "training.safetensors"


@dataclass(frozen=True)
class Case:
    """A pair and one measured section between its two, which the pair does not know.

    Parameters
    ----------
    pair
        What the network is given.
    points
        (M, 2) spots of the hidden section, in the frame of the pair.
    position
        Of the hidden section, in (0, 1).
    truth
        (M, N) log1p expression, CSR, genes as in the pair.
    name
        What errors call it.
    motion
        Where it is known, a function of (m, 2) points of the hidden section: how far (m, 2) from there the same
        material lies in section a, and in section b. Made tissue knows, and so does tissue moved by :func:`elastic`.
    """

    pair: SlicePair
    points: FloatArray
    position: float
    truth: sp.csr_array
    name: str = "case"
    motion: Callable[[FloatArray], tuple[FloatArray, FloatArray]] | None = None


@dataclass(frozen=True)
class Example:
    """A case made ready: scene, basis at the hidden spots, and the truth there as (M, N) float32.

    Where motion is known it is (4, H, W): (dx, dy) in bins to section a, then to section b; NaN off the tissue.
    """

    scene: Scene
    basis: Basis
    points: FloatArray
    position: float
    truth: Tensor
    name: str
    motion: Tensor | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Parameters
    ----------
    steps
        Optimisation steps.
    batch
        Examples a step and process.
    genes, panel
        Genes compared in a step, and genes of the panel that the network looks at, drawn at random.
    learning_rate, final_learning_rate
        Of AdamW, from the first to the second along half a cosine.
    weight_decay
        Of AdamW.
    objective
        ``"scores"``: correlation, relative error and co-expression, as sections are judged. ``"paper"``: mean absolute
        difference and smoothness, 1 : 1 (section 2.4).
    error, structure, smooth, motion
        Weights of relative error, co-expression, smoothness, and of the error of a known motion in bins, beside
        correlation.
    clip
        Largest norm of a gradient.
    seed
        Of the first weights and of every draw.
    save_every
        Steps between two states on disk.
    """

    steps: int = 600
    batch: int = 2
    genes: int = 500
    panel: int = 48
    learning_rate: float = 2e-3
    final_learning_rate: float = 2e-5
    weight_decay: float = 1e-3
    objective: str = "scores"
    error: float = 0.3
    structure: float = 0.05
    smooth: float = 0.02
    motion: float = 0.1
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.objective not in ("scores", "paper"):
            raise ValueError(f"objective = {self.objective!r}; those that exist are 'scores' and 'paper'")
        for name in ("steps", "batch", "genes", "panel", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")

    @classmethod
    def paper(cls, **settings: Any) -> TrainConfig:
        """The paper's settings: L1 and smoothness, 1e-4 to 1e-6, weight decay 1e-4."""
        given = {"objective": "paper", "learning_rate": 1e-4, "final_learning_rate": 1e-6, "weight_decay": 1e-4}
        return cls(**{**given, **settings})

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        share = 0.5 * (1 + cos(pi * step / self.steps))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


def make_examples(
    cases: Sequence[Case],
    config: C2STiConfig,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[Case], object] = lambda case: None,
) -> list[Example]:
    """Compute what does not change while the network learns; cases of one pair that follow each other share most of it.

    Parameters
    ----------
    cases
        Hidden sections.
    config
        Settings of the network.
    device
        Where the work is done, and the examples live.
    seed
        Of the descriptions of a pair.
    progress
        Called with each case when it is done.
    """
    examples, last, programmes = [], None, None
    for case in cases:
        if case.pair is not last:
            last, programmes = case.pair, describe_pair(config, case.pair, device=device, seed=seed)
        scene, basis = look(
            config, case.pair, case.points, [case.position], device=device, seed=seed, programmes=programmes
        )
        truth = torch.as_tensor(case.truth.toarray().astype(np.float32), device=device)
        motion = None if case.motion is None else _known_motion(case, scene).to(device)
        examples.append(Example(scene, basis, case.points, case.position, truth, case.name, motion))
        progress(case)
    return examples


def _known_motion(case: Case, scene: Scene) -> Tensor:
    assert case.motion is not None
    lattice = scene.lattice
    moves = np.concatenate(case.motion(lattice.centres), axis=1) / lattice.pitch
    far = KDTree(case.points).query(lattice.centres)[0] > lattice.pitch
    moves[far] = np.nan
    return torch.as_tensor(moves.T.reshape(4, *lattice.shape).astype(np.float32))


def elastic(case: Case, seed: int, amount: float = 0.7, width: float = 6.0) -> Case:
    """The case with the tissue of its sections moved a little, smoothly and each on its own; the hidden one stays.

    What was cut never lies as it lay in the block. Here it is known how far it does not, so motion can be learnt from
    tissue that was measured.

    Parameters
    ----------
    case
        To be changed; it stays as it is.
    seed
        Of the moves.
    amount
        Root mean square of a move of either section of the pair at a distance of half the gap, in spot spacings.
    width
        Length scale of the moves, in spot spacings.
    """
    pair, t = case.pair, case.position
    rng = np.random.default_rng(seed)
    waves = _waves(rng, width * pair.spacing)

    def shift(xy: FloatArray, position: float) -> FloatArray:
        return 2 * (position - t) * amount * pair.spacing * waves(xy)

    def moved(section: Section) -> Section:
        xy = section.xy + shift(section.xy, section.position)
        at_bins = shift(pair.lattice.centres, section.position)
        histology, features = (
            None if maps is None else _warped(maps, at_bins, pair.lattice)
            for maps in (section.histology, section.features)
        )
        return replace(section, xy=xy, histology=histology, features=features)

    a, b, *context = (moved(section) for section in pair.sections)

    def motion(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        still = np.zeros_like(points)
        known = case.motion(points) if case.motion is not None else (still, still)
        # A point that lay at x, and was there in a at x + known, is now at x + known + the shift at that place.
        there = [points + k for k in known]
        moves = [k + shift(x, q) for k, x, q in zip(known, there, (0.0, 1.0), strict=True)]
        return moves[0], moves[1]

    return replace(case, pair=replace(pair, a=a, b=b, context=tuple(context)), motion=motion, name=f"{case.name} moved")


def _waves(rng: np.random.Generator, width: float, n_waves: int = 24) -> Callable[[FloatArray], FloatArray]:
    """A random smooth field of vectors, (n, 2) → (n, 2), of length 1 (root mean square): Fourier features of an RBF."""
    frequency = rng.standard_normal((2, n_waves)) / width
    phase = rng.uniform(0, 2 * pi, (2, n_waves))

    def field(xy: FloatArray) -> FloatArray:
        return np.stack([np.cos(xy @ frequency + p).sum(axis=1) for p in phase], axis=1) / n_waves**0.5

    return field


def _warped(picture: FloatArray, moves: FloatArray, lattice: Lattice) -> FloatArray:
    """(C, H, W) picture whose tissue was moved by (H·W, 2): what is at x now lay at about x minus the move."""
    x, y = ((lattice.centres - moves - np.asarray(lattice.origin)) / lattice.pitch).T
    layers = [map_coordinates(layer, [y, x], order=1, cval=np.nan).reshape(lattice.shape) for layer in picture]
    return np.stack(layers).astype(picture.dtype)


class Objective(nn.Module):
    """Loss of one example, as a module: what is wrapped for several processes.

    Parameters
    ----------
    network
        To be trained.
    config
        Weights of the loss.
    """

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, example: Example, genes: Tensor) -> Tensor:
        """Scalar loss on the chosen genes."""
        scene, basis = example.scene, example.basis
        change, deformation = self.network(scene, example.position)
        maps = basis.maps[0] + sample(change, scene.lattice, example.points)
        predicted = maps @ self.network.loadings(basis, genes) + basis.means[0, genes]
        truth = example.truth[:, genes]
        displacement = deformation.displacement
        if self.config.objective == "paper":
            return paper_loss(predicted, truth, [displacement])
        loss = -correlation(predicted, truth) + self.config.error * relative_error(predicted, truth)
        loss = loss - self.config.structure * coexpression(predicted, truth)
        loss = loss + self.config.smooth * smoothness([displacement])
        if example.motion is not None:
            loss = loss + self.config.motion * endpoint_error(deformation.shifts, example.motion)
        return loss


def train(
    examples: Sequence[Example],
    *,
    config: C2STiConfig | None = None,
    how: TrainConfig | None = None,
    start: C2STi | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, float], object] = lambda step, loss: None,
    show_progress_bar: bool = True,
) -> C2STi:
    """Train a network on examples.

    Parameters
    ----------
    examples
        Hidden sections made ready, all by the same `config`.
    config
        Settings of the network, where it does not go on from `start`.
    how
        Settings of the training.
    start
        A trained model to go on from.
    folder
        Where the state is kept; a run that finds a state of its own there goes on from it. None keeps nothing.
    device
        Where the work is done.
    progress
        Called with step and loss after every step.
    show_progress_bar
        Whether to show one.

    Returns
    -------
    The trained model.

    Raises
    ------
    ValueError
        No examples; or the folder holds the state of a run with other settings.
    FloatingPointError
        The loss is not a number; the message names the examples, and the last good state stays in the folder.
    """
    if not examples:
        raise ValueError("there is no example to train on; a series needs three sections or more")
    how = how or TrainConfig()
    settings = start.config if start is not None else (config or C2STiConfig())
    network = fresh(settings, how.seed)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    accelerator = _accelerator(device)
    objective = Objective(network, how)
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    keep = None if folder is None else TrainingState(Path(folder), {"how": asdict(how), "network": asdict(settings)})
    first = 0 if keep is None else keep.restore(network, optimiser)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)
    placed = [_placed(example, accelerator.device) for example in examples]
    bar = tqdm(
        range(first, how.steps),
        initial=first,
        total=how.steps,
        desc="training",
        disable=not (show_progress_bar and accelerator.is_main_process),
    )
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = how.rate(step)
        drawn, loss = _step_loss(wrapped, placed, how, step, accelerator.process_index)
        value = float(loss.detach())
        if not isfinite(value):
            kept = "" if keep is None else f"; the last good state is in {keep.folder}"
            raise FloatingPointError(f"the loss is {value} at step {step}, on {', '.join(drawn)}{kept}")
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), how.clip)
        optimiser.step()
        progress(step, value)
        bar.set_postfix(loss=f"{value:.4f}")
        if keep is not None and accelerator.is_main_process and (step + 1) % how.save_every == 0:
            keep.save(network, optimiser, step + 1)
    return C2STi(settings, network=network.cpu().eval(), card={"training": asdict(how), "examples": len(examples)})


def _accelerator(device: str) -> Any:
    try:
        import accelerate  # noqa: PLC0415 - heavy, and only training needs it
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "c2sti[train]"') from error
    # Without H&E a step leaves the picture's encoder untouched, which processes have to expect of each other.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])


def _placed(example: Example, device: torch.device) -> Example:
    where = str(device)
    return replace(
        example, scene=example.scene.to(where), basis=example.basis.to(where), truth=example.truth.to(device)
    )


def _step_loss(
    objective: nn.Module, examples: Sequence[Example], how: TrainConfig, step: int, process: int
) -> tuple[list[str], Tensor]:
    rng = np.random.default_rng([how.seed, step, process])
    chosen = [examples[i] for i in rng.choice(len(examples), how.batch, replace=how.batch > len(examples))]
    losses = []
    for example in chosen:
        n_genes = example.truth.shape[1]
        genes = np.sort(rng.permutation(n_genes)[: how.genes])
        turned = turn(_fewer(example, how.panel, rng), int(rng.integers(4)), bool(rng.integers(2)))
        losses.append(objective(turned, torch.as_tensor(genes, device=example.truth.device)))
    return [example.name for example in chosen], torch.stack(losses).mean()


def _fewer(example: Example, n_panel: int, rng: np.random.Generator) -> Example:
    """The example with some of the panel's genes."""
    scene = example.scene
    n_genes = scene.propagation.shape[0]
    genes = torch.as_tensor(np.sort(rng.permutation(n_genes)[:n_panel]), device=scene.propagation.device)
    fewer = replace(scene, panel=tuple(p[genes] for p in scene.panel), propagation=scene.propagation[genes][:, genes])
    return replace(example, scene=fewer)


def turn(example: Example, quarters: int, mirrored: bool) -> Example:
    """The example turned by quarters of a circle (and mirrored first): same tissue, another slide.

    Parameters
    ----------
    example
        To be turned; it stays as it is.
    quarters
        Quarter turns, as ``torch.rot90`` counts them: each takes +x to -y, up the slide.
    mirrored
        Whether to mirror x first.
    """
    scene = example.scene

    def moved(maps: Tensor) -> Tensor:
        maps = maps.flip(-1) if mirrored else maps
        return torch.rot90(maps, quarters, dims=(-2, -1)).contiguous()

    points = (example.points - np.asarray(scene.lattice.origin)) / scene.lattice.pitch
    height, width = scene.lattice.shape
    if mirrored:
        points = np.column_stack([width - 1 - points[:, 0], points[:, 1]])
    for _ in range(quarters % 4):
        points = np.column_stack([points[:, 1], width - 1 - points[:, 0]])
        height, width = width, height
    motion = example.motion
    if motion is not None:
        dx, dy = motion[0::2], motion[1::2]
        dx = -dx if mirrored else dx
        for _ in range(quarters % 4):
            dx, dy = dy, -dx
        motion = moved(torch.stack([dx, dy], dim=1).flatten(0, 1))
    turned = replace(scene.each(moved), lattice=Lattice((0.0, 0.0), 1.0, (height, width)))
    return replace(example, scene=turned, points=points, motion=motion)


@dataclass(frozen=True)
class TrainingState:
    """State of a run on disk: weights and moments by safetensors, step and settings by JSON.

    Parameters
    ----------
    folder
        Where it is kept.
    settings
        Of the run; a state with others is refused.
    """

    folder: Path
    settings: dict[str, Any]

    def save(self, network: Network, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Write the state after `step` steps; the file is whole or not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        # Step and settings travel inside the one file, so that they cannot belong to other weights.
        metadata = {"progress": json.dumps({"step": step, **self.settings})}
        (self.folder / f"{STATE}.part").write_bytes(save(tensors, metadata=metadata))
        (self.folder / f"{STATE}.part").replace(self.folder / STATE)

    def restore(self, network: Network, optimiser: torch.optim.Optimizer) -> int:
        """Take up the state that is there, and say after how many steps it was written; 0 where there is none."""
        path = self.folder / STATE
        if not path.is_file():
            return 0
        progress = _metadata(path)
        step = int(progress.pop("step"))
        if progress != json.loads(json.dumps(self.settings)):
            raise ValueError(f"{path} is the state of a run with other settings; train into another folder")
        tensors = load_file(path)
        network.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
        for name, parameter in network.named_parameters():
            moments = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if moments:
                optimiser.state[parameter] = moments
        return step


def _metadata(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return json.loads(header["__metadata__"]["progress"])
