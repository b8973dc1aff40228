"""Attribution to latents and errors, on eight families of tiny random models in float64."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from numpy.testing import assert_allclose

import saekit as sk
from saekit import steer
from saekit.attribute import gradients
from saekit.attribute.setting import setting
from saekit.coder import SparseCoder
from saekit.hooks import not_bos, rerun
from saekit.nonlinearity import ReLU

D_SAE = 24
TOKENS = torch.tensor([[0, 72, 101, 108, 108, 111, 32, 119, 105]])
OTHER = torch.tensor([[0, 72, 101, 121, 32, 121, 111, 117, 33]])
RESID, ATTN, MLP = "blocks.1.hook_resid_post", "blocks.0.hook_attn_out", "blocks.2.hook_mlp_out"
TARGET = sk.logit_diff("a", 66)
EMBED = "embed.hook_out"


def made(read, write=None, seed=1, d_in=tiny.WIDTH, d_out=None, bias=-3.0):
    """A random coder: a few latents on at each position."""
    torch.manual_seed(seed)
    coder = SparseCoder(d_in, D_SAE, ReLU(), d_out=d_out).double().eval()
    for parameter in coder.parameters():
        torch.nn.init.normal_(parameter)
    coder.requires_grad_(False)
    coder.b_enc.add_(bias)
    coder.site = sk.Site(read, write)
    return coder


@pytest.fixture
def coders():
    return [made(RESID), made(ATTN, seed=2), made(MLP, seed=3)]


@pytest.fixture(params=["gpt2", "neox", "gemma2"])
def three(request, exact_models):
    """For what takes many passes."""
    return exact_models(request.param)


@pytest.fixture
def one(exact_models):
    return exact_models("gpt2")


def identity(name):
    """An SAE that gives x back: a latent for each side of each dimension."""
    coder = made(name)
    coder.W_enc = torch.nn.Parameter(torch.cat([torch.eye(32), -torch.eye(32)], 1).double(), requires_grad=False)
    coder.W_dec = torch.nn.Parameter(coder.W_enc.T.clone(), requires_grad=False)
    coder.b_enc = torch.nn.Parameter(torch.zeros(64).double(), requires_grad=False)
    coder.b_dec.zero_()
    coder.d_sae = 64
    return coder


def logits_of(model, tokens):
    return sk.capture(model, tokens, "unembed.hook_out")["unembed.hook_out"]


def value(model, tokens, target=TARGET):
    return target.on(model)(logits_of(model, tokens))


def gradient_at(model, tokens, name, target=TARGET):
    """dm/dx at one hook, by itself."""
    with model.hooks([(EMBED, lambda x, hook: x.detach().requires_grad_())]):
        seen = sk.capture(model, tokens, name, "unembed.hook_out", grad=True)
    return torch.autograd.grad(target.on(model)(seen["unembed.hook_out"]).sum(), seen[name])[0]


def n_hooks(model):
    return sum(len(point._forward_hooks) for point in model.hook_dict.values())


def at(pos, tokens=TOKENS):
    return (torch.arange(tokens.shape[1]) == pos).expand(tokens.shape)


# --- the target


def test_a_target_reads_the_logits_before_the_cap(exact_model):
    logits = logits_of(exact_model, TOKENS)[:, -1]
    a = exact_model.tokenizer.encode("a")[-1]
    torch.testing.assert_close(value(exact_model, TOKENS, sk.logit("a")), logits[:, a])
    torch.testing.assert_close(value(exact_model, TOKENS), logits[:, a] - logits[:, 66])
    by_token = sk.direct(exact_model, TOKENS, "a").attrs, sk.direct(exact_model, TOKENS, a).attrs
    assert_allclose([attrs["total"] for attrs in by_token], logits[0, a], atol=1e-5)
    direction = TARGET.direction(exact_model)
    torch.testing.assert_close(sk.Target(direction, "mine").on(exact_model)(logits[:, None]), logits @ direction)
    torch.testing.assert_close(sk.logit_diff(a, 66)(logits[:, None]), logits[:, a] - logits[:, 66])
    capped = exact_model(TOKENS)[:, -1]
    cap = exact_model.cfg.output_logits_soft_cap
    torch.testing.assert_close(cap * torch.tanh(logits / cap) if cap > 0 else logits, capped)


def test_a_pre_activation_is_what_a_latent_is_on_above(three):
    coder = made(RESID, bias=0.0)
    x = sk.capture(three, TOKENS, RESID)[RESID]
    for latent, pos in ((3, 5), (4, -1)):
        m = sk.pre_activation(coder, latent, pos).on(three)(x)
        assert_allclose(m, x[:, pos] @ coder.W_enc[:, latent] + coder.b_enc[latent])
        assert_allclose(m.relu().item(), coder.encode(x[:, pos]).dense()[0, latent])


def test_a_bad_target_is_named(one, coders):
    with pytest.raises(ValueError, match=r"'abc' is 3 tokens of 'gpt2' \('a', 'b', 'c'\); a target is one"):
        sk.attribute(one, coders, TOKENS, sk.logit("abc"))
    with pytest.raises(ValueError, match=r"'' is 0 tokens of 'gpt2' \(none\)"):
        sk.attribute(one, coders, TOKENS, sk.logit(""))
    with pytest.raises(ValueError, match=r"token 257 is not in \[0, 257\)"):
        sk.direct(one, TOKENS, sk.logit(257))
    with pytest.raises(ValueError, match=r"'a' less itself"):
        sk.logit_diff("a", "a")
    with pytest.raises(ValueError, match=r"'a' has no id without a model"):
        sk.logit("a")(torch.zeros(1, 1, 257))
    with pytest.raises(ValueError, match=r"shape \(3,\), but 'unembed.hook_out' is 257 wide"):
        sk.direct(one, TOKENS, sk.Target(torch.zeros(3), "three"))
    with pytest.raises(ValueError, match=r"<lambda> need not be linear"):
        sk.direct(one, TOKENS, lambda logits: logits[:, -1, 0])
    with pytest.raises(ValueError, match=r"gave \(1, 257\); a target gives one number for each prompt"):
        sk.attribute(one, coders, TOKENS, lambda logits: logits[:, -1])
    with pytest.raises(ValueError, match=r"latent 24 is not in \[0, 24\)"):
        sk.pre_activation(coders[0], 24)
    with pytest.raises(ValueError, match=r"position 9, but the prompt has 9"):
        sk.direct(one, TOKENS, sk.pre_activation(coders[0], 2, pos=9))


# --- gradients


def test_values_and_gradients_add_up_at_every_site(exact_model, coders):
    """f df + |e| de + <b_dec, g> = <x, g> at every position but BOS, for all coders in one pass."""
    table = sk.attribute(exact_model, coders, TOKENS, TARGET)
    assert table.attrs["value"] == pytest.approx(value(exact_model, TOKENS).item(), abs=1e-9)
    assert table["effect"].abs().is_monotonic_decreasing
    assert_allclose(table["effect"], -table["activation"] * table["gradient"], atol=1e-12)
    for coder in coders:
        name = coder.site.name
        g, x = gradient_at(exact_model, TOKENS, name)[0], sk.capture(exact_model, TOKENS, name)[name][0]
        mine = table[table["site"] == name]
        sums = (mine["activation"] * mine["gradient"]).groupby(mine["pos"]).sum()
        assert list(sums.index) == list(range(1, 9))
        assert_allclose(sums, ((x - coder.b_dec) * g).sum(1)[1:], atol=1e-9)


def test_a_gradient_is_the_slope_of_steering(three):
    coder, size = made(RESID), 1e-3
    table = sk.attribute(three, coder, TOKENS, TARGET).query("kind == 'latent'").head(4)
    for row in table.itertuples():
        ends = []
        for step in (size, -size):
            with sk.splice(three, coder, edit=steer.add(row.latent, step), where=at(row.pos)):
                ends.append(value(three, TOKENS).item())
        # An RMS norm is computed in float32, also in a float64 model.
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(row.gradient, rel=1e-3, abs=3e-4)


def test_coders_do_not_disturb_one_another(exact_model, coders):
    together = sk.attribute(exact_model, coders, TOKENS, TARGET)
    for coder in coders:
        alone = sk.attribute(exact_model, coder, TOKENS, TARGET)
        mine = together[together["site"] == coder.site.name].reset_index(drop=True)
        assert_allclose(mine["effect"], alone["effect"], atol=1e-12)
        with sk.splice(exact_model, coder, leaf=True) as passes:
            m = TARGET.on(exact_model)(
                sk.capture(exact_model, TOKENS, "unembed.hook_out", grad=True)["unembed.hook_out"]
            )
        codes = passes[0].codes[0]
        by_leaf = torch.autograd.grad(m.sum(), codes.values)[0]
        latents = alone.query("kind == 'latent'").sort_values(["pos", "latent"])
        assert_allclose(latents["gradient"], by_leaf[not_bos(exact_model, TOKENS)[0][codes.rows]], atol=1e-9)


def test_with_a_patch_the_effects_sum_to_the_whole_change_to_first_order(exact_model, coders):
    table = sk.attribute(exact_model, coders, TOKENS, TARGET, patch=OTHER)
    for coder in coders:
        name = coder.site.name
        g = gradient_at(exact_model, TOKENS, name)[0]
        x, y = (sk.capture(exact_model, tokens, name)[name][0] for tokens in (TOKENS, OTHER))
        mine = table[table["site"] == name]
        assert_allclose(mine.groupby("pos")["effect"].sum(), ((y - x) * g).sum(1)[1:], atol=1e-9)
        clean, other = (coder.encode(z).dense()[1:] for z in (x, y))
        assert (mine["kind"] == "latent").sum() == ((clean != 0) | (other != 0)).sum()
    born = table[(table["activation"] == 0) & (table["kind"] == "latent")]
    assert len(born) and born["effect"].abs().max() > 0


@pytest.mark.parametrize("shape", [(D_SAE,), (9, D_SAE)])
def test_with_a_mean_the_effects_sum_to_the_way_to_it(three, shape):
    coder, mean = made(RESID), torch.rand(shape).double()
    table = sk.attribute(three, coder, TOKENS, TARGET, mean=mean)
    g, x = gradient_at(three, TOKENS, RESID)[0], sk.capture(three, TOKENS, RESID)[RESID][0]
    way = (mean @ coder.W_dec).expand(9, -1) + coder.b_dec - x
    assert_allclose(table.groupby("pos")["effect"].sum(), (way * g).sum(1)[1:], atol=1e-9)
    assert {*table["kind"]} == {"latent", "error", "off"}


def test_a_mean_from_an_index(tiny_models, tiny_corpus, tmp_path):
    model, coder = tiny_models["gpt2"], made(RESID).float()
    features = sk.Features.collect(model, coder, tiny_corpus, path=tmp_path, progress=False)
    x = sk.capture(model, tiny_corpus.tokens, RESID)[RESID][tiny_corpus.mask]
    by_hand = coder.encode(x).dense().mean(0)
    first, second = (sk.attribute(model, coder, "a red", TARGET, mean=mean) for mean in (features, by_hand))
    assert_allclose(first["effect"], second["effect"], rtol=1e-3, atol=1e-5)


def test_per_latent_is_the_sum_over_positions_and_the_mean_over_prompts(one, coders):
    both = torch.cat([TOKENS, OTHER])
    table = sk.attribute(one, coders, both, TARGET)
    for i, tokens in enumerate(both):
        alone = sk.attribute(one, coders, tokens, TARGET)
        mine = table[table["prompt"] == i].drop(columns="prompt").reset_index(drop=True)
        assert (mine["token"] == alone["token"]).all()
        assert_allclose(mine["effect"], alone["effect"], atol=1e-12)
    summed = sk.attribute(one, coders, both, TARGET, per="latent").set_index(["site", "kind", "latent"])
    by_hand = table.groupby(["site", "kind", "latent"])[["activation", "effect"]].sum() / 2
    assert_allclose(summed[["activation", "effect"]].loc[by_hand.index], by_hand, atol=1e-12)
    assert summed["effect"].abs().is_monotonic_decreasing


def test_transcoders_and_crosscoders_are_nodes_where_they_write(three):
    transcoder = made("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    table = sk.attribute(three, transcoder, TOKENS, TARGET)
    g = gradient_at(three, TOKENS, "blocks.1.hook_mlp_out")[0]
    y = sk.capture(three, TOKENS, "blocks.1.hook_mlp_out")["blocks.1.hook_mlp_out"][0]
    assert_allclose(-table.groupby("pos")["effect"].sum(), ((y - transcoder.b_dec) * g).sum(1)[1:], atol=1e-9)
    both = ("blocks.0.hook_resid_post", RESID)
    crosscoder = made(both, d_in=64)
    table = sk.attribute(three, crosscoder, TOKENS, TARGET)
    x = torch.cat([sk.capture(three, TOKENS, name)[name][0] for name in both], 1)
    g = torch.cat([gradient_at(three, TOKENS, name)[0] for name in both], 1)
    assert_allclose(-table.groupby("pos")["effect"].sum(), ((x - crosscoder.b_dec) * g).sum(1)[1:], atol=1e-9)


def test_a_latent_can_be_the_target(three):
    reader, coder = made("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"), made(ATTN, seed=2)
    target, size = sk.pre_activation(reader, 5, pos=6), 1e-3
    row = next(sk.attribute(three, coder, TOKENS, target).query("kind == 'latent'").itertuples())
    ends = []
    for step in (size, -size):
        with sk.splice(three, coder, edit=steer.add(row.latent, step), where=at(row.pos)):
            ends.append(target.on(three)(sk.capture(three, TOKENS, target.read)[target.read]).item())
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(row.gradient, rel=1e-3, abs=3e-4)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_an_identity_dictionary_gives_what_transformer_lens_gives(exact_model):
    """Node scores of attribution patching: the gradient of the one run, towards the other."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    def metric(logits):
        return logits[:, -1, 66].sum()

    with exact_model.hooks([(EMBED, lambda x, hook: x.detach().requires_grad_())]):
        theirs = attribution_patch(exact_model, OTHER, TOKENS, metric).node_scores

    def mine(logits):
        cap = exact_model.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits[:, -1, 66] / cap) if cap > 0 else logits[:, -1, 66]

    for layer in range(3):
        coder = identity(f"blocks.{layer}.hook_mlp_out")
        ours = sk.attribute(exact_model, coder, TOKENS, mine, patch=OTHER).groupby("pos")["effect"].sum()
        expected = {n.position: v for n, v in theirs.items() if n.kind == "mlp_out" and n.layer == layer}
        assert_allclose(ours, [expected[pos] for pos in ours.index], atol=1e-9)


