"""VARIANTS.md is what the code says, and names everything of the survey with its test and its notebook."""

import inspect

import pytest

from tests import variants


def test_the_page_is_what_the_code_says():
    found = variants.TABLE.read_text()
    assert found == variants.page(), "VARIANTS.md is out of date: python -m tests.variants writes it anew"


def test_every_variant_and_strategy_has_a_test():
    assert variants.lacking()["test"] == []


def test_every_variant_and_strategy_has_a_notebook():
    """Once the zoo is there; the notebooks before it show four of them."""
    lacking = variants.lacking()["notebook"]
    zoo = any(name.startswith("04_") for name in variants.notebooks())
    assert lacking == [] if zoo else "topk" not in lacking and "crosscoder" not in lacking


def test_every_preset_says_what_it_is_whose_it_is_and_what_it_wants():
    for row in variants.PRESETS:
        what, paper, source = variants.described(row.about)
        assert len(what) > 20 and paper and source, row.name
        assert f"| `{row.call}` |" in variants.page()
    assert all(variants.described(row.origin or row.about)[0] for row in variants.STRATEGIES)


def test_the_survey_is_in_it():
    """The presets of the plan, and the strategies that go with them, by name."""
    planned = (
        "relu gated topk batch_topk prolu jumprelu switch matryoshka p_anneal feature_choice mutual_choice "
        "feature_aligned end_to_end layer_group specialized formal transcoder skip_transcoder crosscoder "
        "per_layer_transcoders cross_layer_transcoder meta_sae"
    )
    assert [row.name for row in variants.PRESETS] and {row.name for row in variants.PRESETS} == set(planned.split())
    strategies = {row.name for row in variants.STRATEGIES}
    assert strategies >= {"AuxK", "resampling", "pre-activation loss", "ghost gradients", "Multi-TopK", "aux-zipf"}
    assert strategies >= {"JumpReLU, target L0", "JumpReLU, L0 penalty", "JumpReLU, tanh", "downstream terms"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("coder, objective = presets.relu(8, 16)", True),
        ('"relu": lambda: presets', True),
        ('@pytest.mark.parametrize("name", ["relu stack"])', True),
        ("| `relu` | a penalty |", True),
        ("f = (x @ W).relu()", False),
        ("torch.relu(x)", False),
        ("presets.prelu()", False),
    ],
)
def test_a_name_is_found_where_it_is_meant(source, found):
    import re

    (relu,) = [row for row in variants.PRESETS if row.name == "relu"]
    assert bool(re.search(relu.words, source)) is found


def test_docstrings_are_read():
    def f():
        """Does `a.b` to x (Somebody et al. 2020, arXiv 2001.00001; note). More of it.

        Source: a site, `Site("a.b")`. The end.
        """

    assert variants.described(f) == (
        "Does `a.b` to x",
        "Somebody et al. 2020, arXiv 2001.00001; note",
        'a site, `Site("a.b")`',
    )
    assert inspect.isfunction(variants.PRESETS[0].about)
