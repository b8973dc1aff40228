"""What a latent means: from what it responds to, and from what it does to the output."""

from .examples import max_act as max_act
from .examples import quantiles as quantiles
from .n2g import n2g as n2g
from .output import token_change as token_change
from .output import vocab_proj as vocab_proj
from .pruned import pruned as pruned
from .rules import rules as rules
from .tokens import tokens as tokens
