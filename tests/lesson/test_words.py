"""The glossary and the quiz: every term and picture that the notebooks use is there."""

import re
from pathlib import Path

import nbformat
import pytest

from saekit.lesson import curves, glossary, nb01, nb03

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_an_entry_is_found_whatever_its_case():
    assert glossary.entry("fvu")[0] == "FVU"
    assert glossary.entry("Activations")[0] == "activation"
    assert glossary.entry("loss")[0] == "loss"
    assert glossary.entry(" Dead Latent ")[0] == "dead latent"
    assert glossary.entry("polysemantic")[0] == "monosemantic"
    assert set(glossary.ALSO.values()) <= glossary.TERMS.keys()
    assert not set(glossary.ALSO) & {term.lower() for term in glossary.TERMS}


def test_an_unknown_term_is_answered_with_the_nearest():
    for asked, near in (("latent unit", "latent"), ("ablate", "ablation"), ("residual", "residual stream")):
        with pytest.raises(ValueError, match=f"near it: .*{near}"):
            glossary.entry(asked)
    with pytest.raises(ValueError, match="has all"):
        glossary.entry("qqqq")


def test_the_terms_of_the_plan_are_there():
    planned = (
        "activation; ablation; absorption; attribution patching; attribution graph; auxiliary loss; base rate; BOS; "
        "CE recovered; clamp; completeness; dead latent; dense latent; decoder direction; encoder direction; density; "
        "direct effect; total effect; dictionary; error term; error node; explained variance; faithfulness; feature; "
        "latent; neuron; frozen-random baseline; hook; induction; influence; integrated gradients; JumpReLU; TopK; "
        "Gated; Matryoshka; k-sparse probe; L0; logit lens; VocabProj; max-activating example; monosemantic; "
        "polysemantic; residual stream; shrinkage; splitting; steering vector; superposition; supernode; "
        "Token Change; transcoder; worst-group accuracy"
    )
    for term in planned.split("; "):
        assert glossary.entry(term)


@pytest.mark.parametrize("term", glossary.TERMS)
def test_an_entry_is_one_or_two_plain_sentences(term):
    meaning = glossary.TERMS[term]
    sentences = re.split(r"(?<=[.])\s", meaning)
    assert 1 <= len(sentences) <= 3 and meaning.endswith(".") and "!" not in meaning
    assert max(len(sentence.split()) for sentence in sentences) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_terms_used_in_a_notebook_have_an_entry(path):
    """A term is bold where it is first used; `nb.glossary("...")` names one."""
    asked = [term for cell in sources(path, "code") for term in re.findall(r"nb\.glossary\(\"([^\"]+)\"\)", cell)]
    bold = [term for cell in sources(path, "markdown") for term in re.findall(r"\*\*([^*\n]+)\*\*", cell)]
    assert bold or asked
    for term in asked + bold:
        assert glossary.entry(term)


# -- the quiz of 03


def test_the_six_runs_show_what_the_questions_ask():
    """The right answer to each question is the extreme one, by far."""
    runs = curves.histories()
    assert list(runs) == list(curves.RUNS) and len(runs) == 6
    top = {name: max(run["fvu"]) for name, run in runs.items()}
    assert top["large steps"] > 10 * max(value for name, value in top.items() if name != "large steps")
    dead = {name: run["dead"][-1] for name, run in runs.items()}
    assert dead["dying"] > 0.2 > 2 * max(value for name, value in dead.items() if name != "dying")
    l0 = {name: run["l0"][-1] for name, run in runs.items()}
    assert l0["dense"] > 5 * max(value for name, value in l0.items() if name != "dense")
    fvu = {name: run["fvu"][-1] for name, run in runs.items()}
    assert min(fvu, key=fvu.get) == "dense" and max(fvu, key=fvu.get) == "small steps"
    assert fvu["good"] < 0.2 and dead["good"] < 0.1 and l0["good"] < 64


def test_a_picture_is_of_its_run_and_does_not_tell():
    pictures = {name: curves.picture(name) for name in curves.RUNS}
    letters = [re.search("<b>(.)</b>", picture)[1] for picture in pictures.values()]
    assert letters == list("ABCDEF")
    for name, picture in pictures.items():
        assert name not in picture and picture.count("<path") == 3
        assert 'role="img"' in picture and "aria-label" in picture
        assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")
        assert f"{curves.histories()[name]['fvu'][-1]:.2f}" in picture


@pytest.mark.parametrize(("questions", "n"), [(nb01.QUESTIONS, 4), (nb03.QUESTIONS, 6)], ids=["01", "03"])
def test_questions_have_one_right_answer_and_a_reason(questions, n):
    assert len({question.id for question in questions}) == len(questions) >= 3
    for question in questions:
        options = question.options()
        assert 0 <= question.answer < len(options) == len({*options}) == n
        assert question.why.endswith(".") and question.question.endswith("?")
