"""What the notebooks are taught with: `start`, checks, hints, solutions, predictions, progress, and the glossary."""

from .exercise import Exercise as Exercise
from .exercise import Verdict as Verdict
from .frame import Lesson as Lesson
from .frame import start as start
