"""A page of HTML as tests look at it: whether its tags close, what it loads, what it says."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "line", "polyline", "polygon", "circle", "br"}


class Outline(HTMLParser):
    """Every tag closes; what is loaded, and all text, are collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loaded += [value for key, value in attrs if key in ("src", "href", "data", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(path: Path) -> Outline:
    page = Outline()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page
