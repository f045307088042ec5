from __future__ import annotations

import pytest
import torch
from torch import Tensor

from c2sti.nn.dlsm import (
    DLSM,
    Deformation,
    Estimators,
    Modulation,
    differences,
    fuse,
    position_map,
    printed_position_map,
)
from c2sti.ops import deformable_sampling


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every weight drawn at random, also those that start at zero."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def features() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(4, 5, 6), torch.randn(4, 5, 6), 0.1 + 0.8 * torch.rand(5, 6)


def test_positions_are_exact_at_the_ends_and_where_the_gradients_agree() -> None:
    g0, g1 = torch.rand(5, 6), torch.rand(5, 6)
    assert (position_map(0.0, g0, g1, 2.0) == 0).all()
    torch.testing.assert_close(position_map(1.0, g0, g1, 2.0), torch.ones(5, 6), rtol=0, atol=0)
    third = torch.full((5, 6), 1 / 3)
    assert torch.equal(position_map(1 / 3, g0, g1, 0.0), third)
    assert torch.equal(position_map(1 / 3, g0, g0, 2.0), third)


def test_positions_by_hand_increasing_and_swap_symmetric() -> None:
    assert position_map(0.5, torch.tensor([[1.0]]), torch.tensor([[0.0]]), 2.0).item() == pytest.approx(0.75)
    g0, g1 = torch.rand(5, 6), torch.rand(5, 6)
    ladder = torch.stack([position_map(t, g0, g1, 4.0) for t in (0.0, 0.2, 0.5, 0.9, 1.0)])
    assert (ladder.diff(dim=0) > 0).all()
    torch.testing.assert_close(position_map(0.3, g0, g1, 4.0), 1 - position_map(0.7, g1, g0, 4.0), atol=1e-6, rtol=0)


def test_modulation_scales_channels_and_depends_on_the_position() -> None:
    modulation = Modulation(4)
    motion, _, p = features()
    assert modulation(motion, p).shape == motion.shape
    ratio = (modulation.by_channel(motion, p) / motion).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 2)).all()
    for branch in (modulation.by_channel, modulation.by_place):
        assert not torch.allclose(branch(motion, p), branch(motion, 1 - p))
    only_channels = Modulation(4, beta=1.0, gamma=0.0)
    assert torch.equal(only_channels(motion, p), only_channels.by_channel(motion, p))


def test_modulation_by_place_sees_the_position_of_each_bin() -> None:
    modulation, (motion, _, p) = Modulation(4), features()
    moved = p.clone()
    moved[0, 0], moved[4, 5] = p[0, 0] + 0.2, p[4, 5] - 0.2  # the mean stays
    change = (modulation(motion, moved) - modulation(motion, p)).abs().amax(dim=0)
    assert change[0, 0] > 10 * change[2, 3]


def test_heads_start_at_the_identity_and_are_not_moved() -> None:
    f01, f10, p = features()
    deformation = DLSM(4)(f01, f10, p)
    identity = torch.zeros(9, 5, 6)
    identity[4] = 1
    for offsets, weights in [deformation[:2], deformation[2:4]]:
        assert offsets.shape == (9, 2, 5, 6)
        assert (offsets == 0).all()
        assert torch.equal(weights, identity)
    maps = torch.rand(3, 5, 6)
    torch.testing.assert_close(deformable_sampling(maps, *deformation[:2]), maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_weights_sum_to_one_and_stay_near_the_identity_whatever_the_heads_say(scale: float) -> None:
    weights = awake(Estimators(4)).weights(scale * features()[0])
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(5, 6))
    others = torch.cat([weights[:4], weights[5:]])
    assert 0.01 < others.abs().max() <= 0.2 + 1e-6


