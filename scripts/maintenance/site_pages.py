"""Pages of the site that are made from documents in the root of the repository; an mkdocs hook."""

import pathlib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGES.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files, config):
    for document, page in PAGES.items():
        text = (ROOT / document).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_link_pages(text, "](")))
    return files


def on_page_markdown(markdown, **_):
    return _link_pages(markdown, "](../")


def _link_pages(text, link):
    for document, page in PAGES.items():
        text = text.replace(link + document, "](" + page)
    return text
