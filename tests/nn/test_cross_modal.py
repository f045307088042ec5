from __future__ import annotations

import pytest
import torch

from c2sti.nn.cross_modal import CrossModalAlignment, ExpressionStem, HistologyEncoder


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_stem_looks_at_one_gene_at_a_time() -> None:
    stem, maps = ExpressionStem(4), torch.randn(5, 2, 6, 7)
    features = stem(maps)
    assert features.shape == (5, 4, 6, 7)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(stem(maps[order]), features[order])
    torch.testing.assert_close(stem(maps[:1]), features[:1])


def test_histology_encoder_knows_where_there_is_no_picture() -> None:
    encoder, picture = HistologyEncoder(4), torch.rand(3, 6, 7)
    picture[:, :, 4:] = torch.nan
    features = encoder(picture)
    assert features.shape == (4, 6, 7)
    assert features.isfinite().all()
    grey = torch.where(picture.isnan(), 0.5, picture)
    assert not torch.allclose(encoder(grey), features)


def test_gate_is_open_at_first_and_never_shut() -> None:
    alignment = CrossModalAlignment(4, 3)
    gate = alignment.gate(torch.randn(5, 4, 6, 7), torch.randn(3, 6, 7), None)
    assert gate.shape == (5, 4, 6, 7)
    assert ((gate > 0.5) & (gate < 1)).all()


def test_gate_is_the_equation() -> None:
    alignment, expression, histology = CrossModalAlignment(2, 3), torch.randn(1, 2, 4, 4), torch.randn(3, 4, 4)
    joined = torch.cat([histology, expression[0]])
    first = torch.cat([alignment.from_histology.weight, alignment.from_expression.weight], dim=1)[:, :, 0, 0]
    hidden = torch.einsum("dc,chw->dhw", first, joined) + alignment.from_expression.bias[:, None, None]
    last, bias = alignment.to_gate.weight[:, :, 0, 0], alignment.to_gate.bias[:, None, None]
    expected = torch.sigmoid(torch.einsum("dc,chw->dhw", last, hidden.relu()) + bias)
    torch.testing.assert_close(alignment.gate(expression, histology, None)[0], expected)
    torch.testing.assert_close(alignment(expression, histology, None)[0], expression[0] * expected)


def test_without_a_picture_everything_passes() -> None:
    alignment, expression, histology = CrossModalAlignment(4, 3), torch.randn(5, 4, 6, 7), torch.randn(3, 6, 7)
    assert torch.equal(alignment(expression, None, None), expression)
    covered = torch.zeros(6, 7, dtype=torch.bool)
    covered[:, :3] = True
    gate = alignment.gate(expression, histology, covered)
    assert (gate[..., 3:] == 1).all()
    assert torch.equal(gate[..., :3], alignment.gate(expression, histology, None)[..., :3])


def test_gradients_reach_every_weight_past_a_gap_in_the_picture() -> None:
    encoder, alignment, stem = HistologyEncoder(3), CrossModalAlignment(4, 3), ExpressionStem(4)
    picture = torch.rand(3, 6, 7)
    picture[:, 2:4] = torch.nan
    alignment(stem(torch.randn(2, 2, 6, 7)), encoder(picture), picture.isfinite().all(dim=0)).sum().backward()
    for module in (encoder, alignment, stem):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
