"""What a latent means: from what it responds to, and from what it does to the output."""

from .embedders import mean_embeddings as mean_embeddings
from .embedders import tfidf as tfidf
from .endpoint import endpoint as endpoint
from .explainers import by_contrast as by_contrast
from .explainers import by_examples as by_examples
from .explainers import by_output as by_output
from .explanation import Explanation as Explanation
from .judges import Cached as Cached
from .judges import Constant as Constant
from .judges import Human as Human
from .judges import JudgeError as JudgeError
from .judges import Oracle as Oracle
from .judges import Rules as Rules
from .lens import de_embedding as de_embedding
from .lens import vocab_proj as vocab_proj
from .local import LocalModel as LocalModel
from .mutual import mutual_information as mutual_information
from .output import token_change as token_change
from .scores import detection as detection
from .scores import embedding as embedding
from .scores import fuzzing as fuzzing
from .scores import intruder as intruder
from .scores import shuffled as shuffled
from .scores import simulation as simulation
from .selection import input_score as input_score
from .selection import output_score as output_score
