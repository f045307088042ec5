"""What a table says of scores: means, intervals, pairs, and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from c2sti.benchmark import _tables


def rows(**pcc: list[float]) -> pd.DataFrame:
    """One row a method and case, every other score as good as the PCC."""
    return pd.DataFrame(
        {
            "series": "heart", "block": "heart", "n_slices": 1, "case": f"case {i}", "method": method, "fold": "",
            "seed": 0, "section": f"s{i}", "position": 0.5, "psnr": 20 + x, "ssim": x, "pcc": x, "rmse": 1 - x, "rv": x,
            "ceiling": 0.5, "fraction": x / 0.5, "n_spots": 9, "n_genes": 9, "seconds": 1.0,
        }
        for method, scores in pcc.items()
        for i, x in enumerate(scores)
    )  # fmt: skip


def test_intervals_of_known_values() -> None:
    assert _tables.interval(np.full(5, 0.3)) == pytest.approx((0.3, 0.3))
    # Of three values 0, 0, 1 the means of resamples are binomial, (2/3)^3 = 30 % are 0 and 1 in 27 is 1.
    assert _tables.interval(np.array([0.0, 0.0, 1.0])) == pytest.approx((0.0, 1.0))
    assert np.isnan(_tables.interval(np.array([0.1, 0.2]))).all()


def test_cases_are_means_over_sections_then_networks() -> None:
    table = rows(c2sti=[0.1, 0.3, 0.2])
    table["case"] = ["one", "one", "one"]
    table["seed"] = [0, 0, 1]  # two held-out sections under the one network, one under the other
    (case,) = _tables.by_case(table)["pcc"]
    assert case == pytest.approx((0.2 + 0.2) / 2)
    assert _tables.between_seeds(table)["heart", 1, "c2sti"] == pytest.approx(0.0)


def test_seeds_are_compared_by_their_means() -> None:
    table = pd.concat([rows(rife=[0.1, 0.2]), rows(rife=[0.2, 0.3]).assign(seed=1)])
    assert _tables.between_seeds(table)["heart", 1, "rife"] == pytest.approx(np.std([0.15, 0.25], ddof=1))


def test_differences_are_paired_with_the_best_training_free_method() -> None:
    table = rows(copy=[0.1, 0.1, 0.1], gp=[0.1, 0.2, 0.3], rife=[0.2, 0.3, 0.2])
    found = _tables.summarise(table).set_index("method")
    assert set(found["reference"]) == {"gp"}
    assert found.loc["rife", "gain"] == pytest.approx(0.1 / 3)
    assert found.loc["rife", "ahead"] == 2
    assert found.loc["rife", "gain_low"] == pytest.approx(-0.1)
    assert found.loc["rife", "gain_high"] == pytest.approx(0.1)
    assert np.isnan(found.loc["gp", "gain"])
    assert found.loc["copy", "rmse"] == pytest.approx(0.9)


def said(**pcc: list[float]) -> list[str]:
    return _tables.verdicts(_tables.summarise(rows(**pcc)))


def test_verdicts_in_plain_words() -> None:
    (lead,) = said(gp=[0.1, 0.2, 0.3], rife=[0.2, 0.3, 0.4])
    assert lead == "RIFE leads gp, the best without training, by +0.1000 in PCC, and is ahead in 3 of 3."
    (lead,) = said(gp=[0.1, 0.2, 0.3], rife=[0.2, 0.3, 0.2])
    assert lead.endswith("but the interval of the difference includes 0: no lead is shown.")
    (lead,) = said(gp=[0.1, 0.2], rife=[0.2, 0.3])
    assert lead.endswith("; 2 held out are too few for an interval.")
    (naive,) = said(gp=[0.2, 0.2, 0.3], rife=[0.1, 0.2, 0.2])
    assert naive == "**gp**, which needs no training, has the best PSNR and SSIM and PCC and RMSE and RV of all."


def test_the_best_of_a_column_is_bold() -> None:
    summary = _tables.summarise(rows(gp=[0.1, 0.2, 0.3], unet=[0.2, 0.3, 0.4]))
    text = _tables.markdown(
        "1", summary, parameters={"unet": 1234}, methods=["gp", "unet"], about="Two sections are seen."
    )
    (gp,) = [line for line in text.splitlines() if line.startswith("| gp ")]
    (unet,) = [line for line in text.splitlines() if line.startswith("| U-Net ")]
    assert gp == "| gp | arbitrary | 20.20 | .200 | .2000 | .8000 | .200 | .400 |  |  |  | 1.0 | none |"
    assert unet == (
        "| U-Net | pre-defined | **20.30** | **.300** | **.3000** | **.7000** | **.300** | .600 | "
        "+0.1000 (+0.1000 to +0.1000) | 3 of 3 |  | 1.0 | 1,234 |"
    )
    assert "data_range = ln(1 + 10⁴) = 9.210" in text
    assert "3 cases, noise ceiling .500, reference: gp." in text


def test_a_panel_shows_differences_to_the_reference() -> None:
    table = rows(copy=[-0.1, 0.0, 0.1], gp=[0.1, 0.2, 0.3], rife=[0.2, 0.3, 0.2], c2sti=[0.2, 0.3, 0.4])
    pcc = _tables.by_case(table).pivot(index="case", columns="method", values="pcc")
    ax = Figure().subplots()
    _tables._panel(ax, pcc[["copy", "gp", "rife", "c2sti"]], "heart, one section held out")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["copy  .0000", "gp  .2000", "RIFE  .2333", "C2-STi  .3000"]
    assert ax.get_xlabel() == "PCC − PCC of gp"
    low, high = ax.get_xlim()
    assert (low, high) == pytest.approx((-0.124, 0.124))  # of RIFE and C2-STi: copying is off the axis
    means = {line.get_marker(): line.get_xydata() for line in ax.lines if line.get_marker() in ("<", "D")}
    assert means["D"][0] == pytest.approx((0.1, 3))  # the last: C2-STi
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "<"] == pytest.approx([low + 0.02 * 0.248])
    assert _tables.colour("gp") != _tables.colour("rife") != _tables.colour("no_graph") == _tables.colour("c2sti")


def test_series_too_short_leave_no_panel(tmp_path: Path) -> None:
    long, short = rows(gp=[0.1, 0.2, 0.3]), rows(gp=[0.1]).assign(series="stahl")
    table = pd.concat([long, long.assign(n_slices=2), short])
    _tables.draw(table, ["gp"], tmp_path / "table.png")
    assert [path.name for path in tmp_path.iterdir()] == ["table.png"]
