"""Do controls take from a trained network what they say, and nothing else?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from c2sti import io
from c2sti._types import SlicePair
from c2sti.benchmark import _networks
from c2sti.benchmark._networks import DEFAULT, NETWORK, PAPER, ROWS
from c2sti.datasets import phantom
from c2sti.models.c2sti import C2STi
from c2sti.nn.c2sti import fresh
from c2sti.nn.inputs import ModelInputs

CONFIG = replace(NETWORK[PAPER], channels=4, histology_channels=4, bins=16, panel=12, n_components=6, registered=False)


@pytest.fixture(scope="module")
def pair() -> SlicePair:
    a, b = (io.read_slice(s) for s in phantom(seed=2, size=7, n_genes=20).series([0.0, 100.0]))
    return io.make_pair(a, b)[0]


def awake() -> C2STi:
    network, generator = fresh(CONFIG, 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return C2STi(CONFIG, network=network)


def seen(pair: SlicePair, model: C2STi) -> ModelInputs:
    """What the network of a model is given."""
    found: list[ModelInputs] = []
    hook = model.network.register_forward_pre_hook(lambda network, given: found.append(given[0]))
    model(pair, pair.a.xy, [0.5])
    hook.remove()
    return found[0]


def test_only_the_graph_is_shuffled(pair: SlicePair) -> None:
    before, after = seen(pair, awake()), seen(pair, _networks.with_graph_shuffled(awake()))
    assert not torch.equal(before.propagation, after.propagation)
    torch.testing.assert_close(*(torch.linalg.eigvalsh(i.propagation) for i in (before, after)), atol=1e-5, rtol=0)
    assert torch.equal(before.panel[0], after.panel[0])


def test_only_the_bins_of_the_histology_are_shuffled(pair: SlicePair) -> None:
    before, after = seen(pair, awake()), seen(pair, _networks.with_histology_shuffled(awake()))
    for one, other in zip(before.images, after.images, strict=True):
        assert one is not None
        assert other is not None
        shown = one.isfinite().all(dim=0)
        assert torch.equal(shown, other.isfinite().all(dim=0))
        assert not torch.equal(one[:, shown], other[:, shown])
        assert torch.equal(one[:, shown].sort(dim=1).values, other[:, shown].sort(dim=1).values)
    assert torch.equal(before.propagation, after.propagation)


@pytest.mark.parametrize("control", [c.control for c in ROWS.values() if c.control])
def test_a_control_changes_the_answer(pair: SlicePair, control: _networks.Control) -> None:
    found = [m(pair, pair.a.xy, [0.5]) for m in (awake(), control(awake()))]
    before, after = (prediction.slices[0].expression() for prediction in found)
    assert np.abs(before - after).max() > 1e-4


def test_nothing_moves_without_displacement(pair: SlicePair) -> None:
    model = _networks.without_displacement(awake())
    assert not model(pair, pair.a.xy, [0.5]).notes["displacement"].any()


def test_the_paper_s_rows_are_of_its_network_and_trained_by_its_loss() -> None:
    paper = {name: row for name, row in ROWS.items() if row.network == PAPER}
    assert all(row.config(NETWORK).deforms == "features" for row in paper.values())
    assert ROWS["c2sti"].config(NETWORK) == NETWORK[DEFAULT]
    assert paper["paper_no_dlsm"].config(NETWORK) == replace(NETWORK[PAPER], dlsm=False)
    how = {name: row.schedule(10, 0, watched=True) for name, row in paper.items()}
    assert {name: h.objective for name, h in how.items() if h.objective != "paper"} == {"paper_squares": "squares"}
    assert ROWS["paper"].schedule(10, 0).patience is None
    assert ROWS["paper_graph_shuffled"].of == "paper"
