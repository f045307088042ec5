"""C2-STi as an interpolator: the network on its lattice, and the baseline prediction that it changes.

Of all genes the network looks at a panel; the components carry what it finds to the rest. Unless it starts from zero,
an untrained network gives the baseline prediction; what it adds is what training gave.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from c2sti import _logging, _validators
from c2sti._tasks import threads_for
from c2sti._types import FloatArray, InterpolatedSection, Lattice, Prediction, Section, SlicePair
from c2sti.models import _checkpoint
from c2sti.models.components import Settings
from c2sti.models.description import Description
from c2sti.models.gp import Describing, blended_mean
from c2sti.models.target_image import with_target_images
from c2sti.nn.c2sti import C2STiConfig, Network, fresh, on_bins
from c2sti.nn.inputs import ModelInputs
from c2sti.nn.resnet import load_resnet50
from c2sti.ops import inference, linear_at, sample

NAME, VERSION = "c2sti", 3  # of a checkpoint
SHRINK = 1e-2  # of the loadings of a panel, as a share of their mean square, where components are fitted to its genes


class BaselineTensors(NamedTuple):
    """A baseline prediction on a device, for the network to change.

    Parameters
    ----------
    maps
        (S, M, K) at the points asked for, of all descriptions side by side.
    basis
        (K, N) loadings.
    means
        (S, N) expression around which the components vary.
    """

    maps: Tensor
    basis: Tensor
    means: Tensor

    def to(self, device: str) -> BaselineTensors:
        """The same, elsewhere."""
        return BaselineTensors(*(tensor.to(device) for tensor in self))


class C2STi(Describing):
    """The network as an interpolator: a model for ``c2sti.tl.interpolate(…, model=…)``.

    Parameters
    ----------
    config
        Settings of the network.
    network
        Trained weights; an untrained network by default, which answers with its base.
    card
        What is known of its training: goes into the checkpoint, and comes back with it.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=8, n_genes=30).series([0.0, 200.0])
    >>> model = c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_components=8))
    >>> out = c2sti.tl.interpolate(a, b, model=model, show_progress_bar=False)
    """

    def __init__(
        self, config: C2STiConfig | None = None, *, network: Network | None = None, card: dict[str, Any] | None = None
    ) -> None:
        _validators.a(config, "config", (C2STiConfig, type(None)), "a c2sti.C2STiConfig")
        _validators.a(card, "card", (dict, type(None)), "a dict")
        self.config = config or C2STiConfig()
        super().__init__(settings_of(self.config), type(self).__name__)
        self.network = network or fresh(self.config, seed=0)
        self.card = dict(card or {})

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[float], object] = lambda share: None,
        description: Description | None = None,
    ) -> Prediction:
        """Interpolate sections; see :class:`c2sti._types.Interpolator`. A description made before is used if given."""
        if description is None:
            description = self.describe(pair, device=device, seed=seed, progress=lambda share: progress(0.5 * share))
        else:
            progress(0.5)  # was done before
        inputs, base = prepare(
            pair, description, at, positions, self.config, device=device, progress=lambda share: progress(0.3 * share)
        )
        network = on_device(self.network, device)
        slices, fields = [], []
        with inference(), threads_for(inputs.n_values):
            moves = self.config.deforms == "maps"
            motion = network.motion(inputs) if moves else None  # else it comes of the features that are deformed
            share = network.reliability(inputs) if moves else 1.0
            whole = base.basis if moves else with_panel(base.basis, inputs.chosen)
            basis = whole.cpu().numpy()  # one for all sections
            for i, p in enumerate(positions):
                found, deformation = network(inputs, p, motion, share)
                found = sample(found, inputs.lattice, description.halfway(at, p))
                # In place: maps may be large.
                weights = base.maps[i].add_(found) if moves else panel_weights(base, i, found, inputs, self.config)
                slices.append(InterpolatedSection(weights.cpu().numpy(), basis, base.means[i].cpu().numpy()))
                fields.append(_moved(deformation.displacement, inputs.lattice, description, p))
                progress(0.2 / len(positions))
        notes = {
            "displacement": np.stack(fields),
            "displacement_reliability": share,
            "weights": self.fingerprint(),
        }
        prediction = Prediction(tuple(slices), notes, description.noise(at, positions))
        if self.config.start == "zero":  # the paper's network, by itself
            return prediction
        return with_target_images(prediction, pair, description, at, positions)

    @classmethod
    def paper(cls, resnet: str | Path | None = None, **settings: Any) -> C2STi:
        """An untrained network as the paper has it, see :meth:`C2STiConfig.paper`.

        Parameters
        ----------
        resnet
            Weights of the ResNet-50 of H&E: a file, or the name of a repository on the Hugging Face hub. By default
            they stay random, which is logged.
        **settings
            Of :class:`C2STiConfig`.
        """
        model = cls(C2STiConfig.paper(**settings), card={"resnet": "random" if resnet is None else str(resnet)})
        if model.network.resnet is None:
            return model
        if resnet is None:
            _logging.warning(
                "the ResNet-50 of H&E has random weights; give trained ones as resnet=, a file or the name of a "
                "repository on the Hugging Face hub"
            )
        else:
            model.network.resnet.load_state_dict(load_resnet50(resnet).state_dict())
        return model

    def fingerprint(self) -> str:
        """Hash of the weights."""
        return _checkpoint.fingerprint(self.network)

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad)
        given = ((f.name, getattr(self.config, f.name), f.default) for f in fields(self.config))
        changed = [f"{name}={value!r}" for name, value, default in given if value != default]
        steps = len(self.card.get("history", {}).get("loss", ())) or self.card.get("training", {}).get("steps")
        trained = f"trained for {steps} steps" if steps else "untrained"
        return f"C2STi({', '.join(changed)}), {n:,} weights, {trained}"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, which is made where it is not.

        Parameters
        ----------
        folder
            Where to.
        overwrite
            Whether a checkpoint that the folder holds may be replaced.

        Raises
        ------
        FileExistsError
            The folder holds a checkpoint.
        OSError
            The folder is a file, or cannot be made.
        """
        how: dict[str, Any] = {"model": NAME, "version": VERSION, "overwrite": overwrite}
        _checkpoint.write(folder, self.network, self.config, self.card, **how)

    @classmethod
    def load(cls, folder: str | Path) -> C2STi:
        """Read a model from the folder that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no checkpoint in the folder.
        ValueError
            It is truncated, of another version, or not one of ours; the message says which.
        """
        build = partial(fresh, seed=0)
        network, config, card = _checkpoint.read(folder, C2STiConfig, build, model=NAME, version=VERSION)
        return cls(config, network=network, card=card)


