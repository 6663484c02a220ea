"""The overview page: what it holds, and that it is complete in itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from equireg.binding import read, write_document
from equireg.figures.style import save
from equireg.figures.typeset import typeset
from equireg.jobs.overview import headline, overview, parts, section

CLAIMS = """\
# The claims

|  | Claim | Verdict |
| --- | --- | --- |
| 1 | Both stay < 2 at gamma = 1e-2 | **held** |
| 2 | One drifts | **did not hold** |

## How

> words of the paper <script>alert(1)</script>
"""


MADE = {"training": {"epochs": 1}}


def written(folder: Path, name: str, text: str, made: dict[str, Any] = MADE) -> Path:
    write_document(folder / name, text, made)
    return folder / name


def drawn(folder: Path) -> Path:
    save(Figure(figsize=(1, 1)), folder / "figure2.png", MADE)
    return folder / "figure2.png"


def test_it_holds_the_figure_and_the_documents(tmp_path: Path) -> None:
    documents = [
        written(tmp_path, "claims.md", CLAIMS),
        written(tmp_path, "comparison<b>.md", "Medians.\n"),
    ]
    for name in ("a.html", "b.html"):
        overview("mine & yours", drawn(tmp_path), documents, tmp_path / name)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<h1>Of the paper's claims, 1 of 2 held</h1>" in page.replace("&#x27;", "'")
    assert "experiment <b>mine &amp; yours</b>" in page
    assert 'src="data:image/png;base64,iVBORw' in page
    places = ("The claims</h2>", "Comparison&lt;b&gt;</h2>", "In detail</h2>", "How</h3>")
    assert sorted(places, key=page.index) == list(places)  # the criteria below the results
    assert not re.search(r"<(script\b[^>]+\bsrc|link)|src=\"(?!data:)|<!--[A-Z]", page)
    assert read(tmp_path / "a.html")["training"] == {"epochs": 1}


def test_documents_of_different_settings_are_refused(tmp_path: Path) -> None:
    odd = written(tmp_path, "claims.md", CLAIMS, {"training": {"epochs": 2}})
    with pytest.raises(
        ValueError, match=r"claims.md: training.epochs is 2, but 1 in .*figure2.png"
    ):
        overview("mine", drawn(tmp_path), [odd], tmp_path / "a.html")


def test_a_document_becomes_two_sections(tmp_path: Path) -> None:
    head, rest = parts(written(tmp_path, "claims.md", CLAIMS))
    first, below = section(head), section(rest)
    assert "<h2>The claims</h2>" in first
    assert "<h3>How</h3>" in below
    assert "<td>Both stay &lt; 2 at γ = 10⁻²</td>" in first
    good = '<strong class="good"><span aria-hidden="true">✓</span> held</strong>'
    bad = '<strong class="bad"><span aria-hidden="true">✗</span> did not hold</strong>'
    assert good in first
    assert bad in first
    assert '<td class="number">1</td>' in first
    assert "<script>" not in below


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("0.0857", True),
        ("0.0857 / 0.0863", True),
        ("29 of 30", True),
        ("0.105 to 0.338", True),
        ("1.000 [0.99, 1.01]", True),
        ("83.8 %", True),
        ("0.1 / none", False),
        ("nominal", False),
    ],
)
def test_columns_of_numbers_stand_right_and_do_not_wrap(
    tmp_path: Path, cell: str, number: bool
) -> None:
    head, _ = parts(written(tmp_path, "claims.md", f"# A\n\n| a |\n| --- |\n| {cell} |\n"))
    assert (f'<td class="number">{cell}</td>' in section(head)) == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gamma 1e-4, 1e0, 2.5e-3", "γ 10⁻⁴, 1, 2.5·10⁻³"),
        ("p = 9.3e-10, 1e2, 1e-05", "p = 9.3·10⁻¹⁰, 10², 10⁻⁵"),
        ("gammas a1e-4 1e-4x 0.5", "gammas a1e-4 1e-4x 0.5"),
    ],
)
def test_numbers_are_typeset(text: str, said: str) -> None:
    assert typeset(text) == said


def test_the_headline_counts_what_applies() -> None:
    """Of an experiment that the authors did not run, nothing says whether it is reproduced."""
    rows = ["| | Claim | Reproduced? | Our reading of the sentence |", "| --- | --- | --- | --- |"]
    rows += ["| 1 | one | **{}** | **held** |", "| 2 | two | **{}** | **did not hold** |"]
    for verdict, said in {
        "not applicable": "1 of 2 held by our reading",
        "undecided": "1 of 2 held by our reading",
        "yes": "2 of 2 reproduced and 1 of 2 held by our reading",
    }.items():
        table = "\n".join(rows).format(verdict, verdict)
        tokens = MarkdownIt("commonmark").enable("table").parse(table)
        assert headline(tokens) == f"Of the paper's claims, {said}"
    few = [*rows[:2], "| 1 | one | **yes** | **held, too few seeds** |"]
    tokens = MarkdownIt("commonmark").enable("table").parse("\n".join(few))
    said = "1 of 1 reproduced and 0 of 1 held by our reading, 1 more on too few seeds"
    assert headline(tokens) == f"Of the paper's claims, {said}"
