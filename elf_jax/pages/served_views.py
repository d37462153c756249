"""What the served page shows, as HTML. All text of models and visitors is escaped."""

import html

from elf_jax.pages.served_model import Compiling, Running, Step, Waiting
from elf_jax.pages.watch import watch_page

FRAME = "How the texts were made, step by step"


def heading(served):
    """The head of the page: which model it is. served: a `ServedModel`."""
    size = f"rows of {served.config.data.length:,} tokens"
    kind = "pairs" if served.config.data.source_field else "text"
    return (
        f"<h1>{html.escape(served.name)}</h1>"
        f"<p>A model of {kind}, method {html.escape(served.config.method)}, {size}.</p>"
    )


def status_of(update):
    """The status line for an update of the work."""
    if isinstance(update, Waiting):
        return status("Others are first. This begins when one of them is done.", busy=True)
    if isinstance(update, Compiling):
        line = f"Compiling{update.what}, this takes a while the first time."
        return status(line, busy=True)
    if isinstance(update, Running):
        return status("Working.", busy=True)
    line = f"Step {update.step:,} of {update.steps:,}."
    bar = f'<progress max="{update.steps}" value="{update.step}"></progress>'
    return status(line, busy=True, more=bar)


def status(text, busy=False, refused=False, more=""):
    """A status line. text: plain text. busy: whether the work goes on. refused: whether the visitor
    has to change something. more: HTML after it.
    """
    kind = "refused" if refused else "busy" if busy else "done"
    role = "alert" if refused else "status"
    return f'<div class="served-status {kind}" role="{role}">{html.escape(text)}{more}</div>'


def finished(note):
    """The status line at the end. note: a sentence of the command line, or ""."""
    note = note.removeprefix("note: ")
    return status(f"Done. {note[:1].upper()}{note[1:]}." if note else "Done.")


def refusal(sentence):
    """The status line for a refusal, whose message begins with a small letter."""
    return status(f"{sentence[:1].upper()}{sentence[1:]}.", refused=True)


def cards(texts, sources=None):
    """A list of texts, each with its source if there are any."""
    sources = [None] * len(texts) if sources is None else sources
    pairs = zip(texts, sources, strict=True)
    return _list(_card(html.escape(text), source) for text, source in pairs)


def _list(items):
    return f'<ol class="served-texts">{"".join(items)}</ol>'


def _card(text, source):
    """An item. text: HTML. source: plain text, or None."""
    over = "" if source is None else f'<div class="source" dir="auto">{html.escape(source)}</div>'
    return f'<li>{over}<div class="text" dir="auto">{text or EMPTY}</div></li>'


OPEN = '<span class="open">\u00b7</span>'
EMPTY = '<span class="empty">(empty)</span>'


def cards_of(update):
    """The texts in an update of the work; "" if it has none."""
    if not isinstance(update, Step):
        return ""
    return _list(_card(_growing(pieces), None) for pieces in update.texts)


def _growing(pieces):
    """The HTML of a text that grows. Positions without a token are dots."""
    return "".join(OPEN if one is None else html.escape(one) for one in pieces)


def trajectory(watched):
    """The view of a `Watched`."""
    return frame(watch_page([watched], FRAME))


def frame(page):
    """A page inside of the page. It may run its scripts, and reach nothing outside of itself.

    Args:
      page: HTML text.
    """
    return (
        f'<iframe class="served-frame" title="{FRAME}" sandbox="allow-scripts" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )
