from __future__ import annotations

import numpy as np
import pytest
import torch

from c2sti import io
from c2sti.datasets import phantom
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.nn import _pieces


def memory_for(most: int, calls: list[slice]):
    """Work that fits up to `most` things at a time, and writes down what it was given."""

    def work(some: slice) -> list[int]:
        calls.append(some)
        if some.stop - some.start > most:
            raise torch.OutOfMemoryError("made")
        return list(range(some.start, some.stop))

    return work


def test_what_fits_is_done_in_pieces_of_that_size() -> None:
    calls: list[slice] = []
    assert _pieces.in_pieces(memory_for(4, calls), 10, 4, "genes") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(calls) == 3


def test_what_does_not_fit_is_halved_until_it_does_and_says_so() -> None:
    with pytest.warns(UserWarning, match="out of memory with (10|5) genes at a time; continuing with (5|2)"):
        done = _pieces.in_pieces(memory_for(2, []), 10, 64, "genes")
    assert sum(done, []) == list(range(10))


def test_what_never_fits_is_an_error() -> None:
    with pytest.warns(UserWarning, match="continuing with 1"), pytest.raises(torch.OutOfMemoryError):
        _pieces.in_pieces(memory_for(0, []), 3, 3, "genes")


def test_the_network_answers_alike_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (io.read_slice(s) for s in phantom(seed=1, size=7, n_genes=20).series([0.0, 300.0]))
    pair, _ = io.make_pair(a, b)
    model = C2STi(C2STiConfig(n_components=6, n_splits=0, panel=12, channels=4))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    whole = model(pair, pair.a.xy, [0.4])
    encode = model.network.encoder.forward

    def short_of_memory(aligned: torch.Tensor) -> list[torch.Tensor]:
        if len(aligned) > 5:
            raise torch.OutOfMemoryError("made")
        return encode(aligned)

    monkeypatch.setattr(model.network.encoder, "forward", short_of_memory)
    with pytest.warns(UserWarning, match="genes of the panel at a time; continuing with (6|3)"):
        halved = model(pair, pair.a.xy, [0.4])
    np.testing.assert_allclose(halved.slices[0].expression(), whole.slices[0].expression(), atol=1e-5)
