"""What every widget is: named state, a pure function to data, a pure function to HTML, and one page script for all."""

import threading
import traceback
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .. import viz
from ..viz.html import CSS
from ..viz.web import SCRIPT as WEB


class View(anywidget.AnyWidget):
    """A widget that Python draws. A subclass gives `title`, `compute`, `render` and `act`.

    `state` is plain data, all of it; `set_state` checks and redraws; `compute` turns it into the data that is shown;
    `to_html` is the same picture as one document that needs nothing else. Raises ValueError for unknown names and
    values that are out of range, and changes nothing then. In the page the same error is shown in the widget.

    Widgets about one latent keep it in `latent`: `traitlets.link((browser, "latent"), (card, "latent"))`, and what is
    chosen in one is shown in the other.
    """

    _esm = WEB.read_text("utf-8") + Path(__file__).with_name("view.js").read_text("utf-8")
    _css = CSS
    html = traitlets.Unicode("").tag(sync=True)
    served = traitlets.Int(0).tag(sync=True)  # messages answered, so that the page knows when it is up to date
    latent = traitlets.Int(None, allow_none=True)

    def __init__(self, **state: Any) -> None:
        super().__init__()
        self._state = state
        self._busy = threading.RLock()  # Lab delivers messages in a thread of their own
        self.on_msg(self._hear)
        self.draw()
        self._tell()

    @property
    def state(self) -> dict[str, Any]:
        """The current settings, as plain data; what `set_state` takes."""
        return dict(self._state)

    def set_state(self, **values: Any) -> None:
        """Change settings and redraw."""
        if unknown := values.keys() - self._state.keys():
            raise ValueError(f"no setting {sorted(unknown)[0]!r} here; there are {', '.join(self._state)}")
        with self._busy:
            before, self._state = self._state, self._state | values
            try:
                self.check()
                html = self.render(self.compute())
            except Exception:
                self._state = before
                raise
            self._paint(html)
        self._tell()

    def _tell(self) -> None:
        """Tell linked widgets which latent this one shows."""
        if self._state.get("latent") is not None:
            self.latent = int(self._state["latent"])

    @traitlets.observe("latent")
    def _chosen(self, change: Any) -> None:
        if change.new != self._state.get("latent"):
            self.pick(change.new)

    def pick(self, latent: int) -> None:
        """Show another latent."""
        self.set_state(latent=latent)

    def check(self) -> None:
        """Raise ValueError where the state is out of range."""

    def compute(self) -> dict[str, Any]:
        """The data that the current state shows."""
        return {}

    def render(self, data: dict[str, Any]) -> str:
        """The data as HTML, one element."""
        raise NotImplementedError

    def act(self, name: str, arg: Any) -> None:
        """Answer what was done in the page; by default a setting of that name takes the value."""
        self.set_state(**{name: arg})

    def to_html(self) -> str:
        """One document with what is shown now, for a file or a colleague; no network, no script."""
        return viz.page(self.title(), self.static(self.compute()))

    def static(self, data: dict[str, Any]) -> str:
        """The data as HTML without a kernel behind it."""
        return self.render(data)

    def title(self) -> str:
        return type(self).__name__

    def draw(self) -> None:
        """Draw the state as it is; bad input is said in the picture's place."""
        try:
            self.check()
            self._paint(self.render(self.compute()))
        except ValueError as error:
            self._paint(viz.framed(viz.note("bad", *_split(str(error))), self.title()))

    def _paint(self, picture: str, above: str = "") -> None:
        self._picture = picture
        self.html = f"<div>{above}{picture}</div>"

    def _hear(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        with self._busy:
            try:
                self.act(str(content["act"]), content.get("arg"))
            except Exception as error:
                self.complain(error)
            self.served += 1

    def complain(self, error: Exception) -> None:
        """Show an exception above the last good picture; in a callback it would vanish in a log."""
        self._paint(self._picture, above=_complaint(error))


def _complaint(error: Exception) -> str:
    title, body = _split(str(error))
    if isinstance(error, ValueError):
        return viz.framed(viz.note("bad", title, body, actions=getattr(error, "actions", "")))
    return viz.framed(viz.note("bad", f"{type(error).__name__}: {title}", body, details=traceback.format_exc()))


def _split(message: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    head, found, rest = message.partition(": ") if ": " in message[:160] else message.partition("; ")
    return (head + ".", rest[:1].upper() + rest[1:]) if found else (message, "")
