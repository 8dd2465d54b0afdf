"""Pages of the site that are made from documents in the root, and links that mkdocs does not make.

An mkdocs hook.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGES.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
PYTHON, TENSORFLOW = (
    "https://docs.python.org/3/library",
    "https://www.tensorflow.org/api_docs/python/tf",
)
# Where the types in signatures are documented that are not of this package.
TYPES = {
    **{name: f"{PYTHON}/functions.html#{name}" for name in ("bool", "float", "int", "tuple")},
    **{name: f"{PYTHON}/stdtypes.html#{name}" for name in ("bytes", "str")},
    **{
        f"typing.{name}": f"{PYTHON}/typing.html#typing.{name}"
        for name in ("Any", "Callable", "Dict", "List", "NamedTuple", "Optional", "Tuple", "Union")
    },
    **{
        f"typing_extensions.{name}": f"{PYTHON}/typing.html#typing.{name}"
        for name in ("Literal", "Protocol")
    },
    "os.PathLike": f"{PYTHON}/os.html#os.PathLike",
    "tensorflow.compat.v1.DType": f"{TENSORFLOW}/dtypes/DType",
    "tensorflow.compat.v1.Operation": f"{TENSORFLOW}/Operation",
    "tensorflow.compat.v1.Tensor": f"{TENSORFLOW}/Tensor",
}


def on_files(files, config):
    for name, url in TYPES.items():
        config.plugins["autorefs"].register_url(name, url)
    for document, page in PAGES.items():
        text = (ROOT / document).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_link_pages(text, "](")))
    return files


def on_page_markdown(markdown, **_):
    return _link_pages(markdown, "](../")


def on_page_content(html, page, **_):
    """Links of a notebook, which go to files of the repository."""
    if page.file.src_path.endswith(".ipynb"):
        html = re.sub(r'(href="\w+)\.md(["#])', r"\1.html\2", html)
    return html


def _link_pages(text, link):
    for document, page in PAGES.items():
        text = text.replace(link + document, "](" + page)
    return text
