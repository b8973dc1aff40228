"""What a coder is trained for: a sum of named, weighted terms, each a function of one read-only `Step`.

    objective = mse() + warmup(5, over=0.05) * l1()

A weight is a number or a function of progress in [0, 1]. The names of the terms become columns of the history.
"""

from .behaviour import Passes as Passes
from .behaviour import causal as causal
from .behaviour import downstream as downstream
from .behaviour import kl as kl
from .dead import aux_zipf as aux_zipf
from .dead import auxk as auxk
from .dead import ghost as ghost
from .dead import pre_act as pre_act
from .fit import fvu as fvu
from .fit import gate_mse as gate_mse
from .fit import matryoshka as matryoshka
from .fit import mse as mse
from .fit import multi_topk as multi_topk
from .fit import tilted as tilted
from .fit import variance as variance
from .objective import Objective as Objective
from .objective import Step as Step
from .objective import anneal as anneal
from .objective import at as at
from .objective import warmup as warmup
from .peers import align as align
from .resample import resample as resample
from .sparsity import l0 as l0
from .sparsity import l1 as l1
from .sparsity import load_balance as load_balance
from .sparsity import lp as lp
from .sparsity import tanh as tanh
from .sparsity import target_l0 as target_l0