# --- along the way


def way_of(model, name):
    """From one prompt to the other."""
    x, y = (sk.capture(model, tokens, name)[name] for tokens in (TOKENS, OTHER))
    return x, torch.where(not_bos(model, TOKENS)[..., None], y - x, 0.0)


def moved_along(model, name, point, grad=False):
    """(the target, the point) with x moved along the way, by itself."""
    x, way = way_of(model, name)
    leaf = (x + point * way).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        _, seen = rerun(model, TOKENS, {name: leaf}, not_bos(model, TOKENS), ["unembed.hook_out"])
    return TARGET.on(model)(seen["unembed.hook_out"]).sum(), leaf


def along(model, name, points, weights):
    """The sum of effects by hand, one pass for each point."""
    way, ends = way_of(model, name)[1], [moved_along(model, name, point, grad=True) for point in points]
    slopes = [(torch.autograd.grad(*end)[0] * way).sum().item() for end in ends]
    return np.dot(weights, slopes)


def test_integrated_gradients_are_complete_and_beat_left_riemann_sums(exact_model, monkeypatch):
    table = sk.integrated_gradients(exact_model, made(RESID), TOKENS, TARGET, patch=OTHER)
    found, effect = table.attrs["sites"][RESID], table["effect"].sum()
    change = (moved_along(exact_model, RESID, 1.0)[0] - value(exact_model, TOKENS)).item()
    assert found["change"] == pytest.approx(change, abs=1e-5)
    assert abs(effect - change) == pytest.approx(found["residual"] * abs(change), abs=1e-5)
    assert found["residual"] <= 0.02
    points, weights = np.polynomial.legendre.leggauss(found["order"])
    assert effect == pytest.approx(along(exact_model, RESID, (points + 1) / 2, weights / 2), abs=1e-5)
    monkeypatch.setattr(gradients, "ORDERS", (8,))
    monkeypatch.setattr(gradients, "TOLERANCE", np.inf)
    effect = sk.integrated_gradients(exact_model, made(RESID), TOKENS, TARGET, patch=OTHER)["effect"].sum()
    left = along(exact_model, RESID, np.arange(10) / 10, np.full(10, 0.1))
    assert abs(effect - change) < abs(left - change)


