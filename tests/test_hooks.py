"""The hooks, on five families of tiny random models."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from functools import partial

import pytest
import tiny
import torch

from saekit import steer
from saekit.coder import SparseCoder
from saekit.hooks import Site, capture, frozen, load_model, model_record, splice
from saekit.nonlinearity import ReLU

D_SAE = 24
SAES = [Site("blocks.1.hook_resid_post"), Site("blocks.0.hook_attn_out"), Site("blocks.2.hook_mlp_out")]
TRANSCODER = Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
each_site = pytest.mark.parametrize("site", [*SAES, TRANSCODER], ids=lambda site: site.name)
everywhere = torch.ones_like


def random_coder(site, d_in=tiny.WIDTH, d_out=None, skip=False, seed=1):
    """A coder with random parameters: about half of its latents are on."""
    torch.manual_seed(seed)
    coder = SparseCoder(d_in, D_SAE, ReLU(), d_out=d_out, skip=skip).eval()
    for parameter in coder.parameters():
        torch.nn.init.normal_(parameter)
    coder.site = site
    return coder


def dense(coder, x):
    """The codes by hand, [batch, pos, d_sae]."""
    return torch.relu(x @ coder.W_enc + coder.b_enc)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def tokens(tiny_model):
    generator = torch.Generator().manual_seed(2)
    return torch.cat([torch.zeros(2, 1), torch.randint(1, 257, (2, 8), generator=generator)], dim=1).long()


def n_hooks(model):
    return sum(len(point._forward_hooks) for point in model.hook_dict.values())


def not_bos(tokens):
    return (tokens != 0)[..., None]


# --- the model


def test_bundled_model_is_raw_frozen_and_in_eval_mode():
    model = load_model()
    assert model_record(model) == {"name": "tiny-python", "processing": "raw", "d_model": 256, "n_layers": 4}
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.to_tokens("def f(x):")[0, 0] == model.tokenizer.bos_token_id


def test_every_family_gets_a_bos(tiny_model):
    assert tiny_model.to_tokens("a").shape == (1, 2)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no-such-org/no-such-model.*load_model\(\)"):
        load_model("no-such-org/no-such-model")
    with pytest.raises(ValueError, match=r"no folder './nowhere'"):
        load_model("./nowhere")
    with pytest.raises(ValueError, match=r"holds no config.json"):
        load_model(tmp_path)


def test_without_a_network_an_unknown_name_fails_at_once():
    """In a process of its own, where nothing says that it is offline and the address leads nowhere."""
    script = (
        "import time, os, saekit.hooks as h, sys\n"
        "assert not {'transformers', 'transformer_lens'} & {*sys.modules}\n"
        "start = time.time()\n"
        "try: h.load_model('no-such-org/no-such-model')\n"
        "except ValueError as error: print(error)\n"
        "assert os.environ['HF_HUB_OFFLINE'] == '1' and time.time() - start < 5\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "the hub does not answer" in done.stdout
    assert not done.stderr


def test_loading_prints_nothing(tiny_folders, capfd):
    load_model(tiny_folders["llama"])
    assert capfd.readouterr() == ("", "")


def test_folded_weights_are_on_record(tiny_folders):
    model, tokens = load_model(tiny_folders["gpt2"]), torch.arange(9)[None]
    plain = capture(model, tokens, "blocks.1.mlp.hook_in")["blocks.1.mlp.hook_in"]
    assert model_record(model)["processing"] == "raw"
    model.enable_compatibility_mode(disable_warnings=True)
    assert model_record(model) == {"name": "gpt2", "processing": "compatibility", "d_model": 32, "n_layers": 3}
    assert not torch.allclose(plain, capture(model, tokens, "blocks.1.mlp.hook_in")["blocks.1.mlp.hook_in"])
    coder = random_coder(SAES[0])
    coder.model = model_record(model) | {"processing": "raw"}
    with pytest.raises(ValueError, match=r"trained on .*'raw'.* but this model is .*'compatibility'"):
        splice(model, coder).__enter__()
    coder.model = model_record(model)
    with splice(model, coder, edit=steer.add(3, 2.0), where=everywhere):  # applied once, although names have aliases
        edited = capture(model, tokens, coder.site)[coder.site.name]
    torch.testing.assert_close(edited, capture(model, tokens, coder.site)[coder.site.name] + 2 * coder.W_dec[3])


# --- the site


def test_site_is_a_value():
    assert Site("a") == Site("a", "a") == Site(("a",))
    assert hash(Site("a")) == hash(Site("a", "a"))
    assert Site("a").name == "a"
    assert Site("a", "b").name == "a -> b"
    assert Site(("a", "b"), "c").name == "a + b -> c"
    for site in (*SAES, TRANSCODER, Site(("a", "b"), ("c", "d"))):
        assert Site(**json.loads(json.dumps(dataclasses.asdict(site)))) == site
    assert TRANSCODER.layer == 1
    assert Site("hook_embed").layer is None
    for bad in ("", (), ("a", "a")):
        with pytest.raises(ValueError, match=r"a site's read"):
            Site(bad)


def test_site_measures_widths(tiny_model):
    assert TRANSCODER.check(tiny_model) == (32, 32)
    assert Site(("blocks.0.attn.hook_z", "blocks.0.hook_resid_post")).check(tiny_model) == (64, 64)
    assert Site("blocks.0.mlp.hook_post").check(tiny_model)[0] in (48, 128)


def test_unknown_and_dead_hooks_are_refused(tiny_models):
    model = tiny_models["llama"]
    with pytest.raises(ValueError, match=r"no hook 'blocks.1.hook_resid_pos'.*3 layers.*blocks.1.hook_resid_post"):
        Site("blocks.1.hook_resid_pos").check(model)
    with pytest.raises(ValueError, match=r"no hook 'blocks.3.hook_resid_post'"):
        capture(model, torch.tensor([[0, 1]]), "blocks.3.hook_resid_post")
    for dead in ("blocks.0.attn.hook_hidden_states", "blocks.0.hook_mlp_in", "blocks.0.attn.hook_pattern"):
        with pytest.raises(ValueError, match=rf"{dead}.*set_use_"):
            Site(dead).check(model)
    with pytest.raises(RuntimeError, match=r"attn.hook_hidden_states"):
        capture(model, torch.tensor([[0, 1]]), "blocks.0.attn.hook_hidden_states")


# --- capture


def test_capture_is_what_the_cache_has(tiny_model, tokens):
    names = [
        f"blocks.{layer}.{name}" for layer in range(3) for name in ("hook_resid_pre", "hook_resid_post", "mlp.hook_in")
    ]
    names += ["blocks.1.attn.hook_z", "ln_final.hook_out"]
    _, cache = tiny_model.run_with_cache(tokens, names_filter=names)
    seen = capture(tiny_model, tokens, *names)
    assert set(seen) == set(names)
    for name in names:
        assert torch.equal(seen[name], cache[name].flatten(2)), name
        assert torch.equal(capture(tiny_model, tokens, name)[name], seen[name])
    assert n_hooks(tiny_model) == 0


def test_capture_stops_at_the_last_site(tiny_model, tokens):
    later = []
    with tiny_model.hooks([("blocks.2.hook_resid_pre", lambda x, hook: later.append(x))]):
        capture(tiny_model, tokens, "blocks.1.hook_resid_post")
        assert not later
        capture(tiny_model, tokens, "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
        assert len(later) == 1


def test_capture_by_site(tiny_model, tokens):
    pair = Site(("blocks.0.hook_resid_post", "blocks.1.mlp.hook_in"), "blocks.1.hook_mlp_out")
    seen = capture(tiny_model, tokens, pair)
    assert pair.inputs(seen).shape == (2, 9, 64)
    assert torch.equal(pair.targets(seen), seen["blocks.1.hook_mlp_out"])


def test_capture_takes_text_a_row_and_padding(tiny_model, tokens):
    name = "blocks.2.hook_resid_post"
    assert capture(tiny_model, "def", name)[name].shape == (1, 4, 32)
    alone = capture(tiny_model, tokens[0], name)[name]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens[:1]], dim=1)
    mask = (torch.arange(12) >= 3).long()[None]
    torch.testing.assert_close(capture(tiny_model, padded, name, attention_mask=mask)[name][:, 3:], alone)


def test_capture_refuses_prompts_that_do_not_fit(tiny_models):
    for n in (0, tiny.CONTEXT + 1):
        with pytest.raises(ValueError, match=f"a prompt of {n} tokens; 'gpt2' takes 1 to 64"):
            capture(tiny_models["gpt2"], torch.zeros(1, n, dtype=torch.long), "hook_embed")


def test_capture_with_gradients(double, tokens):
    names = ["hook_embed", "blocks.1.attn.hook_z", "blocks.2.hook_resid_post"]
    direction, nudge = torch.randn(tiny.WIDTH).double(), torch.randn(2, 9, tiny.WIDTH).double()

    def target(name, size):
        with double.hooks([(name, lambda x, hook: x + size * nudge.view_as(x))]):
            return (capture(double, tokens, names[2])[names[2]] @ direction).sum()

    with double.hooks([("hook_embed", lambda x, hook: x.detach().requires_grad_())]):
        seen = capture(double, tokens, *names, grad=True)
    gradients = torch.autograd.grad((seen[names[2]] @ direction).sum(), [seen[name] for name in names[:2]])
    for name, gradient in zip(names, gradients, strict=False):
        close((gradient * nudge).sum(), difference_quotient(partial(target, name), 0.0, 1.0))


# --- splice


def test_without_an_edit_the_model_is_bit_identical(tiny_model, tokens):
    plain = tiny_model(tokens)
    with splice(tiny_model, [random_coder(site) for site in (*SAES, TRANSCODER)]) as passes:
        assert torch.equal(tiny_model(tokens), plain)
    (only,) = passes
    seen = capture(tiny_model, tokens, *SAES, TRANSCODER)
    for codes, site in zip(only.codes, (*SAES, TRANSCODER), strict=True):
        torch.testing.assert_close(codes.dense(), dense(random_coder(site), site.inputs(seen)).flatten(0, 1))
    assert torch.equal(tiny_model(tokens), plain)
    assert n_hooks(tiny_model) == 0


@each_site
def test_strength_zero_is_bit_identical(tiny_model, tokens, site):
    plain = tiny_model(tokens)
    for nothing in (steer.add(3, 0.0), steer.scale([3, 4], 1.0), steer.then(steer.add(5, 0.0), steer.scale(5, 1.0))):
        with splice(tiny_model, random_coder(site), edit=nothing):
            assert torch.equal(tiny_model(tokens), plain)


@each_site
def test_an_ablation_is_what_it_is_by_hand(tiny_model, tokens, site):
    coder = random_coder(site)
    seen = capture(tiny_model, tokens, site)
    change = -dense(coder, site.inputs(seen))[..., [3, 7]] @ coder.W_dec[[3, 7]]
    with tiny_model.hooks([(site.write, lambda x, hook: x + change * not_bos(tokens))]):
        by_hand = tiny_model(tokens)
    with splice(tiny_model, coder, edit=steer.ablate(3, 7)):
        edited = tiny_model(tokens)
    torch.testing.assert_close(edited, by_hand)
    assert not torch.allclose(edited, tiny_model(tokens), atol=1e-3)


@pytest.mark.parametrize("skip", [False, True])
@each_site
def test_a_full_replacement_is_the_reconstruction(tiny_model, tokens, site, skip):
    coder = random_coder(site, skip=skip)
    x = site.inputs(capture(tiny_model, tokens, site))
    y = dense(coder, x) @ coder.W_dec + coder.b_dec + (x @ coder.W_skip if skip else 0)
    with tiny_model.hooks([(site.write, lambda x, hook: torch.where(not_bos(tokens), y, x))]):
        by_hand = tiny_model(tokens)
    with splice(tiny_model, coder, keep_error=False):
        torch.testing.assert_close(tiny_model(tokens), by_hand)
    with splice(tiny_model, coder, keep_error=False, where=torch.zeros_like):
        assert torch.equal(tiny_model(tokens), tiny_model(tokens))


def test_where_is_a_mask_or_a_function(tiny_model, tokens):
    coder, last = random_coder(SAES[0]), torch.arange(9).expand(2, 9) == 8
    seen = []
    for where in (last, lambda tokens: last, everywhere):
        with splice(tiny_model, coder, edit=steer.add(2, 5.0), where=where):
            seen.append(capture(tiny_model, tokens, coder.site)[coder.site.name])
    plain = capture(tiny_model, tokens, coder.site)[coder.site.name]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][:, :8], plain[:, :8])
    torch.testing.assert_close(seen[2], plain + 5 * coder.W_dec[2])
    wrong = pytest.raises(ValueError, match=r"shape \(2, 9\), the tokens of this pass \(1, 4\)")
    with wrong, splice(tiny_model, coder, where=last):
        tiny_model(tokens[:1, :4])
    assert n_hooks(tiny_model) == 0


def test_a_site_of_heads(tiny_model, tokens):
    coder = random_coder(Site("blocks.1.attn.hook_z"))
    z = capture(tiny_model, tokens, coder.site)[coder.site.name]
    with splice(tiny_model, coder, edit=steer.add(1, 2.0), where=everywhere):
        torch.testing.assert_close(capture(tiny_model, tokens, coder.site)[coder.site.name], z + 2 * coder.W_dec[1])


def test_one_read_and_several_writes(tiny_model, tokens):
    """A cross-layer transcoder: each segment of its output goes to its own layer."""
    writes = tuple(f"blocks.{layer}.hook_mlp_out" for layer in (1, 2))
    coder = random_coder(Site("blocks.1.mlp.hook_in", writes), d_out=64)
    plain = capture(tiny_model, tokens, *writes)
    with splice(tiny_model, coder, edit=steer.add(0, 3.0), where=everywhere):
        first = capture(tiny_model, tokens, coder.site)
    torch.testing.assert_close(first[writes[0]], plain[writes[0]] + 3 * coder.W_dec[0, :32])
    with splice(tiny_model, coder, keep_error=False, where=everywhere) as passes:
        second = capture(tiny_model, tokens, coder.site)
    y = passes[-1].codes[0].dense() @ coder.W_dec + coder.b_dec
    torch.testing.assert_close(coder.site.targets(second).flatten(0, 1), y)


def test_coders_that_share_a_hook_add_up(tiny_model, tokens):
    coders = [random_coder(SAES[0], seed=1), random_coder(SAES[0], seed=2)]
    x = capture(tiny_model, tokens, SAES[0])[SAES[0].name]
    edits = [steer.add(0, 1.0), steer.add(1, 2.0)]
    with splice(tiny_model, coders, edit=edits, where=everywhere):
        torch.testing.assert_close(
            capture(tiny_model, tokens, SAES[0])[SAES[0].name], x + coders[0].W_dec[0] + 2 * coders[1].W_dec[1]
        )


def test_a_coder_that_does_not_fit_is_refused_at_the_door(tiny_model):
    with pytest.raises(ValueError, match=r"from width 16 to 16, but 'blocks.1.hook_resid_post' on '\w+' from 32 to 32"):
        splice(tiny_model, random_coder(SAES[0], d_in=16)).__enter__()
    with pytest.raises(ValueError, match=r"no site"):
        splice(tiny_model, random_coder(None)).__enter__()
    with pytest.raises(ValueError, match=r"'blocks.1.hook_resid_post' was placed at 'blocks.0.hook_attn_out'"):
        splice(tiny_model, {SAES[1]: random_coder(SAES[0])}).__enter__()
    with pytest.raises(ValueError, match=r"1 edits for 2 coders"):
        splice(tiny_model, [random_coder(SAES[0]), random_coder(SAES[1])], edit=steer.add(0, 1.0)).__enter__()
    both = Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
    with pytest.raises(ValueError, match=r"write 'blocks.0.hook_resid_post' before it has read 'blocks.1"):
        splice(tiny_model, random_coder(both, d_in=64), keep_error=False).__enter__()
    with splice(
        tiny_model, {Site("blocks.0.hook_resid_post"): random_coder(None), both: random_coder(None, d_in=64)}
    ) as passes:
        tiny_model("abc")
    assert [codes.n_rows for codes in passes[0].codes] == [4, 4]
    assert n_hooks(tiny_model) == 0


def test_a_splice_whose_hook_did_not_fire_is_an_error(tiny_model, tokens):
    with splice(tiny_model, random_coder(SAES[0])):
        pass  # no forward pass, no complaint
    with pytest.raises(RuntimeError, match=r"blocks.1.hook_resid_post"), splice(tiny_model, random_coder(SAES[0])):
        capture(tiny_model, tokens, "blocks.0.hook_resid_post")
    with pytest.raises(RuntimeError, match=r"without tokens"), splice(tiny_model, random_coder(SAES[0])):
        tiny_model(torch.randn(1, 3, tiny.WIDTH))
    assert n_hooks(tiny_model) == 0


def test_hooks_are_gone_after_an_exception(tiny_model, tokens):
    plain = tiny_model(tokens)

    def wrong(codes):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), frozen(tiny_model), splice(tiny_model, random_coder(SAES[0]), edit=wrong):
        tiny_model(tokens)
    assert n_hooks(tiny_model) == 0
    assert torch.equal(tiny_model(tokens), plain)


def test_generation_is_the_same_with_and_without_the_cache(tiny_model):
    coder, prompt = random_coder(SAES[0]), tiny_model.to_tokens("x = ", prepend_bos=True)
    written = {}
    for cached in (True, False):
        with splice(tiny_model, coder, edit=steer.then(steer.ablate(4), steer.add(3, 4.0))) as passes:
            written[cached] = tiny_model.generate(
                prompt, max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False, use_past_kv_cache=cached
            )
        assert [p.tokens.shape[1] for p in passes] == ([5] + [1] * 7 if cached else [*range(5, 13)])
    plain = tiny_model.generate(prompt, max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False)
    assert torch.equal(written[True], written[False])
    assert not torch.equal(written[True], plain)


# --- gradients


def difference_quotient(f, x, direction, size=3e-4):
    return (f(x + size * direction) - f(x - size * direction)) / (2 * size)


# Hugging Face computes an RMS norm in float32 also in a float64 model: finite differences are good to 1e-3.
close = partial(torch.testing.assert_close, rtol=5e-3, atol=2e-3)


@pytest.fixture(scope="module")
def doubles(tiny_folders):
    return {family: load_model(folder, dtype=torch.float64) for family, folder in tiny_folders.items()}


@pytest.fixture
def double(doubles, tiny_model):
    """The family's model in float64."""
    return doubles[tiny_model.cfg.model_name]


