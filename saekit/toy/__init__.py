"""What has a known answer: superposition, in a model and in data with their dictionary; languages with exact labels."""

from .bottleneck import Bottleneck as Bottleneck
from .languages import DYCK as DYCK
from .languages import EXPRESSIONS as EXPRESSIONS
from .languages import LANGUAGES as LANGUAGES
from .languages import SENTENCES as SENTENCES
from .languages import Language as Language
from .superposition import Superposition as Superposition
from .superposition import hierarchy as hierarchy
from .superposition import zipf as zipf
