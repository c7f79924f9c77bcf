#!/usr/bin/env python3
"""Asks a Prometheus for whatever the Grafana dashboard asks for. Each query must return data; a picture can be drawn from it.

Grafana is not run: the picture shows the dashboard's panels and queries as this script draws them, and says so.

Usage: tests/prometheus/dashboard.py PROMETHEUS_URL [--seconds N] [--picture FILE]
"""

import argparse
import json
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "charts/graphtoken-operator/files/dashboard.json"
STEPS = 120  # points in time that a query returns
# Of the shortest scrapes: Grafana would take four intervals.
VARIABLES = {"$__rate_interval": "10s", "$namespace": ".*"}
KINDS = {"stat", "timeseries", "bargauge"}

# A cell of Grafana's grid of 24 columns, in pixels, and the space between panels.
CELL_X, CELL_Y, GAP, TOP = 50, 30, 8, 66
COLOURS = ["#3274d9", "#56a64b", "#e0752d", "#a352cc", "#e02f44", "#37872d", "#8f3bb8", "#1f78c1"]
NAMED = {"green": "#56a64b", "orange": "#e0752d", "red": "#e02f44", "blue": "#3274d9", "purple": "#a352cc", "yellow": "#e0b400"}
TEXT = 'font-family="Inter, Helvetica, Arial, sans-serif"'


def get(url, path, **parameters):
    # No proxy: it is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
        return json.load(answer)["data"]


def filled_in(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    if "$" in query:
        raise SystemExit(f"a variable is not known: {query}")
    return query


def legend(target, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), target["legendFormat"])


def series_of(panel, url, seconds):
    """The series of all of a panel's queries, each as (legend, [(time, number)]); and the queries that return none."""
    end = time.time()
    found, empty = [], []
    for target in panel["targets"]:
        query = filled_in(target["expr"])
        step = max(seconds / STEPS, 0.5)
        data = get(url, "/api/v1/query_range", query=query, start=end - seconds, end=end, step=step)
        count = len(found)
        for result in data["result"]:
            points = [(at, float(value)) for at, value in result["values"] if value not in ("NaN", "+Inf", "-Inf")]
            if points:
                found.append((legend(target, result["metric"]), points))
        if len(found) == count:
            empty.append(query)
    return sorted(found), empty


def flaws_of(dashboard):
    """What Grafana would not complain about, and people would."""
    panels, taken = dashboard["panels"], {}
    if len({panel["id"] for panel in panels}) != len(panels):
        yield "two panels have one id"
    for panel in panels:
        at = panel["gridPos"]
        if panel["type"] not in KINDS:
            yield f"{panel['title']}: a panel of type {panel['type']} is not known"
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: it is out of the grid"
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']}: it lies on another panel"
                break
        for target in panel["targets"]:
            if target["datasource"]["uid"] != "${datasource}":
                yield f"{panel['title']}: its data source is not the variable's"


# ---- the picture -----------------------------------------------------------------------------------------------------


def shown(value, unit):
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= size * 2:
                return f"{value / size:.0f} {name}" if abs(value) >= size * 10 else f"{value / size:.1f} {name}"
        return f"{value:.0f} s" if abs(value) >= 10 else f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:.1f} s"
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{text}/s" if unit == "reqps" else text


def colour(panel, value):
    chosen = NAMED["blue"]
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            chosen = NAMED[step["color"]]
    return chosen


def text(x, y, words, size=11, fill="#24292e", anchor="start", weight="normal"):
    style = f'{TEXT} font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def at_the_end(series, end):
    """What there is now; a series that ended before is left out."""
    return [(name, points[-1][1]) for name, points in series if points[-1][0] > end - 5]


def stat(panel, series, box, end):
    x, y, width, height = box
    value = at_the_end(series, end)[0][1]
    words = shown(value, panel["fieldConfig"]["defaults"]["unit"])
    yield text(x + width / 2, y + height / 2 + 24, words, 32, colour(panel, value), "middle", "bold")


def bars(panel, series, box, end):
    x, y, width, height = box
    values = sorted(at_the_end(series, end), key=lambda one: one[1])
    most = max([value for _, value in values] + [1e-9])
    row = min((height - 40) / max(len(values), 1), 26)
    for index, (name, value) in enumerate(values):
        top = y + 32 + index * row
        room = width - 250
        yield text(x + 170, top + row / 2 + 4, name, anchor="end")
        yield f'<rect x="{x + 178}" y="{top + 3:.1f}" width="{room}" height="{row - 6:.1f}" fill="#f0f1f3"/>'
        length = max(value, 0) / most * room
        fill = colour(panel, value)
        yield f'<rect x="{x + 178}" y="{top + 3:.1f}" width="{length:.1f}" height="{row - 6:.1f}" fill="{fill}"/>'
        yield text(x + width - 10, top + row / 2 + 4, shown(value, panel["fieldConfig"]["defaults"]["unit"]), anchor="end")


