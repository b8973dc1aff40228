"""`SparseCoder`, one class for every sparse autoencoder and transcoder, and `CoderStack`, several of them together."""

from .side import side as side
from .sparse import Encoding as Encoding
from .sparse import Scale as Scale
from .sparse import SparseCoder as SparseCoder
from .stack import CoderStack as CoderStack
