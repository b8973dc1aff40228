"""Look inside language models with sparse autoencoders. `import saekit as sk`; this page is the table of contents."""

from .activations import Activations as Activations
from .coder import SparseCoder as SparseCoder
from .codes import Codes as Codes
from .corpus import Corpus as Corpus
from .corpus import Text as Text
from .corpus import load_corpus as load_corpus
from .features import Features as Features
from .hooks import Site as Site
from .hooks import capture as capture
from .hooks import frozen as frozen
from .hooks import load_model as load_model
from .hooks import splice as splice
from .io import load as load
from .io import pretrained as pretrained
from .io import save as save
from .losses import Objective as Objective
from .losses import auxk as auxk
from .losses import fvu as fvu
from .losses import l1 as l1
from .losses import mse as mse
from .losses import target_l0 as target_l0
from .losses import warmup as warmup
from .nonlinearity import JumpReLU as JumpReLU
from .nonlinearity import ReLU as ReLU
from .nonlinearity import TopK as TopK
from .steer import ablate as ablate
from .steer import add as add
from .steer import clamp as clamp
from .steer import scale as scale
from .steer import then as then
from .train import Run as Run
from .train import train as train

__version__ = "0.1.0"
