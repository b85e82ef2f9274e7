"""The page list of the docs makes the site's navigation and `llms.txt`, and both lead to every page."""

import re
from pathlib import Path

from tools import page_list

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md") if page.stem != "index")


def test_the_index_names_each_page_as_the_page_does():
    """An entry has its page's title, so that who searches for one finds the other, and says what is in it."""
    for entry in (entry for entries in page_list.read(DOCS).values() for entry in entries):
        assert (DOCS / f"{entry.page}.md").read_text(encoding="utf-8").startswith(f"# {entry.title}\n")


def test_the_navigation_leads_to_every_page():
    """Each page stands once in what makes the site's navigation, whether or not the list has it."""
    assert sorted(re.findall(r"^[\w/-]+$", page_list.navigation(DOCS), re.MULTILINE)) == PAGES


def test_llms_txt_has_the_form_that_readers_expect():
    """A title, a summary in a quotation, then sections in which every line is an entry."""
    title, blank, summary, *rest = page_list.llms_txt(DOCS).splitlines()
    assert (title, blank) == ("# stepwarden", "")
    assert re.fullmatch(r"> A per-step runtime .*\.", summary)
    assert {line.partition(" ")[0] for line in rest} == {"", "##", "-"}


def test_llms_txt_leads_to_every_page(tmp_path):
    """Every page is an entry, once: as Markdown that is there, or as HTML where it is made from docstrings."""
    page_list.write(DOCS, tmp_path)
    text = (tmp_path / "llms.txt").read_text(encoding="utf-8")
    targets = re.findall(r"^- \[.+\]\((\S+)\)", text, re.MULTILINE)
    assert sorted(target.rpartition(".")[0] for target in targets) == PAGES
    markdown = {target for target in targets if (tmp_path / target).is_file()}
    assert {target for target in targets if target.startswith("reference/")} == set(targets) - markdown


def test_a_page_that_is_not_listed_comes_at_the_end(tmp_path):
    """A page that the list has forgotten is led to all the same, and an entry of several lines becomes one."""
    (tmp_path / "index.md").write_text("# T\n\nWhat it is,\nin short.\n\n## A\n\n- [One](one.md): it\n  goes on.\n")
    (tmp_path / "one.md").write_text("# One\n")
    (tmp_path / "two.md").write_text("# Two words\n")
    assert page_list.llms_txt(tmp_path) == (
        "# T\n\n> What it is, in short.\n\n## A\n\n- [One](one.md): it goes on.\n\n## More\n\n- [Two words](two.md)\n"
    )
    assert re.findall(r"^\w+$", page_list.navigation(tmp_path), re.MULTILINE) == ["one", "two"]
