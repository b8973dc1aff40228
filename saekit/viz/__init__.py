"""Pure functions from plain data to HTML and SVG; the widgets and the exported pages are made of them."""

from .html import Html as Html
from .html import esc as esc
from .html import page as page
from .html import show as show
from .notes import framed as framed
from .notes import note as note