def logit_of(model, tokens):
    """A logit at the last position, before Gemma's soft cap."""
    logits = []
    with model.hooks([("unembed.hook_out", lambda x, hook: logits.append(x))]):
        model(tokens)
    return logits[0][:, -1, 65].sum()


def test_leaves_are_exact_with_the_gradient_of_the_model_upstream(double, tokens):
    plain, upstream = double(tokens), {}

    def see(x, hook):
        upstream["x"] = x.detach().requires_grad_()
        return upstream["x"]

    with double.hooks([("hook_embed", see)]):
        truth = torch.autograd.grad(logit_of(double, tokens), upstream["x"])[0]
        coders = [random_coder(site).double() for site in (*SAES, TRANSCODER)]
        with splice(double, coders, leaf=True) as passes:
            torch.testing.assert_close(double(tokens), plain)
            target = logit_of(double, tokens)
        together = [passes[-1].codes[i].values for i in range(4)]
        got, *gradients = torch.autograd.grad(target, [upstream["x"], *together, *passes[-1].errors.values()])
    torch.testing.assert_close(got, truth)
    for coder, codes, gradient in zip(coders, passes[-1].codes, gradients, strict=False):
        with splice(double, coder, leaf=True) as alone:
            target = logit_of(double, tokens)
        own, error = torch.autograd.grad(target, [alone[0].codes[0].values, alone[0].errors[coder.site.write]])
        torch.testing.assert_close(gradient, own)
        by_hand = (error.flatten(0, 1)[codes.rows] * coder.W_dec[codes.latents]).sum(1)
        torch.testing.assert_close(own, by_hand)


