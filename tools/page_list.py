"""The page list in `docs/index.md`, and what the build makes from it: the site's navigation, and `llms.txt`.

`llms.txt` is the form of a page list that language models and their tools look for. A page of prose is given there as
its Markdown; what Sphinx makes from docstrings is given as the page that it makes.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
ENTRY = re.compile(r"^- \[(.+)\]\((\S+)\.md\)(?:: ((?:.|\n  )+))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """Be one page in the list.

    Args:
        title: The page's title.
        page: Its path in the docs, without ``.md``.
        about: What is in it, in one line.
    """

    title: str
    page: str
    about: str


def read(docs: Path) -> dict[str, list[Entry]]:
    """Return the entries of the list, by the headings of its sections; pages that it has not come last, as *More*.

    Args:
        docs: The folder with the pages.
    """
    _, *parts = HEADING.split((docs / "index.md").read_text(encoding="utf-8"))
    sections = {
        heading: [Entry(title, page, re.sub(r"\n  ", " ", about or "")) for title, page, about in ENTRY.findall(part)]
        for heading, part in zip(parts[::2], parts[1::2], strict=True)
    }
    listed = {entry.page for entries in sections.values() for entry in entries} | {"index"}
    paths = {path.relative_to(docs).with_suffix("").as_posix(): path for path in sorted(docs.rglob("*.md"))}
    missing = [Entry(_title(path), page, "") for page, path in paths.items() if page not in listed]
    return {**sections, "More": missing} if missing else sections


def navigation(docs: Path) -> str:
    """Return the directives that make the site's navigation from the list.

    Args:
        docs: The folder with the pages.
    """
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n"
        + "".join(f"{entry.page}\n" for entry in entries)
        + "```\n"
        for heading, entries in read(docs).items()
    )


def llms_txt(docs: Path) -> str:
    """Return the text of `llms.txt`.

    Args:
        docs: The folder with the pages.
    """
    title, summary, *_ = (docs / "index.md").read_text(encoding="utf-8").split("\n\n")
    lines = [title, "", f"> {' '.join(summary.split())}"]
    for heading, entries in read(docs).items():
        lines += ["", f"## {heading}", ""]
        for entry in entries:
            suffix = ".html" if _is_generated(docs / f"{entry.page}.md") else ".md"
            lines.append(f"- [{entry.title}]({entry.page}{suffix})" + (f": {entry.about}" if entry.about else ""))
    return "\n".join(lines) + "\n"


def write(docs: Path, site: Path) -> None:
    """Write `llms.txt`, and the Markdown of the pages that it names, into a site.

    Args:
        docs: The folder with the pages.
        site: The folder with the site that was made from them.
    """
    for entry in (entry for entries in read(docs).values() for entry in entries):
        page = docs / f"{entry.page}.md"
        if not _is_generated(page):
            target = site / f"{entry.page}.md"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, target)
    (site / "llms.txt").write_text(llms_txt(docs), encoding="utf-8")


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _is_generated(page: Path) -> bool:
    return "```{eval-rst}" in page.read_text(encoding="utf-8")
