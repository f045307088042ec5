"""The paper's own encoder of H&E (section 2.1): a ResNet-50, with weights that the user brings.

The default encoder is a small one inside the bundled checkpoint; this one is an option beside it. The network is
MONAI's, whose layout is torchvision's, so the usual ImageNet checkpoints fit without renaming. It stays as it was
trained: it describes the image, and what follows it learns.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from c2sti.ops import bilinear

Stage = Literal["layer1", "layer2", "layer3", "layer4"]
CHANNELS: dict[Stage, int] = {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
STRIDE: dict[Stage, int] = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_SIDE = 32  # pixels: below, even the first stage has too few cells to be spread over a lattice

HUB_FILE = "model.safetensors"  # where timm's repositories keep their weights
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
ENDINGS = (".safetensors", ".pt", ".pth")
ANCHOR = "layer1.0.conv1.weight"  # one per ResNet; what stands before it is the prefix of all its keys
WRAPPERS = ("state_dict", "model")  # entries in which training programs put the weights beside their own state


class ResNet50Features(nn.Module):
    """Frozen features of an H&E image, one vector per bin of a lattice.

    Parameters
    ----------
    network
        A ResNet-50 as :func:`resnet50` builds it. Only what leads up to `stage` is kept.
    stage
        Whose output is taken: ``"layer1"`` (256 channels, one cell per 4 × 4 pixels) to ``"layer4"`` (2048 channels,
        one cell per 32 × 32 pixels). Later stages see more tissue around a bin and place it less exactly.

    Attributes
    ----------
    channels
        C, the channels of `stage`.

    Notes
    -----
    The paper does not say which stage it takes. The first is the default: bins are small beside an image's cells.
    An image costs about 0.3 kB of memory per pixel while it is looked at, 1.2 GB at 2000 × 2000.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, stage: Stage = "layer1") -> None:
        super().__init__()
        stages = get_args(Stage)
        if stage not in stages:
            raise ValueError(f"stage={stage!r} is none of a ResNet-50's: {', '.join(stages)}")
        kept = ["conv1", "bn1", "act", "maxpool", *stages[: stages.index(stage) + 1]]
        self.network = nn.Sequential(OrderedDict((name, getattr(network, name)) for name in kept))
        self.channels = CHANNELS[stage]
        self.stride = STRIDE[stage]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ResNet50Features:
        """Stay as trained, whatever mode the network around it is set to: batch norms keep ImageNet's statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor, shape: tuple[int, int]) -> Tensor:
        """(C, H, W) features ≥ 0 on a lattice of that shape, all 0 in bins of which no pixel is known.

        The (3, h, w) image has colours in [0, 1], NaN where there is none. It covers the lattice edge to edge.
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected (3, h, w): red, green, blue")
        image = image.to(self.mean)
        known = image.isfinite().all(dim=0, keepdim=True)
        whole = at_least(without_gaps(image, known), LEAST_SIDE)
        features = self.network(((whole - self.mean) / self.std)[None])[0]
        seen = functional.adaptive_avg_pool2d(known.to(image), shape) > 0
        return on_lattice(features, shape, (whole.shape[1], whole.shape[2]), self.stride) * seen


def without_gaps(image: Tensor, known: Tensor) -> Tensor:
    """(3, h, w) image with its mean colour where `known` (1, h, w) is false: the least of an edge."""
    mean = torch.where(known, image, 0).sum(dim=(1, 2), keepdim=True) / known.sum().clamp(min=1)
    return torch.where(known, image, mean)