def test_leaf_gradients_agree_with_finite_differences(double, tokens):
    coder = random_coder(SAES[0]).double()
    with splice(double, coder, leaf=True) as passes:
        target = logit_of(double, tokens)
    values = passes[0].codes[0].values
    gradient = torch.autograd.grad(target, values)[0]
    nudge = torch.randn_like(values)

    def moved(size):
        with splice(double, coder, edit=lambda codes: codes.with_values(codes.values + size * nudge)):
            return logit_of(double, tokens)

    close((gradient * nudge).sum(), difference_quotient(moved, 0.0, 1.0))


def test_leaves_of_an_edited_code(double, tokens):
    coder = random_coder(SAES[0]).double()
    with splice(double, coder, edit=steer.scale(range(D_SAE), 0.5)):
        plain = double(tokens)
    with splice(double, coder, edit=steer.scale(range(D_SAE), 0.5), leaf=True) as passes:
        torch.testing.assert_close(double(tokens), plain)
    assert passes[0].codes[0].values.is_leaf
    assert passes[0].codes[0].values.requires_grad


def test_a_replacement_trains_its_coder(tiny_model, tokens):
    coder = random_coder(SAES[0])
    with splice(tiny_model, coder, keep_error=False):
        logit_of(tiny_model, tokens).backward()
    assert all(coder.get_parameter(name).grad.abs().sum() > 0 for name in ("W_enc", "W_dec", "b_dec"))


