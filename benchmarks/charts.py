"""The charts and the table of docs/benchmarks.md, from the figures that `bench.py --json` wrote.

    python benchmarks/charts.py docs/benchmarks.json docs

writes docs/benchmarks-light.svg and docs/benchmarks-dark.svg, and prints the table.
"""

import json
import sys
from pathlib import Path

from bench import UNITS, medians, shown, table

TITLES = {
    "J1": "J1: integral, s",
    "J2": "J2: a list of the producer, s",
    "J3": "J3: trivial parts a second (more is better)",
    "J3L": "J3L: one part there and back, ms",
    "J4": "J4: a whole process, s",
    "J5": "J5: word count, 200 MB, s",
    "J6": "J6: sum by key, s",
}
THEMES = {
    "light": {"ground": "#ffffff", "text": "#1f2328", "other": "#afb8c1", "ours": "#0969da"},
    "dark": {"ground": "#0d1117", "text": "#e6edf3", "other": "#484f58", "ours": "#4493f8"},
}
ROW, LABEL, BAR, GAP, TOP = 17, 128, 175, 70, 26


def drawn(figures, theme):
    """Return an SVG with a panel for each job and a bar for each contender, Pymar's in another colour.

    Bars of more than five times the median are cut; their figure is beside them.
    """
    colours = THEMES[theme]
    names = [name for name in figures if name != "serial" and not name.startswith("pymar-serial")]
    wanted = [job for job in TITLES if any(job in found for found in figures.values())]
    height, width = TOP + ROW * len(names) + 16, LABEL + BAR + GAP
    columns = 2
    rows = -(-len(wanted) // columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * columns}" height="{height * rows}" '
        f'viewBox="0 0 {width * columns} {height * rows}" font-family="system-ui, sans-serif" font-size="11">',
        "<title>Pymar compared with the alternatives: medians</title>",
        f'<rect width="100%" height="100%" fill="{colours["ground"]}"/>',
    ]
    for number, job in enumerate(wanted):
        x, y = number % columns * width, number // columns * height
        parts.append(f'<text x="{x + 8}" y="{y + 16}" fill="{colours["text"]}" font-weight="600">{TITLES[job]}</text>')
        known = {name: figures[name][job] for name in names if job in figures[name]}
        ordered = sorted(known.values())
        longest = min(ordered[-1], 5 * ordered[len(ordered) // 2])
        for row, name in enumerate(names):
            line = y + TOP + ROW * row
            fill = colours["ours" if name.startswith("pymar") else "other"]
            parts.append(
                f'<text x="{x + LABEL - 6}" y="{line + 11}" text-anchor="end" fill="{colours["text"]}">{name}</text>'
            )
            if name not in known:
                continue
            length = max(1.0, BAR * min(1.0, known[name] / longest))
            box = f'x="{x + LABEL}" y="{line + 1}" width="{length:.1f}" height="{ROW - 5}"'
            parts.append(f'<rect {box} fill="{fill}"/>')
            cut = " »" if known[name] > longest else ""
            parts.append(
                f'<text x="{x + LABEL + length + 4:.1f}" y="{line + 11}" fill="{colours["text"]}">'
                f"{shown(known[name])}{cut}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def main(source, folder):
    measured = json.loads(Path(source).read_text())
    figures = {name: medians(rounds) for name, rounds in measured["rounds"].items()}
    for theme in THEMES:
        Path(folder, f"benchmarks-{theme}.svg").write_text(drawn(figures, theme))
    wanted = [job for job in UNITS if any(job in found for found in figures.values())]
    print(table(figures, wanted))
    rounds = sorted({len(one) for one in measured["rounds"].values()})
    print(f"\nMedians of {rounds} rounds; {measured['machine']}; {measured['versions']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
