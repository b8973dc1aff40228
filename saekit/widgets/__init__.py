"""Thin classes over `viz`: what is shown is a function of `.state`; clicks and keys change the state."""

from .attention import AttentionView as AttentionView
from .browser import FeatureBrowser as FeatureBrowser
from .card import FeatureCard as FeatureCard
from .circuit import CircuitView as CircuitView
from .explorer import ActivationExplorer as ActivationExplorer
from .geometry import ToyGeometry as ToyGeometry
from .heads import HeadView as HeadView
from .hooks import HookMap as HookMap
from .judge import JudgeGame as JudgeGame
from .map import LatentMap as LatentMap
from .microscope import PromptMicroscope as PromptMicroscope
from .monitor import TrainMonitor as TrainMonitor
from .pareto import ParetoPlot as ParetoPlot
from .patching import PatchingMap as PatchingMap
from .prefix import PrefixSlider as PrefixSlider
from .quiz import Quiz as Quiz
from .quiz import StatusBar as StatusBar
from .steer import SteerSlider as SteerSlider
from .strip import TokenStrip as TokenStrip
from .tree import SplitTree as SplitTree