def frozen_values(model, tokens):
    """{hook: value} of the attention patterns and norm scales of a plain pass."""
    ends = (".attn.hook_pattern", "ln1.hook_scale", "ln2.hook_scale", "_post.hook_scale", "ln_final.hook_scale")
    names = [name for name in model.hook_dict if name.endswith(ends)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return {name: cache[name] for name in names}


def logit_with(model, tokens, values):
    """The logit of a network in which these hooks give these values."""
    with warnings.catch_warnings(), model.hooks([(name, lambda x, hook, v=v: v) for name, v in values.items()]):
        warnings.filterwarnings("ignore", message=".*native-autograd path")
        return logit_of(model, tokens).detach()


def test_the_frozen_network_is_affine_in_its_leaves(double, tokens):
    """Closure: target = f(0) + sum of <leaf, gradient>; f(0) is what the biases alone give."""
    leaves, names = {}, ["hook_embed", *(f"blocks.{layer}.hook_mlp_out" for layer in range(3))]
    names += ["hook_pos_embed"] * (double.cfg.positional_embedding_type == "standard")

    def leaf(x, hook, name):
        leaves[name] = x.detach().requires_grad_()
        return leaves[name]

    with frozen(double), double.hooks([(name, partial(leaf, name=name)) for name in names]):
        target = logit_of(double, tokens)
    gradients = torch.autograd.grad(target, [leaves[name] for name in names])
    zeros = {name: torch.zeros_like(leaves[name]) for name in names}
    constant = logit_with(double, tokens, frozen_values(double, tokens) | zeros)
    explained = sum((leaves[name] * gradient).sum() for name, gradient in zip(names, gradients, strict=True))
    torch.testing.assert_close(explained + constant, target.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target.detach(), logit_of(double, tokens), rtol=1e-5, atol=1e-5)


def test_the_frozen_gradient_is_that_of_the_frozen_network(double, tokens):
    embedded = capture(double, tokens, "hook_embed")["hook_embed"].requires_grad_()

    def gradient(**options):
        with frozen(double, **options), double.hooks([("hook_embed", lambda x, hook: embedded)]):
            return torch.autograd.grad(logit_of(double, tokens), embedded)[0]

    nudge, constants = torch.randn_like(embedded), frozen_values(double, tokens)

    def moved(x):
        return logit_with(double, tokens, constants | {"hook_embed": x})

    close((gradient() * nudge).sum(), difference_quotient(moved, embedded.detach(), nudge))
    for less in ({"patterns": False}, {"norms": False}):
        assert not torch.allclose(gradient(**less), gradient(), rtol=0.1)
