"""EXPLANATIONS.md is what the code says, and names every way to explain a latent with its test and its notebook."""

from tests import explanations, variants

OF_06 = {"vocab_proj", "de_embedding", "token_change", "mutual_information", "input_score", "output_score"}


def test_the_page_is_what_the_code_says():
    found = explanations.TABLE.read_text()
    assert found == explanations.page(), "EXPLANATIONS.md is out of date: python -m tests.explanations writes it anew"


def test_every_export_is_a_method_or_known_not_to_be_one():
    told = [name for modules in explanations.PARTS.values() for name in modules]
    assert len(told) == len({*told})
    here = {explanations.module(thing) for thing in explanations.public().values()}
    assert here == {*told, *explanations.NO_METHODS}


def test_every_method_has_a_test():
    assert explanations.lacking()["test"] == []


def test_every_method_has_a_notebook():
    """Those that read the output are shown in notebook 06; all others before it."""
    lacking = {*explanations.lacking()["notebook"]}
    assert lacking <= OF_06, lacking
    assert not lacking or not any(name.startswith("06_") for name in variants.notebooks()), lacking


def test_the_survey_is_in_it():
    """The methods of the plan, by name."""
    rows = {row.name: row for part in explanations.rows().values() for row in part}
    planned = "max_act quantiles pruned n2g tokens rules detection fuzzing simulation embedding intruder"
    assert {*planned.split()} | OF_06 <= rows.keys()
    for row in rows.values():
        assert len(variants.described(row.about)[0]) > 20, row.name
        assert f"| `{row.call}` |" in explanations.page()
    cited = {name for name, row in rows.items() if variants.described(row.about)[1]}
    assert cited >= {"quantiles", "n2g", "pruned", "detection", "fuzzing", "simulation", "embedding", "intruder"}
    assert cited >= OF_06 - {"de_embedding"}
