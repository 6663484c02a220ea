"""What ``make docs`` adds to MkDocs: pages made of other files, links, examples in docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
API = {
    "The library": ["equireg.library.equivariance.Equivariance"],
    "Layers": ["equireg.library.normalization.FieldBatchNorm", "equireg.library.registry.follows"]
    + [f"equireg.symmetry.nonlinearities.{name}" for name in ("Norms", "Gates", "Products")],
    "Groups": [
        f"equireg.symmetry.groups.{name}"
        for name in ("Group", "cyclic", "dihedral", "symmetric", "permutation_group", "point_group")
    ]
    + ["equireg.symmetry.groups.generate"],
    "Compact groups": [
        f"equireg.symmetry.compact.{name}"
        for name in (
            *("rotations", "orthogonal", "unitary", "product"),
            *("frequency", "angular_momentum", "lifted"),
        )
    ],
    "Representations": [
        f"equireg.symmetry.representations.{name}"
        for name in ("Representation", "trivial", "regular", "defining", "grid", "direct_sum")
    ]
    + ["equireg.symmetry.representations.from_generators", "equireg.library.vectors.vectors"],
    "Spaces": ["equireg.symmetry.spaces.Space"],
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]*)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that are no file below docs/."""
    made = {page: (ROOT / file).read_text(encoding="utf-8") for page, file in PAGES.items()}
    made["api.md"] = api()
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def api() -> str:
    """A page of directives that are replaced by docstrings."""
    modules = "`groups`, `representations` and `nonlinearities`"
    parts = [f"# API\n\nWhat `equireg` and its modules {modules} export.\n"]
    for title, names in API.items():
        parts.append(f"## {title}\n\n" + "\n".join(f"::: {name}\n" for name in names))
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what the site has lead there; those to the repository's other files are texts."""
    origin = PAGES.get(page.file.src_uri)
    folder = (ROOT / origin).parent if origin else ROOT / "docs"
    places = {(ROOT / file).resolve(): page for page, file in PAGES.items()}
    places |= {Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path}

    def lead(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        if not target:
            return found[0]
        place = places.get((folder / target).resolve())
        return f"{picture}[{text}]({place}{anchor or ''})" if place else text

    return LINK.sub(lead, markdown)


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: parameters become a list, and doctests blocks of code.

    Markdown would run the parameters together, and take ``>>>`` for quotations.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Of classes, the parameters are those of ``__init__`` or the fields."""
        if not obj.docstring:
            return
        made = obj.members.get("__init__", obj)
        names = [parameter.name for parameter in getattr(made, "parameters", [])]
        if obj.is_class:
            names += [name for name, member in obj.members.items() if member.is_attribute]
        text = re.sub(r"^(>>> (?:.+\n)*.+)", r"```pycon\n\1\n```", obj.docstring.value, flags=re.M)
        paragraphs = (listed(paragraph, names) for paragraph in text.split("\n\n"))
        obj.docstring.value = "\n\n".join(paragraphs)


def listed(paragraph: str, names: list[str]) -> str:
    """A list with an item per parameter, where the paragraph begins with one."""
    either = "|".join(map(re.escape, names)) or "$"
    start = re.compile(rf"(?:^|(?<=[.;]\s))((?:{either})(?:, (?:{either}))*): ")
    if not start.match(paragraph) or paragraph.startswith("```"):
        return paragraph
    _, *parts = start.split(paragraph)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in pairs)
