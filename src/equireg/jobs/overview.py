"""Overview: one page for a reader who only wants the result."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from markdown_it import MarkdownIt

from equireg.files import write_text

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>equireg: {experiment}</title>
<style>
body {{ font: 15px/1.45 "DejaVu Sans", Verdana, sans-serif; color: #222; margin: 1.5em auto;
  padding: 0 1em; max-width: 62em; }}
img {{ width: 100%; }}
section {{ overflow-x: auto; }}
h1, h2, h3 {{ line-height: 1.2; margin: 1.4em 0 0.5em; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.25em; }} h3 {{ font-size: 1.05em; }}
table {{ border-collapse: collapse; font-size: 0.9em; }}
th, td {{ padding: 0.25em 0.8em 0.25em 0; text-align: left; vertical-align: top; }}
th {{ border-bottom: 1px solid #888; }}
td {{ border-bottom: 1px solid #e6e6e6; }}
blockquote {{ margin: 0.5em 0; padding-left: 0.8em; border-left: 3px solid #ccc; color: #555; }}
a {{ color: #0072B2; }}
</style>
</head>
<body>
<h1>Experiment {experiment}</h1>
<p>Networks are trained on augmented data (augmented), on upright data (nominal), or within the
subspace E of equivariant weights (equivariant), as in Nordenfors and Flinth,
<a href="https://arxiv.org/abs/2502.06547">arXiv 2502.06547</a>. A penalty gamma pulls the first two
towards E. This page shows how far from E they went, and what that says of the paper's claims.</p>
<h2>Distance to E along training</h2>
<img alt="Distance to E along training, a panel per penalty" src="data:image/png;base64,{figure}">
<p>Every run faintly, the median over the seeds boldly.</p>
{sections}
<h2>Files beside this page</h2>
<p><a href="figures/figure2.html">figures/figure2.html</a>, the figure to move about in;
<a href="figures/figure2.pdf">figures/figure2.pdf</a>, for print; trajectories.parquet,
summary.parquet and evaluation.parquet, every number.</p>
</body>
</html>
"""


def overview(experiment: str, figure: Path, documents: list[Path], output: Path) -> None:
    """Write a page, complete in itself, with the figure (PNG) and the documents (Markdown)."""
    page = PAGE.format(
        experiment=html.escape(experiment),
        figure=base64.b64encode(figure.read_bytes()).decode(),
        sections="\n".join(map(section, documents)),
    )
    write_text(output, page)


def section(document: Path) -> str:
    """A Markdown document as a part of the page, its headings a level lower.

    One without a heading gets its name as one.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(document.read_text(encoding="utf-8"))
    title = "" if tokens and tokens[0].tag == "h1" else f"<h2>{document.stem.capitalize()}</h2>\n"
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    return f"<section>\n{title}{markdown.renderer.render(tokens, markdown.options, {})}</section>"
