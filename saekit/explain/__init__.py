"""What a latent means: from what it responds to, and from what it does to the output."""

from .lens import de_embedding as de_embedding
from .lens import vocab_proj as vocab_proj
from .mutual import mutual_information as mutual_information
from .output import token_change as token_change
from .selection import input_score as input_score
from .selection import output_score as output_score
