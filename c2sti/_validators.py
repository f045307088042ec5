"""Checks of arguments: an error names the argument, what was given and what is needed.

Each function gives back the value in the form in which it is used on. What is of the wrong kind raises a TypeError,
what is out of range or unknown a ValueError, unless it says otherwise.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

SHOWN = 60  # letters of a value in a message


def shown(value: Any) -> str:
    """A value as a message shows it: its type, where it would be long."""
    text = repr(value)
    return text if len(text) <= SHOWN and "\n" not in text else f"a {type(value).__name__}"


def number(
    value: Any, name: str, *, above: float | None = None, least: float | None = None, most: float = float("inf")
) -> float:
    """A finite number that is more than `above`, or no less than `least`, and no more than `most`."""
    found = _real(value)
    if found is None:
        raise TypeError(f"{name} = {shown(value)} is no number; one number is needed")
    enough = found > above if above is not None else least is None or found >= least
    if not (np.isfinite(found) and enough and found <= most):
        raise ValueError(f"{name} = {shown(value)} must be {_range(above, least, most)}")
    return found


def whole(value: Any, name: str, *, least: int = 1, most: float = float("inf")) -> int:
    """A whole number from `least` to `most`; a float of such a value is one."""
    found = _real(value)
    if found is None or not (found.is_integer() and least <= found <= most):
        wanted = f"a whole number {f'of at least {least}' if most == np.inf else f'from {least} to {most}'}"
        raise (TypeError if found is None else ValueError)(f"{name} = {shown(value)} must be {wanted}")
    return int(value)


def seed(value: Any, name: str = "seed") -> int:
    """A whole number that random numbers can be drawn by."""
    return whole(value, name, least=0)


def text(value: Any, name: str) -> str:
    """Text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} = {shown(value)} must be text")
    if not value:
        raise ValueError(f"{name} = '' is empty; give it a name")
    return value


def path(value: Any, name: str) -> Path:
    """A path of the file system."""
    if not isinstance(value, str | Path):
        raise TypeError(f"{name} = {shown(value)} is no path; give text, such as 'some/where', or a pathlib.Path")
    return Path(value)


def folder(value: Any, name: str) -> Path:
    """A folder that is there, or can be made; a NotADirectoryError where it is a file, or would lie in one."""
    wanted = path(value, name)
    place = next((place for place in (wanted, *wanted.parents) if place.exists()), None)
    if place is not None and not place.is_dir():
        raise NotADirectoryError(f"{name} = {str(wanted)!r}: {place} is a file and no folder; name another place")
    return wanted


def new_folder(value: Any, name: str) -> Path:
    """The same, made where it is not there; an OSError where it cannot be made."""
    wanted = folder(value, name)
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{name} = {str(wanted)!r} cannot be made ({error.strerror}); name another place") from error
    return wanted


def key(value: Any, name: str = "key_added") -> str:
    """A name under which something is written into a container."""
    if "/" in text(value, name):
        raise ValueError(f"{name}={value!r} holds '/', which files take for a folder; choose another name")
    return str(value)


def one_of(value: Any, name: str, known: Sequence[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={shown(value)} is not known; choose one of {', '.join(known)}")
    return value


def names(value: Any, name: str) -> list[str]:
    """One name, or several, as a list."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise TypeError(f"{name} = {shown(value)} must be a name or a list of names")
    found = list(value)
    odd = [one for one in found if not isinstance(one, str)]
    if odd:
        raise TypeError(f"{name}= holds {shown(odd[0])}, a {type(odd[0]).__name__}; names are text")
    return found


def gene_names(value: Any) -> list[str]:
    """Names of genes, one or more."""
    wanted = names(value, "genes")
    if not wanted:
        raise ValueError("genes= is empty; name one gene or more, or leave it out for all that there are")
    return wanted


def genes(value: Any, known: Collection[str], where: str) -> list[str]:
    """Names of genes, each once, one or more, all of them known; a KeyError where one is not."""
    wanted = gene_names(value)
    unknown = [one for one in wanted if one not in known]
    if unknown:
        raise KeyError(f"{len(unknown)} of {len(wanted)} genes= are not in {where} (first: {unknown[0]!r})")
    if len(set(wanted)) < len(wanted):
        twice = next(one for i, one in enumerate(wanted) if one in wanted[:i])
        raise ValueError(f"genes= names {twice!r} more than once; name each once")
    return wanted


def several(value: Any, name: str, of: str) -> list[Any]:
    """Several things in order, as a list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a {type(value).__name__}; give a list of {of}")
    return list(value)


def a(value: Any, name: str, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse what is not of a kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; {wanted} is needed")


def reals(values: Any, where: str, *, mend: str = ".astype(float)") -> NDArray[np.float64]:
    """Real numbers as a dense array of double precision."""
    if sp.issparse(values):
        raise TypeError(f"{where} is a sparse {type(values).__name__}; a dense array is needed: .toarray()")
    if not (hasattr(values, "__array__") or isinstance(values, Sequence | numbers.Number)):
        raise TypeError(f"{where} is a {type(values).__name__}; an array of numbers is needed")
    try:
        array = np.asarray(values)
        found = str(array.dtype)
        if array.dtype == object and not any(isinstance(one, str) for one in array.ravel()):
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where} holds {shown(values)} and not numbers alone ({error})") from error
    if not is_real(array.dtype):
        raise TypeError(f"{where} holds {found}; real numbers are needed: {mend}")
    return array.astype(np.float64, copy=False)


def is_real(dtype: Any) -> bool:
    """Whether numbers of a type are real ones."""
    return np.dtype(dtype).kind in "biuf"


def device(value: Any) -> str:
    """Where to compute, if this machine has it."""
    kind, _, place = text(value, "device").partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    usable = [name for name, n in there.items() if n]
    if kind not in usable or (place and not (place.isdecimal() and int(place) < there[kind])):
        raise ValueError(f"device = {value!r} is not there; this machine has {', '.join(usable)}")
    return str(value)


def _real(value: Any) -> float | None:
    """The value as a float; None where it is no single real number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value)


def _range(above: float | None, least: float | None, most: float) -> str:
    """A range in words."""
    if most < np.inf:
        return f"more than {above:g} and at most {most:g}" if above is not None else f"from {least or 0:g} to {most:g}"
    if above is not None:
        return "positive and finite" if above == 0 else f"finite and more than {above:g}"
    return "finite" if least is None else f"finite and at least {least:g}"
