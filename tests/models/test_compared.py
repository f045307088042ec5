"""One contract for all the networks that the paper compares with, and what is particular to each."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from c2sti import C2STi, io
from c2sti._types import SlicePair
from c2sti.datasets import phantom
from c2sti.models import naive
from c2sti.models._registry import load_compared, resolve, sees_context
from c2sti.models.compared import (
    NETWORKS,
    FrameInterpolator,
    FrameNetwork,
    Frames,
    dain,
    fresh,
    ifrnet,
    rbi,
    rife,
)
from c2sti.models.compared._frames import blend, resized_flow, warp
from c2sti.models.compared.rbi import registered
from c2sti.training import Case, Schedule, make_triplets, train_compared
from tests.conftest import array_pair

SMALL: dict[str, dict[str, object]] = {
    "unet": {"widths": (6, 8)},
    "rife": {"widths": (8, 8, 8), "depth": 2, "context": (6, 8)},
    "ifrnet": {"widths": (8, 10), "side": 4},
    "dain": {"widths": (8, 8), "kernel_widths": (6, 8), "context": 4, "synthesis": 8},
}
NAMES = list(NETWORKS)
QUICK = Schedule(steps=4, save_every=2, learning_rate=1e-2)


def config(name: str) -> object:
    return NETWORKS[name].Config(n_maps=3, **SMALL[name])


def awake(name: str, seed: int = 0) -> FrameInterpolator:
    """A small network whose weights are all at work."""
    network = fresh(NETWORKS[name], config(name), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return FrameInterpolator(network)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Two held-out sections of a simulated tissue, in the middle and at a third."""
    tissue = phantom(seed=2, size=9, n_genes=30)
    sections = [io.read_slice(s) for s in tissue.series([0.0, 100.0, 150.0, 300.0])]
    pair, genes = io.make_pair(sections[0], sections[3])
    made = []
    for i, position in ((2, 0.5), (1, 1 / 3)):
        xy, values, library = io.profiles(sections[i], pair.lattice, genes)
        made.append(Case(pair, xy, position, io.log_normalise(values, library), f"section {i}"))
    return made


@pytest.fixture(scope="module")
def two(cases: list[Case]) -> SlicePair:
    return cases[0].pair


def answer(rival: FrameInterpolator, pair: SlicePair, *positions: float) -> list[np.ndarray]:
    prediction = rival(pair, pair.a.xy + 0.3 * pair.spacing, positions)
    return [inserted.expression() for inserted in prediction.slices]


