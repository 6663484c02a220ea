"""Overview: one page for a reader who only wants the result."""

from __future__ import annotations

import base64
import html
import itertools
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from equireg.binding import OWN, joined, read, with_source, without_comment, write_document
from equireg.digest import job_digest
from equireg.figures.typeset import typeset

# How a verdict's words begin, its sign, and its class on the page.
SIGNS = (
    ("held, too few seeds", "✓", "few"),
    ("held", "✓", "good"),
    ("reproduced", "✓", "good"),
    ("yes", "✓", "good"),
    ("did not", "✗", "bad"),
    ("not reproduced", "✗", "bad"),
    ("no", "✗", "bad"),
    ("undecided", "–", "none"),
    ("not applicable", "–", "none"),
    ("not ", "–", "none"),
)
# What a column's heading becomes in the headline.
WORDS = {"Verdict": "held", "Our reading of the sentence": "held by our reading"}
NUMBER = re.compile(r"[-+−<]?\s?\d[\d,.]*(e[-+]?\d+)?( (of|to|/) [\d,.e+-]+)?×?%?( \[.*\])?( %)?")


def overview(experiment: str, figure: Path, documents: list[Path], output: Path) -> None:
    """Write a page, complete in itself, with the figure (PNG) and the documents (Markdown).

    What a document says before its second heading comes first, the rest of all of them below.
    Raises ValueError where they were made by different settings.
    """
    made = joined({path: read(path) for path in (figure, *documents)})
    first, below, result = [], [], ""
    for document in documents:
        head, rest = parts(document)
        result = result or headline(head)
        first.append(section(head))
        if rest:
            below.append(section(rest))
    page = files("equireg.jobs").joinpath("overview.html").read_text(encoding="utf-8")
    for name, text in {
        "EXPERIMENT": html.escape(experiment),
        "HEADLINE": html.escape(result or f"How far from E the networks of {experiment} went"),
        "FIGURE": base64.b64encode(figure.read_bytes()).decode(),
        "RESULTS": "\n".join(first),
        "DETAILS": "<h2>In detail</h2>\n" + "\n".join(below) if below else "",
    }.items():
        page = page.replace(f"<!--{name}-->", text)
    runs = {OWN: {"experiment": experiment}}
    write_document(output, page, with_source(made, "overview", job_digest("overview"), **runs))


def parts(document: Path) -> tuple[list[Token], list[Token]]:
    """A document as tokens, headings a level lower: up to its second heading, and from there on.

    One without a heading gets its name as one.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(without_comment(document.read_text(encoding="utf-8")))
    if not tokens or tokens[0].tag != "h1":
        tokens = [*markdown.parse(f"# {html.escape(document.stem.capitalize())}"), *tokens]
    ends = [i for i, token in enumerate(tokens) if token.type == "heading_open"]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    cut = ends[1] if len(ends) > 1 else len(tokens)
    return tokens[:cut], tokens[cut:]


def section(tokens: list[Token]) -> str:
    """Tokens as a part of the page: tables scroll, numbers stand right, verdicts stand out.

    A gamma is spelled as in the figure: 10⁻² for 1e-2.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    for table in _tables(tokens):
        _align(table)
    for token in tokens:
        for child in token.children or ():
            if child.type == "text":
                child.content = typeset(child.content)
    text = str(markdown.renderer.render(tokens, markdown.options, {}))
    text = text.replace("<table>", '<div class="scroll" tabindex="0"><table>')
    text = text.replace("</table>", "</table></div>").replace("Π_E⊥", "Π<sub>E⊥</sub>")
    return f"<section>\n{_marked(text)}</section>"


def headline(tokens: Sequence[Token]) -> str:
    """How many verdicts of the first table are good, by column; empty where there are none.

    A column in which nothing applies is left out.
    """
    for table in _tables(tokens):
        names, rows = _cells(table)
        said = []
        for i, name in enumerate(names):
            signs = [sign(row[i].content.strip("*")) for row in rows]
            kinds = [kind for _, kind in filter(None, signs)]
            if None not in signs and {*kinds} - {"none"}:
                what = WORDS.get(name.content, name.content.strip("*?").lower())
                few = kinds.count("few")
                more = f", {few} more on too few seeds" if few else ""
                said.append(f"{kinds.count('good')} of {len(kinds)} {what}{more}")
        if said:
            return f"Of the paper's claims, {' and '.join(said)}"
    return ""


def sign(verdict: str) -> tuple[str, str] | None:
    """The sign and the class of a verdict; None for other words."""
    return next(
        ((mark, kind) for start, mark, kind in SIGNS if re.match(rf"{start}\b", verdict)), None
    )


def _tables(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    opened = [i for i, token in enumerate(tokens) if token.type == "table_open"]
    closed = [i for i, token in enumerate(tokens) if token.type == "table_close"]
    for start, end in zip(opened, closed, strict=True):
        yield list(tokens[start : end + 1])


def _cells(table: list[Token]) -> tuple[list[Token], list[list[Token]]]:
    """The contents of the head's cells, and of each row's."""
    pairs = list(itertools.pairwise(table))
    head = [inline for cell, inline in pairs if cell.type == "th_open"]
    body = [inline for cell, inline in pairs if cell.type == "td_open"]
    return head, [body[i : i + len(head)] for i in range(0, len(body), len(head))]


def _align(table: list[Token]) -> None:
    """Columns of numbers to the right."""
    _, rows = _cells(table)
    columns = [[cell.content for cell in column] for column in zip(*rows, strict=True)]
    right = [
        any(column) and all(not text or NUMBER.fullmatch(text) for text in column)
        for column in columns
    ]
    cells = [token for token in table if token.type in ("th_open", "td_open")]
    for i, cell in enumerate(cells):
        if right and right[i % len(right)]:
            cell.attrSet("class", "number")


def _marked(text: str) -> str:
    """Verdicts in bold with their sign, in their colour."""

    def mark(found: re.Match[str]) -> str:
        known = sign(found[1])
        if known is None:
            return found[0]
        signed = f'<span aria-hidden="true">{known[0]}</span> {found[1]}'
        return f'<strong class="{known[1]}">{signed}</strong>'

    return re.sub(r"<strong>(.*?)</strong>", mark, text)
