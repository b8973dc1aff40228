"""What the latents of a coder stand for: one pass over a text, then every question about a latent is a lookup."""

from .examples import Example as Example
from .index import Features as Features
from .latent import Latent as Latent
from .notes import Notes as Notes
from .ranges import Range as Range
from .scores import label_scores as label_scores
