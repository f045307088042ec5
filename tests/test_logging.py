"""``scanpy.settings.verbosity`` says how much c2sti says."""

from __future__ import annotations

from io import StringIO

import pytest
import scanpy as sc
from anndata import AnnData

import c2sti
from c2sti import _logging


@pytest.mark.parametrize(("verbosity", "heard"), [(0, []), (1, ["mind"]), (2, ["mind", "done"])])
def test_verbosity_is_scanpys(said: StringIO, verbosity: int, heard: list[str]) -> None:
    sc.settings.verbosity = verbosity
    _logging.warning("mind")
    _logging.info("done")
    assert [word for word in ("mind", "done") if word in said.getvalue()] == heard


def test_interpolate_says_what_it_wrote_when_asked(said: StringIO, pair: tuple[AnnData, AnnData]) -> None:
    sc.settings.verbosity = 1
    c2sti.tl.interpolate(*pair, model="linear", show_progress_bar=False)
    assert said.getvalue() == ""
    sc.settings.verbosity = 2
    c2sti.tl.interpolate(*pair, model="linear", show_progress_bar=False)
    assert "c2sti_1" in said.getvalue()
    assert "genes" in said.getvalue()
