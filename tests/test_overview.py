"""The overview page: what it holds, and that it is complete in itself."""

from __future__ import annotations

import re
from pathlib import Path

from equireg.jobs.overview import overview, section

CLAIMS = """\
# The claims

|  | Claim | Verdict |
| --- | --- | --- |
| 1 | Both stay < 2 | **held** |

## How

> words of the paper <script>alert(1)</script>
"""


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_it_holds_the_figure_and_the_documents(tmp_path: Path) -> None:
    figure = tmp_path / "figure2.png"
    figure.write_bytes(b"\x89PNG")
    documents = [
        written(tmp_path, "claims.md", CLAIMS),
        written(tmp_path, "comparison.md", "Medians.\n"),
    ]
    for name in ("a.html", "b.html"):
        overview("mine & yours", figure, documents, tmp_path / name)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<h1>Experiment mine &amp; yours</h1>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    assert page.index("<h2>The claims</h2>") < page.index("<h2>Comparison</h2>")
    assert not re.search(r"<(script|link)|src=\"(?!data:)", page)


def test_a_document_becomes_a_section(tmp_path: Path) -> None:
    made = section(written(tmp_path, "claims.md", CLAIMS))
    assert re.findall(r"<h(\d)>(.*?)</h\1>", made) == [("2", "The claims"), ("3", "How")]
    assert "<td>Both stay &lt; 2</td>" in made
    assert "<td><strong>held</strong></td>" in made
    assert "<script>" not in made
