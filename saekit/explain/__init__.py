"""What a latent means: from what it responds to, and from what it does to the output."""

from .output import token_change as token_change
from .output import vocab_proj as vocab_proj
