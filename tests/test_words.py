"""Words that the project avoids, each with what to write in its place; see "Wording" in docs/contributing.md.

``python -m tests.test_words [PATH ...]`` lists every place; without a path, those outside of the tests too.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {
    r"made (tissue|data|sections?|cells)": "simulated",
    r"inserted (sections?|values?|cells|tissue)": "interpolated",
    r"hidden (sections?|patients?|ones?|cells|spots?|counts|frame)": "held-out",
    r"halvings|by a coin": "count splitting",
    r"(?<!gene )programmes?": "components; factors, loadings, scores",
    r"views? of the counts": "transforms of the counts",
    r"likeness": "expression similarity",
    r"strangers?": "unrelated sections",
    r"rivals?": "compared methods",
    r"doubts?|how sure|unsure|sure of (itself|themselves)": "standard deviation, uncertainty",
    r"askew|(its|the|their) other face": "rotated, misaligned; mirrored",
    r"(one|common|same) frame": "common coordinate system",
    r"(laid|lying|lies|lie) wrong": "misplaced",
    r"pictures?": "image or H&E",
    r"(?<!Benchmarking )rough(er)? (fields?|maps?)": "Matérn 3/2",
    r"(?<!noise )ceilings?": "noise ceiling",
    r"nobody": "say the subject",
    r"mends?|mended|mending": "fix",
    r"without a word": "without a warning",
    r"written aside|writing aside": "atomic write",
    r"folding": "folded bins (negative Jacobian)",
    r"tells? of itself|says? of itself|speaks?|told(?! apart)": "say the subject; given",
    r"who (has|have|can|wants?|needs?|works?|asks?)": "name the person or thing",
    r"the answer of": "the result of",
    r"shallow(er)? spots?|depth of (a |the )?(spots?|sequencing)": "library size",
    r"at (what|which|its|their|own) depths?": "z",
    r"goes on|gone on": "continues",
}
FORBIDDEN = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in WORDS), re.IGNORECASE)
QUOTED = re.compile(
    r"```.*?```|``[^`]*``|`[^`]*`|\]\([^)]*\)|https?://\S+|<[^>\n]+>|\{[^}]*\}|^\s*>.*?$|\"[^\"\n]{1,80}\"",
    re.DOTALL | re.MULTILINE,
)

PAGES = sorted(
    p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if not {"_build", "generated"} & set(p.parts)
)
NOTEBOOKS = sorted(ROOT.glob("tutorials/*.ipynb"))
MODULES = sorted(ROOT.glob("c2sti/**/*.py"))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what a reader sees: a page, the cells of a notebook, docstrings and messages of a module."""
    if path.suffix == ".md":
        yield 1, path.read_text(encoding="utf-8")
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            if cell["cell_type"] == "markdown":
                yield number, "".join(cell["source"])
    else:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value


def found(path: Path) -> Iterator[str]:
    """Every forbidden word with its place; what is quoted, code or an address does not count."""
    for first, text in texts(path):
        bare = QUOTED.sub(lambda quoted: re.sub(r"[^\n]", " ", quoted.group()), text)
        for hit in FORBIDDEN.finditer(bare):
            line = first + bare.count("\n", 0, hit.start())
            yield f"{path}:{line}: {hit.group()!r}: write {instead(hit.group())}"


def instead(word: str) -> str:
    return next(good for bad, good in WORDS.items() if re.fullmatch(bad, word, re.IGNORECASE))


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    assert not list(found(path))


def test_words_are_found_outside_of_code(tmp_path: Path) -> None:
    assert instead("inserted sections") == "interpolated"
    bare = QUOTED.sub("", 'a `picture` and "a picture"')
    assert not FORBIDDEN.search(bare)


if __name__ == "__main__":
    paths = [Path(p).resolve() for p in sys.argv[1:]] or [*PAGES, *NOTEBOOKS, *MODULES]
    sys.exit("\n".join(line for path in paths for line in found(path)) or 0)