def on_device(network: Network, device: str) -> Network:
    """The network where the work is done: itself if it is there, else a copy, so that a shared one is not moved."""
    here = next(network.parameters()).device
    return network if here == torch.device(device) else copy.deepcopy(network).to(device)


def settings_of(config: C2STiConfig) -> Settings:
    """How a pair is described for a network of these settings."""
    return Settings(
        config.n_components,
        config.n_splits,
        config.counts,
        config.matern,
        registered=config.registered and config.displacement,
    )


def _moved(found: Tensor, lattice: Lattice, description: Description, p: float) -> FloatArray:
    """(2, H, W) displacement, unit of the frame: of the registration, and (2, h, w) found by the network beside it."""
    own = on_bins(found, lattice.shape).cpu().numpy() * lattice.pitch
    if description.registration is None:
        return own
    whole = (
        linear_at(own, lattice, description.halfway(lattice.centres, p))
        + description.displacement(lattice.centres, p).T
    )
    return whole.reshape(2, *lattice.shape).astype(np.float32)


def values_at(found: Tensor, base: BaselineTensors, inputs: ModelInputs, config: C2STiConfig, genes: Tensor) -> Tensor:
    """(M, G) log expression of the first section at its points, from what the network says there.

    That is the (M, D·K) change of the maps, or (M, N_p) of the panel's genes, which (G,) `genes` are then.
    """
    if config.deforms == "maps":
        return (base.maps[0] + found) @ base.basis[:, genes] + base.means[0, genes]
    values = found * inputs.scale + base.means[0, genes]
    return values if config.start == "zero" else values + base.maps[0] @ base.basis[:, genes]