@pytest.mark.parametrize("name", NAMES)
def test_untrained_it_is_lowrank(name: str, two: SlicePair) -> None:
    network = fresh(NETWORKS[name])
    found = FrameInterpolator(network)(two, two.a.xy, [0.3]).slices[0].expression()
    np.testing.assert_allclose(found, naive.lowrank(two, two.a.xy, [0.3]).slices[0].expression(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_any_sections_at_any_positions(name: str, two: SlicePair) -> None:
    shares: list[float] = []
    rival = awake(name)
    prediction = rival(two, two.a.xy[:7], [0.2, 0.4, 0.9], progress=shares.append)
    assert sum(shares) == pytest.approx(1)
    assert [s.expression().shape for s in prediction.slices] == [(7, two.n_genes)] * 3
    assert all(np.isfinite(s.expression()).all() and (s.expression() >= 0).all() for s in prediction.slices)
    one_by_one = rival(two, two.a.xy[:7], [0.4]).slices[0]
    np.testing.assert_array_equal(prediction.slices[1].expression(), one_by_one.expression())
    assert np.abs(prediction.slices[1].weights - prediction.slices[2].weights).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_it_adds_something_between_and_nothing_at_the_ends(name: str, two: SlicePair) -> None:
    network = awake(name).network
    ends = Frames(two, 3).ends
    with torch.no_grad():
        change = [network(ends, t).abs().max() for t in (1e-6, 0.5, 1 - 1e-6)]
    assert change[1] > 1e-3
    assert max(change[0], change[2]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer(name: str, two: SlicePair) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = (fresh(NETWORKS[name], config(name), seed=1) for _ in range(2))
    assert (torch.random.get_rng_state() == before).all()
    assert FrameInterpolator(one).fingerprint() == FrameInterpolator(other).fingerprint()
    assert (
        FrameInterpolator(one).fingerprint()
        != FrameInterpolator(fresh(NETWORKS[name], config(name), seed=2)).fingerprint()
    )
    rival = awake(name)
    np.testing.assert_array_equal(answer(rival, two, 0.5), answer(rival, two, 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_weight(name: str, cases: list[Case]) -> None:
    network = awake(name).network
    _, triplet = make_triplets(cases, 3)[0]
    network.loss(*triplet).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_one_network_serves_any_panel_with_or_without_a_picture(name: str, two: SlicePair) -> None:
    rival = awake(name)
    for pair in (two.subset(np.arange(5)), two.subset(np.array([3, 1]))):
        assert answer(rival, pair, 0.5)[0].shape == (len(pair.a.xy), pair.n_genes)
    assert two.a.histology is not None
    blind = dataclasses.replace(
        two, a=dataclasses.replace(two.a, histology=None), b=dataclasses.replace(two.b, histology=None)
    )
    (seen,), (unseen,) = answer(rival, two, 0.5), answer(rival, blind, 0.5)
    assert np.isfinite(unseen).all()
    assert np.abs(seen - unseen).max() > 0
    order = np.arange(two.n_genes)[::-1]
    np.testing.assert_allclose(answer(rival, two.subset(order), 0.5)[0], seen[:, order], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name: str, cases: list[Case]) -> None:
    how = Schedule(steps=20, batch=1, learning_rate=5e-3, final_learning_rate=5e-3)
    rival = train_compared(name, cases[:1], config=config(name), how=how, show_progress_bar=False)
    ((_, triplet),) = make_triplets(cases[:1], 3)
    with torch.no_grad():
        before, after = (n.loss(*triplet) for n in (fresh(NETWORKS[name], config(name)), rival.network))
    assert after < before
    assert rival.card["examples"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_and_a_checkpoint_comes_back(name: str, cases: list[Case], tmp_path: Path) -> None:
    def run(**settings: object) -> FrameInterpolator:
        return train_compared(name, cases, config=config(name), how=QUICK, show_progress_bar=False, **settings)

    def kill(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path / "state", progress=kill)
    steps: list[int] = []
    resumed = run(folder=tmp_path / "state", progress=lambda step, loss: steps.append(step))
    assert steps == [2, 3]
    assert resumed.fingerprint() == run().fingerprint()
    resumed.save(tmp_path / "made")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["config.json", "model.safetensors"]
    loaded = resolve(tmp_path / "made")
    assert isinstance(loaded, FrameInterpolator)
    assert not sees_context(loaded)
    assert (loaded.fingerprint(), loaded.card) == (resumed.fingerprint(), resumed.card)
    np.testing.assert_array_equal(answer(loaded, cases[0].pair, 0.4), answer(resumed, cases[0].pair, 0.4))


def test_checkpoints_of_others_are_named(tmp_path: Path) -> None:
    awake("unet").save(tmp_path / "unet")
    with pytest.raises(ValueError, match="not the settings of a c2sti model but of 'unet'"):
        C2STi.load(tmp_path / "unet")
    C2STi().save(tmp_path / "ours")
    with pytest.raises(ValueError, match="not the settings of a unet model but of 'c2sti'"):
        load_compared("unet", tmp_path / "ours")
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())
    (tmp_path / "ours" / "config.json").write_text(json.dumps({**settings, "model": "film"}))
    with pytest.raises(ValueError, match="is a checkpoint of 'film'; those that can be read are of c2sti, unet"):
        resolve(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"there is no model 'unet' that comes trained; train one by"):
        resolve("unet")


def test_what_cannot_be_trained(cases: list[Case]) -> None:
    with pytest.raises(ValueError, match="no network 'film' to train; those that exist are unet"):
        train_compared("film", cases)
    with pytest.raises(ValueError, match=r"has nothing to train on: 1 held-out section\(s\) were given, none near"):
        train_compared("unet", cases[1:])


def test_every_network_says_its_name() -> None:
    for name, network in NETWORKS.items():
        assert issubclass(network, FrameNetwork)
        assert FrameInterpolator(fresh(network)).__name__ == name


# ---- what is particular to each


def picture(shift: float = 0.0) -> torch.Tensor:
    """(3, 20, 24) crossing waves, so that motion can be told in every direction, moved to the right."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    x = x - shift
    first = torch.sin(0.5 * x + 0.2 * y) + torch.cos(0.5 * y - 0.1 * x)
    second = torch.cos(0.4 * x - 0.3 * y) + torch.sin(0.45 * y + 0.2 * x)
    return torch.stack([first, second, torch.sin(0.3 * x) * torch.cos(y / 3)])


def shifted() -> torch.Tensor:
    """(2, 5, 20, 24) frames of tissue that moves by two bins."""
    rest = torch.stack([torch.ones(20, 24), torch.zeros(20, 24)])
    return torch.stack([torch.cat([picture(shift), rest]) for shift in (-1.0, 1.0)])


def test_warp_looks_where_the_flow_points() -> None:
    flow = torch.zeros(2, 20, 24)
    flow[0] = 1.0
    torch.testing.assert_close(warp(picture(1.0), flow)[:, :, :-1], picture()[:, :, :-1])


def test_flow_keeps_its_size_in_bins_of_another_grid() -> None:
    flow = torch.stack([torch.full((8, 8), 2.0), torch.full((8, 8), -3.0)])
    small = resized_flow(flow, (4, 4))
    assert small.shape == (2, 4, 4)
    assert torch.equal(small, torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), -1.5)]))


@pytest.mark.parametrize("name", ["rife", "ifrnet", "dain"])
def test_motion_is_learnt(name: str) -> None:
    """Tissue that moves evenly, hidden in the middle: a blend blurs it, a network that finds the flow does not."""
    ends, target, known = shifted(), picture(), torch.ones(20, 24)
    network = fresh(NETWORKS[name], config(name))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(25):
        optimiser.zero_grad()
        network.loss(ends, 0.5, target, known).backward()
        optimiser.step()
    with torch.no_grad():
        change = network(ends, 0.5)
    still = blend(ends[:, :3], 0.5)
    assert (still + change - target).abs().mean() < 0.5 * (still - target).abs().mean()


def test_rife_answers_without_its_teacher() -> None:
    network = awake("rife").network
    assert isinstance(network, rife.RIFE)
    with torch.no_grad():
        before = network(shifted(), 0.5)
        for parameter in network.teacher.parameters():
            parameter.zero_()
        assert torch.equal(network(shifted(), 0.5), before)


def test_rife_compares_bands() -> None:
    ones = torch.ones(1, 16, 16)
    assert rife.laplacian(picture()[:, :16, :16], picture()[:, :16, :16], ones) == 0
    # A constant difference is in the coarsest band alone; outside of the tissue nothing counts.
    assert float(rife.laplacian(ones, 3 * ones, ones)) == pytest.approx(2.0)
    half = ones.clone()
    half[..., 8:] = 0
    assert float(rife.laplacian(ones * half, ones * half + 5 * (1 - half), half)) == 0


def test_census_sees_structure_and_not_level() -> None:
    maps = picture()
    assert float(ifrnet.census(maps, maps + 7).max()) < 1e-6
    assert float(ifrnet.census(maps, -maps).mean()) > 0.5


def test_projected_flow_is_carried_to_where_it_leads() -> None:
    flow = torch.zeros(2, 6, 8)
    flow[0] = 2.0
    everywhere = torch.ones(1, 6, 8)
    # A constant stays one, and the columns that tissue left are filled from those beside them.
    torch.testing.assert_close(dain.projected(flow, 0.5, everywhere), flow)
    lone = torch.zeros(2, 6, 8)
    lone[0, 3, 2] = 4.0  # half-way it is at column 4, where one that stays has arrived as well
    assert dain.projected(lone, 0.5, everywhere)[0, 3, 4] == 2.0
    heavy = everywhere.clone()
    heavy[0, 3, 2] = 3.0
    assert dain.projected(lone, 0.5, heavy)[0, 3, 4] == 3.0


def test_kernels_keep_a_constant() -> None:
    kernel = torch.randn(16, 6, 8, generator=torch.Generator().manual_seed(0))
    flow = torch.full((2, 6, 8), 0.4)
    torch.testing.assert_close(
        dain.through_kernels(torch.full((2, 6, 8), 3.0), flow, kernel), torch.full((2, 6, 8), 3.0)
    )


def test_dain_counts_dense_tissue_more_only_where_it_was_stained() -> None:
    network = awake("dain").network
    assert isinstance(network, dain.DAIN)
    frame = shifted()[0]
    assert (network._weight(frame) == 1).all()
    frame[-1, 0, 0] = -0.5
    assert network._weight(frame)[0, 0, 0] > 1


# ---- registration: no network, the same contract


def run_rbi(pair: SlicePair, *positions: float) -> list[np.ndarray]:
    return [s.expression() for s in rbi(pair, pair.a.xy, positions).slices]


@pytest.fixture(scope="module")
def registered_pair(two: SlicePair) -> tuple[SlicePair, list[np.ndarray]]:
    """The pair, and sections at 0.3, 0.5 and close to both ends."""
    return two, run_rbi(two, 0.3, 0.5, 1e-6, 1 - 1e-6)


def test_rbi_gives_any_sections_and_the_measured_ones_at_the_ends(
    registered_pair: tuple[SlicePair, list[np.ndarray]],
) -> None:
    pair, answers = registered_pair
    assert all(a.shape == (len(pair.a.xy), pair.n_genes) and np.isfinite(a).all() and (a >= 0).all() for a in answers)
    near = [s.expression() for s in naive.lowrank(pair, pair.a.xy, [0.5, 1e-6, 1 - 1e-6]).slices]
    assert np.abs(answers[1] - near[0]).max() > 1e-3
    for answer_at_end, end in zip(answers[2:], near[1:], strict=True):
        np.testing.assert_allclose(answer_at_end, end, atol=1e-3)


def test_rbi_is_the_same_again_and_from_the_other_end(registered_pair: tuple[SlicePair, list[np.ndarray]]) -> None:
    pair, answers = registered_pair
    swapped = dataclasses.replace(
        pair, a=dataclasses.replace(pair.b, position=0.0), b=dataclasses.replace(pair.a, position=1.0)
    )
    prediction = rbi(swapped, pair.a.xy, [0.7])
    np.testing.assert_allclose(prediction.slices[0].expression(), answers[0], atol=1e-5)
    np.testing.assert_array_equal(run_rbi(pair, 0.3)[0], answers[0])
    assert prediction.notes["motion"].shape == (2, *pair.lattice.shape)


def test_rbi_serves_other_genes_without_pictures(registered_pair: tuple[SlicePair, list[np.ndarray]]) -> None:
    pair, answers = registered_pair
    order = np.arange(pair.n_genes)[::-1]
    blind = dataclasses.replace(
        pair, a=dataclasses.replace(pair.a, histology=None), b=dataclasses.replace(pair.b, histology=None)
    )
    np.testing.assert_allclose(run_rbi(blind.subset(order), 0.5)[0], answers[1][:, order], atol=1e-3)


def test_rbi_finds_how_far_tissue_moved() -> None:
    ends = torch.cat([shifted()[:, :3], torch.zeros(2, 2, 20, 24), shifted()[:, 3:]], dim=1)
    moves = registered(ends[0], ends[1])
    inner = moves[:, 4:-4, 4:-4]
    assert float((inner[0] - 2).abs().mean()) < 0.3
    assert float(inner[1].abs().mean()) < 0.3


def test_rbi_moves_nothing_where_there_is_too_little_to_register() -> None:
    values = np.random.default_rng(0).random((2, 36, 12))
    small = array_pair(*values, 6)
    found = rbi(small, small.a.xy, [0.5]).slices[0].expression()
    np.testing.assert_allclose(found, naive.lowrank(small, small.a.xy, [0.5]).slices[0].expression(), atol=1e-5)


def test_rbi_has_a_name_and_sees_no_context(monkeypatch: pytest.MonkeyPatch, two: SlicePair) -> None:
    assert resolve("rbi") is rbi
    assert not sees_context(rbi)
    assert sees_context(naive.lowrank)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match=r"pip install \"c2sti\[registration\]\""):
        rbi(two, two.a.xy, [0.5])