def at_least(image: Tensor, side: int) -> Tensor:
    """(3, h, w) image, enlarged in proportion where its shorter side is below `side` pixels."""
    shorter = min(image.shape[1:])
    if shorter >= side:
        return image
    size = [round(n * side / shorter) for n in image.shape[1:]]
    return functional.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def on_lattice(features: Tensor, shape: tuple[int, int], size: tuple[int, int], stride: int) -> Tensor:
    """(C, H, W) features on the bins of a lattice: bilinear where bins are the finer, their mean where cells are.

    The (C, h', w') cells lie `stride` pixels apart in an image of (h, w) pixels, which covers the lattice edge to edge.
    A ResNet pads each strided layer by half its kernel, so that cell (i, j) is centred on pixel (stride·i, stride·j),
    not on the middle of a stride × stride block. Stretching the map over the lattice would misplace tissue by up to
    half a stride.
    """
    points, samples = [], []  # per axis: where to look, in cells; how often per bin
    for bins, pixels in zip(shape, size, strict=True):
        often = max(1, -(-pixels // (bins * stride)))
        n = bins * often
        pixel = (torch.arange(n, dtype=features.dtype, device=features.device) + 0.5) * (pixels / n) - 0.5
        points.append(pixel / stride)
        samples.append(often)
    y, x = torch.meshgrid(*points, indexing="ij")
    return functional.avg_pool2d(bilinear(features, torch.stack([x, y], dim=-1))[None], samples)[0]


def load_resnet50(weights: str | Path, *, stage: Stage = "layer1") -> ResNet50Features:
    """Build the encoder with trained weights.

    Parameters
    ----------
    weights
        A file (.safetensors, .pt, .pth) in torchvision's or timm's layout, or the name of a repository on the Hugging
        Face hub, "owner/name", whose ``model.safetensors`` is fetched once and kept in the hub's own cache.
    stage
        Whose output is taken, see :class:`ResNet50Features`.

    Returns
    -------
    The frozen encoder, on the CPU.

    Raises
    ------
    ImportError
        Without MONAI or, for a name, huggingface-hub.
    FileNotFoundError
        Where `weights` is neither a file nor the name of a repository.
    OSError
        Where the hub does not give the file.
    ValueError
        Where the file is no ResNet-50: it cannot be read, or a key is missing, unknown or of another shape.

    Examples
    --------
    >>> encoder = load_resnet50("timm/resnet50.a1_in1k")  # doctest: +SKIP
    >>> encoder(image, (40, 50)).shape  # doctest: +SKIP
    torch.Size([256, 40, 50])
    """
    network = resnet50()
    encoder = ResNet50Features(network, stage=stage)  # shares the network's modules
    file = weights_file(weights)
    network.load_state_dict(matched(read_weights(file), network.state_dict(), file))
    return encoder


def resnet50() -> nn.Module:
    """MONAI's ResNet-50 for colour images: no classifier, weights untrained and the same at every call."""
    nets = histology_extra("monai.networks.nets")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed every GPU, for good
        return nets.ResNetFeatures("resnet50", pretrained=False, spatial_dims=2, in_channels=3)


def histology_extra(name: str) -> ModuleType:
    """Import a module of the histology extra, or raise an error that names the extra."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f'the ResNet-50 of H&E needs {name.split(".")[0]}: pip install "c2sti[histology]"') from error


def weights_file(weights: str | Path) -> Path:
    """The file that `weights` means; a repository's name is fetched."""
    file = Path(weights)
    if file.is_file():
        return file
    if isinstance(weights, str) and HUB_NAME.fullmatch(weights) and file.suffix not in ENDINGS:
        return fetch(weights)
    raise FileNotFoundError(
        f"there is no file {file}; weights= takes a file ({', '.join(ENDINGS)}) or the name of a repository on the "
        f'Hugging Face hub, as in "timm/resnet50.a1_in1k"'
    )


def fetch(repository: str) -> Path:
    """The file of weights of a repository on the hub, from the hub's cache where it has been fetched before."""
    hub = histology_extra("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(repository, HUB_FILE))
    except Exception as error:  # it speaks through one HTTP library or another, each with its own errors
        raise OSError(
            f"{HUB_FILE} of {repository} could not be had from the Hugging Face hub ({type(error).__name__}: {error}). "
            f"Check the name and the connection; or save that file by other means and give its path as weights=; or "
            f"leave weights out: the small encoder, which is the default, needs no download"
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a state dict without running code that a file may bring."""
    if file.suffix not in ENDINGS:
        raise ValueError(f"{file} ends in {file.suffix!r}, expected one of {', '.join(ENDINGS)}")
    content: Any
    try:
        content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as a .safetensors file: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # whose text advises to give up the safe reading
        raise ValueError(
            f"{file} cannot be read as a file of weights and nothing else: it is damaged, no checkpoint, or pickles "
            f"objects of some program; save the state dict alone, by torch.save(model.state_dict(), …)"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{file} holds a {type(content).__name__} without tensors, expected a ResNet-50's state dict")
    return tensors


def matched(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The entries of a state dict that a network takes, under the network's names; an error where they do not fit.

    Prefixes that wrappers leave ("module.", "backbone.", …) are cut off, and classifiers are dropped. Counters of batch
    norms may be missing: nothing that is frozen reads them.
    """
    prefixes = [key.removesuffix(ANCHOR) for key in state if key.endswith(ANCHOR)] or [""]
    if len(prefixes) > 1:
        raise ValueError(f"{file} holds several networks ({', '.join(prefixes)}); save the wanted one alone")
    (prefix,) = prefixes
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    for key, value in expected.items():
        shape = tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
        if key not in found:
            some = ", ".join([*state][:3])
            raise ValueError(f"{file} lacks {prefix}{key}, expected of shape {shape} in a ResNet-50; it has {some}, …")
        if found[key].shape != value.shape:
            got = tuple(found[key].shape)
            raise ValueError(f"{file}: {prefix}{key} has shape {got}, expected {shape} in a ResNet-50")
    for key in found:
        if key.startswith("layer") and key not in expected:
            raise ValueError(f"{file} has {prefix}{key}, which a ResNet-50 has not: is it another ResNet?")
    return {key: found[key] for key in expected}
