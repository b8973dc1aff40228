"""Messages: a note, an empty state, progress."""

from .html import Html, esc

ICONS = {"plain": "i", "good": "✓", "warn": "!", "bad": "✕"}


def note(kind: str, title: str, body: str = "", code: str = "", actions: str = "", details: str = "") -> Html:
    """A boxed message. kind: plain, good, warn or bad. `actions` is HTML of buttons; the rest is text and is escaped.

    `details` (a traceback) is folded away. Raises ValueError for another kind.
    """
    if kind not in ICONS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(ICONS)}")
    role = "alert" if kind == "bad" else "status"
    words = f"<b>{esc(title)}</b>" + (f"<br>{esc(body)}" if body else "")
    more = f"<pre>{esc(code)}</pre>" if code else ""
    more += f'<span></span><div class="sk-act">{actions}</div>' if actions else ""
    if details:
        more += f'<details class="sk-details"><summary>Details</summary><pre>{esc(details)}</pre></details>'
    box = f'<div class="sk-note {kind}" role="{role}"><span class="sk-ico" aria-hidden="true">{ICONS[kind]}</span>'
    return Html(f"{box}<div>{words}</div><span></span>{more}</div>")


def framed(html: str, label: str = "") -> Html:
    """Notes and tables in a frame of their own, for a cell's output."""
    return Html(f'<section class="sk" aria-label="{esc(label)}"><div class="sk-body">{html}</div></section>')


def empty(title: str, body: str = "", actions: str = "") -> str:
    """Why there is nothing to see, the nearest thing that exists, and a way there. `actions` is HTML."""
    return f'<div class="sk-empty"><b>{esc(title)}</b><span>{esc(body)}</span>{actions}</div>'


def button(
    text: str,
    act: str,
    arg: object = "",
    kind: str = "",
    *,
    disabled: bool = False,
    label: str = "",
    urgent: bool = False,
) -> str:
    """A button that tells its widget `act` with `arg`; if an urgent one gets no answer, the kernel is interrupted."""
    named = f' aria-label="{esc(label)}"' if label else ""
    off = (" disabled" if disabled else "") + (" data-urgent" if urgent else "")
    return (
        f'<button type="button" class="sk-btn {kind}" data-act="{esc(act)}" data-arg="{esc(arg)}"{named}{off}>'
        f"{esc(text)}</button>"
    )


def progress(share: float, alt: str) -> str:
    """A progress bar."""
    now = round(100 * share)
    return (
        f'<div class="sk-prog" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{now}" '
        f'aria-label="{esc(alt)}"><i style="width:{100 * share:.1f}%"></i></div>'
    )
