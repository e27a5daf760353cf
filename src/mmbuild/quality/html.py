"""A report as one page: everything inline, no script, nothing fetched, readable without styles.

Everything that came from a recipe, a model or a person goes through ``html.escape``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mmbuild.quality import plots
from mmbuild.quality.gates import QUANTITIES, noise, number

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8884; }
.good { color: #14803c; } .bad { color: #c0262d; font-weight: 600; }
.warning { border-left: 4px solid #c98a00; padding: .4rem .8rem; }
svg { max-width: 40rem; width: 100%; display: block; margin: .3rem 0 1.2rem; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg polyline { fill: none; stroke: #2b6cb0; stroke-width: 1.5; } svg circle, svg rect { fill: #2b6cb0; }
svg .axes { fill: none; stroke: currentColor; opacity: .5; }
svg .bound { stroke: #c0262d; stroke-dasharray: 5 4; }
img { max-width: 144px; }
""".strip()

_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Mapping[str, Any], small: Mapping[int, bytes]) -> str:
    """The page.

    Args:
        report: Of :func:`mmbuild.steps.verify.report_of`.
        small: PNG files of the pictures, by number; what is missing is left out.
    """
    summary = report["summary"]
    kind = f"{summary['dtype']}, {summary['quant_algo'] or 'not quantized'}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(_SECURITY)}">',
            f"<title>Verification: {escape(kind)}</title>",
            f"<style>\n{_STYLE}\n</style></head>",
            "<body><main>",
            f"<h1>Verification: {escape(kind)}</h1>",
            *_warnings(report),
            _compared(report),
            _gates(report),
            _quality(report),
            *_plots(report),
            _questions(report["questions"], small),
            "</main></body></html>",
            "",
        )
    )


def _warnings(report: Mapping[str, Any]) -> Iterable[str]:
    if report["weights"] == "dummy":
        yield (
            '<p class="warning">The weights are random (a dummy model): quality means nothing here. '
            "Only that the engine runs, and how it computes, can be read from this page.</p>"
        )


def _compared(report: Mapping[str, Any]) -> str:
    against, summary = report["reference"], report["summary"]
    return (
        f"<p>Compared with {escape(against['program'])} {escape(against['version'])} on the same weights, "
        f"unquantized, {escape(against['dtype'])}, {escape(against['device'])}: both sides answer the same "
        f"questions greedily, and the engine is also fed the reference's tokens. All numbers are over the "
        f"{summary['tokens']} tokens of the reference's answers, up to and including the end token. "
        f"{summary['identical']} of {summary['questions']} answers have the same tokens, "
        f"{summary['ties']} part where rounding decides.</p>" + _conversions(report["conversions"])
    )


def _conversions(conversions: Mapping[str, str]) -> str:
    """Both sides saw these pictures after the conversion."""
    if not conversions:
        return ""
    items = "".join(f"<li>picture {number}: {escape(how)}</li>" for number, how in conversions.items())
    return f"<p>Pictures that were converted before either side saw them:</p><ul>{items}</ul>"


def _gates(report: Mapping[str, Any]) -> str:
    verdicts = report["gates"]
    if not verdicts:
        return "<p>No gate was set.</p>"
    rows = []
    for verdict in verdicts:
        word, style = ("passed", "good") if verdict["passed"] else ("failed", "bad")
        firm = "" if verdict["settled"] else ", not settled by so few questions"
        sign = "&ge;" if QUANTITIES[verdict["gate"]].least else "&le;"
        rows.append(
            (
                escape(verdict["gate"]),
                f"{sign} {number(verdict['bound'])} ({escape(verdict['origin'])})",
                number(verdict["value"]),
                escape(noise(verdict)),
                f'<span class="{style}">{word}</span>{firm}',
            )
        )
    return _table("Gates", ("gate", "bound", "value", "of", "verdict"), rows)


def _quality(report: Mapping[str, Any]) -> str:
    rows = [
        (escape(quantity.title), number(found["value"]), escape(noise(found)))
        for name, quantity in QUANTITIES.items()
        for found in (report["quality"][name],)
    ]
    return _table("Measured over the answers", ("", "value", "of"), rows)


def _plots(report: Mapping[str, Any]) -> Iterable[str]:
    questions = report["questions"]
    mark = next((gate["bound"] for gate in report["gates"] if gate["gate"] == "max_kl"), None)
    by_question = [one["mean_kl"] for one in questions]
    yield "<h2>KL by question</h2><p>Mean over the answer, nats; dashed: the gate.</p>"
    yield plots.bars(by_question, title="KL divergence by question", across="question", mark=mark)
    yield "<h2>KL by position</h2><p>Mean over the questions whose answers are that long, nats.</p>"
    yield plots.lines(_by_position(questions), title="KL divergence by position", across="token", mark=mark)


def _by_position(questions: Sequence[Mapping[str, Any]]) -> list[float]:
    longest = max(len(one["kl"]) for one in questions)
    found = []
    for position in range(longest):
        at = [one["kl"][position] for one in questions if len(one["kl"]) > position]
        found.append(sum(at) / len(at))
    return found


def _questions(questions: Sequence[Mapping[str, Any]], small: Mapping[int, bytes]) -> str:
    rows, shown = [], set()
    for count, one in enumerate(questions, 1):
        image = one["image"]
        picture = _picture(image, small) if image not in shown else f"picture {image}"
        shown.add(image)
        same = one["answers"]["engine"] == one["answers"]["reference"]
        style = "good" if same else "bad"
        rows.append(
            (
                str(count),
                picture,
                _said(one["prompt"] or "(no text)"),
                _said(one["answers"]["reference"]),
                f'<span class="{style}">{_said(one["answers"]["engine"])}</span>',
                f"{one['equal_prefix']} of {len(one['reference_tokens'])}",
                number(one["mean_kl"]),
                _difference(one),
            )
        )
    head = (
        "",
        "picture",
        "question",
        "reference answers",
        "engine answers",
        "equal tokens, to the end token",
        "KL",
        "first difference",
    )
    return _table("Questions", head, rows)


def _difference(one: Mapping[str, Any]) -> str:
    context = one["context"]
    if context is None:
        return "none"
    sides = (context["reference"], context["engine"])
    theirs, ours = ("<i>end</i>" if text is None else f"<b>{_said(text)}</b>" for text in sides)
    return f"token {one['difference']['position'] + 1}: {_said(context['before'])} {theirs} | {ours}"


def _said(text: str) -> str:
    """Words of a model or a person; control characters, which HTML forbids, become a mark."""
    return escape("".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in text))


def _picture(image: int, small: Mapping[int, bytes]) -> str:
    if image not in small:
        return f"picture {image}"
    data = base64.b64encode(small[image]).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="picture {image}">'


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """``rows`` are markup already."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>"
    )
