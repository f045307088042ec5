from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from anndata import AnnData

from c2sti import _atomic, io
from c2sti.io import _store
from tests.conftest import interpolate, never, simulated_layers, write_dense

# ---- digits


def test_rounding_keeps_the_nearest_mantissa() -> None:
    step = 2.0**-10  # three digits are ten bits
    values = np.array([0, 1, 1 + step / 2, 1 + 1.5 * step, 1 + 0.6 * step, 2 - step / 4, 0.1], dtype=np.float32)
    expected = np.array([0, 1, 1, 1 + 2 * step, 1 + step, 2, 1638 * 2.0**-14], dtype=np.float32)
    np.testing.assert_array_equal(_store.rounded(values, 3), expected)
    np.testing.assert_array_equal(_store.rounded(-values, 3), -expected)
    strange = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
    np.testing.assert_array_equal(_store.rounded(strange, 2), strange)
    assert _store.rounded(values, None) is values


@pytest.mark.parametrize("digits", range(1, 8))
def test_rounding_is_as_good_as_it_says(digits: int) -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 5, 100_000)).astype(np.float32)
    near = _store.rounded(values, digits)
    assert (np.abs(near.astype(float) - values) / values).max() <= 0.5 * 10.0**-digits
    np.testing.assert_array_equal(_store.rounded(near, digits), near)


def test_digits_make_the_store_smaller(tmp_path: Path) -> None:
    made = simulated_layers(300, 60)
    for digits in (None, 2):
        write_dense(tmp_path / f"{digits}.zarr", made, digits=digits)
    full, short = (zarr.open_group(tmp_path / name, mode="r")["layers/c2sti_1"] for name in ("None.zarr", "2.zarr"))
    np.testing.assert_allclose(short[:], full[:], rtol=0.005)
    assert short.nbytes_stored() < 0.6 * full.nbytes_stored()


@pytest.mark.parametrize("digits", [0, 8, 2.5])
def test_digits_that_cannot_be_are_refused(pair: tuple[AnnData, AnnData], tmp_path: Path, digits: float) -> None:
    with pytest.raises(ValueError, match=f"digits = {digits} must be a whole number from 1 to 7"):
        interpolate(*pair, out=tmp_path / "o.zarr", digits=digits)
    with pytest.raises(ValueError, match="digits= is for results that are written to a store"):
        interpolate(*pair, digits=3)
    with pytest.raises(ValueError, match="dense= is for results that are written to a store"):
        interpolate(*pair, dense=True)
    with pytest.raises(ValueError, match="digits = 3 is for values that are written as they are; add dense=True"):
        interpolate(*pair, out=tmp_path / "o.zarr", digits=3)


# ---- whole or not at all


def test_what_is_there_is_not_replaced(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(FileExistsError, match="there.zarr exists; name another one with out="):
        interpolate(*pair, out=tmp_path / "there.zarr", model=never)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write o.zarr into"):
        interpolate(*pair, out=tmp_path / "nowhere" / "o.zarr", model=never)
    with pytest.raises(ValueError, match=r"o.h5ad' must end in .zarr"):
        interpolate(*pair, out=tmp_path / "o.h5ad", model=never)
    assert os.listdir(tmp_path) == ["there.zarr"]


def test_a_folder_that_may_not_be_written_into_is_refused(
    pair: tuple[AnnData, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(_atomic.tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written into \(Read-only file system\); name another place"):
        interpolate(*pair, out=tmp_path / "o.zarr", model=never)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left in .* for o.zarr"),
        (KeyboardInterrupt(), None),
        (RuntimeError("odd"), "odd"),
    ],
)
def test_nothing_is_left_of_a_run_that_fails(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str | None
) -> None:
    done = []

    def fail(values: np.ndarray, digits: int | None) -> np.ndarray:
        done.append(values)
        if len(done) > 3:
            raise error
        return values

    monkeypatch.setattr(_store, "rounded", fail)
    with pytest.raises(type(error), match=message), io.new_store(tmp_path / "o.zarr") as store:
        write_dense(store, simulated_layers(120, 40))
    assert len(done) > 3
    assert os.listdir(tmp_path) == []


def test_a_result_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="o.zarr exists"), io.new_store(tmp_path / "o.zarr") as store:
        store.mkdir()
        (tmp_path / "o.zarr").mkdir()
        (tmp_path / "o.zarr" / "theirs").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["o.zarr", "theirs"]


KILLED = """
import os, signal, sys
from c2sti.io import new_store
with new_store(sys.argv[1]) as store:
    store.mkdir()
    (store / "zarr.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_leaves_is_no_result_and_the_next_removes_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "o.zarr"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".o.zarr.part-")
    with io.new_store(tmp_path / "o.zarr") as store:
        assert not left.exists()
        with pytest.raises(RuntimeError), io.new_store(tmp_path / "o.zarr"):
            assert store.parent.exists()  # a run in progress is left alone
            raise RuntimeError
        assert store.parent.exists()
        store.mkdir()
    assert os.listdir(tmp_path) == ["o.zarr"]


def test_a_system_without_locks_leaves_what_it_cannot_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_atomic, "fcntl", None)  # Windows
    left = tmp_path / ".o.zarr.part-x"
    left.mkdir()
    with io.new_store(tmp_path / "o.zarr") as store:
        store.mkdir()
    assert sorted(os.listdir(tmp_path)) == [left.name, "o.zarr"]


def test_a_folder_that_is_still_written_into_is_removed_again_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls, said, remove = tmp_path / "x", [], [], shutil.rmtree

    def late(path: Path, ignore_errors: bool) -> None:
        calls.append(path)
        if len(calls) == 3:
            remove(path)

    folder.mkdir()
    monkeypatch.setattr(_atomic.shutil, "rmtree", late)
    monkeypatch.setattr(_atomic, "PAUSE", 0.0)
    monkeypatch.setattr(_atomic._logging, "warning", said.append)
    _atomic._remove(folder)
    assert calls == [folder] * 3
    assert said == []
    folder.mkdir()
    _atomic._remove(folder)  # and in the end it is let be, for the result is there
    assert len(calls) == 3 + _atomic.REMOVALS
    assert said == [f"{folder} could not be removed; remove it by hand"]


# ---- blocks


def test_blocks_that_workers_wrote_elsewhere_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "store", lambda *_, **__: None)  # on a disk that we do not see
    with pytest.raises(FileNotFoundError, match="1 blocks are not in .*o.zarr: workers of the cluster have to see"):
        write_dense(tmp_path / "o.zarr", simulated_layers(20, 10))
