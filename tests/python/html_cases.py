"""HTML pages, read back."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Text and tags of a page; fails where tags don't close."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def sources(self) -> list[str]:
        """What the page names elsewhere, or holds as data; not the places in it."""
        keys = ("src", "href", "srcset")
        found = [str(about[key]) for _, about in self.tags for key in keys if key in about]
        return [one for one in found if not one.startswith("#")]