def test_the_order_rises_until_the_effects_are_complete(one):
    """A cubic needs 2 points of Gauss and Legendre, so 5 are exact; a sharp step is too much for 16."""
    coder = made(MLP, seed=3)
    x = value(one, TOKENS).item()

    def steep(factor):
        return lambda logits: torch.tanh(factor * (TARGET.on(one)(logits) - x + 0.4))

    orders = [
        sk.integrated_gradients(one, coder, TOKENS, steep(factor)).attrs["sites"][MLP]["order"] for factor in (0.1, 8.0)
    ]
    assert orders[0] == 5 < orders[1]
    with pytest.warns(UserWarning, match=r"blocks.2.hook_mlp_out' miss the change of the target by .*% with 16 points"):
        table = sk.integrated_gradients(one, coder, TOKENS, steep(400.0))
    assert table.attrs["sites"][MLP]["residual"] > 0.02


def test_integrated_gradients_of_several_prompts_and_sites_are_those_of_each(one, coders):
    both = torch.cat([TOKENS, OTHER])
    table = sk.integrated_gradients(one, coders[1:], both, TARGET, patch=both.flip(0))
    for i, (tokens, patch) in enumerate(((TOKENS, OTHER), (OTHER, TOKENS))):
        for coder in coders[1:]:
            alone = sk.integrated_gradients(one, coder, tokens, TARGET, patch=patch)
            mine = table[(table["prompt"] == i) & (table["site"] == coder.site.name)]
            assert_allclose(mine["effect"], alone["effect"], rtol=1e-2, atol=1e-4)


