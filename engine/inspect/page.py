"""The page of a view: one file for any browser that fetches nothing.

Style and script are files beside this one and stand inside the page. Every value that a picture
shows is in the text too; without the script, Enter does not switch the check boxes, Space does.
"""

from __future__ import annotations

from html import escape
from importlib import resources

import numpy as np

from . import drawing, pictures
from .view import Channel, Layer, View

FILES = resources.files(str(__package__)) / "page_files"
MOST_FILTERS = 128
PATCH = 64  # pixels of the longer side of a patch
FINE = 20  # pixels of a side from which on a picture is scaled smoothly, in small
LARGE = 100  # the same, in large


def page(view: View, picture: str, source: str) -> str:
    """The whole page as text; `picture` and `source` name the image and the network's file."""
    style, script = ((FILES / name).read_text("utf-8") for name in ("page.css", "page.js"))
    smooth = "auto" if min(view.image.shape[:2]) >= LARGE else "pixelated"
    style += f""".under {{ background-image: url("{pictures.photo(view.image)}"); }}
.under, .plain {{ image-rendering: {smooth}; }}
"""
    title = f"What {escape(view.arch)} sees in {escape(picture)}"
    sections = {
        "answer": ("The answer", _answer(view)),
        "way": ("From the picture to the answer", _way(view)),
        "filters": ("The filters of the first layer", _filters(view)),
        "maps": ("What the layers see", _maps(view)),
        "looked": ("Where it looked", _heat(view)),
    }
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{name}</h2>\n'
        f"{content}\n</section>"
        for key, (name, content) in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>A convolutional network turns a picture into an answer in many small steps. This page stops at
some of them and shows what is there.</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer><p>Made by <code>cnnengine features</code> from {escape(source)} and {escape(picture)}.
{view.parameters:,} parameters.</p></footer>
<script>
{script}</script>
</body>
</html>
"""


def _answer(view: View) -> str:
    height, width, channels = view.image.shape
    size = drawing.times(height, width)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><span style="width:'
        f'{100 * share:.1f}%"></span></td><td class="number">{100 * share:.2f} %</td></tr>'
        for name, share in view.answers
    )
    colour = "grey" if channels == 1 else "in colour"
    best, share = view.answers[0]
    return f"""<div class="pair">
<figure class="picture"><img class="plain" src="{pictures.photo(view.image)}" alt="the picture">
<figcaption>The picture as the network gets it: {size} pixels, {colour}.</figcaption>
</figure>
<div>
<p>The network says <strong>{escape(best)}</strong>, with a probability of {100 * share:.2f} %.
The probabilities of all classes add up to 100 %; these are the {len(view.answers)} likeliest.</p>
<table><caption class="hidden">The likeliest classes</caption>
<thead class="hidden"><tr><th scope="col">class</th><th scope="col">bar</th>
<th scope="col">probability</th></tr></thead><tbody>{rows}</tbody></table>
</div>
</div>"""


def _way(view: View) -> str:
    return f"""<p>Each box is what comes out of a layer: height &times; width &times; channels. The
picture shrinks on its way, so the boxes get smaller; the channels, each of which looks for
something else, become more, so the boxes get thicker. At the end there is one number for each
class. Under each box stands how large a part of the picture one of its values depends on, its
<em>receptive field</em>: it grows from layer to layer.</p>
{drawing.way(view.steps)}
<p class="key"><span class="conv">convolutions</span><span class="pool">pools</span>
<span class="dense">dense layers</span> Heights and widths are drawn to one scale, channels to
another.</p>"""


def _filters(view: View) -> str:
    K, R, S, C = view.filters.shape
    greatest = float(np.abs(view.filters).max())
    shown = view.filters[:MOST_FILTERS]
    if C == 3:
        meaning = f"""Each picture is a filter with its three colours: where it is bright in a
colour, that colour raises the response; where it is dark, it lowers it; middle grey does nothing.
Black is -{_number(greatest)}, middle grey 0, white {_number(greatest)}, in all of them."""
        made = [pictures.diverging_rgb(filters, greatest) for filters in shown]
        legend = ""
    else:
        meaning = """Each picture is a filter: where it is red, bright pixels raise the response;
where it is blue, they lower it; white does nothing. Filters that are red on one side and blue on
the other answer to edges."""
        if C > 1:
            meaning += f" They look at {C} channels; the pictures show the first."
        made = [pictures.signed(filters[..., 0], greatest) for filters in shown]
        legend = _legend("signed", -greatest, greatest)
    left = f" The first {MOST_FILTERS} are shown." if len(shown) < K else ""
    items = "".join(
        f'<li><img src="{uri}" alt="filter {i}" title="filter {i}"><span>{i}</span></li>'
        for i, uri in enumerate(made)
    )
    size = drawing.times(R, S)
    return f"""<p><b>{escape(view.first)}</b> has {K} filters of {size} pixels. Each one is laid on
every place of the picture; pixels and filter are multiplied and summed, and that sum is the
response there. The responses to filter 0 make channel 0, and so on.{left} {meaning}</p>
{legend}
<ol class="filters" start="0">{items}</ol>"""


def _maps(view: View) -> str:
    if view.data:
        searched = f"""Beneath each map stand the {_count(view)} patches of
{view.data_images:,} pictures of {escape(view.data)} to which the channel answers most, one a
picture at most, each cut out exactly as far as the channel sees. What they have in common is what
the channel looks for."""
    else:
        searched = "No data set was at hand, so there are no patches that excite the channels most."
    parts = [_layer(view, layer, number) for number, layer in enumerate(view.layers, 1)]
    return f"""<p>A channel of a layer is a picture again, its <em>map</em>: bright where the
