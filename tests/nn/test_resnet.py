"""The ResNet-50 of H&E: where weights come from, what is refused, and where features land."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from c2sti.nn import resnet
from c2sti.nn.resnet import ResNet50Features, load_resnet50

pytest.importorskip("monai")


def resnet50_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-50, written down from the architecture and not from MONAI."""
    layout: dict[str, tuple[int, ...]] = {}

    def convolution(conv: str, norm: str, *shape: int) -> None:
        layout[f"{conv}.weight"] = shape
        layout.update({f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")})
        layout[f"{norm}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", 64, 3, 7, 7)
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", f"{name}.bn1", width, channels, 1, 1)
            convolution(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            convolution(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    return layout | {"fc.weight": (1000, channels), "fc.bias": (1000,)}


def made(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if not shape:
        return torch.tensor(7)
    value = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return value / np.sqrt(np.prod(shape[1:]))
    return value.abs() + 0.5 if key.endswith(("running_var", "weight")) else value * 0.1


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A ResNet-50 that nobody trained, as torchvision would save it."""
    generator = torch.Generator().manual_seed(0)
    return {key: made(key, shape, generator) for key, shape in resnet50_layout().items()}


@pytest.fixture(scope="module")
def safetensors_file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def encoder(safetensors_file: Path) -> ResNet50Features:
    return load_resnet50(safetensors_file)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(3, 75, 98, generator=torch.Generator().manual_seed(1))


def saved(state: Any, folder: Path, name: str = "weights.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def test_features_are_those_of_a_resnet50_written_by_hand(
    encoder: ResNet50Features, state: dict[str, Tensor], picture: Tensor
) -> None:
    """Torch's functions on the state dict itself: neither MONAI nor the loader can agree with this by accident."""

    def convolve(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (state[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, mean, var, scale, shift)

    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = convolve(((picture - mean) / std)[None], "conv1", "bn1", stride=2).relu()
    x = nn.functional.max_pool2d(x, 3, 2, 1)
    for block in ("layer1.0", "layer1.1", "layer1.2"):
        inner = convolve(x, f"{block}.conv1", f"{block}.bn1").relu()
        inner = convolve(inner, f"{block}.conv2", f"{block}.bn2").relu()
        skip = convolve(x, f"{block}.downsample.0", f"{block}.downsample.1") if block == "layer1.0" else x
        x = (convolve(inner, f"{block}.conv3", f"{block}.bn3") + skip).relu()
    expected = resnet.on_lattice(x[0], (11, 14), (75, 98), 4)
    torch.testing.assert_close(encoder(picture, (11, 14)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_layouts_and_endings_mean_the_same_weights(
    encoder: ResNet50Features, state: dict[str, Tensor], picture: Tensor, prefix: str, tmp_path: Path
) -> None:
    renamed = {prefix + key: value for key, value in state.items()} | {"head.weight": torch.zeros(2, 2)}
    if prefix:
        file = tmp_path / "renamed.safetensors"
        save_file(renamed, file)
    else:
        file = saved(renamed, tmp_path)
    assert torch.equal(load_resnet50(str(file))(picture, (9, 12)), encoder(picture, (9, 12)))


def test_what_training_programs_save_around_the_weights_is_ignored(
    encoder: ResNet50Features, state: dict[str, Tensor], picture: Tensor, tmp_path: Path
) -> None:
    """Wrapped, in half precision, without classifier and counters."""
    bare = {k: v.half() for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}
    file = saved({"epoch": 3, "state_dict": bare}, tmp_path, "weights.pt")
    features = load_resnet50(file)(picture, (9, 12))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, encoder(picture, (9, 12)), rtol=0.02, atol=0.02)


def test_weights_of_something_else(tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(shape) for key, shape in resnet50_layout().items()}  # of which one 0 is saved

    def refused(changed: Any, message: str) -> None:
        file = saved(changed, tmp_path)
        with pytest.raises(ValueError, match=message) as caught:
            load_resnet50(file)
        assert str(file) in str(caught.value)

    missing = {f"module.{k}": v for k, v in state.items() if k not in ("layer2.1.bn2.bias", "layer4.0.conv3.weight")}
    refused(missing, r"lacks module\.layer2\.1\.bn2\.bias, expected of shape \(128,\) in a ResNet-50")
    del missing["module.layer1.0.conv1.weight"]
    refused(missing, r"lacks conv1\.weight.*it has module\.conv1\.weight")
    shape = state | {"layer3.0.conv2.weight": torch.zeros(256, 256, 1, 1)}
    refused(shape, r"layer3\.0\.conv2\.weight has shape \(256, 256, 1, 1\), expected \(256, 256, 3, 3\)")
    refused(state | {"layer3.6.conv1.weight": torch.zeros(1)}, r"has layer3\.6\.conv1\.weight, which a ResNet-50 has")
    refused(state | {f"ema.{k}": v for k, v in state.items()}, r"several networks \(, ema\.\)")
    refused({"epoch": 3}, "holds a dict without tensors")
    refused([torch.zeros(2)], "holds a list without tensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"no checkpoint", "cannot be read as a .safetensors file"),
        ("model.safetensors", b"", "cannot be read as a .safetensors file"),
        ("model.pth", b"no checkpoint", "cannot be read as a file of weights"),
        ("model.pth", b"", "cannot be read as a file of weights"),
        ("model.pt", b"PK\x03\x04 torn", "cannot be read as a file of weights"),
        ("model.onnx", b"", "ends in '.onnx', expected one of .safetensors, .pt, .pth"),
    ],
)
def test_files_that_are_no_checkpoint(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_resnet50(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_objects_of_a_program_are_not_unpickled(tmp_path: Path) -> None:
    file = saved({"state_dict": {}, "settings": SimpleNamespace()}, tmp_path)
    with pytest.raises(ValueError, match=r"weights.pth cannot be read .*pickles objects of some program.*state_dict"):
        load_resnet50(file)


@pytest.mark.parametrize("weights", [Path("timm/resnet50.a1_in1k"), "resnet50", "weights/resnet50.pth", "a/b/c"])
def test_neither_a_file_nor_a_name(weights: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*weights= takes a file"):
        load_resnet50(weights)


def test_a_name_is_fetched_from_the_hub(
    safetensors_file: Path, encoder: ResNet50Features, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(*what: str) -> str:
        asked.append(what)
        return str(safetensors_file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    fetched = load_resnet50("timm/resnet50.a1_in1k")
    assert asked == [("timm/resnet50.a1_in1k", "model.safetensors")]
    assert torch.equal(fetched(picture, (5, 5)), encoder(picture, (5, 5)))


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("no such name"), RuntimeError("closed")])
def test_a_hub_out_of_reach(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*what: str) -> str:
        raise error

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    message = (
        rf"model\.safetensors of timm/resnet50\.a1_in1k could not be had.*{error}.*path as weights=.*small encoder"
    )
    with pytest.raises(OSError, match=message):
        load_resnet50("timm/resnet50.a1_in1k")


@pytest.mark.parametrize("missing", ["monai.networks.nets", "huggingface_hub"])
def test_a_missing_package_is_named_with_its_extra(
    missing: str, safetensors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf'needs {missing.split(".")[0]}: pip install "c2sti\[histology\]"'):
        load_resnet50("timm/resnet50.a1_in1k" if missing == "huggingface_hub" else safetensors_file)


@pytest.mark.parametrize(("stage", "channels"), [("layer2", 512), ("layer4", 2048)])
def test_stages(stage: resnet.Stage, channels: int, safetensors_file: Path, picture: Tensor) -> None:
    encoder = load_resnet50(safetensors_file, stage=stage)
    features = encoder(picture, (7, 6))
    assert encoder.channels == channels
    assert features.shape == (channels, 7, 6)
    assert features.isfinite().all()
    assert (features >= 0).all()
    assert features.std() > 0


def test_an_unknown_stage() -> None:
    with pytest.raises(ValueError, match="stage='layer5' is none of a ResNet-50's: layer1, layer2, layer3, layer4"):
        load_resnet50("nowhere.pth", stage="layer5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((75, 98), (75, 98)), ((75, 98), (1, 1)), ((7, 5), (3, 9)), ((1, 90), (1, 30)), ((33, 64), (41, 2))],
)
def test_any_picture_meets_any_lattice(
    encoder: ResNet50Features, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    features = encoder(torch.rand(3, *size, generator=torch.Generator().manual_seed(2)), shape)
    assert features.shape == (256, *shape)
    assert features.isfinite().all()


@pytest.mark.parametrize("size", [(3, 4, 4, 1), (4, 40, 40), (40, 40, 3)])
def test_other_pictures_are_refused(encoder: ResNet50Features, size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image has shape .*expected \(3, h, w\)"):
        encoder(torch.zeros(size), (4, 4))


def test_a_blank_picture_has_the_same_features_everywhere_inside(encoder: ResNet50Features) -> None:
    features = encoder(torch.full((3, 96, 96), 0.6), (24, 24))[:, 8:-8, 8:-8]
    torch.testing.assert_close(features, features[:, :1, :1].expand_as(features))


def test_no_picture_no_features_and_no_edge(encoder: ResNet50Features, picture: Tensor) -> None:
    """Unknown pixels are finite, silent, and of the mean colour to their neighbours; bins far off do not notice."""
    torn = picture.clone()
    torn[:, :, 60:] = torch.nan
    features = encoder(torn, (15, 14))
    assert features.isfinite().all()
    assert not features[:, :, 9:].any()
    assert features[:, :, 8].any()
    torch.testing.assert_close(features[:, :, :4], encoder(picture, (15, 14))[:, :, :4])
    assert not encoder(torch.full((3, 40, 40), torch.nan), (5, 5)).any()


def test_features_lie_where_their_tissue_is(encoder: ResNet50Features) -> None:
    """A spot in the image moves the features around it: their centre of change is the spot, in both directions."""
    size, spot = 128, (70, 49)
    blank = torch.full((3, size, size), 0.5)
    marked = blank.clone()
    marked[:, spot[0] - 1 : spot[0] + 2, spot[1] - 1 : spot[1] + 2] = 1
    change = (encoder(marked, (size, size)) - encoder(blank, (size, size))).abs().mean(dim=0)
    along = torch.arange(size) / change.sum()
    assert float(change.sum(dim=1) @ along) == pytest.approx(spot[0], abs=0.8)
    assert float(change.sum(dim=0) @ along) == pytest.approx(spot[1], abs=0.8)


@pytest.mark.parametrize("bins", [5, 16, 64, 100])
def test_a_linear_field_arrives_at_the_centres_of_bins(bins: int) -> None:
    """Known answer: cell i holds 4·i, so bin j reads its own centre, whether it is finer or coarser than a cell."""
    size, stride = 64, 4
    cells = torch.arange(size // stride, dtype=torch.float64) * stride
    field = torch.stack(torch.meshgrid(cells, cells * 2, indexing="ij"))
    centre = (torch.arange(bins) + 0.5) * size / bins - 0.5
    inside = (centre >= size / bins) & (centre <= cells[-1] - size / bins)
    got = resnet.on_lattice(field, (bins, bins), (size, size), stride)
    assert inside.any()
    np.testing.assert_allclose(got[0][inside], centre[inside, None].expand(-1, bins), atol=1e-9)
    np.testing.assert_allclose(got[1][:, inside], 2 * centre[inside].expand(bins, -1), atol=1e-9)


def test_nothing_is_trainable(encoder: ResNet50Features, picture: Tensor) -> None:
    before = encoder(picture, (4, 4))
    host = nn.Sequential(encoder)
    host.train()
    assert not any(part.training for part in encoder.modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    coloured = picture.clone().requires_grad_()
    assert not encoder(coloured, (4, 4)).requires_grad
    assert torch.equal(encoder(picture, (4, 4)), before)


def test_constants_travel_with_the_module_and_not_with_its_weights(encoder: ResNet50Features) -> None:
    keys = encoder.state_dict().keys()
    assert not {"mean", "std"} & keys
    assert not any("layer2" in key for key in keys)
    again = ResNet50Features(resnet.resnet50())
    again.load_state_dict(encoder.state_dict())
    half = torch.full((3, 40, 40), 0.25)
    assert torch.equal(again(half, (4, 4)), encoder(half, (4, 4)))
    assert again.double()(half, (4, 4)).dtype == torch.float64


def test_building_one_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    first, second = resnet.resnet50(), resnet.resnet50()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.get_parameter("conv1.weight"), second.get_parameter("conv1.weight"))


def test_devices(encoder: ResNet50Features, picture: Tensor, device: str) -> None:
    moved = copy.deepcopy(encoder).to(device)
    features = moved(picture.to(device), (6, 8))
    assert features.device.type == device
    torch.testing.assert_close(features.cpu(), encoder(picture, (6, 8)), rtol=1e-2, atol=1e-2)
