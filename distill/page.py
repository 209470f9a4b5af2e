"""A page of sections as HTML and as Markdown: paragraphs, tables, quoted text, and charts that only HTML shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CUT = 4000  # characters of a quoted text
LONG = 28  # characters of a cell that may be wrapped


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first row the titles; numbers stand to the right."""

    caption: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Quote:
    """Text shown as it is, under a line that says what it is."""

    caption: str
    text: str


@dataclass(frozen=True)
class Chart:
    """SVG, trusted: made by distill.svg."""

    svg: str


Block = Paragraph | Table | Quote | Chart


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def empty(self) -> bool:
        return not any(_content(block) for block in self.blocks)


def _content(block: Block) -> object:
    if isinstance(block, Table):
        return len(block.rows) > 1
    return block.svg if isinstance(block, Chart) else block.text


STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #fff; --faint: #5c6470; --line: #d9dde3; --shade: #f4f6f8;
  --c0: #1f5fbf; --c1: #b3470f; --c2: #1b7f4b; --c3: #7a3fb0; --c4: #a3195b; --c5: #5d6b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171b; --faint: #9aa3af; --line: #333a44;
  --shade: #1d2228; --c0: #7fb0ff; --c1: #ffa36b; --c2: #63d39a; --c3: #c99bff; --c4: #ff8cc0; --c5: #cdd96b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.first { font-size: 1.08rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; color: var(--faint); padding: .3rem 0; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th, td { white-space: nowrap; } td.t { white-space: normal; min-width: 17rem; } .n { text-align: right; }
figure { margin: 1.2rem 0; overflow-x: auto; } figcaption { color: var(--faint); font-size: .92rem; }
svg { width: 100%; min-width: 30rem; max-width: 44rem; height: auto; display: block; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .mark, svg .level { stroke: var(--faint); stroke-dasharray: 4 3; }
svg polyline { fill: none; stroke-width: 2; } svg .whisker { stroke-width: 2; }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; border-radius: 4px; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--faint); }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .35em;
  background: currentColor; }
""" + "".join(
    f"svg .c{n} {{ stroke: var(--c{n}); }} svg circle.c{n} {{ fill: var(--c{n}); }} "
    f".key.c{n} {{ color: var(--c{n}); }}\n"
    for n in range(6)
)

NUMBER = re.compile(r"^[-+<≤~$]?[\d–][\d,.:%() –/e+-]*(%|s|min|MB)?$")


def html(title: str, sections: Sequence[Section]) -> str:
    """One self-contained page."""
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
        f"<body><main><h1>{escape(title)}</h1>",
    ]
    for number, section in enumerate(one for one in sections if not one.empty):
        if section.title:
            parts.append(f"<section><h2>{escape(section.title)}</h2>")
        else:
            parts.append("<section>")
        for block in section.blocks:
            if _content(block):
                parts.append(_html(block, first=number == 0))
        parts.append("</section>")
    parts.append("</main></body></html>")
    return "\n".join(parts) + "\n"


def _html(block: Block, first: bool) -> str:
    if isinstance(block, Chart):
        return block.svg
    if isinstance(block, Paragraph):
        kind = ' class="first"' if first else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Quote):
        return f"<details><summary>{escape(block.caption)}</summary><pre>{escape(cut(block.text))}</pre></details>"
    titles, *rows = block.rows
    right = [
        all(NUMBER.match(row[column]) for row in rows if row[column]) and any(row[column] for row in rows)
        for column in range(len(titles))
    ]

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if right[column] else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    caption = f"<caption>{escape(block.caption)}</caption>" if block.caption else ""
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{cells(titles, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _kind(cell: str, right: bool) -> str:
    return " class=n" if right else " class=t" if len(cell) > LONG else ""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The same without the charts."""
    parts = [f"# {_line(title)}"]
    for section in (one for one in sections if not one.empty):
        parts += [f"## {_line(section.title)}"] if section.title else []
        parts += [_markdown(block) for block in section.blocks if _content(block)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Chart):
        return ""
    if isinstance(block, Paragraph):
        return _line(block.text)
    if isinstance(block, Quote):
        text = cut(block.text)
        longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{_line(block.caption)}:\n\n{fence}text\n{text}\n{fence}"
    titles, *rows = block.rows
    lines = [titles, ["---"] * len(titles), *rows]
    table = "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in lines)
    return f"{_line(block.caption)}\n\n{table}" if block.caption else table


def _line(text: str) -> str:
    """A text that neither ends its paragraph nor opens a tag."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")


def cut(text: str, most: int = CUT) -> str:
    """The text, or its beginning and a mark that there was more."""
    return text if len(text) <= most else f"{text[:most].rstrip()} …"
