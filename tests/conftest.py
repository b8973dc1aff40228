"""No network in the tests, one thread, and one booted tiny model per family and session."""

import os
import random
from functools import cache

for _name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(_name, None)
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before anything else

import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

import saekit.hooks  # noqa: E402

torch.set_num_threads(1)  # products this small get slower with more

FAMILIES = ("gpt2", "llama", "neox", "gemma2", "qwen3")
EIGHT = (*FAMILIES, "mistral", "gemma3", "phi3")  # for what must hold exactly in every family


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    """{family: folder of a saved tiny model}."""
    return tiny.save_all(tmp_path_factory.mktemp("tiny"), FAMILIES)


@pytest.fixture(scope="session")
def tiny_models(tiny_folders):
    """{family: booted tiny model}, raw weights. Shared by the session: leave them as they are."""
    return {family: saekit.hooks.load_model(folder) for family, folder in tiny_folders.items()}


@pytest.fixture(params=FAMILIES)
def tiny_model(request, tiny_models):
    """A test that takes this runs once per family."""
    return tiny_models[request.param]


@pytest.fixture(scope="session")
def exact_models(tiny_folders, tmp_path_factory):
    """exact_models(family): one of eight tiny models in float64, booted when first asked for."""
    folders = tiny_folders | tiny.save_all(tmp_path_factory.mktemp("more"), EIGHT[len(FAMILIES) :])
    return cache(lambda family: saekit.hooks.load_model(folders[family], dtype=torch.float64))


@pytest.fixture(params=EIGHT)
def exact_model(request, exact_models):
    """A test that takes this runs once per family of the eight, in float64."""
    return exact_models(request.param)


@pytest.fixture(scope="session")
def tiny_corpus(tiny_models):
    """Forty short texts of our own, for the tiny GPT-2."""
    import saekit as sk

    words = "red green blue round square small large in out over under left right".split()
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(40)]
    return sk.load_corpus(tiny_models["gpt2"], texts)
