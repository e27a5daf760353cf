"""A small world of printed pages and their markup, made from a seed.

A page has a title in larger print (most do), and lines of body text, some of them list items, some with a
word in bold. Its words are random strings of letters and numbers. About one word in nine, picked by its
checksum, is held out: :func:`draw_page` never uses one unless it is asked to, and then uses no others. The
markup is that of Nougat: ``# title``, a blank line, then the lines; ``* `` before list items and ``**``
around bold words.

Needs numpy and Pillow (with FreeType: its own font) only.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 336, 320
TITLE_SIZE, BODY_SIZE = 38, 28
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CAPITALS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"  # no I, which this font draws as it draws a lower-case L
MARKS = ".,"
FULL = (3, 4, 5)
"""Numbers of body lines of an ordinary page."""
SHORTEST, LONGEST = 60, 170
"""Characters of an ordinary page's markup."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its punctuation."""

    text: str
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of body text; ``item`` puts a bullet before it."""

    words: tuple[Word, ...]
    item: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says. ``title`` is empty where there is none."""

    title: str
    lines: tuple[Line, ...]


def markup(page: Page) -> str:
    """The page as text: what a reader is to answer."""
    head = f"# {page.title}\n\n" if page.title else ""
    lines = (
        ("* " if line.item else "") + " ".join(f"**{w.text}**" if w.bold else w.text for w in line.words)
        for line in page.lines
    )
    return head + "\n".join(lines)


def characters() -> tuple[str, ...]:
    """Every character that markup can hold, sorted."""
    return tuple(sorted({*LETTERS, *CAPITALS, *"0123456789", *MARKS, *"#* \n"}))


def draw_page(rng: np.random.Generator, *, held_out: bool, lines: tuple[int, ...] = FULL) -> Page:
    """A random page with one of the given numbers of body lines.

    Pages of ``FULL`` lines have ``SHORTEST`` to ``LONGEST`` characters of markup.
    """
    while True:
        count = lines[int(rng.integers(len(lines)))]
        title = _draw_title(rng, held_out) if rng.random() < 0.85 else ""
        page = Page(title, tuple(_draw_line(rng, held_out) for _ in range(count)))
        if count < min(FULL) or SHORTEST <= len(markup(page)) <= LONGEST:
            return page


def draw_picture(page: Page, rng: np.random.Generator) -> Image.Image:
    """The page in print, RGB, ``WIDTH`` x ``HEIGHT`` pixels; margins, spacing, ink and paper vary."""
    paper, ink = int(rng.integers(225, 256)), int(rng.integers(0, 80))
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    pen = ImageDraw.Draw(image)
    left, y = int(rng.integers(6, 20)), float(rng.uniform(4, 18))
    pitch = rng.uniform(40, 46)
    if page.title:
        pen.text((left, y), page.title, font=_font(TITLE_SIZE), fill=ink)
        y += rng.uniform(50, 58)
    for line in page.lines:
        _print_line(pen, line, (left, y), ink)
        y += pitch
    return image.convert("RGB")


def held_out_word(text: str) -> bool:
    """Whether a word, without its punctuation, is kept out of training."""
    return zlib.crc32(text.lower().encode()) % 9 == 0


def _print_line(pen: ImageDraw.ImageDraw, line: Line, place: tuple[float, float], ink: int) -> None:
    (x, y), font = place, _font(BODY_SIZE)
    if line.item:
        middle = y + 0.62 * BODY_SIZE
        pen.ellipse((x + 2, middle - 4, x + 10, middle + 4), fill=ink)
        x += _BULLET
    for word in line.words:
        pen.text((x, y), word.text, font=font, fill=ink, stroke_width=int(word.bold), stroke_fill=ink)
        x += _width(word) + font.getlength(" ")


def _draw_title(rng: np.random.Generator, held_out: bool) -> str:
    title = ""
    for _ in range(int(rng.integers(1, 4))):
        longer = f"{title} {_draw_capitalized(rng, held_out)}".strip()
        if _font(TITLE_SIZE).getlength(longer) <= WIDTH - 30:
            title = longer
    return title


def _draw_line(rng: np.random.Generator, held_out: bool) -> Line:
    item = bool(rng.random() < 0.25)
    bold = int(rng.integers(5)) if rng.random() < 0.3 else -1
    space = _font(BODY_SIZE).getlength(" ")
    room = rng.uniform(0.75, 1.0) * (WIDTH - 30) - (_BULLET if item else 0)
    words: list[Word] = []
    while True:
        text = _draw_number(rng, held_out) if rng.random() < 0.2 else _draw_letters(rng, held_out)
        text += MARKS[int(rng.integers(len(MARKS)))] if rng.random() < 0.15 else ""
        word = Word(text, bold=len(words) == bold)
        room -= _width(word) + (space if words else 0)
        if room < 0:
            return Line(tuple(words), item) if words else _draw_line(rng, held_out)
        words.append(word)


def _draw_letters(rng: np.random.Generator, held_out: bool) -> str:
    while True:
        picks = rng.integers(len(LETTERS), size=int(rng.integers(2, 8)))
        word = "".join(LETTERS[i] for i in picks)
        if held_out_word(word) == held_out:
            return word


def _draw_capitalized(rng: np.random.Generator, held_out: bool) -> str:
    while True:
        word = _draw_letters(rng, held_out).capitalize()
        if word[0] in CAPITALS:
            return word


def _draw_number(rng: np.random.Generator, held_out: bool) -> str:
    while True:
        number = str(rng.integers(10 ** int(rng.integers(1, 5))))
        if held_out_word(number) == held_out:
            return number


def _width(word: Word) -> float:
    return _font(BODY_SIZE).getlength(word.text) + 2 * word.bold


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow without FreeType has one bitmap font only"
    return font


_BULLET = 20
