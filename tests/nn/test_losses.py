from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from c2sti import metrics
from c2sti.nn import losses


def two(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predicted and true (M, N), of which the first gene is constant in one and the last in the other."""
    generator = torch.Generator().manual_seed(seed)
    predicted, truth = (torch.rand(30, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    predicted, truth = predicted + truth, 2 * truth
    predicted[:, 0], truth[:, -1] = 0.3, 1.7
    return predicted, truth


def test_losses_of_the_paper_by_hand() -> None:
    truth, ramp = torch.zeros(2, 2), torch.arange(4.0).expand(2, 3, 4)
    assert losses.similarity(torch.tensor([[1.0, -1.0], [0.0, 4.0]]), truth) == 1.5
    assert losses.smoothness(torch.ones(2, 3, 4)) == 0
    assert losses.smoothness(ramp) == 0.5
    assert losses.paper_loss(truth + 1, truth, ramp) == 1.5
    assert losses.paper_loss(truth + 1, truth, ramp, sim=2.0, sno=4.0) == 4.0
    assert losses.squares(torch.tensor([[1.0, -1.0], [0.0, 4.0]]), truth) == 4.5
    assert losses.paper_loss(truth + 3, truth, ramp, difference=losses.squares) == 9.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_those_of_metrics(dtype: torch.dtype) -> None:
    p, t = (x.numpy() for x in two())
    predicted, truth = (x.to(dtype) for x in two())
    assert losses.correlation(predicted, truth).item() == pytest.approx(metrics.pcc(p, t), abs=1e-6)
    assert losses.coexpression(predicted, truth).item() == pytest.approx(metrics.rv(p, t), abs=1e-6)


def test_perfect_scores() -> None:
    truth = two()[1][:, :-1]
    assert losses.correlation(3 * truth + 1, truth).item() == pytest.approx(1)
    assert losses.correlation(-truth, truth).item() == pytest.approx(-1)
    assert losses.coexpression(3 * truth + 1, truth).item() == pytest.approx(1)
    assert losses.relative_error(truth, truth) == 0


def test_relative_error_by_hand() -> None:
    truth = torch.tensor([[0.0, 5.0], [2.0, 5.0]], dtype=torch.float64)  # variances 1 and 0
    predicted = truth + torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    expected = np.sqrt((1 / 1.001 + 0.01 / 0.001) / 2)
    assert losses.relative_error(predicted, truth).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("score", [losses.correlation, losses.coexpression, losses.relative_error])
def test_scores_have_gradients_and_finite_ones_where_they_are_undefined(
    score: Callable[[Tensor, Tensor], Tensor],
) -> None:
    predicted, truth = two(1)
    inner = predicted[:8, 1:-1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: score(x, truth[:8, 1:-1]), inner)
    predicted.requires_grad_()
    (slope,) = torch.autograd.grad(score(predicted, truth), predicted)
    assert slope.isfinite().all()
    assert slope[:, 1:-1].abs().max() > 0


def test_what_is_undefined_scores_zero_and_has_no_gradient() -> None:
    truth, flat = two()[1], torch.full((30, 6), 0.3, requires_grad=True)
    for score in (losses.correlation, losses.coexpression):
        value = score(flat, truth)
        (slope,) = torch.autograd.grad(value, flat)
        assert value == 0
        assert (slope == 0).all()
    one_gene = truth[:, :1]
    assert losses.coexpression(one_gene, one_gene) == 0
    (slope,) = torch.autograd.grad(losses.relative_error(x := truth.clone().requires_grad_(), truth), x)
    assert (slope == 0).all()
