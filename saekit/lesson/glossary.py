"""The words of the course, each in one or two sentences."""

import difflib

TERMS = {
    "ablation": "Taking something out to see what depends on it. Zero ablation sets it to zero, mean ablation to its "
    "average over a text, resample ablation to its value on another text.",
    "absorption": "A latent for a general property stays off where a more special latent is on, as if the special one "
    "had swallowed it. The general latent then has holes that are hard to see.",
    "activation": "A number, or a vector of numbers, that the model computes on its way from the text to the "
    "prediction. For a latent: how strongly it is on at a token.",
    "activation patching": "Putting one activation of one run into another run, to see whether the answer changes with "
    "it. Where it does, that activation holds what tells the two texts apart.",
    "always-fire baseline": "The score of a latent that is on at every token. A label that covers much of the text "
    "gives it a high F1, so a latent must beat it before it means anything.",
    "attribution graph": "A picture of one prediction: nodes are tokens, latents, errors and outputs, and an edge says "
    "how much one contributes to another. Its edges into a node add up to that node's value.",
    "attribution patching": "A fast estimate of what changing a value would do: its gradient times the change. It is "
    "exact for a linear model and only a guess elsewhere.",
    "auxiliary loss": "A second, small term of the loss (AuxK) that lets dead latents rebuild what the living ones "
    "leave over. It brings them back into use.",
    "base rate": "The share of tokens that have a label. Precision below it is worse than guessing.",
    "BatchTopK": "A nonlinearity that keeps the k largest activations per token on average over a batch. A hard token "
    "may use more than k, an easy one fewer.",
    "block": "One layer of a transformer: attention, then an MLP, each reading the residual stream and adding to it. "
    "Blocks are counted from 0.",
    "BOS": "The token that marks the beginning of every text the model reads. Its activation is like no other, so it "
    "is left out of training and of scores.",
    "CE recovered": "Of the loss that blanking a site adds, the share that the coder's reconstruction avoids: 1 is all "
    "of it, 0 none. It is near 1 for almost any coder, so read the difference in loss as well.",
    "causal swap": "Giving the latents of a circuit the values they have on another prompt, and seeing whether the "
    "answer follows. The rest of the model runs as ever.",
    "clamp": "Holding a latent at one value at every token, whatever it would have been.",
    "code": "The activations of all latents at one token. Almost all of them are zero.",
    "coder": "In saekit, an SAE or one of its relatives: what turns activations into codes and codes back.",
    "completeness": "What is left of a behaviour when a circuit is taken out of the model. Little left means that the "
    "circuit is complete.",
    "crosscoder": "A coder that reads several layers or models at once and writes all of them from one code. Its "
    "latents have a decoder direction for each.",
    "cross-layer transcoder": "A transcoder whose latents read one layer and write to the MLPs' outputs of that layer "
    "and all later ones. What several layers repeat then needs one latent.",
    "dead latent": "A latent that never fires on a whole text. It costs memory and explains nothing.",
    "decile": "A tenth of something sorted: of a latent's firings, the weakest tenth is the first decile. Each holds "
    "equally many.",
    "decoder direction": "The row of W_dec that belongs to a latent: what it adds to the activation when it is on.",
    "dense latent": "A latent that is on at a large share of all tokens, say a tenth. It is rarely easy to name.",
    "density": "The share of tokens at which a latent is on.",
    "detection": "A score of an explanation: a judge reads it, then says of passages whether the latent is on in them. "
    "One half is chance.",
    "dictionary": "All decoder directions of an SAE together. A code says how much of each to add up.",
    "direct effect": "What a latent does to the output by the shortest way, through the residual stream alone. The "
    "total effect includes what later layers make of it.",
    "empty circuit": "The model with every latent at its mean: what is left when a circuit keeps nothing. It is the "
    "zero of the scale on which faithfulness is measured.",
    "encoder direction": "The column of W_enc that belongs to a latent: what it looks for in an activation.",
    "error term": "What the reconstruction leaves out: the activation minus its reconstruction. In a circuit it "
    "stands as an error node of its own.",
    "F1": "The harmonic mean of precision and recall: high only where both are. 1 is perfect.",
    "faithfulness": "How much of a behaviour a circuit keeps when everything outside it is ablated.",
    "feature": "A property of the data, such as being inside a docstring. A latent may or may not stand for one.",
    "frozen-random baseline": "An SAE whose dictionary was left random while the rest was trained. A score that it "
    "reaches too says nothing about the learned directions.",
    "FVU": "Fraction of variance unexplained: the squared error of the reconstruction as a share of the variance. 0 is "
    "perfect, 1 is as good as always giving the mean.",
    "Gated": "An SAE that decides with one set of weights whether a latent is on, and with another how strongly.",
    "frontier": "The coders that no other one beats both in what they spend and in what they lose. Compare coders at "
    "equal L0, or by where they lie to this line.",
    "head": "A part of attention. At each token it chooses earlier tokens to look at, and brings something from them.",
    "hook": "A function that the model calls at a named place while it runs. It may read the activation there, or "
    "change it.",
    "hypergeometric test": "How likely it is to draw so many or more of one kind when that many are drawn at random. "
    "It says whether a list of tokens holds more of a kind than chance would give.",
    "induction": "Copying by pattern: the model saw A B before, sees A again, and predicts B.",
    "influence": "How much a node of an attribution graph contributes to the output over all paths together.",
    "input score": "Of a latent: in how many of its strongest contexts the token itself is one of the 20 that its "
    "decoder row raises most. High where it responds to what it writes.",
    "integrated gradients": "An estimate of an effect that averages the gradient along the way from one input to the "
    "other. Its parts add up to the whole change.",
    "interpretability illusion": "A story that fits a latent's strongest examples and not the rest of its firings. "
    "Looking at firings of every strength shows it.",
    "JumpReLU": "A nonlinearity with a learned threshold for each latent: below it the latent is off, above it the "
    "value passes unchanged.",
    "k-sparse probe": "A classifier that may look at k latents only. It asks how few latents hold a label.",
    "kurtosis": "How far the ends of a distribution stand out: above 0 where few values lie far from the rest, below "
    "0 where all lie about as far from the middle.",
    "L0": "The number of latents that are on at a token, usually averaged over a text.",
    "label": "What is known to be true of a token, such as docstring or def name. Python's own parser gives them, "
    "without error.",
    "latent": "One unit of an SAE: a direction to look for, and a direction to add when it is found.",
    "layer group": "Layers whose activations point much the same way, so that one coder can serve them all.",
    "learning rate": "How far each step of training moves the weights. Too low and little is learned in the time; too "
    "high and the loss jumps.",
    "logit": "The score that the model gives a token before the scores become probabilities. The difference of two "
    "logits says how much likelier one token is than the other.",
    "logit lens": "Reading a direction as if it were the final one: multiplied with the unembedding, it ranks the "
    "tokens it pushes up and down. Also called VocabProj.",
    "loss": "How badly the model predicts the next token, in nats: minus the logarithm of the probability it gave to "
    "what came. Also called cross-entropy, CE.",
    "Matryoshka": "An SAE whose first latents must rebuild the activation on their own, then the first few more, and "
    "so on. General properties tend to settle in the first ones.",
    "max-activating example": "A piece of text where a latent is strongest. Judging a latent by these alone flatters "
    "it.",
    "monosemantic": "Standing for one thing only. A polysemantic neuron or latent is on for several things that have "
    "nothing in common.",
    "mutual information": "How much knowing one thing tells about another, in nats. Of a word and a latent: how much "
    "better the word can be guessed when the latent is known.",
    "neuron": "One unit of the model itself. Neurons are often polysemantic, which is why SAEs are trained.",
    "output score": "Of a latent: how far adding it to a neutral prompt brings one of the 20 tokens that its row "
    "raises most to the top. High where it does what its row says.",
    "PCA": "Principal component analysis: the few fixed directions along which activations vary most. An SAE chooses "
    "its directions anew at each token, so it should do better with as many.",
    "pre-activation": "The value of a latent before its threshold, which decides whether it is on.",
    "precision": "Of the tokens where a latent is on, the share that have the label.",
    "recall": "Of the tokens that have the label, the share where the latent is on.",
    "reconstruction": "What the coder gives back for an activation: the sum of the decoder directions of the latents "
    "that are on, each times its activation.",
    "relative norm": "Of a crosscoder's latent: the share of its decoder that is at the second site. 0 and 1 mean "
    "one site only, one half means both alike.",
    "ReLU": "A nonlinearity that passes positive values and sets the others to zero. In an SAE a negative bias before "
    "it makes the threshold.",
    "replacement score": "Of the influence in an attribution graph that ends in tokens, positions or errors, the share "
    "that does not end in errors.",
    "residual stream": "The running sum that every layer of the model reads from and adds to. There is one vector at "
    "each token.",
    "SAE": "Sparse autoencoder: a small network that rewrites each activation as a sum of a few directions out of a "
    "large dictionary.",
    "shrinkage": "Activations that come out too small, because the penalty that makes codes sparse also pulls on their "
    "size.",
    "site": "The place in the model where a coder reads and writes, given by the name of a hook.",
    "straight-through gradient": "A stand-in for the slope of a step, which is zero almost everywhere. Values near the "
    "step get a slope, so that a threshold can learn.",
    "splice": "Running the model with a coder put in its way at the site, with or without the coder's error.",
    "skew": "Which end of a distribution is longer: positive where the upper one is, negative where the lower one is.",
    "splitting": "In a larger dictionary one latent becomes several that share its work, such as strings in calls and "
    "strings in lists.",
    "steering vector": "A direction that is added to the activation to change what the model does. A decoder direction "
    "is one.",
    "superposition": "Holding more features than there are dimensions, along directions that are not at right angles. "
    "It works because few features are there at once.",
    "supernode": "Several nodes of an attribution graph that mean the same, drawn as one.",
    "token": "The unit a model reads: a word, a part of one, a bracket, a line break with its indentation.",
    "Token Change": "What holding a latent at a high value does to the probabilities of the next token, measured by "
    "running the model.",
    "TopK": "A nonlinearity that keeps the k largest activations of each token and sets the rest to zero.",
    "transcoder": "A coder that reads the input of a layer and gives its output, so that it can stand in for the "
    "layer.",
    "worst-group accuracy": "The accuracy of a classifier on the group of inputs where it does worst. It shows what an "
    "average hides.",
}

ALSO = {
    "auxk": "auxiliary loss",
    "dead": "dead latent",
    "dense": "dense latent",
    "cross-entropy": "loss",
    "error node": "error term",
    "explained variance": "FVU",
    "polysemantic": "monosemantic",
    "sparse autoencoder": "SAE",
    "total effect": "direct effect",
    "vocabproj": "logit lens",
}  # other names, in lower case


def entry(term: str) -> tuple[str, str]:
    """(term as written here, its meaning), also of a plural and in any case. Raises ValueError with the nearest."""
    names = {name.lower(): name for name in TERMS} | ALSO
    asked = term.strip().lower()
    for name in (asked, asked.removesuffix("s")):
        if name in names:
            return names[name], TERMS[names[name]]
    inside = [name for name in names if asked and (asked in name or name in asked)]
    near = dict.fromkeys([*inside, *difflib.get_close_matches(asked, names, cutoff=0.5)])
    listed = ", ".join(names[name] for name in [*near][:4])
    raise ValueError(
        f"no entry {term!r} in the glossary; " + (f"near it: {listed}" if near else "nb.glossary() has all")
    )