def with_panel(basis: Tensor, chosen: Tensor) -> Tensor:
    """(D·K + N_p, N) loadings of the components, and below them one row for each gene of the panel."""
    own = torch.zeros(len(chosen), basis.shape[1]).to(basis)
    own[torch.arange(len(own)), chosen] = 1
    return torch.cat([basis, own])


def panel_weights(base: BaselineTensors, i: int, found: Tensor, inputs: ModelInputs, config: C2STiConfig) -> Tensor:
    """(M, D·K + N_p) weights of section i: panel genes as the network gives them, the others by the components.

    What it gives is (M, N_p) standardised expression, or what is added to that of the baseline prediction.
    """
    change = found * inputs.scale
    loadings = base.basis[:, inputs.chosen]
    square = loadings @ loadings.T
    square = square + SHRINK * square.diagonal().mean().clamp(min=1e-12) * torch.eye(len(square)).to(square)
    fitted = torch.linalg.solve(square, loadings @ change.T).T  # (M, D·K)
    maps = fitted if config.start == "zero" else base.maps[i] + fitted
    return torch.cat([maps, change - fitted @ loadings], dim=1)


def prepare(
    pair: SlicePair,
    description: Description,
    at: FloatArray,
    positions: Sequence[float],
    config: C2STiConfig,
    *,
    device: str,
    progress: Callable[[float], object] = lambda share: None,
) -> tuple[ModelInputs, BaselineTensors]:
    """What the network looks at, and the baseline prediction at points and positions that it changes, on a device."""
    lattice = pair.lattice.coarsened(config.bins)
    ends, maps = description.with_ends(lattice.centres, at, positions, lambda share: progress(0.8 * share))
    first, second = (torch.as_tensor(end).T.reshape(-1, *lattice.shape).contiguous() for end in ends)
    power = 2 if "graph" in config.printed else 1
    inputs = ModelInputs.of(halfway(pair, description), lattice, (first, second), n_genes=config.panel, power=power)
    means = np.stack([blended_mean(pair.sections, p) for p in positions]).astype(np.float32)
    base = BaselineTensors(*map(torch.as_tensor, (maps, description.basis, means)))
    progress(0.2)
    return inputs.to(device), base.to(device)


def halfway(pair: SlicePair, description: Description) -> SlicePair:
    """The pair with spots and images where their tissue lies halfway between its sections, if it was registered."""
    if description.registration is None:
        return pair

    centres = pair.lattice.centres

    def own(section: Section) -> Section:
        xy = description.halfway(section.xy, section.position)
        return moved(section, xy, pair.lattice, description.at_section(centres, section.position))

    a, b, *context = map(own, pair.sections)
    targets = {p: maps_at(im, pair.lattice, description.at_section(centres, p)) for p, im in pair.targets.items()}
    return replace(pair, a=a, b=b, context=tuple(context), targets=targets)


def moved(section: Section, xy: FloatArray, lattice: Lattice, places: FloatArray) -> Section:
    """The section with its spots at other places, and with images that show what they showed at (H·W, 2) places."""
    given = section.histology, section.features
    histology, features = (None if maps is None else maps_at(maps, lattice, places) for maps in given)
    return replace(section, xy=xy, histology=histology, features=features)


def maps_at(maps: FloatArray, lattice: Lattice, places: FloatArray) -> FloatArray:
    """(C, H, W) of what maps show at other (H·W, 2) places; NaN beyond them."""
    return linear_at(maps, lattice, places, beyond=np.nan).reshape(-1, *lattice.shape).astype(np.float32)
