"""What the demo's agent may do to a text: look into it, and write a file if somebody lets it."""

import re
from pathlib import Path

import stepwarden as sw


@sw.tool(side_effect="none")
def count_words(text: str) -> str:
    """Count the words of *text*."""
    return f"{len(text.split())} words"


@sw.tool(side_effect="none")
def list_headings(text: str) -> str:
    """List the Markdown headings of *text*."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return "; ".join(headings) or "no headings"


@sw.tool(side_effect="none")
def find_links(text: str) -> str:
    """Find the web addresses in *text*."""
    links = re.findall(r"https?://[^\s)>\"']+", text)
    return "; ".join(links) or "no links"


@sw.tool(side_effect="workspace_write")
def write_file(path: str, text: str) -> None:
    """Write *text* to the file at *path*."""
    Path(path).write_text(text, encoding="utf-8")


INSPECTIONS = {"count_words": count_words, "list_headings": list_headings, "find_links": find_links}
