"""How every shipped asset and every measured number was made: runnable, seeded, resumable.

Run in this order; each step says what it needs and writes under `runs/`:

    python -m saekit.recipes.tokenizer      the byte-level BPE of 4,096 tokens
    python -m saekit.recipes.model          the language model (hours; resumes where it was)
    python -m saekit.recipes.coder          the shipped coders
    python -m saekit.recipes.measure        assets/measured.json
    python -m saekit.recipes.toys           what notebook 01 says of toys, into assets/measured.json
    python -m saekit.recipes.circuits       circuits with known answers, into assets/measured.json
    python -m saekit.recipes.languages      a tiny model of each formal language (not shipped)
    python -m saekit.recipes.defaults       settings of presets that no paper settles, side by side (nothing shipped)
"""