# --- ablation


def moved(model, coder, edit, where):
    with sk.splice(model, coder, edit=edit, where=where):
        edited = value(model, TOKENS)
    return (edited - value(model, TOKENS)).item()


def test_ablations_are_what_a_loop_of_splices_gives(three):
    coder = made(RESID)
    x = sk.capture(three, TOKENS, RESID)[RESID]
    mean = torch.linspace(0, 1, D_SAE).double()
    other = coder.encode(sk.capture(three, OTHER, RESID)[RESID]).dense()
    tables = {
        "zero": (sk.ablations(three, coder, TOKENS, TARGET), lambda row: 0.0),
        "mean": (sk.ablations(three, coder, TOKENS, TARGET, mean=mean), lambda row: mean[row.latent].item()),
        "patch": (
            sk.ablations(three, coder, TOKENS, TARGET, patch=OTHER, batch=7),
            lambda row: other[row.pos, row.latent].item(),
        ),
    }
    for table, baseline in tables.values():
        latents = table.query("kind == 'latent'")
        for row in latents.iloc[:: max(1, len(latents) // 3)].itertuples():
            by_hand = moved(three, coder, steer.clamp(row.latent, baseline(row)), at(row.pos))
            assert row.effect == pytest.approx(by_hand, abs=1e-5)
    error = x - coder.decode(coder.encode(x)).view_as(x)
    for row in tables["zero"][0].query("kind == 'error'").head(3).itertuples():
        _, seen = rerun(three, TOKENS, {RESID: x - error}, at(row.pos), ["unembed.hook_out"])
        by_hand = (TARGET.on(three)(seen["unembed.hook_out"]) - value(three, TOKENS)).item()
        assert row.effect == pytest.approx(by_hand, abs=1e-5)


def test_every_node_at_once_is_the_site_at_its_baseline(three, coders):
    mean = [torch.rand(D_SAE).double() for _ in coders]
    for given, written in ((None, [0.0] * 3), (mean, [f @ coder.W_dec for f, coder in zip(mean, coders, strict=True)])):
        nodes = setting(three, coders, TOKENS, TARGET, None, given, "position").nodes
        for coder, part, y in zip(coders, nodes, written, strict=True):
            x = sk.capture(three, TOKENS, coder.site.name)[coder.site.name][0]
            assert_allclose((x + part.total())[1:], (coder.b_dec + y).expand(8, -1), atol=1e-9)
            assert (part.total()[0] == 0).all()


def test_a_latent_at_all_positions_is_one_ablation(one, coders):
    table = sk.ablations(one, coders, TOKENS, TARGET, per="latent", batch=5)
    assert not table.duplicated(["site", "kind", "latent"]).any()
    for row in table.query("kind == 'latent'").head(6).itertuples():
        coder = next(coder for coder in coders if coder.site.name == row.site)
        assert row.effect == pytest.approx(moved(one, coder, steer.ablate(row.latent), None), abs=1e-9)


def test_ablations_of_several_prompts_are_those_of_each(one):
    coder, both = made(RESID, bias=-6.0), torch.cat([TOKENS, OTHER])
    table = sk.ablations(one, coder, both, TARGET, batch=9)
    alone = [sk.ablations(one, coder, tokens, TARGET) for tokens in both]
    for i, mine in enumerate(alone):
        assert_allclose(table[table["prompt"] == i]["effect"], mine["effect"], atol=1e-12)
    second = sk.ablations(one, coder, both, TARGET, nodes=table[table["prompt"] == 1])
    assert_allclose(second["effect"], alone[1]["effect"], atol=1e-12)
    joint = [sk.ablations(one, coder, tokens, TARGET, per="latent") for tokens in both]
    by_hand = sum(t.set_index(["kind", "latent"])["effect"].reindex(index_of(joint), fill_value=0.0) for t in joint) / 2
    found = sk.ablations(one, coder, both, TARGET, per="latent").set_index(["kind", "latent"])["effect"]
    assert_allclose(found.reindex(index_of(joint)), by_hand, atol=1e-12)


def index_of(tables):
    return pd.MultiIndex.from_frame(pd.concat(tables)[["kind", "latent"]].drop_duplicates())


def test_the_batch_changes_nothing_and_only_the_nodes_given_are_ablated(one):
    coder = made(RESID, bias=-6.0)
    every = sk.ablations(one, coder, TOKENS, TARGET, batch=1)
    assert_allclose(every["effect"], sk.ablations(one, coder, TOKENS, TARGET, batch=1000)["effect"], atol=1e-12)
    strongest = sk.attribute(one, coder, TOKENS, TARGET).head(7)
    some = sk.ablations(one, coder, TOKENS, TARGET, nodes=strongest)
    keys = ["site", "pos", "kind", "latent"]
    assert {*map(tuple, some[keys].to_numpy())} == {*map(tuple, strongest[keys].to_numpy())}
    merged = some.merge(every, on=keys)
    assert_allclose(merged["effect_x"], merged["effect_y"], atol=1e-12)
    with pytest.raises(ValueError, match=r"none of the nodes given"):
        sk.ablations(one, coder, TOKENS, TARGET, nodes=strongest.assign(site="elsewhere"))


def test_a_small_ablation_is_what_it_is_to_first_order(three):
    coder = made(ATTN, seed=2)
    coder.W_dec.mul_(1e-3)
    latents = sk.ablations(three, coder, TOKENS, TARGET).query("kind == 'latent'")
    assert_allclose(latents["effect"], -latents["activation"] * latents["gradient"], rtol=0.05, atol=1e-4)


# --- bad input


@pytest.mark.parametrize("method", [sk.attribute, sk.integrated_gradients, sk.ablations])
def test_bad_input_is_named_and_the_model_left_clean(method, one, exact_models, coders):
    plain = one(TOKENS)

    def refuse(*args, match, **options):
        with pytest.raises(ValueError, match=match):
            method(*args, **options)

    refuse(one, coders, TOKENS[:, :1], TARGET, match=r"a prompt of 1 token .* at least two")
    refuse(one, coders, torch.zeros(1, 65).long(), TARGET, match=r"a prompt of 65 tokens; 'gpt2' takes 1 to 64")
    refuse(one, [], TOKENS, TARGET, match=r"coders at \[\]")
    refuse(one, coders, TOKENS, TARGET, per="token", match=r"per='token'")
    refuse(one, coders, TOKENS, TARGET, patch=OTHER[:, :5], match=r"patch has shape \(1, 5\), the prompt \(1, 9\)")
    refuse(one, coders, TOKENS, TARGET, patch=OTHER, mean=[torch.zeros(D_SAE)] * 3, match=r"either a patch or a mean")
    refuse(one, [made(RESID), made(RESID)], TOKENS, TARGET, match=r"one for each site")
    refuse(one, coders, TOKENS, TARGET, mean=torch.zeros(D_SAE), match=r"1 means for 3 coders")
    refuse(one, coders[0], TOKENS, TARGET, mean=torch.zeros(5), match=r"shape \(5,\) for 24 latents")
    refuse(one, coders[0], TOKENS, TARGET, mean=torch.zeros(8, D_SAE), match=r"shape \(8, 24\) .* 9 positions")
    refuse(one, made(RESID, bias=-1e6), TOKENS, TARGET, match=r"no latent of these coders is on")
    refuse(one, made("blocks.9.hook_resid_post"), TOKENS, TARGET, match=r"no hook 'blocks.9.hook_resid_post'")
    refuse(one, made(RESID, d_in=16), TOKENS, TARGET, match=r"from width 16")
    refuse(one, coders, TOKENS, lambda logits: logits[:, -1, 0] * torch.nan, match=r"the target is \[nan\]")
    refuse(one, coders, TOKENS, sk.pre_activation(coders[0], 3), match=r"before 'blocks.2.hook_mlp_out'")
    other = coders[0]
    other.model = {"name": "other", "d_model": 32, "n_layers": 12, "processing": "raw"}
    refuse(one, other, TOKENS, TARGET, match=r"trained on .*'other'")

    def broken(logits):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        method(one, coders[1:], TOKENS, broken)
    assert n_hooks(one) == 0
    assert torch.equal(one(TOKENS), plain)


def test_the_model_may_be_in_single_precision_and_its_parameters_may_train(tiny_models, tiny_folders):
    coder = made(RESID).float()
    tables = [sk.attribute(tiny_models["gpt2"], coder, TOKENS, TARGET)]
    fresh = sk.load_model(tiny_folders["gpt2"]).requires_grad_(True)
    tables.append(sk.attribute(fresh, coder, TOKENS, TARGET))
    assert_allclose(tables[0]["effect"], tables[1]["effect"], rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in fresh.parameters())
