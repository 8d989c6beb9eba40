"""Check a built site: links lead to pages that are there, and so do the views of estimators; llms.txt names all pages.

python docs/check_site.py docs/_build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sktorch_mlp import (
    MLPTorchClassifier,
    MLPTorchRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sktorch_mlp._estimators.html import DOCS_URL

#: Pages that are made by Sphinx and found from every other.
OF_SPHINX = {"genindex.html", "py-modindex.html", "search.html"}


class Page(HTMLParser):
    """Links of a page, and the places in it that links can lead to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places.add(attrs.get("id"))
        self.links.update(
            attrs[name] for name in ("href", "src") if attrs.get(name)
        )


def wrong_links(folder):
    """Links between the pages of a site that lead nowhere."""
    pages = {
        path: Page(path)
        for path in folder.resolve().rglob("*.html")
        if "_static" not in path.parts
    }
    for path, page in pages.items():
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (
                (path.parent / unquote(url.path)).resolve() if url.path else path
            )
            if not target.is_file():
                yield f"{path.name} links to {link}, which is not there"
            elif (
                target in pages
                and unquote(url.fragment) not in pages[target].places
            ):
                yield f"{path.name} links to {link}, a page without such a place"


def wrong_pages(folder):
    """Pages that views of estimators or llms.txt name, but that are not there, and pages that llms.txt does not name."""
    for estimator in (
        MLPTorchClassifier,
        MLPTorchRegressor,
        TabularMLPClassifier,
        TabularMLPRegressor,
    ):
        page = estimator()._get_doc_link().removeprefix(DOCS_URL)
        if not (folder / page).is_file():
            yield f"views of {estimator.__name__} link to {page}, which is not there"
    named = set(
        re.findall(
            r"\]\((.+?\.html)\)", (folder / "llms.txt").read_text(encoding="utf-8")
        )
    )
    built = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.html")
        if "_static" not in path.parts
    }
    for page in sorted(named ^ (built - OF_SPHINX)):
        yield (
            f"llms.txt names {page}, which is not there"
            if page in named
            else f"llms.txt does not name {page}"
        )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    faults = [*wrong_links(folder), *wrong_pages(folder)]
    sys.exit("\n".join(faults) or None)
