"""The four properties of the network, with weights that are not zero, and its checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from c2sti import io
from c2sti._types import SlicePair
from c2sti.datasets import phantom
from c2sti.models.c2sti import C2STi, C2STiConfig, prepare
from c2sti.models.components import Settings, describe
from c2sti.models.gp import Baseline
from c2sti.nn.inputs import ModelInputs
from c2sti.ops import sample

SMALL = C2STiConfig(n_components=12, n_splits=1, panel=24, channels=6)


def awake(config: C2STiConfig = SMALL, seed: int = 0) -> C2STi:
    """A model whose heads are not zero: what a trained one looks like."""
    model = C2STi(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def grids() -> list[io.SliceGrid]:
    return [io.read_slice(s) for s in phantom(seed=1, size=9, n_genes=40).series([0.0, 150.0, 300.0, 450.0])]


@pytest.fixture(scope="module")
def pair(grids: list[io.SliceGrid]) -> SlicePair:
    return io.make_pair(grids[1], grids[2], context={-1.0: grids[0], 2.0: grids[3]})[0]


@pytest.fixture(scope="module")
def swapped(grids: list[io.SliceGrid]) -> SlicePair:
    return io.make_pair(grids[2], grids[1], context={2.0: grids[0], -1.0: grids[3]})[0]


def answer(model: C2STi, pair: SlicePair, t: float) -> np.ndarray:
    return model(pair, pair.lattice.centres, [t]).slices[0].expression()


def inputs_of(model: C2STi, pair: SlicePair, t: float) -> ModelInputs:
    description = model.describe(pair, device="cpu", seed=0)
    return prepare(pair, description, pair.a.xy, [t], model.config, device="cpu")[0]


def test_untrained_it_is_its_baseline(pair: SlicePair) -> None:
    model = C2STi(C2STiConfig(n_splits=0, matern=False))
    expected = Baseline(model.settings)(pair, pair.lattice.centres, [0.3]).slices[0].expression()
    np.testing.assert_allclose(answer(model, pair, 0.3), expected, atol=1e-5)


def test_trained_it_is_not_its_base(pair: SlicePair) -> None:
    found = answer(awake(), pair, 0.3)
    assert np.abs(found - answer(C2STi(SMALL), pair, 0.3)).max() > 0.01
    assert found.min() >= 0


def test_swapping_the_sections_changes_nothing(pair: SlicePair, swapped: SlicePair) -> None:
    model = awake()
    np.testing.assert_allclose(answer(model, pair, 0.3), answer(model, swapped, 0.7), atol=1e-5)


def test_permuting_the_genes_permutes_the_answer(pair: SlicePair) -> None:
    model = awake()
    order = np.random.default_rng(0).permutation(pair.n_genes)
    np.testing.assert_allclose(answer(model, pair.subset(order), 0.3), answer(model, pair, 0.3)[:, order], atol=1e-5)


def test_one_model_takes_any_number_of_genes(pair: SlicePair) -> None:
    few = pair.subset(np.arange(15))
    assert answer(awake(), few, 0.5).shape == (len(pair.lattice.centres), 15)


def test_equal_sections_are_not_moved(grids: list[io.SliceGrid]) -> None:
    alone = io.make_pair(grids[1], grids[2])[0]
    same = dataclasses.replace(alone, b=dataclasses.replace(alone.a, position=1.0))
    model = awake()
    assert np.abs(model(same, same.a.xy, [0.3]).notes["displacement"]).max() == 0
    assert np.abs(model(alone, same.a.xy, [0.3]).notes["displacement"]).max() > 0.01


def test_nothing_moves_and_nothing_is_added_at_the_ends(pair: SlicePair) -> None:
    model = awake()
    inputs = inputs_of(model, pair, 0.5)
    with torch.no_grad():
        for t in (0.0, 1.0):
            assert model.network(inputs, t)[1].displacement.abs().max() == 0
            assert model.network(inputs, t)[0].abs().max() == 0
        assert model.network(inputs, 0.5)[0].abs().max() > 0


def test_motion_is_as_reliable_as_two_halves_of_the_genes_agree(pair: SlicePair) -> None:
    model = awake()
    inputs = inputs_of(model, pair, 0.5)
    network = model.network
    first, second = inputs.halves()
    assert len(first.propagation) + len(second.propagation) == len(inputs.propagation)
    twice = dataclasses.replace(inputs, panel=tuple(p.repeat_interleave(2, dim=0) for p in inputs.panel))
    both = {name: getattr(inputs, name).repeat_interleave(2) for name in ("chosen", "scale")}
    twice = dataclasses.replace(twice, propagation=torch.eye(len(twice.panel[0])), **both)
    with torch.no_grad():
        assert 0 <= network.reliability(inputs) < 0.999
        assert network.reliability(twice) == pytest.approx(1)  # both halves hold every gene once
        assert network.reliability(inputs.genes(torch.arange(5))) == 0
        assert C2STi(SMALL).network.reliability(inputs) == 0
        half, whole = (network.deformations(inputs, 0.3, network.motion(inputs), share)[0] for share in (0.5, 1.0))
    torch.testing.assert_close(half.displacement, whole.displacement / 2)


def test_histology_matters_and_may_be_missing(pair: SlicePair) -> None:
    model = awake()
    assert all(s.histology is not None for s in pair.sections)
    one = dataclasses.replace(pair, b=dataclasses.replace(pair.b, histology=None))
    none = dataclasses.replace(one, a=dataclasses.replace(pair.a, histology=None), context=())
    answers = [answer(model, p, 0.5) for p in (pair, one, none)]
    assert all(np.isfinite(a).all() for a in answers)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4
    blind = awake(dataclasses.replace(SMALL, cross_modal=False))
    np.testing.assert_allclose(answer(blind, pair, 0.5), answer(blind, one, 0.5), atol=1e-6)


def test_switches_take_their_part_away(pair: SlicePair) -> None:
    still = awake(dataclasses.replace(SMALL, displacement=False))
    assert np.abs(still(pair, pair.a.xy, [0.3]).notes["displacement"]).max() == 0
    inputs = inputs_of(still, pair, 0.3)
    fixed = awake(dataclasses.replace(SMALL, dlsm=False))
    assert (fixed.network.positions(inputs, 0.3) == 0.3).all()
    assert still.network.positions(inputs, 0.3).std() > 0
    with torch.no_grad():
        other = dataclasses.replace(inputs, propagation=torch.eye(len(inputs.propagation)))
        for model, same in ((still, False), (awake(dataclasses.replace(SMALL, graph=False)), True)):
            one, two = model.network.nodes(inputs)[0][0], model.network.nodes(other)[0][0]
            assert torch.equal(one, two) == same


def test_context_reaches_the_network_by_a_learnt_scale(pair: SlicePair) -> None:
    model = awake()
    inputs = inputs_of(model, pair, 0.5)
    other = dataclasses.replace(inputs, panel=(*inputs.panel[:2], -inputs.panel[2], inputs.panel[3]))
    with torch.no_grad():
        assert (model.network(inputs, 0.5)[0] - model.network(other, 0.5)[0]).abs().max() > 0
        model.network.context.zero_()
        torch.testing.assert_close(model.network(inputs, 0.5)[0], model.network(other, 0.5)[0])


@pytest.mark.parametrize("most", [5, 0])
def test_where_memory_is_short_fewer_genes_are_encoded_at_a_time(
    pair: SlicePair, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = awake()
    inputs, encode = inputs_of(model, pair, 0.4), model.network.encoder.forward
    with torch.no_grad():
        whole = model.network(inputs, 0.4)[0]

    def short_of_memory(aligned: torch.Tensor) -> list[torch.Tensor]:
        if len(aligned) > most:
            raise torch.OutOfMemoryError("simulated")
        return encode(aligned)

    monkeypatch.setattr(model.network.encoder, "forward", short_of_memory)
    with pytest.warns(UserWarning, match="of memory with (24|12|6|3|2) genes of the panel at a time; continuing with"):
        if most == 0:
            with pytest.raises(torch.OutOfMemoryError):
                model.network.nodes(inputs)
            return
        with torch.no_grad():
            torch.testing.assert_close(model.network(inputs, 0.4)[0], whole, atol=1e-5, rtol=0)


def test_it_runs_where_it_is_told(pair: SlicePair, device: str) -> None:
    found = awake()(pair, pair.a.xy, [0.4], device=device).slices[0].expression()
    np.testing.assert_allclose(found, awake()(pair, pair.a.xy, [0.4]).slices[0].expression(), atol=1e-4)


def test_a_large_lattice_is_looked_at_coarsely(pair: SlicePair) -> None:
    fine = dataclasses.replace(pair.lattice, shape=(300, 129))
    made = fine.coarsened(C2STiConfig().bins)
    assert made.shape == (100, 43)
    assert made.pitch == 3 * fine.pitch
    np.testing.assert_allclose(made.centres[0], fine.centres.reshape(300, 129, 2)[1, 1])
    assert pair.lattice.coarsened(C2STiConfig().bins) is pair.lattice


def test_the_inputs_say_what_is_there(pair: SlicePair) -> None:
    description = describe(pair.sections, pair.spacing, pair.keys, Settings(n_components=4, n_splits=0))
    inputs, base = prepare(pair, description, pair.a.xy, [0.5], C2STiConfig(panel=10), device="cpu")
    shape = pair.lattice.shape
    assert [p.shape for p in inputs.panel] == [(10, 2, *shape)] * 4
    assert inputs.propagation.shape == (10, 10)
    assert base.maps.shape == (1, len(pair.a.xy), 4)
    assert base.means.shape == (1, pair.n_genes)
    mask = inputs.panel[0][0, 1]
    assert 0 < mask.mean() < 1
    assert (inputs.panel[0][:, 0, mask == 0] == 0).all()


# ---- checkpoints


def test_a_checkpoint_comes_back_as_it_was(pair: SlicePair, tmp_path: Path) -> None:
    model = awake()
    model.card = {"note": "made for a test"}
    model.save(tmp_path / "checkpoint")
    loaded = C2STi.load(tmp_path / "checkpoint")
    assert loaded.config == model.config
    assert loaded.card == model.card
    assert loaded.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(answer(loaded, pair, 0.4), answer(model, pair, 0.4))
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["config.json", "model.safetensors"]


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    model = awake()

    def saved(name: str) -> Path:
        model.save(tmp_path / name, overwrite=True)
        return tmp_path / name

    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        C2STi.load(tmp_path)
    truncated = saved("truncated")
    whole = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        C2STi.load(truncated)
    older = saved("older")
    settings = json.loads((older / "config.json").read_text())
    (older / "config.json").write_text(json.dumps({**settings, "format": 0}))
    with pytest.raises(ValueError, match="has format 0"):
        C2STi.load(older)
    (older / "config.json").write_text(json.dumps({**settings, "model": "rife"}))
    with pytest.raises(ValueError, match="not the settings of a c2sti model"):
        C2STi.load(older)
    (older / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        C2STi.load(older)
    (older / "config.json").write_text(json.dumps({**settings, "config": {**settings["config"], "depth": 3}}))
    with pytest.raises(ValueError, match="does not know: \\['depth'\\]"):
        C2STi.load(older)
    mixed = saved("mixed")
    awake(seed=1).save(tmp_path / "another")
    (mixed / "model.safetensors").write_bytes((tmp_path / "another" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="hashes differ"):
        C2STi.load(mixed)


def test_a_checkpoint_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    awake().save(tmp_path)
    with pytest.raises(FileExistsError, match="holds a checkpoint; name another folder, or say overwrite=True"):
        awake(seed=1).save(tmp_path)
    assert C2STi.load(tmp_path).fingerprint() == awake().fingerprint()
    awake(seed=1).save(tmp_path, overwrite=True)
    assert C2STi.load(tmp_path).fingerprint() == awake(seed=1).fingerprint()


def test_its_representation_says_what_it_is() -> None:
    model = C2STi(C2STiConfig(channels=4), card={"history": {"loss": [1.0] * 30}})
    assert (
        repr(model)
        == f"C2STi(channels=4), {sum(p.numel() for p in model.network.parameters()):,} weights, trained for 30 steps"
    )
    assert repr(C2STi()).endswith("untrained")


def test_settings_are_checked() -> None:
    for bad in ({"channels": 0}, {"kernel_size": 2}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            C2STiConfig(**bad)


# ---- the paper's own network

PAPER = C2STiConfig.paper(
    n_components=12, n_splits=0, panel=24, channels=6, histology_channels=4, resnet=False, registered=False
)


@pytest.mark.parametrize("start", ["zero", "baseline"])
@pytest.mark.parametrize("deforms", ["features", "motion"])
def test_the_network_of_the_paper_gives_the_section(
    pair: SlicePair, swapped: SlicePair, deforms: str, start: str
) -> None:
    model = awake(dataclasses.replace(PAPER, deforms=deforms, start=start))
    found = answer(model, pair, 0.3)
    np.testing.assert_allclose(found, answer(model, swapped, 0.7), atol=1e-5)
    order = np.random.default_rng(0).permutation(pair.n_genes)
    np.testing.assert_allclose(answer(model, pair.subset(order), 0.3), found[:, order], atol=1e-5)
    fresh = answer(C2STi(model.config), pair, 0.3)
    expected = Baseline(model.settings)(pair, pair.lattice.centres, [0.3]).slices[0].expression()
    if start == "baseline":
        np.testing.assert_allclose(fresh, expected, atol=1e-5)
    else:
        assert np.abs(fresh - expected).max() > 0.01
    assert np.abs(found - fresh).max() > 0.01


def test_genes_of_the_panel_are_as_the_network_says_and_others_follow(pair: SlicePair) -> None:
    model = awake(PAPER)
    inputs = inputs_of(model, pair, 0.3)
    with torch.no_grad():
        section = model.network(inputs, 0.3)[0]
    assert section.shape == (24, *inputs.lattice.shape)
    at = sample(section, inputs.lattice, pair.lattice.centres).numpy() * inputs.scale.numpy()
    mean = 0.7 * pair.a.mean + 0.3 * pair.b.mean
    found = answer(model, pair, 0.3)
    np.testing.assert_allclose(found[:, inputs.chosen], np.maximum(at + mean[inputs.chosen], 0), atol=1e-5)
    others = np.setdiff1d(np.arange(pair.n_genes), inputs.chosen)
    assert found[:, others].std(axis=0).max() > 0.01


def test_a_coarser_first_level_is_enlarged_to_the_lattice(pair: SlicePair) -> None:
    model = awake(PAPER)
    moved = model(pair, pair.a.xy, [0.3]).notes["displacement"]
    assert moved.shape == (1, 2, *pair.lattice.shape)
    with torch.no_grad():
        assert model.network(inputs_of(model, pair, 0.3), 0.3)[1].p.shape == tuple(
            -(-n // 2) for n in pair.lattice.shape
        )


def test_printed_equations_are_switches(pair: SlicePair) -> None:
    model = awake(dataclasses.replace(PAPER, printed=("graph", "position")))
    inputs, ours = inputs_of(model, pair, 0.5), inputs_of(awake(PAPER), pair, 0.5)
    assert not torch.allclose(inputs.propagation, ours.propagation)
    p = model.network.positions(inputs, 0.5)
    assert p.max() == 0.5
    assert p.min() > 0
    with pytest.raises(ValueError, match="printed = "):
        dataclasses.replace(PAPER, printed=("loss",))
    with pytest.raises(ValueError, match='start = "zero" needs a head'):
        C2STiConfig(start="zero")


def test_resnet_describes_the_histology(pair: SlicePair, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("monai", reason="the ResNet-50 of H&E needs MONAI")
    settings = {"n_components": 4, "n_splits": 0, "panel": 8, "channels": 4, "histology_channels": 4}
    model = C2STi.paper(**settings)
    assert model.card["resnet"] == "random"
    one = dataclasses.replace(pair, b=dataclasses.replace(pair.b, histology=None))
    found = [answer(model, p, 0.5) for p in (pair, one)]
    assert np.abs(found[0] - found[1]).max() > 0
