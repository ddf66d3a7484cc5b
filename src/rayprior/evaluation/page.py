"""Page: what every report is made of: one self-contained HTML file, its style, pictures, films, scales, words.

HTML and CSS alone: no script, nothing from the network. Who writes a section escapes what comes from outside.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from rayprior.evaluation.export import Frame
from rayprior.evaluation.pictures import Ramp, ramp
from rayprior.files import write_text

PICTURE_WIDTH = 560  # about two device pixels to each pixel of a column
SMALL = 220  # pictures narrower than this are shown with sharp pixels
NAMES_SHOWN = 24


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """The sections (HTML) as one page, whole or not at all. UserError where it can't be written there."""
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head>\n"
        f"<body><main>{''.join(sections)}<footer>Written by rayprior. This file holds all that it shows.</footer>"
        "</main></body></html>\n",
    )


def header(title: str, about: str, command: str, facts: Mapping[str, str]) -> str:
    """The head of a page: title, a sentence, what was typed, and pairs of facts."""
    items = "".join(f"<li><b>{escape(key)}</b>{escape(str(value))}</li>" for key, value in facts.items())
    return (
        f'<header><p class="kicker">rayprior</p><h1>{escape(title)}</h1>'
        + (f"<p>{escape(about)}</p>" if about else "")
        + (f'<pre class="command">{escape(command)}</pre>' if command else "")
        + (f'<ul class="facts">{items}</ul>' if items else "")
        + "</header>"
    )


def pairs(entries: Mapping[str, Any]) -> str:
    """A protocol as a list of its entries."""
    rows = "".join(f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{said(value)}</dd>" for key, value in entries.items())
    return f'<dl class="protocol">{rows}</dl>'


def said(value: Any) -> str:
    """A protocol's entry in words."""
    if isinstance(value, Mapping):
        return escape(", ".join(f"{k} = {v}" for k, v in value.items()) or "nothing")
    if isinstance(value, list | tuple):
        names = [str(item) for item in value]
        if len(names) <= NAMES_SHOWN:
            counted = f"{len(names)}: " if len(names) > 1 else ""
            return escape(counted + ", ".join(names)) if names else "none"
        return f"<details><summary>{len(names)}</summary>{escape(', '.join(names))}</details>"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def img(frame: Frame, alt: str, width: int = PICTURE_WIDTH) -> str:
    """A picture in the page, at most `width` pixels wide: WebP, lossless where it is small."""
    image = Image.fromarray(frame)
    small = image.width < SMALL
    if image.width > width:
        image = image.resize((width, max(round(image.height * width / image.width), 1)), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", lossless=small, quality=88, method=4)
    data = b64encode(file.getvalue()).decode()
    return (
        f'<img{" class=small" * small} src="data:image/webp;base64,{data}" alt="{escape(alt)}" '
        f'width="{image.width}" height="{image.height}">'
    )


def film_tag(content: bytes, alt: str = "the scene along a camera path") -> str:
    """An animated WebP, GIF or MP4 in the page."""
    data = b64encode(content).decode()
    if content[4:8] == b"ftyp":
        return f'<video src="data:video/mp4;base64,{data}" autoplay loop muted playsinline></video>'
    kind = "gif" if content[:3] == b"GIF" else "webp"
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'


def scale(kind: Ramp, low: str, high: str) -> str:
    """The colours of a map from its lowest to its highest value."""
    stops = ", ".join("rgb({},{},{})".format(*ramp(kind)[i].tolist()) for i in range(0, 256, 17))
    bar = f'<i style="background:linear-gradient(90deg, {stops})"></i>'
    return f'<div class="scale">{escape(low)}{bar}{escape(high)}</div>'


def _style() -> str:
    return files("rayprior.evaluation").joinpath("report.css").read_text(encoding="utf-8")