def test_swapping_the_sections_swaps_the_deformation() -> None:
    dlsm, (f01, f10, p) = awake(DLSM(4)), features()
    ours, swapped = dlsm(f01, f10, p), dlsm(f10, f01, 1 - p)
    assert ours.offsets_0.abs().max() > 0.1
    for one, other in zip(ours[:4], (*swapped[2:4], *swapped[:2]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.displacement, -swapped.displacement, atol=1e-6, rtol=1e-5)


def test_equal_motion_moves_nothing() -> None:
    dlsm, (f01, _, p) = awake(DLSM(4)), features()
    deformation = dlsm(f01, f01.clone(), p)
    assert (deformation.offsets_0 == 0).all()
    assert (deformation.offsets_1 == 0).all()
    assert (deformation.displacement == 0).all()


def test_ends_are_not_displaced_and_reach_bounds_what_lies_between() -> None:
    dlsm, (f01, f10, p) = awake(DLSM(4, reach=1.5)), features()
    at_0, at_1 = dlsm(f01, f10, torch.zeros_like(p)), dlsm(f01, f10, torch.ones_like(p))
    assert (at_0.offsets_0 == 0).all()
    assert (at_1.offsets_1 == 0).all()
    assert (at_0.displacement == 0).all()
    assert (at_1.displacement == 0).all()
    between = dlsm(100 * f01, f10, p)
    assert between.displacement.shape == (2, 5, 6)
    assert between.displacement.abs().max() > 0
    assert (between.offsets_0.abs() <= 1.5 * p + 1e-6).all()
    assert (between.offsets_1.abs() <= 1.5 * (1 - p) + 1e-6).all()


def test_displacement_by_hand() -> None:
    """Tissue that moves by (2, 0): a quarter of the way in one section, three quarters back in the other."""
    to_0 = torch.tensor([0.5, 0.0])[None, :, None, None].expand(9, 2, 5, 6)
    to_1 = torch.tensor([-1.5, 0.0])[None, :, None, None].expand(9, 2, 5, 6)
    weights = torch.full((9, 5, 6), 1 / 9)
    deformation = Deformation(to_0, weights, to_1, weights, torch.full((5, 6), 0.25))
    torch.testing.assert_close(deformation.displacement, torch.tensor([0.75, 0.0])[:, None, None].expand(2, 5, 6))
    dlsm, (f01, f10, _) = awake(DLSM(4)), features()
    assert dlsm(f01, f10, torch.full((5, 6), 0.5)).displacement.abs().max() > 0.01


def test_fuse_by_hand_and_exact_at_the_ends() -> None:
    a, b = torch.rand(3, 5, 6), torch.rand(3, 5, 6)
    assert torch.equal(fuse(a, b, torch.zeros(5, 6)), a)
    assert torch.equal(fuse(a, b, torch.ones(5, 6)), b)
    torch.testing.assert_close(fuse(a, b, torch.full((5, 6), 0.25)), 0.75 * a + 0.25 * b)


def test_gradients_in_double() -> None:
    dlsm = awake(DLSM(2, embedding=3)).double()
    f01, f10 = (torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p = torch.full((2, 3), 0.4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: tuple(dlsm(a, b, p))[:4], (f01, f10))


def test_a_bin_that_looks_like_the_second_section_is_nearer_to_it() -> None:
    first, second, target = torch.zeros(3, 1, 3), torch.ones(3, 1, 3), torch.tensor([0.0, 0.5, 1.0]).expand(3, 1, 3)
    to_first, to_second = differences(target, first, second)
    torch.testing.assert_close(to_first, torch.tensor([[0.0, 0.5, 1.0]]))
    p = position_map(0.5, to_first, to_second, alpha=1.0)
    torch.testing.assert_close(p, torch.tensor([[1 / 3, 0.5, 2 / 3]]))
    unknown = torch.full((3, 1, 3), float("nan"))
    assert all((d == 0).all() for d in differences(target, unknown, second))


def test_printed_positions_by_hand() -> None:
    gradient = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(printed_position_map(0.6, gradient, 2.0), torch.tensor([[0.2, 0.4, 0.6]]))
    assert (printed_position_map(0.6, gradient, 0.0) == 0.6).all()