def lines(panel, series, box, start, end):
    x, y, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    stacked = "stacking" in defaults.get("custom", {})
    left, right, top, bottom = x + 52, x + width - 12, y + 34, y + height - 44
    times = sorted({at for _, points in series for at, _ in points})
    floor = dict.fromkeys(times, 0.0)
    shapes = []
    for name, points in series:
        known = dict(points)
        lower = dict(floor)
        if stacked:
            for at in times:
                floor[at] += known.get(at, 0.0)
            # Where there is none, its band is empty: the line below it goes on.
            shapes.append((name, [(at, lower[at], floor[at]) for at in times]))
        else:
            shapes.append((name, [(at, 0.0, value) for at, value in points]))
    most = max([high for _, points in shapes for _, _, high in points] + [defaults.get("max", 0), 1e-9]) * 1.05
    across = lambda at: left + (at - start) / (end - start) * (right - left)
    up = lambda value: bottom - value / most * (bottom - top)
    for part in (0, 0.5, 1):
        value = most * part / 1.05
        yield f'<line x1="{left}" x2="{right}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#e4e7eb"/>'
        yield text(left - 6, up(value) + 4, shown(value, defaults["unit"]), 10, "#6e7781", "end")
    for part, anchor in ((0, "start"), (1, "end")):
        at = start + (end - start) * part
        yield text(across(at), bottom + 14, f"{at - end:.0f} s" if part == 0 else "now", 10, "#6e7781", anchor)
    fixed = {o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"] for o in panel["fieldConfig"]["overrides"]}
    strokes = [NAMED[fixed[n]] if n in fixed else COLOURS[i % len(COLOURS)] for i, (n, _) in enumerate(shapes)]
    for stroke, (_, points) in zip(strokes, shapes):
        path = " ".join(f"{across(at):.1f},{up(high):.1f}" for at, _, high in points)
        if stacked:
            back = " ".join(f"{across(at):.1f},{up(low):.1f}" for at, low, _ in reversed(points))
            yield f'<polygon points="{path} {back}" fill="{stroke}" fill-opacity="0.4"/>'
        yield f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.8"/>'
    at = left - 40
    for index, (name, _) in enumerate(shapes):
        longest = int((right - at - 14) / 6.2)
        if not index and len(name) > longest:
            name = name[: longest - 1] + "…"
        if at + len(name) * 5.6 + 30 > right and index:
            yield text(at, y + height - 10, f"and {len(shapes) - index} more", 10, "#6e7781")
            break
        yield f'<rect x="{at}" y="{y + height - 18}" width="10" height="4" fill="{strokes[index]}"/>'
        yield text(at + 14, y + height - 12, name, 10)
        at += len(name) * 5.6 + 30


def picture(dashboard, data, seconds):
    end = time.time()
    width = 24 * CELL_X + GAP
    height = TOP + max((p["gridPos"]["y"] + p["gridPos"]["h"]) for p in dashboard["panels"]) * CELL_Y + GAP
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    yield f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>'
    yield text(GAP + 4, 28, dashboard["title"], 20, weight="bold")
    note = (
        "Not a screenshot of Grafana: drawn by tests/prometheus/dashboard.py from the dashboard's own queries, answered by a "
        "Prometheus that scraped the operator in tests/prometheus/live_test.sh. Tokens live 30 s there."
    )
    yield text(GAP + 4, 50, note, 10, "#57606a")
    for panel, series in data:
        at = panel["gridPos"]
        box = (at["x"] * CELL_X + GAP, at["y"] * CELL_Y + TOP, at["w"] * CELL_X - GAP, at["h"] * CELL_Y - GAP)
        x, y, across, down = box
        yield f'<rect x="{x}" y="{y}" width="{across}" height="{down}" rx="3" fill="#fff" stroke="#dcdfe3"/>'
        yield text(x + 10, y + 20, panel["title"], 12, weight="bold")
        if panel["type"] == "stat":
            yield from stat(panel, series, box, end)
        elif panel["type"] == "bargauge":
            yield from bars(panel, series, box, end)
        else:
            yield from lines(panel, series, box, end - seconds, end)
    yield "</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--seconds", type=int, default=60, help="how far to look back")
    parser.add_argument("--picture", type=pathlib.Path, help="where to draw to")
    asked = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text())
    data, queries, missing = [], 0, list(flaws_of(dashboard))
    for panel in dashboard["panels"]:
        series, empty = series_of(panel, asked.url, asked.seconds)
        queries += len(panel["targets"])
        missing += [f"{panel['title']}: no data: {query}" for query in empty]
        data.append((panel, series))
    # The query of the variable.
    variable = next(v for v in dashboard["templating"]["list"] if v["name"] == "namespace")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    if not get(asked.url, f"/api/v1/label/{label}/values", **{"match[]": metric}):
        missing.append(f"variable namespace: no values of {label} in {metric}")
    if missing:
        print("\n".join(missing))
        sys.exit(1)
    if asked.picture:
        asked.picture.parent.mkdir(parents=True, exist_ok=True)
        asked.picture.write_text("\n".join(picture(dashboard, data, asked.seconds)))
    print(f"{queries} queries of {len(data)} panels return data")


if __name__ == "__main__":
    main()