channel finds what it looks for, black where it does not. Low layers find edges and spots, high ones
whole parts of things, in coarser places. Of each layer the channels that answer this picture most
are shown, the strongest first. {searched}</p>
{"".join(parts)}"""


def _count(view: View) -> int:
    return max(len(channel.patches) for layer in view.layers for channel in layer.channels)


def _layer(view: View, layer: Layer, number: int) -> str:
    step, image = layer.step, view.steps[0]
    total = drawing.size(step)[2]
    signed = layer.low < 0
    greatest = max(abs(layer.low), layer.high)
    legend = (_legend("signed", -greatest, greatest) if signed
              else _legend("heat", 0, greatest))  # fmt: skip
    cards = "\n".join(_card(view, channel, layer, signed, greatest) for channel in layer.channels)
    name = f"{layer.level}: " if layer.level else ""
    told = " Values below 0 are blue, those above red." if signed else ""
    return f"""<div class="layer" role="group" aria-labelledby="layer-{number}">
<h3 id="layer-{number}">{name}{escape(step.name)}</h3>
<p>{drawing.shape(step)}; each value sees {drawing.sees(step, image)}. {len(layer.channels)} of
{total} channels.{told}</p>
{legend}
<p class="switch"><label><input type="checkbox" id="over-{number}">
Lay the maps over the picture</label></p>
<ul class="cards">
{cards}
</ul>
</div>
"""


def _card(view: View, channel: Channel, layer: Layer, signed: bool, greatest: float) -> str:
    values = channel.map
    row, column = np.unravel_index(values.argmax(), values.shape)
    over = (pictures.signed(values, greatest, clear=True) if signed
            else pictures.heat(values, greatest))  # fmt: skip
    greatest_here, mean = _number(values.max()), _number(values.mean())
    told = (
        f"map of channel {channel.number}: greatest {greatest_here} in row {row + 1} of "
        f"{values.shape[0]}, column {column + 1} of {values.shape[1]}"
    )
    return f"""<li><figure>{_stack(view, over, told, "signed" if signed else "heat")}
<figcaption><b>channel {channel.number}</b><span>greatest {greatest_here}</span>
<span>mean {mean}</span></figcaption></figure>{_patches(channel, max(layer.step.sees))}</li>"""


def _patches(channel: Channel, widest: int) -> str:
    """The patches of a channel, all to one scale; `widest` is the longer side of its field."""
    if not channel.patches:
        return ""
    fine = " fine" if widest >= FINE else ""
    items = ""
    for patch in channel.patches:
        told = f"{escape(patch.label)}, {_number(patch.value)}"
        width = 100 * (patch.box[3] - patch.box[2]) / widest
        items += (
            f'<li><img src="{pictures.photo(patch.pixels, PATCH)}" alt="{told}" '
            f'title="{told} (picture {patch.index})" style="width:{width:.0f}%"></li>'
        )
    most, least = channel.patches[0].value, channel.patches[-1].value
    return (
        f'<ul class="patches{fine}" aria-label="patches for channel {channel.number}">{items}</ul>'
        f"<p>patches {_number(most)} to {_number(least)}</p>"
    )


def _heat(view: View) -> str:
    name, share = view.looked_for
    step, greatest = view.looked_at, float(view.heat.max())
    nothing = "" if greatest > 0 else (
        " Nothing here speaks for it: no place raises the class, so the heat is 0 everywhere."
    )  # fmt: skip
    row, column = np.unravel_index(view.heat.argmax(), view.heat.shape)
    told = (
        f"heat for {escape(name)}: greatest {_number(greatest)} in row {row + 1} of "
        f"{view.heat.shape[0]}, column {column + 1} of {view.heat.shape[1]}"
    )
    choices = "".join(
        f'<label><input type="radio" name="heat" id="heat-{key}"{state}> {text}</label>'
        for key, text, state in (("both", "both", " checked"), ("alone", "the heat alone", ""),
                                 ("off", "the picture alone", ""))
    )  # fmt: skip
    return f"""<p>Which places of the picture made the network say <strong>{escape(name)}</strong>
({100 * share:.2f} %)? For each channel of <b>{escape(step.name)}</b>, the last layer in which
things still have a place ({drawing.shape(step)}), one can ask how much the answer would grow with
it. The maps of that layer, added up with these weights, are the heat: bright places speak for the
class; places that speak against it count as 0. The method is Grad-CAM (Selvaraju et al.,
2017).{nothing}</p>
<div class="looked">
<fieldset class="switch"><legend>Show</legend>{choices}</fieldset>
<figure class="picture">{_stack(view, pictures.heat(view.heat, greatest), told, "heat")}
<figcaption>{drawing.times(*step.shape[:2])} values, stretched over the picture.</figcaption>
</figure>
{_legend("heat", 0, greatest)}
</div>"""


def _stack(view: View, over: str, told: str, kind: str) -> str:
    """A map over the picture (`.under`, whose pixels stand in the style once)."""
    height, width = view.image.shape[:2]
    return (
        f'<span class="stack {kind}" style="aspect-ratio:{width}/{height}">'
        f'<span class="under"></span><img class="over" src="{over}" alt="{told}"></span>'
    )


def _legend(kind: str, low: float, high: float) -> str:
    ends = _number(low), _number(high)
    middle = "<span>0</span>" if kind == "signed" else ""
    return (
        f'<div class="legend {kind}"><img src="{pictures.scale(kind)}" '
        f'alt="colours from {ends[0]} to {ends[1]}">'
        f"<p><span>{ends[0]}</span>{middle}<span>{ends[1]}</span></p></div>"
    )


def _number(value: float) -> str:
    """Three digits, or all in front of the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
