"""smad.py's parts: each equation against a slow loop, which way the gradient of each aspect moves which parameters,
SAAR's mask, the networks and other people's weights, HVU's tags, the re-distributed splits and their statistics. Whole
runs are in test_train.py."""

import copy
import json
import math
import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import argv, load, log_lines, same
from torch import nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

import albar
import common
import evaluate
import smad
from common import UserError, inflate, load_weights, mmaction_key, nmi, nmi_floor, read_list, read_tags, redistribute
from smad import SAAR, TOY, Args

K = 5
SIZES = {"scene": 7, "object": 4, "event": 3, "attribute": 6, "context": 2}
TAGS = {"event", "attribute", "context"}
REAL = Path(__file__).resolve().parents[2] / "shared/assets/annotations/hvu"


@pytest.fixture
def script():
    return smad


@pytest.fixture
def double(monkeypatch):
    """The losses and the mask, which mixed precision needs in float32, stay in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def network(*aspects, model="tiny", double=True, **change):
    """With a score map that is no longer constant, as after some training."""
    torch.manual_seed(0)
    net = smad.build_model(Args(**TOY | dict(model=model) | change), K).train()
    net.add_adversaries({name: SIZES[name] for name in aspects})
    if net.saar:
        nn.init.normal_(net.saar.score.weight, 0, 0.3)
    return net.double() if double else net


def batch(*aspects, n=4, double=True):
    torch.manual_seed(1)
    kind = torch.float64 if double else torch.float32
    p = {name: torch.randint(2, (n, SIZES[name])).to(kind) if name in TAGS else
         torch.randn(n, SIZES[name], dtype=kind).softmax(1) for name in aspects}
    return {"clip": torch.randn(n, 3, 4, 16, 16, dtype=kind), "label": torch.arange(n) % K, "aspects": p, "tags": TAGS}


def apart(net, clip):
    """Features (N, S, D) of the segments, action logits and each aspect's (N, S, D), without the reversal layer, put
    together from the parts, a TSN's frame by frame."""
    head, frames = net.head, clip.unbind(2) if net.tsn else [clip]
    frames = [x[:, :, None] for x in frames] if net.tsn and isinstance(net.backbone, common.Tiny) else frames
    net.backbone.set_submodule(net.head_name, nn.Identity())
    g = torch.stack([net.backbone(x) for x in frames], 1)
    net.backbone.set_submodule(net.head_name, head)
    return g, torch.stack([head(x) for x in g.unbind(1)]).mean(0), {k: h(g) for k, h in net.adversaries.items()}


def slow_soft(row, p):
    """One row's SoftCE and KLDiv"""
    log = [v - max(row) - math.log(sum(math.exp(u - max(row)) for u in row)) for v in row]
    return -sum(b * v for b, v in zip(p, log, strict=True)), sum(
        b * (math.log(b) - v) for b, v in zip(p, log, strict=True) if b)


def slow_bce(row, tags):
    q = [1 / (1 + math.exp(-v)) for v in row]
    return -sum(math.log(v if tag else 1 - v) for v, tag in zip(q, tags, strict=True)) / len(row)


def adversarial(s, p, args):
    """An aspect's weighted loss of logits (N, S, D), labels (N, D), row by row; the mean over videos and segments."""
    loss = 0
    for row, label in zip(s.flatten(0, 1), p.repeat_interleave(s.shape[1], 0), strict=True):
        if set(label.tolist()) <= {0.0, 1.0}:
            loss = loss - args.w_bce * torch.where(label > 0, row.sigmoid(), 1 - row.sigmoid()).log().mean()
        elif not label.isnan().any():
            log = row - row.logsumexp(0)
            loss = loss + args.w_ce * -(label * log).sum() + args.w_kl * (label * (label.log() - log)).sum()
    return loss / s.shape[:2].numel()


def groups(net):
    """{which: {name: parameter}}: theta_Y, theta_Z of each aspect, Theta: the backbone, SAAR's stage and score"""
    found = {}
    for name, p in net.named_parameters():
        words = name.split(".")
        key = "Y" if name.startswith(f"backbone.{net.head_name}.") else words[0 if words[0] == "backbone" else 1]
        found.setdefault(key, {})[name] = p
    return found


def gradient(loss, parameters):
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), retain_graph=True), strict=True))


def agree(found, expected, least=1e-5):
    """Gradients of a group: equal to rounding, and not next to nothing."""
    size = max(float(v.abs().max()) for v in expected.values())
    assert found.keys() == expected.keys() and size > least
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12 * max(1, size))


# ---- Losses ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def rows():
    """Logits (6, 7) that want a gradient, soft labels"""
    torch.manual_seed(0)
    s, p = torch.randn(2, 6, 7, dtype=torch.float64)
    return (3 * s).requires_grad_(), p.softmax(1)


def test_equations_against_slow_loops(rows):
    s, p = rows
    soft, kl = zip(*(slow_soft(a, b) for a, b in zip(s.tolist(), p.tolist(), strict=True)), strict=True)
    assert smad.soft_cross_entropy(s, p).item() == pytest.approx(sum(soft) / 6, rel=1e-12)              # Eq. (3)
    assert smad.kl_divergence(s, p).item() == pytest.approx(sum(kl) / 6, rel=1e-12)                     # Eq. (4)
    tags = (p > 0.1).double()
    bce = [slow_bce(a, b) for a, b in zip(s.tolist(), tags.tolist(), strict=True)]
    assert smad.binary_cross_entropy(s, tags).item() == pytest.approx(sum(bce) / 6, rel=1e-12)
    label = torch.arange(6)
    ce = [slow_soft(a, [float(k == i) for k in range(7)])[0] for i, a in enumerate(s.tolist())]
    assert smad.cross_entropy(s, label).item() == pytest.approx(sum(ce) / 6, rel=1e-12)
    assert smad.heads_objective(7.0, [3.0, 5.0], [0.5, 0.1]) == 7 + 1.5 + 0.5                           # Eq. (1)
    assert smad.backbone_objective(7.0, [3.0, 5.0], [0.5, 0.1]) == 7 - 1.5 - 0.5                        # Eq. (2)
    assert smad.heads_objective(7.0, [], []) == smad.backbone_objective(7.0, [], []) == 7
    with pytest.raises(ValueError):
        smad.heads_objective(7.0, [3.0, 5.0], [0.5])


def test_by_hand():
    s = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64)) + 3
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    soft = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25) + math.log(0.8)) / 2
    assert smad.soft_cross_entropy(s, p).item() == pytest.approx(soft)
    assert smad.kl_divergence(s, p).item() == pytest.approx((0.5 * math.log(2) - math.log(0.8)) / 2)
    assert smad.binary_cross_entropy(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])).item() == (
        pytest.approx((math.log(2) + math.log(4)) / 2))


def test_kldiv_is_softce_less_the_entropy_of_the_label_with_the_same_gradient(rows):
    """So that the paper's 0.5 of each is one SoftCE (PAPERS.md, A.3.2)."""
    s, p = rows
    entropy = torch.distributions.Categorical(p).entropy().mean()
    soft, kl = smad.soft_cross_entropy(s, p), smad.kl_divergence(s, p)
    assert entropy > 0.5 and (soft - entropy).item() == pytest.approx(kl.item(), rel=1e-12)
    d_soft, d_kl, d_half = (torch.autograd.grad(loss, s, retain_graph=True)[0] for loss in (soft, kl, (soft + kl) / 2))
    assert torch.equal(d_soft, d_kl) and torch.equal(d_half, d_soft) and d_soft.abs().max() > 0.01
    assert F.kl_div(s.log_softmax(1), p, reduction="batchmean").item() == pytest.approx(kl.item(), rel=1e-12)


@pytest.mark.parametrize("loss, none", [("soft_cross_entropy", 0.0), ("kl_divergence", 0.0),
                                        ("binary_cross_entropy", math.nan)])
def test_a_video_without_labels_adds_nothing(rows, loss, none):
    """But counts in the mean, so that a batch in parts has one gradient."""
    (s, p), loss = rows, getattr(smad, loss)
    p = p.round() if math.isnan(none) else p
    rest = [0, 1, 3, 4, 5]
    p[2] = none
    found, d = loss(s, p), torch.autograd.grad(loss(s, p), s)[0]
    assert found.item() == pytest.approx(5 / 6 * loss(s[rest], p[rest]).item(), rel=1e-12)
    assert (d[2] == 0).all() and (d[rest] != 0).all()
    assert loss(s[2:3], p[2:3]) == 0


def test_losses_of_extreme_logits_and_labels_are_finite():
    s = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    p = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for loss in (smad.soft_cross_entropy(s, p), smad.kl_divergence(s, p), smad.binary_cross_entropy(s, p)):
        assert loss.isfinite() and torch.autograd.grad(loss, s)[0].isfinite().all()


# ---- MAAT: which way each loss moves which parameters ---------------------------------------------------------------
WEIGHTS = Args(w_ce=0.3, w_kl=0.9, w_bce=4.0)
several = pytest.mark.parametrize("aspects", [("scene",), ("event",), ("scene", "event"), tuple(SIZES)],
                                  ids=lambda names: "-".join(names))


@several
@pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])
def test_heads_follow_equation_1_and_the_backbone_with_saar_equation_2(model, aspects, double):
    """By two separate objectives, without the reversal layer."""
    net, data = network(*aspects, model=model), batch(*aspects)
    for name in aspects:
        data["aspects"][name][1] = math.nan if name in TAGS else 0
    loss, logs = smad.training_step(net, data, WEIGHTS)
    loss.backward()
    found = {key: {n: p.grad.clone() for n, p in some.items()} for key, some in groups(net).items()}
    assert found.keys() == {"Y", "backbone", "stage", "score", *aspects}
    _, z, s = apart(net, data["clip"])
    ce = F.cross_entropy(z, data["label"])
    adv = [adversarial(s[name][[0, 2, 3]], data["aspects"][name][[0, 2, 3]], WEIGHTS) * 3 / 4 for name in aspects]
    one, two = ce + sum(adv) / len(aspects), ce - sum(adv) / len(aspects)
    theta = groups(net)
    for key in ("Y", *aspects):
        agree(found[key], gradient(one, theta[key]))                                                    # Eq. (1)
    for key in ("backbone", "stage", "score"):
        agree(found[key], gradient(two, theta[key]))                                                    # Eq. (2)
        agree(gradient(ce - two, theta[key]), gradient(sum(adv) / len(aspects), theta[key]), 1e-4)      # has a say
    assert loss.item() == logs["loss"].item() == pytest.approx(one.item(), rel=1e-9)
    assert logs["backbone"].item() == pytest.approx(two.item(), rel=1e-9)
    assert [logs[f"{name}_adv"].item() for name in aspects] == pytest.approx([a.item() for a in adv], rel=1e-9)


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])
def test_equation_2_against_finite_differences(model, double):
    """A small step of backbone and SAAR against the gradient: the action's loss falls and the aspects' rise."""
    aspects = ("scene", "event")
    net, data = network(*aspects, model=model), batch(*aspects)
    smad.training_step(net, data, WEIGHTS)[0].backward()
    theta = [p for key, some in groups(net).items() if key in ("backbone", "stage", "score") for p in some.values()]
    size = sum(float(p.grad.square().sum()) for p in theta) ** 0.5
    ends = []
    for h in (1e-6, -2e-6):
        with torch.no_grad():
            for p in theta:
                p += h * p.grad / size
            _, z, s = apart(net, data["clip"])
            ends.append(F.cross_entropy(z, data["label"]) - sum(
                adversarial(s[name], data["aspects"][name], WEIGHTS) for name in aspects) / 2)
    assert size > 0.01 and ((ends[0] - ends[1]) / 2e-6).item() == pytest.approx(size, rel=1e-4)


@several
def test_weights_of_0_are_no_adversary(aspects, double):
    net, data = network(*aspects), batch(*aspects)
    smad.training_step(net, data, Args(w_ce=0.0, w_kl=0.0, w_bce=0.0))[0].backward()
    found = {n: p.grad for n, p in net.named_parameters()}
    assert not any(found[n].any() for n in found if n.startswith("adversaries."))
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(data["clip"]), data["label"]).backward()
    assert all(torch.equal(found[n], p.grad) for n, p in net.named_parameters() if p.grad is not None)


def test_baseline_is_a_plain_loop_and_so_are_weights_of_0_bit_for_bit(flags, tmp_path):
    flags |= dict(epochs=2, optimizer="sgd", schedule="step", milestones=(), warmup=0.0, lr=1e-2, weight_decay=0.1,
                  saar=False)
    plain = smad.SHORT["baseline"] | dict(out=str(tmp_path / "plain"))
    found = [load(smad.train(Args(**flags | change))["checkpoint"])["model"]
             for change in (plain, dict(w_ce=0.0, w_kl=0.0, w_bce=0.0))]
    args = Args(**flags)
    common.start(args.seed)
    data, order, net = smad.make_data(args)[0], common.Order(80, 8, 0), smad.build_model(args, 8)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, 0.9, weight_decay=0.1)
    for order.epoch in range(2):
        for some in DataLoader(data, batch_sampler=order):
            optimizer.zero_grad()
            F.cross_entropy(net(common.normalise(some["clip"], args.mean, args.std)), some["label"]).backward()
            optimizer.step()
    assert same(dict(found[0]), dict(net.state_dict()))
    assert same({k: v for k, v in found[1].items() if "adv" not in k}, dict(found[0])) and len(found[1]) > len(found[0])


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])
def test_logged_accuracies_count_what_is_known(model, double):
    net, data = network("scene", "event", model=model), batch("scene", "event", n=6)
    _, z, s = apart(net, data["clip"])
    guess, known = s["scene"][:, 0].argmax(1), s["event"][:, 0] > 0                       # of the first segment
    data["aspects"]["scene"][:] = F.one_hot((guess + torch.arange(6) % 2) % 7, 7)         # right of each second video
    data["aspects"]["event"][:] = known ^ torch.tensor([True, False, False])
    data["aspects"]["scene"][2], data["aspects"]["event"][3] = 0, math.nan
    _, logs = smad.training_step(net, data, Args())
    assert logs["accuracy"].item() == (z.argmax(1) == data["label"]).double().mean().item()
    for name, guess in (("scene", lambda a, b: [a.argmax() == b.argmax()]),
                        ("event", lambda a, b: [(v > 0) == (w > 0) for v, w in zip(a, b, strict=True)])):
        right = [bool(hit) for i in range(6) if i != (2 if name == "scene" else 3)
                 for row in s[name][i] for hit in guess(row, data["aspects"][name][i])]
        assert logs[f"{name}_accuracy"].item() == pytest.approx(sum(right) / len(right)) and 0 < sum(right) < len(right)


def test_the_heads_have_a_learning_rate_of_their_own(flags):
    saved = load(smad.train(Args(**flags | dict(epochs=1, adv_lr=3.0, lr=0.01)))["checkpoint"])
    rest, heads = saved["optimizer"]["param_groups"]
    assert (rest["initial_lr"], heads["initial_lr"]) == (0.01, 0.03) and len(heads["params"]) == 2 * 8
    theirs = saved["optimizer"]["state"][heads["params"][-1]]["exp_avg"].shape
    assert theirs == saved["model"]["adversaries.event.6.bias"].shape == (2,)


def test_clip_grad_is_of_all_parameters_together(flags):
    """One step of plain SGD that may move them by 1e-3."""
    flags |= dict(epochs=1, batch_size=80, optimizer="sgd", lr=1.0, weight_decay=0.0, warmup=0.0, schedule="step",
                  clip_grad=1e-3)
    common.start(0)
    net = smad.build_model(Args(**flags), 8)
    common.try_clip(net, Args(**flags))
    net.add_adversaries({"scene": 24, "event": 2})
    moved = load(smad.train(Args(**flags))["checkpoint"])["model"]
    far = sum(float((moved[k] - v).double().square().sum()) for k, v in net.state_dict().items())
    assert far ** 0.5 == pytest.approx(1e-3, rel=1e-2)


# ---- SAAR -----------------------------------------------------------------------------------------------------------
def module(channels=8, width=4, blocks=1, norm=lambda n: nn.GroupNorm(1, n), scored=True):
    torch.manual_seed(0)
    saar = SAAR(channels, width, blocks, norm)
    if scored:
        nn.init.normal_(saar.score.weight)
    return saar


def test_equation_5_against_loops(double):
    torch.manual_seed(0)
    f, a = torch.randn(3, 4, 5, 6, dtype=torch.float64), torch.randn(3, 1, 5, 6, dtype=torch.float64) * 2
    out, mask = smad.actionness_reweighting(f, a)
    for n, h, w in product(range(3), range(5), range(6)):
        below = sum(math.exp(a[n, 0, y, x]) for y in range(5) for x in range(6))           # of this frame alone
        weight = 30 * math.exp(a[n, 0, h, w]) / below
        assert mask[n, 0, h, w].item() == pytest.approx(weight, rel=1e-12)
        assert out[n, :, h, w].tolist() == pytest.approx([weight * f[n, c, h, w].item() for c in range(4)], rel=1e-12)
    assert mask.mean((1, 2, 3)).tolist() == pytest.approx([1.0] * 3, rel=1e-12)
    a.requires_grad_(), f.requires_grad_()
    assert torch.autograd.gradcheck(smad.actionness_reweighting, (f, a))
    wide = smad.actionness_reweighting(f, a + 1e4)[1]
    torch.testing.assert_close(wide, mask.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", [2, 4, 7, 8, 14, 16])
def test_a_constant_score_map_is_the_identity_exactly(side):
    f = torch.randn(4, 8, side, side)
    out, mask = module(scored=False)(f)
    assert torch.equal(out, f) and torch.equal(mask, torch.ones(4, 1, side, side))
    assert torch.equal(smad.actionness_reweighting(f, torch.full((4, 1, side, side), 3.7))[0], f)


@pytest.mark.parametrize("norm", [lambda n: nn.GroupNorm(1, n), nn.BatchNorm2d])
def test_frames_are_not_mixed_and_a_frame_has_one_mask_of_mean_1_for_all_channels(norm, double):
    saar, f = module(norm=norm).eval().double(), torch.randn(2, 8, 3, 5, 6, dtype=torch.float64) + 3
    with torch.no_grad():
        out, mask = saar(f)
        assert out.shape == f.shape and mask.shape == (6, 1, 5, 6) and mask.std() > 0.1
        torch.testing.assert_close(mask.mean((2, 3)), torch.ones(6, 1, dtype=torch.float64))
        for n, t in product(range(2), range(3)):
            alone, its = saar(f[n:n + 1, :, t])                                        # a frame, as a TSN gives it
            torch.testing.assert_close(out[n, :, t], alone[0])
            torch.testing.assert_close(mask[3 * n + t], its[0])
            torch.testing.assert_close(out[n, :, t], f[n, :, t] * its[0])              # (C, H, W) * (1, H, W)
        other = f.clone()
        other[1, :, 2] += 1 + torch.rand(8, 5, 6, dtype=torch.float64)
        changed = (saar(other)[0] != out).flatten(3).any(3).any(1)
        assert changed.tolist() == [[False] * 3, [False, False, True]]


def test_the_stage_is_bottlenecks_of_the_width_asked_for():
    for channels, width, blocks in ((1024, 64, 2), (256, 64, 2), (256, 32, 3), (32, 4, 1)):
        saar = module(channels, width, blocks, nn.BatchNorm2d)
        assert len(saar.stage) == blocks
        for block in saar.stage:
            assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in block.modules()
                    if isinstance(m, nn.Conv2d)] == [
                        (channels, width, 1, 1), (width, width, 3, 1), (width, channels, 1, 1)]
        assert saar.score.weight.shape == (1, channels, 3, 3)


def test_gradient_reaches_the_stage_once_the_last_convolution_has_moved():
    saar, f, w = module(scored=False), torch.randn(2, 8, 3, 5, 6), torch.randn(2, 8, 3, 5, 6)
    optimizer = torch.optim.SGD(saar.parameters(), 0.1)
    for moved in (False, True):
        optimizer.zero_grad()
        (saar(f)[0] * w).mean().backward()
        assert saar.score.weight.grad.abs().max() > 1e-4
        assert {bool(p.grad.any()) for p in saar.stage.parameters()} == {moved}
        optimizer.step()


def test_saar_by_finite_differences(double):
    saar = module(channels=4, width=4).double()
    f = torch.randn(1, 4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, *p: saar(f)[0], (f, *saar.parameters()))


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny", "slowonly_r18", "tsn_r50"])
def test_a_new_network_with_saar_gives_what_it_gives_without(model):
    small = TOY | dict(model=model, size=64)
    torch.manual_seed(0)
    net = smad.build_model(Args(**small), K).eval()
    plain = smad.build_model(Args(**small | dict(saar=False)), K).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("saar.")})
    clip = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        assert plain.saar is None and torch.equal(net(clip), plain(clip))
        nn.init.normal_(net.saar.score.weight)
        assert not torch.allclose(net(clip), plain(clip), atol=1e-4)


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])
def test_actionness_is_the_mask_of_the_forward_pass(model):
    net, clip = network(model=model, double=False).eval(), batch(double=False)["clip"]
    kept = []
    with torch.no_grad():
        z, mask = evaluate.saar_mask(net, clip)
        hook = net.backbone.layers[6].register_forward_pre_hook(lambda m, inputs: kept.append(inputs[0]), prepend=True)
        assert torch.equal(z, net(clip)) and mask.shape == (4, 4, 4, 4)
        hook.remove()
        f = kept[0].unflatten(0, (4, 4))[:, :, :, 0].transpose(1, 2) if net.tsn else kept[0]        # (N, C, T, H, W)
        for n, t in product(range(4), range(4)):
            torch.testing.assert_close(mask[n, t], net.saar(f[n:n + 1, :, t])[1][0, 0])
    assert not net.saar._forward_hooks and mask.std() > 1e-3
    again, before = copy.deepcopy(net), net(clip)
    nn.init.zeros_(net.saar.score.weight)
    assert torch.equal(again(clip), before) and not torch.equal(net(clip), before)           # a copy has its own SAAR
    assert torch.equal(evaluate.saar_mask(again, clip)[1], mask)


# ---- Networks -------------------------------------------------------------------------------------------------------
def meta(num_classes=400, **change):
    with torch.device("meta"):
        return smad.build_model(Args(**change), num_classes)


SIZED = {"tiny": TOY, "tsn_tiny": TOY, "slowonly_r18": {}, "slowonly_r50": {}, "tsn_r50": dict(frames=3),
         "r3d_18": dict(frames=16, size=112)}


@pytest.mark.parametrize("model, change", SIZED.items())
def test_saar_is_at_most_2_percent_of_the_operations_at_14_x_14(model, change):
    counts, seen = [], []
    for saar in (False, True):
        args = Args(**change | dict(model=model, saar=saar))
        net, clip = meta(**vars(args)), torch.zeros(1, 3, args.frames, args.size, args.size, device="meta")
        if saar:
            net.saar.stage.register_forward_hook(lambda m, inputs, out: seen.append(tuple(out.shape)))
        with FlopCounterMode(display=False) as counter:
            net(clip)
        counts.append(counter.get_total_flops())
    assert 1 < counts[1] / counts[0] <= 1.02 and counts[0] > 3e7
    frames = {"r3d_18": 4}.get(model, args.frames)                                            # r3d_18 halves time
    assert seen == [(frames, 32, 8, 8) if "tiny" in model else (frames, 1024 if "r50" in model else 256, 14, 14)]


def test_defaults_are_the_papers():
    args = Args()
    assert (args.model, args.frames, args.stride, args.size, args.test_clips) == ("slowonly_r18", 8, 8, 224, 10)
    assert (args.w_ce, args.w_kl, args.w_bce, args.weights, args.saar) == (0.5, 0.5, 5.0, "IMAGENET1K_V1", True)
    tsn = parsed("--train", "x.txt", "--tsn")
    assert (tsn.model, tsn.frames, tsn.test_clips) == ("tsn_r50", 3, 25)
    split = smad.SplitArgs()
    assert (split.classes, split.classes * split.train_size, split.classes * split.val_size) == (200, 80_000, 10_000)


@pytest.mark.parametrize("model, count", [
    ("tsn_r50", 24_327_632), ("slowonly_r50", 32_454_096)])                        # mmaction2's tables: 24.33M, 32.45M
def test_parameters_are_mmaction2s(model, count):
    assert sum(p.numel() for p in meta(model=model, saar=False).parameters()) == count


def test_parameters_of_slowonly_r18_by_hand():
    """Convolutions without bias, a norm's weight and bias after each; three frames in layers 3 and 4."""
    stem = 49 * 3 * 64 + 2 * 64
    stages = sum(9 * t * (a * b + 3 * b * b) + 8 * b + (a * b + 2 * b if a != b else 0)
                 for a, b, t in ((64, 64, 1), (64, 128, 1), (128, 256, 3), (256, 512, 3)))
    net = meta(model="slowonly_r18", saar=False)
    assert sum(p.numel() for p in net.parameters()) == stem + stages + 513 * 400


@pytest.mark.parametrize("model", ["slowonly_r18", "slowonly_r50"])
def test_slowonly_keeps_every_frame_and_looks_in_time_in_the_last_two_stages_alone(model):
    net, shapes = meta(model=model, saar=False), {}
    for name, m in net.backbone.named_modules():
        if isinstance(m, nn.Conv3d | nn.MaxPool3d):
            m.register_forward_hook(lambda m, inputs, out, name=name: shapes.update({name: out.shape[2]}))
        if isinstance(m, nn.Conv3d):
            long = name.startswith(("layer3", "layer4")) and re.search(
                r"\d\.conv1$" if "r50" in model else r"\d\.conv[12]$", name)
            assert m.kernel_size[0] == (3 if long else 1) and m.padding[0] == bool(long), name
    net(torch.zeros(1, 3, 8, 224, 224, device="meta"))
    assert set(shapes.values()) == {8} and len(shapes) == (21 if "r18" in model else 54)


@pytest.mark.parametrize("model", ["tsn_r50", "slowonly_r18", "slowonly_r50", "r3d_18", "mc3_18", "r2plus1d_18"])
def test_torchvision_s_names_under_backbone(model):
    theirs = torchvision.models.get_model
    with torch.device("meta"):
        theirs = theirs(re.sub(r"^(slowonly|tsn)_r", "resnet", model), weights=None)
    ours, theirs = ({k: v.shape for k, v in net.state_dict().items()} for net in (meta(K, model=model), theirs))
    kept = {k.removeprefix("backbone."): v for k, v in ours.items() if not k.startswith("saar.")}
    assert list(kept) == list(theirs) and all(k in kept or k.startswith("saar.") for k in ours if "backbone" not in k)
    other = {k.rsplit(".", 1)[0] for k in kept if kept[k] != theirs[k]}
    assert other == {"fc"} or model.startswith("slowonly") and "conv1" in other
    assert len([*meta(K, model=model, saar=False).state_dict()]) == len(theirs)


def randomised(net):
    """Statistics and weights as trained networks have them."""
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5), nn.init.normal_(m.bias, 0, 0.1)
    return net.eval()


def loaded(model, file, num_classes=K):
    """-> network with these weights, what was said"""
    net = smad.build_model(Args(model=model, saar=False, weights=str(file)), num_classes).eval()
    return net, load_weights(net, str(file), "", net.head_name, mmaction_key, r"data_preprocessor\.", inflate)


@pytest.mark.parametrize("depth, reach", [(18, 8), (50, 9)])          # convolutions of three frames in layers 3 and 4
def test_torchvision_s_resnet_inflated_sees_in_equal_frames_what_it_saw_in_one(depth, reach, tmp_path):
    """Far from the ends, where the padding in time is seen."""
    torch.manual_seed(0)
    flat = randomised(torchvision.models.get_model(f"resnet{depth}", weights=None))
    torch.save(flat.state_dict(), tmp_path / "resnet.pth")
    net, said = loaded(f"slowonly_r{depth}", tmp_path / "resnet.pth")
    assert said == (f"{len(flat.state_dict()) - 2} tensors from {tmp_path}/resnet.pth, new head of {K} classes for one "
                    "of 1000")
    ours = net.backbone.state_dict()
    for key, theirs in flat.state_dict().items():
        if not key.startswith("fc."):
            torch.testing.assert_close(ours[key].sum(2) if ours[key].ndim == 5 else ours[key], theirs)
    image, seen = torch.randn(1, 3, 40, 40), {}
    for name, some in (("flat", flat), ("net", net.backbone)):
        some.layer4.register_forward_hook(lambda m, inputs, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        flat(image), net(image[:, :, None].expand(-1, -1, 2 * reach + 2, -1, -1))
    middle, size = seen["net"][:, :, reach:reach + 2], seen["flat"].abs().max()
    assert size > 1e-2 and seen["net"].shape[2] == 2 * reach + 2
    for frame in middle.unbind(2):
        assert (frame - seen["flat"]).abs().max() < 1e-4 * size
    assert (seen["net"][:, :, 0] - seen["flat"]).abs().max() > 1e-2 * size


def mmaction2s(key):
    """A key of torchvision's ResNets in the names of mmaction2, whose ConvModule has `conv` and `bn`."""
    *where, leaf = key.split(".")
    if where == ["fc"]:
        return f"cls_head.fc_cls.{leaf}"
    if "downsample" in where:
        where[-1] = {"0": "conv", "1": "bn"}[where[-1]]
    else:
        where[-1:] = [f"conv{where[-1][-1]}", where[-1][:-1]]                              # conv2 -> conv2.conv
    return f"backbone.{'.'.join(where)}.{leaf}"


@pytest.mark.parametrize("model", ["tsn_r50", "slowonly_r18"])
def test_mmaction2_s_checkpoints_load_whole(model, tmp_path):
    torch.manual_seed(0)
    theirs = {k.removeprefix("backbone."): torch.randn(v.shape) if v.is_floating_point() else v + 7
              for k, v in smad.build_model(Args(model=model, saar=False), 400).state_dict().items()}
    state = {mmaction2s(k): v for k, v in theirs.items()}
    assert {"backbone.conv1.conv.weight", "backbone.conv1.bn.running_var", "backbone.layer1.0.conv1.conv.weight",
            "backbone.layer4.1.conv2.bn.bias", "backbone.layer2.0.downsample.conv.weight", "cls_head.fc_cls.bias",
            "backbone.layer2.0.downsample.bn.num_batches_tracked"} <= state.keys() and len(state) == len(theirs)
    more = {"data_preprocessor.mean": torch.zeros(1, 3, 1, 1)} if model == "tsn_r50" else {}             # of some
    torch.save({"meta": {"epoch": 100, "mmaction_version": "1.0"}, "state_dict": state | more}, tmp_path / "theirs.pth")
    net, said = loaded(model, tmp_path / "theirs.pth", 400)
    assert same(dict(net.backbone.state_dict()), theirs) and "new head" not in said
    assert said.startswith(f"{len(theirs)} tensors from ") and ("left out data_preprocessor" in said) == bool(more)
    net, said = loaded(model, tmp_path / "theirs.pth")
    assert same({k: v for k, v in net.backbone.state_dict().items() if "fc" not in k},
                {k: v for k, v in theirs.items() if "fc" not in k})
    assert f"new head of {K} classes for one of 400" in said and net.head.weight.shape[0] == K
    del state["backbone.layer3.1.conv1.conv.weight"]
    torch.save({"state_dict": state | {"neck.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"2 keys do not fit the model: .*layer3.1.conv1.weight, neck.weight"):
        loaded(model, tmp_path / "other.pth", 400)


def test_a_slowonly_checkpoint_does_not_load_into_a_tsn(tmp_path):
    state = smad.build_model(Args(model="slowonly_r18", saar=False), K).backbone.state_dict()
    torch.save(dict(state_dict={mmaction2s(k): v for k, v in state.items()}), tmp_path / "slow.pth")
    with pytest.raises(UserError, match="keys do not fit the model"):
        loaded("tsn_r50", tmp_path / "slow.pth")


@pytest.mark.parametrize("model", ["tsn_tiny", "tsn_r50"])
def test_tsn_averages_its_frames_logits_whatever_their_order(model):
    net = randomised(network("scene", model=model, double=False, size=32))
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        z, s = net(clip, aspects=True)
        g, ours, theirs = apart(net, clip)
        torch.testing.assert_close(z, ours)
        torch.testing.assert_close(s["scene"], theirs["scene"].flatten(0, 1))           # (N S, D), a video's together
        torch.testing.assert_close(net(clip[:, :, [2, 0, 1]]), z)
        torch.testing.assert_close(net.features(clip), g.mean(1))
        torch.testing.assert_close(net.head(net.features(clip)), z)
        singles = torch.stack([net(clip[:, :, t:t + 1]) for t in range(3)])                     # as evaluate.py does
        torch.testing.assert_close(singles.mean(0), z)
        assert singles.std(0).min() > 1e-5 and (z[0] - z[1]).abs().max() > 1e-3


@pytest.mark.parametrize("model, width", [("tiny", 64), ("tsn_tiny", 64), ("slowonly_r18", 512), ("r3d_18", 512)])
def test_forward_features_and_logits_of_aspects_are_of_one_network(model, width):
    net, clip = network("scene", "event", model=model, double=False, size=32).eval(), torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        z, s = net(clip, aspects=True)
        g = net.features(clip)
        assert z.shape == (2, K) and g.shape == (2, width) and torch.equal(z, net(clip))
        torch.testing.assert_close(net.head(g), z)
        n = 8 if net.tsn else 2
        assert {k: v.shape for k, v in s.items()} == {"scene": (n, 7), "event": (n, 3)}
        if not net.tsn:
            assert torch.equal(s["event"], net.adversaries["event"](g))
    assert net.scene_head is net.adversaries["scene"] and network().scene_head is None
    assert not net.head._forward_pre_hooks


@pytest.mark.parametrize("kind, widths", [("mlp", [64, 512, 512, 512]), ("linear", [64])])
def test_a_checkpoint_s_adversaries_come_back(kind, widths, tmp_path):
    net = network("scene", "event", adversary=kind, double=False)
    for name in ("scene", "event"):
        layers = [m for m in net.adversaries[name] if isinstance(m, nn.Linear)]
        assert [m.in_features for m in layers] == widths and layers[-1].out_features == SIZES[name]
        assert [type(m) for m in net.adversaries[name]] == [nn.Linear, nn.ReLU] * (len(widths) - 1) + [nn.Linear]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    again = smad.build_model(Args(**TOY | dict(adversary=kind)), K)
    assert not again.adversaries and again.load_state_dict(load(tmp_path / "net.pt"))
    assert same(dict(again.state_dict()), dict(net.state_dict()))
    clip = batch(double=False)["clip"]
    assert torch.equal(again(clip, aspects=True)[1]["event"], net(clip, aspects=True)[1]["event"])
    again.load_state_dict(net.state_dict())                                                   # those it has stay
    with pytest.raises(RuntimeError, match="adversaries.event"):
        network("event", double=False, adversary=kind).load_state_dict(network(double=False).state_dict())


def test_weights_go_to_albar_without_saar_and_the_adversaries_and_back(tmp_path):
    net = network("scene", double=False)
    torch.save(dict(method="smad", model=net.state_dict()), tmp_path / "smad.pt")
    other = albar.build_model(albar.Args(model="tiny"), K)
    assert load_weights(other, str(tmp_path / "smad.pt"), "", other.head_name).endswith("left out adversaries, saar")
    assert same(dict(other.backbone.state_dict()), dict(net.backbone.state_dict()))
    torch.save(dict(method="albar", model=other.state_dict()), tmp_path / "albar.pt")
    back, said = loaded("tsn_tiny", tmp_path / "albar.pt")
    assert same(dict(back.backbone.state_dict()), dict(net.backbone.state_dict())) and "left out" not in said


# ---- Flags ----------------------------------------------------------------------------------------------------------
class Built(Exception):
    """Carries the network and how its weights are asked for, out of train()."""


@pytest.fixture
def built(monkeypatch, world):
    """built(words) -> the network that this command line trains on the embedded benchmark, load_weights' arguments"""
    def stop(*how, **more):
        raise Built(how, more)

    def build(*words):
        monkeypatch.setattr(smad, "toy", lambda *_: world)
        monkeypatch.setattr(smad, "load_weights", stop)
        with pytest.raises(Built) as out:
            common.cli(Args, smad.train, smad.TOY, smad.SHORT, list(words), smad.STEPS, smad.RECIPES)
        (net, *how), more = out.value.args
        return net, how, more

    return build


FIVE = {"scene": 24, "object": 8, "event": 2, "attribute": 2, "context": 2}


@pytest.mark.parametrize("words, aspects, saar", [
    ("--baseline", "", False), ("--no-saar", "scene object", False), ("--aspect none", "", True),         # Table 7
    ("", "scene object", True),
    ("--aspect none", "", True), ("--aspect scene", "scene", True), ("--aspect object", "object", True),  # Table 8
    ("--aspect scene object", "scene object", True), ("--aspect scene --aspect object", "scene object", True),
    ("--aspect scene object event attribute context", " ".join(FIVE), True)])
def test_tables_7_and_8_by_flags_alone(built, tmp_path, words, aspects, saar):
    net, *_ = built("--weights", "none", "--out", str(tmp_path / "run"), *words.split())
    found = {name: head[-1].out_features for name, head in net.adversaries.items()}
    assert found == {name: FIVE[name] for name in aspects.split()} and list(found) == aspects.split()
    assert (net.saar is not None) == saar


@pytest.mark.parametrize("model, arch", [("slowonly_r18", "resnet18"), ("tsn_r50", "resnet50"), ("r3d_18", "r3d_18")])
def test_weights_by_name_are_those_of_the_2d_network(built, tmp_path, model, arch):
    _, how, more = built("--model", model, "--weights", "IMAGENET1K_V1", "--out", str(tmp_path / "run"))
    assert how[:4] == ["IMAGENET1K_V1", arch, "fc", mmaction_key] and inflate in [*how[4:], *more.values()]


def parsed(*words):
    got = []
    common.cli(Args, got.append, smad.TOY, smad.SHORT, list(words), smad.STEPS, smad.RECIPES)
    return got[0]


def test_aspect_may_be_repeated_or_take_several():
    one = parsed("--train", "x.txt", "--aspect", "a=x.npz", "--aspect", "b=y.npz")
    assert one.aspect == ("a=x.npz", "b=y.npz") and one == parsed("--aspect", "a=x.npz", "b=y.npz", "--train", "x.txt")
    assert parsed("--train", "x.txt").aspect == () and parsed().aspect == ("scene", "object")
    assert parsed("--aspect", "event").aspect == ("event",)                           # replaces the benchmark's default
    assert parsed("--train", "x.txt", "--baseline").aspect == ("none",)
    tsn = parsed("--train", "x.txt", "--aspect", "none", "--tsn", "--out", "x")
    assert (tsn.model, tsn.frames, tsn.milestones, tsn.size, tsn.aspect) == ("tsn_r50", 3, (40, 80), 224, ("none",))
    assert parsed("--train", "x.txt", "--tsn", "--frames", "8").frames == 8                    # a recipe is of defaults
    bare = parsed("--train", "x.txt", "--baseline", "--tsn")
    assert (bare.model, bare.aspect, bare.saar) == ("tsn_r50", ("none",), False)


def test_the_tsn_s_recipe_is_not_of_the_embedded_benchmark(capsys):
    with pytest.raises(SystemExit):
        parsed("--tsn")
    assert capsys.readouterr().err == "error: --tsn is a recipe for videos of your own: give --train\n"


def test_labels_reach_their_videos(flags, world):
    """Soft labels and tags of both lists; a video without has zeros, or NaN."""
    listed = [read_list(world / f"{part}.txt").paths for part in ("train", "val")]
    with np.load(world / "scenes.npz") as file:
        table = dict(zip(file["paths"].tolist(), file["probabilities"].astype(np.float32), strict=True))
    with np.load(world / "truth.npz") as file:
        truth = [file[f"{part}/tags"] for part in ("train", "val")]
    _, _, *parts, tags = smad.make_data(Args(**flags))
    assert tags == {"event"}
    for paths, found, known in zip(listed, parts, truth, strict=True):
        assert torch.equal(found["scene"], torch.from_numpy(np.stack([table[path] for path in paths])))
        assert torch.equal(found["event"], torch.from_numpy(known[:, [0, 1]]).float())           # confetti, night


def test_what_replaces_an_unreadable_video_brings_its_own_labels(flags, world, tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for path in (world / split).iterdir():
            broken = split == "train" and path.name in ("0003.mp4", "0004.mp4")
            (tmp_path / split / path.name).symlink_to(__file__ if broken else path)
    flags |= dict(root=str(tmp_path), max_bad=0.1, epochs=1, batch_size=80)
    seen = []

    def spy(model, data, args, real=smad.training_step):
        seen.append(data)
        return real(model, data, args)

    monkeypatch.setattr(smad, "training_step", spy)
    smad.train(Args(**flags))
    data, _, labels, *_ = smad.make_data(Args(**flags))
    shown = [{3: 5, 4: 5}.get(i, i) for i in next(iter(common.Order(80, 80, 0)))]
    assert seen[0]["label"].tolist() == [data.videos.labels[i] for i in shown]
    assert same(seen[0]["aspects"], {name: p[shown] for name, p in labels.items()}) and len(labels) == 2


def test_frames_of_a_tsn_are_one_of_each_part(flags):
    train, val, *_ = smad.make_data(Args(**flags | dict(model="tsn_tiny", frames=3)))
    drawn = np.array([train.sample(30, rng=np.random.default_rng(i)) for i in range(50)])
    assert (drawn // 10 == [0, 1, 2]).all() and len(np.unique(drawn[:, 0])) > 5
    assert val.sample(30, rng=None).tolist() == [5, 15, 25]
    assert train[0]["clip"].shape == (3, 3, 16, 16)
    train, val, *_ = smad.make_data(Args(**flags))
    assert np.diff(train.sample(30, rng=np.random.default_rng(0))).tolist() == [2] * 3
    assert val.sample(30, rng=None).tolist() == common.centre_clip(30, 4, 2).tolist()


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])
def test_validation_figures_against_brute_force(flags, world, tmp_path, model):
    """Not counted: an unreadable video; of an aspect's accuracy also one without a label."""
    (tmp_path / "val").mkdir()
    for path in (world / "val").iterdir():
        (tmp_path / "val" / path.name).symlink_to(__file__ if path.name == "0005.mp4" else path)
    (tmp_path / "train").symlink_to(world / "train")
    args = Args(**flags | dict(root=str(tmp_path), max_bad=0.1, model=model, frames=3))
    _, val, _, labels, tags = smad.make_data(args)
    labels["scene"][3], labels["event"][4] = 0, math.nan
    torch.manual_seed(0)
    net = smad.build_model(args, 8)
    net.add_adversaries({name: p.shape[1] for name, p in labels.items()})
    figures = smad.validate(net, DataLoader(Subset(val, range(20)), 6), labels, tags, args, torch.device("cpu"))
    assert net.training
    net.eval()
    loss, right, hits, lines = 0.0, 0, {"scene": [], "event": []}, (world / "val.txt").read_text().splitlines()
    at = [0, 6, 12] if model == "tiny" else [3, 10, 16]
    at = common.centre_clip(20, 3, 2).tolist() if model == "tiny" else at                       # middles of three parts
    with torch.no_grad():
        for i in set(range(20)) - {5}:
            frames = common.read_clip(world / lines[i].split()[0], at)
            clip = common.test_transform(args.size, args.resize)(frames.permute(0, 3, 1, 2)).transpose(0, 1)
            _, z, s = apart(net, common.normalise(clip[None], args.mean, args.std))
            label = int(lines[i].split()[1])
            loss, right = loss + F.cross_entropy(z[0], torch.tensor(label)).item() / 19, right + (z.argmax() == label)
            for row in s["scene"][0] if i != 3 else ():
                hits["scene"].append(bool(row.argmax() == labels["scene"][i].argmax()))
            for row in s["event"][0] if i != 4 else ():
                hits["event"] += ((row > 0) == (labels["event"][i] > 0)).tolist()
    assert figures == {"val/loss": pytest.approx(loss, rel=1e-5), "val/accuracy": right / 19, "val/chance": 1 / 8,
                       "val/videos": 19, "val/unreadable": ["val/0005.mp4"],
                       "val/scene_accuracy": pytest.approx(np.mean(hits["scene"])),
                       "val/event_accuracy": pytest.approx(np.mean(hits["event"]))}
    for name in labels:
        labels[name][:] = math.nan if name in tags else 0
    none = smad.validate(net, DataLoader(Subset(val, range(20)), 6), labels, tags, args, torch.device("cpu"))
    assert not {"val/scene_accuracy", "val/event_accuracy"} & none.keys()


def test_learning_rate():
    args = Args(epochs=6, warmup=2.0, milestones=(3, 5))
    rates = [smad.learning_rate(step, 10, args) for step in range(60)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)]) and rates[20:30] == [1] * 10
    assert rates[30:] == pytest.approx([0.1] * 20 + [0.01] * 10)
    assert smad.learning_rate(0, 10, Args(warmup=0.0, milestones=(0, 1))) == pytest.approx(0.1)
    assert smad.learning_rate(0, 10, Args(warmup=0.05)) == 1
    for warmup, epochs in ((2.0, 6), (0.0, 3)):
        args = Args(epochs=epochs, warmup=warmup, schedule="cosine")
        assert [smad.learning_rate(step, 10, args) for step in range(10 * epochs + 1)] == [
            albar.learning_rate(step, 10 * epochs, 10 * warmup) for step in range(10 * epochs + 1)]


def test_learning_rate_of_a_run(flags):
    flags |= dict(epochs=3, batch_size=40, schedule="step", milestones=(1, 2), warmup=0.5, lr=0.01)
    smad.train(Args(**flags))
    rates = [r["lr"] for r in log_lines(flags["out"]) if "ce" in r]                # after the step: the next one's
    assert rates == pytest.approx([0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4])


# ---- HVU's tags -----------------------------------------------------------------------------------------------------
CATEGORIES = "Tag,Category\nrunning,action\nwedding,event\nfog,concept\nwarm_up,event\nred,attribute\nice,concept\n"


def hvu(folder, lines, categories=CATEGORIES):
    (folder / "HVU_Tags_Categories_V1.0.csv").write_text(categories)
    (folder / "tags.csv").write_text("Tags,youtube_id,time_start,time_end\n" + lines)
    return folder / "tags.csv"


LINES = "running|wedding,abc-_123XYZ,2.3,12.3\nfog|ice|red,9,0,10\nwarm_up|wedding|fog,-fog,100.0,110.0\n"


@pytest.mark.parametrize("name", ["clips/abc-_123XYZ_000002_000012.mp4", "abc-_123XYZ_000023_000123.mkv",
                                  "a/b/abc-_123XYZ.mp4", "abc-_123XYZ"])
def test_hvu_s_videos_by_name_in_seconds_in_tenths_and_bare(tmp_path, name):
    file = hvu(tmp_path, LINES)
    rows, names = read_tags(file, "event", [name, "-fog_000100_000110.mp4"])
    assert names == ["warm_up", "wedding"] and rows.tolist() == [[0, 1], [1, 1]] and rows.dtype == torch.float32
    assert read_tags(file, "context", ["-fog_001000_001100.avi", name, "9.mp4"])[0].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert same(read_tags(file, "context", [name]), read_tags(file, "concept", [name]))          # HVU calls it so
    assert read_tags(file, "concept", [name])[1] == ["fog", "ice"]


def test_tags_without_a_header_and_clips_of_one_id(tmp_path):
    file = hvu(tmp_path, "")
    file.write_text("wedding,a,0,10\nwarm_up,a,20,30\nwarm_up,b,0,10\n")
    assert read_tags(file, "event", ["a_000000_000010.mp4", "a_000020_000030.mp4", "b"])[0].tolist() == [
        [0, 1], [1, 0], [1, 0]]
    with pytest.raises(UserError, match="tags.csv:2: a second clip of a: call its files ID_start_end"):
        read_tags(file, "event", ["a.mp4", "b.mp4"])


def test_hvu_s_videos_that_are_not_there_are_nan_up_to_a_share(tmp_path):
    paths = ["9.mp4", "abc-_123XYZ_000003_000013.mp4", "other.mp4"]
    rows, _ = read_tags(hvu(tmp_path, LINES), "attribute", paths)
    assert rows[0].tolist() == [1] and rows[1:].isnan().all()
    with pytest.raises(UserError, match=r"tags.csv: no tags of 2 of 3 videos, first abc-_123XYZ_0.*--max-bad"):
        read_tags(tmp_path / "tags.csv", "attribute", paths, 0.5)


@pytest.mark.parametrize("line, message", [
    ("running,abc", r"expected `tag\|tag,id,0.0,10.0`: 'running,abc'"), ("running,abc,0,ten", "expected"),
    ("running,abc,0", "expected"), ("running,abc,0,10,20", "expected"), ("running,a,b,0,10", "expected"),
    ("running abc 0 10", "expected"), ("running,abc,nan,10", "expected"), ("running,abc,0,inf", "expected"),
    ("walking|running,abc,0,10", "no category of 'walking': 'walking"),
    ("running|,abc,0,10", "no category of ''")])
def test_malformed_lines_of_tags_are_refused_by_number(tmp_path, line, message):
    with pytest.raises(UserError, match=f"tags.csv:5: {message}") as error:
        read_tags(hvu(tmp_path, LINES + line + "\n" + LINES), "event", ["9.mp4"])
    assert "\n" not in str(error.value)


def test_what_else_is_wrong_with_tags(tmp_path):
    def refused(message, lines=LINES, category="event", **more):
        with pytest.raises(UserError, match=message):
            read_tags(hvu(tmp_path, lines, **more), category, ["9.mp4"])
    refused("tags.csv: no tags of 'scene', but of action, attribute, concept, event", category="scene")
    refused("V1.0.csv:3: expected `Tag,Category`: 'wedding'", categories="Tag,Category\nrunning,action\nwedding\n")
    refused("V1.0.csv:2: expected `Tag,Category`: 'a,b,c'", categories="Tag,Category\na,b,c\n")
    refused("tags.csv: no tags of 'event', but of nothing", categories="Tag,Category\n", lines="")
    (tmp_path / "HVU_Tags_Categories_V1.0.csv").unlink()
    with pytest.raises(UserError, match="HVU_Tags_Categories_V1.0.csv: cannot read it: No such file"):
        read_tags(tmp_path / "tags.csv", "event", ["9.mp4"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not here")
def test_hvu_s_own_categories(tmp_path):
    text = (REAL / "HVU_Tags_Categories_V1.0.csv").read_text()
    tags = {kind: sorted(line.split(",")[0] for line in text.split() if line.endswith(f",{kind}"))
            for kind in ("event", "attribute", "concept")}
    assert {kind: len(some) for kind, some in tags.items()} == {"event": 69, "attribute": 117, "concept": 291}
    theirs = json.loads((REAL / "label_map.json").read_text())
    file = hvu(tmp_path, "".join(f"{tags['event'][i]}|{tags['concept'][2 * i]},v{i},0,10\n" for i in range(9)), text)
    for kind, some in tags.items():
        rows, names = read_tags(file, {"concept": "context"}.get(kind, kind), [f"v{i}.mp4" for i in range(9)])
        assert names == some == sorted(theirs[kind])
        assert rows.nonzero().tolist() == {"event": [[i, i] for i in range(9)], "attribute": [],
                                           "concept": [[i, 2 * i] for i in range(9)]}[kind]


def test_tags_of_an_npz_in_the_order_of_its_names(tmp_path):
    common.save_arrays(tmp_path / "tags.npz", paths=np.array(["a", "b"]), tags=np.array([[1, 0, 1], [0, 1, 1]], bool),
                       categories=np.array(["event:x", "mood:y", "event:w"]))
    rows, names = read_tags(tmp_path / "tags.npz", "event", ["b", "a"])
    assert names == ["x", "w"] and rows.tolist() == [[0, 1], [1, 1]]
    assert common.read_aspect(f"good_mood={tmp_path}/tags.npz:mood", ["a"], 0.0)[0::2] == ("good_mood", True)
    with pytest.raises(UserError, match="no tags of 'context', but of event, mood"):
        read_tags(tmp_path / "tags.npz", "context", ["a"])
    for tags in ([[1, 0], [0, 1]], [[1, 0, 2], [0, 1, 1]], [[1, 0, math.nan], [0, 1, 1]]):
        common.save_arrays(tmp_path / "tags.npz", paths=np.array(["a", "b"]), tags=np.array(tags),
                           categories=np.array(["event:x", "mood:y", "event:w"]))
        with pytest.raises(UserError, match="tags.npz: its tags do not fit its paths and categories, or are not 0"):
            read_tags(tmp_path / "tags.npz", "event", ["a"])


@pytest.mark.parametrize("row", [[0.5, 0.2], [1.5, -0.5], [math.nan, 1.0], [0.0, 0.0]])
def test_soft_labels_that_are_no_probabilities_are_refused(tmp_path, row):
    common.save_arrays(tmp_path / "p.npz", paths=np.array(["a", "b"]), probabilities=np.array([[0.5, 0.5], row]),
                       categories=np.array(["x", "y"]))
    with pytest.raises(UserError, match="p.npz: the probabilities of b are not such: they must sum to 1"):
        common.read_labels([tmp_path / "p.npz"], ["a"])


# ---- Statistics -----------------------------------------------------------------------------------------------------
I = np.arange(60)  # noqa: E741
COLUMNS = {"a": I * I % 7, "b": (I * I // 3 + I) % 5, "c": I % 3, "half": I * I % 7 // 2}


# sklearn.metrics.normalized_mutual_info_score of scikit-learn 1.9.1, its default average_method="arithmetic"
@pytest.mark.parametrize("a, b, value", [("a", "b", 0.030029769890984676), ("a", "c", 0.0024473230334312182),
                                         ("a", "half", 0.8851410596012893)])
def test_mutual_information_is_scikit_learns(a, b, value):
    assert nmi(COLUMNS[a], COLUMNS[b]) == pytest.approx(value, abs=1e-12) == nmi(COLUMNS[b], COLUMNS[a])


def slow_information(a, b):
    """I(A;B), H(A), H(B) in nats by a double loop."""
    n, joint = len(a), Counter(zip(a.tolist(), b.tolist(), strict=True))
    p, q = Counter(a.tolist()), Counter(b.tolist())
    return (sum(k / n * math.log(k * n / (p[x] * q[y])) for (x, y), k in joint.items()),
            *(-sum(k / n * math.log(k / n) for k in some.values()) for some in (p, q)))


def test_mutual_information_against_loops():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, c = (rng.integers(0, rng.integers(2, 9), 80) for _ in range(3))
        i, h, k = slow_information(a, b)
        assert nmi(a, b) == pytest.approx(2 * i / (h + k), abs=1e-12)
        parts = [(np.mean(c == v), slow_information(a[c == v], b[c == v])) for v in np.unique(c)]
        i, h, k = (sum(p * some[j] for p, some in parts) for j in range(3))
        assert nmi(a, b, c) == pytest.approx(2 * i / (h + k), abs=1e-12)
        assert common.joint_entropy(a, b) == pytest.approx(slow_information(a * 100 + b, a)[1], abs=1e-12)
    assert nmi(a, a) == pytest.approx(1) and nmi(a, 0 * a) == nmi(0 * a, 0 * a) == 0 == nmi(a, a, a)
    assert common.joint_entropy() == 0


# sklearn.metrics.cluster.expected_mutual_information of scikit-learn 1.9.1 over the mean of the entropies; given C
# that of each group, times its share
@pytest.mark.parametrize("a, b, given, value", [("a", "b", None, 0.06251725698952812), ("a", "half", None,
                                                 0.04449929714432625), ("a", "b", "c", 0.16053348337646695)])
def test_floor_is_the_expectation_under_random_dealing(a, b, given, value):
    a, b, given = COLUMNS[a], COLUMNS[b], COLUMNS.get(given)
    assert nmi_floor(a, b, given, draws=600) == pytest.approx(value, rel=0.08)
    assert nmi_floor(a, b, given, draws=9) == nmi_floor(a, b, given, draws=9) != nmi_floor(a, b, given, 1, draws=9)


def test_floor_deals_within_groups_and_nothing_else(monkeypatch):
    seen = []
    monkeypatch.setattr(common, "nmi", lambda a, b, given: seen.append((a, b, given)) or 0.0)
    nmi_floor(COLUMNS["a"], COLUMNS["b"], COLUMNS["c"], draws=20)
    assert len(seen) == 20 and len({tuple(b) for _, b, _ in seen}) == 20
    for a, b, given in seen:
        assert a is COLUMNS["a"] and given is COLUMNS["c"]
        assert all(sorted(b[given == v]) == sorted(COLUMNS["b"][given == v]) for v in range(3))


def test_floor_of_large_samples_is_known():
    """(R - 1) (C - 1) / 2 n over the mean of the entropies, for independent columns."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 10, 5000), rng.integers(0, 6, 5000)
    expected = 9 * 5 / (2 * 5000) / ((math.log(10) + math.log(6)) / 2)
    assert nmi_floor(a, b, draws=50) == pytest.approx(expected, rel=0.15)


# ---- The re-distributed split ---------------------------------------------------------------------------------------
def tail_of(facet, n_val):
    """Scenes, whole, the rarest first and of equals the lower number, until they have n_val videos."""
    counts, tail = Counter(facet.tolist()), []
    for scene in sorted(counts, key=lambda scene: (counts[scene], scene)):
        if sum(counts[s] for s in tail) < n_val:
            tail.append(scene)
    return set(tail)


@pytest.mark.parametrize("facets", [1, 2])
@pytest.mark.parametrize("reserve", [0, 6])
def test_no_scene_is_in_both_halves_of_any_action(facets, reserve):
    """The algorithm of one action, of random sizes and distributions."""
    made = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n, n_train, n_val = rng.integers(20, 120), rng.integers(5, 50), rng.integers(6, 20)
        columns = [rng.geometric(rng.uniform(0.08, 0.5), n) % 30 for _ in range(facets)]
        videos = (1000 + rng.permutation(n)).tolist()
        found = redistribute(videos, columns, n_train, n_val, reserve, np.random.default_rng(seed))
        tails = [tail_of(column, n_val) for column in columns]
        rare = np.any([np.isin(column, list(tail)) for column, tail in zip(columns, tails, strict=True)], 0)
        if found is None:
            assert reserve or (~rare).sum() < n_train or rare.sum() < n_val
            continue
        made += 1
        train, tail, held = found
        assert [len(train), len(tail), len(held)] == [n_train, n_val, reserve]
        assert len({*train, *tail, *held}) == n_train + n_val + reserve and {*train, *tail, *held} <= {*videos}
        place = {video: i for i, video in enumerate(videos)}
        assert all(rare[place[v]] for v in tail) and not any(rare[place[v]] for v in train + held)
        for column in columns:
            assert {column[place[v]] for v in held} <= {column[place[v]] for v in train}
        if facets == 1:
            column = columns[0]
            scenes = [{column[place[v]] for v in some} for some in (train + held, tail)]
            assert not scenes[0] & scenes[1]
            counts, left = Counter(column.tolist()), [column[i] for i in np.flatnonzero(~rare)
                                                      if videos[i] not in train + held]
            assert not left or max(counts[s] for s in left) <= min(counts[s] for s in scenes[0])     # frequent ones
            assert len(set(left) & scenes[0]) <= 1                                         # one scene at most is cut
    assert made > 30


def listed(folder, seed=0, facets=("scene",), actions=6, name="train"):
    """A list of videos of actions with their own long-tailed scenes, of some 60 to 130 each, and a labels file of each
    facet. -> {path: (action, scene, ...)}"""
    rng, truth, files = np.random.default_rng(seed), {}, {}
    habits = [[rng.permutation(15) for _ in range(actions)] for _ in facets]
    for action in range(actions):
        for i in range(60 + 12 * int(rng.permutation(actions)[0]) + 10 * (action == 2)):
            found = [habit[action][min(rng.geometric(0.2) - 1, 14)] for habit in habits]
            truth[f"{name}/{'abcdefgh'[action]}/{i}.mp4"] = (action, *map(int, found))
    paths = [str(path) for path in rng.permutation(list(truth))]
    (folder / f"{name}.txt").write_text("".join(f"{path} {truth[path][0]}\n" for path in paths))
    (folder / "classes.txt").write_text("".join(f"act {'abcdefgh'[a]}\n" for a in range(actions)))
    for k, facet in enumerate(facets, 1):
        p = rng.random((len(paths), 15)) / 30 + np.eye(15)[[truth[path][k] for path in paths]]
        files[facet] = dict(paths=np.array(paths), probabilities=(p / p.sum(1, keepdims=True)).astype(np.float16),
                            categories=np.array([f"{facet}{i}" for i in range(15)]))
        common.save_arrays(folder / f"{facet}.npz", **files[facet])
    return truth


SMALL = dict(classes=4, train_size=20, val_size=8)


def split(folder, out="new", facets=("scene",), lists=("train",), **change):
    """-> {NAME: VideoList} of the files written, the table"""
    labels = tuple(f"{facet}={folder}/{facet}.npz" for facet in facets)
    args = dict(lists=tuple(f"{folder}/{name}.txt" for name in lists), labels=labels, out=str(folder / out)) | SMALL
    table = common.split_by_facet(smad.SplitArgs(**args | change))
    files = sorted(path.name for path in (folder / out).iterdir())
    assert "classes.txt" in files and not list(folder.glob("*.part*"))
    return {name.removesuffix(".txt"): read_list(folder / out / name) for name in files if name != "classes.txt"}, table


def test_split_of_a_list(tmp_path, capsys):
    for seed in range(5):
        (folder := tmp_path / str(seed)).mkdir()
        truth = listed(folder, seed)
        found, table = split(folder)
        said = capsys.readouterr().out
        counts = Counter(action for action, _ in truth.values())
        chosen = sorted(sorted(counts, key=lambda action: (-counts[action], action))[:4])        # those with the most
        assert found.keys() == {"train", "val"} and found["train"].kind == "plain"
        for name, size in (("train", 20), ("val", 8)):
            some = found[name]
            assert some.classes == [f"act {'abcdefgh'[a]}" for a in chosen] and len(set(some.paths)) == 4 * size
            assert Counter(some.labels) == dict.fromkeys(range(4), size)
            assert all(truth[path][0] == chosen[label] for path, label in zip(some.paths, some.labels, strict=True))
            (value, random), = table[name]
            columns = np.array([truth[path] for path in some.paths]).T
            assert value == pytest.approx(nmi(*columns)) and f"{name}.txt: {4 * size} videos" in said
            assert f"scene {value:.3f} ({random:.3f} if sampled at random)" in said
            assert 0 < random < 1 and random != value
        scenes = {name: {truth[path] for path in found[name].paths} for name in found}
        assert not scenes["train"] & scenes["val"]                                         # (action, scene)
        assert len(scenes["val"]) > 4


def test_what_a_random_sample_would_give(tmp_path):
    truth = listed(tmp_path)
    table, rng, values = split(tmp_path)[1], np.random.default_rng(0), []
    chosen = set(read_list(tmp_path / "new/train.txt").paths)
    actions = {truth[path][0] for path in chosen}
    for _ in range(60):
        some = [row for a in actions for row in rng.permutation([r for r in truth.values() if r[0] == a])[:20]]
        values.append(nmi(*np.array(some).T))
    assert abs(table["train"][0][1] - np.mean(values)) < 4 * np.std(values) and np.std(values) < 0.05
    assert table["train"][0][0] > max(values)                                    # the heads of the actions differ more


def test_split_is_a_function_of_the_seed(tmp_path):
    listed(tmp_path)
    first, again, other = (split(tmp_path, out, seed=seed)[0] for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert all(first[name].paths == again[name].paths for name in first)
    assert all(first[name].paths != other[name].paths for name in first)


def test_overlap(tmp_path):
    truth = listed(tmp_path)
    found, _ = split(tmp_path, overlap=("0", "0.25", "1"), train_size=15)
    alone, _ = split(tmp_path, "other", overlap=("1",), train_size=15)
    assert found.keys() == {"train", "val-0", "val-0.25", "val-1"} and alone.keys() == {"train", "val-1"}
    assert found["train"].paths == alone["train"].paths                  # the greatest share says what is held out
    seen = {truth[path] for path in found["train"].paths}
    for name, common_ones in (("val-0", 0), ("val-0.25", 2), ("val-1", 8)):
        some = found[name]
        assert Counter(some.labels) == dict.fromkeys(range(4), 8) and len(set(some.paths)) == 32
        assert not set(some.paths) & set(found["train"].paths)
        shared = [label for path, label in zip(some.paths, some.labels, strict=True) if truth[path] in seen]
        assert Counter(shared) == {label: common_ones for label in range(4) if common_ones}
    nested = [set(found[name].paths) for name in ("val-0", "val-0.25", "val-1")]
    assert len(nested[0] & nested[1]) == 24 and len(nested[1] & nested[2]) == 8 and not nested[0] & nested[2]


def test_two_facets_at_once(tmp_path):
    for seed in range(4):
        (folder := tmp_path / str(seed)).mkdir()
        truth = listed(folder, seed, ("scene", "object"))
        found, table = split(folder, facets=("scene", "object"), train_size=15, overlap=("0", "0.5"))
        assert len(table["val-0"]) == 2
        for k, action in enumerate(name.split()[1] for name in found["train"].classes):
            mine = np.array([row for row in truth.values() if row[0] == "abcdefgh".index(action)])
            tails = [tail_of(mine[:, facet], 8) for facet in (1, 2)]
            for name, half in (("train", 0), ("val-0", 8), ("val-0.5", 4)):
                rows = [truth[path] for path, label in zip(found[name].paths, found[name].labels, strict=True)
                        if label == k]
                assert sum(row[1] in tails[0] or row[2] in tails[1] for row in rows) == half


def test_restrict_cuts_and_relabels_other_lists(tmp_path):
    truth = listed(tmp_path)
    more = listed(tmp_path, 7, name="ordinary") | listed(tmp_path, 8, name="aras")
    listed(tmp_path)                                                                     # the labels of the first list
    found, _ = split(tmp_path, restrict=tuple(f"{tmp_path}/{name}.txt" for name in ("ordinary", "aras")))
    chosen = sorted({truth[path][0] for path in found["train"].paths})
    for name in ("ordinary", "aras"):
        some = found[name]
        assert some.classes == found["train"].classes
        assert some.paths == [path for path in read_list(tmp_path / f"{name}.txt").paths if more[path][0] in chosen]
        assert some.labels == [chosen.index(more[path][0]) for path in some.paths] and set(some.labels) == {0, 1, 2, 3}


def test_several_lists_and_videos_without_labels(tmp_path, capsys):
    """A video named twice counts once, and one without labels is nowhere."""
    truth = listed(tmp_path, actions=4)
    lines = (tmp_path / "train.txt").read_text().splitlines(True)
    for name, some in (("one", lines[:200]), ("two", lines[150:])):
        (tmp_path / f"{name}.txt").write_text("".join(some))
    with np.load(tmp_path / "scene.npz") as file:
        arrays = {key: file[key] for key in file}
    left = set(arrays["paths"][:40].tolist())
    arrays |= {key: arrays[key][40:] for key in ("paths", "probabilities")}
    (tmp_path / "scene.npz").unlink()
    common.save_arrays(tmp_path / "scene.npz", **arrays)
    found, _ = split(tmp_path, lists=("one", "two"))
    assert "40 videos without labels left out" in capsys.readouterr().out
    both = found["train"].paths + found["val"].paths
    assert len(set(both)) == 4 * 28 and not left & set(both) and set(both) <= truth.keys()
    assert split(tmp_path, "whole")[0]["train"].paths == found["train"].paths


def test_actions_that_are_too_small_are_passed_over_and_named(tmp_path, capsys):
    truth = listed(tmp_path, actions=4)
    with (tmp_path / "train.txt").open("a") as file:                              # a fifth, all of it in one scene
        file.write("".join(f"train/e/{i}.mp4 4\n" for i in range(300)))
    (tmp_path / "classes.txt").write_text("".join(f"act {a}\n" for a in "abcde"))
    with np.load(tmp_path / "scene.npz") as file:
        paths, p, categories = file["paths"], file["probabilities"], file["categories"]
    (tmp_path / "scene.npz").unlink()
    common.save_arrays(tmp_path / "scene.npz", paths=np.array([*paths, *(f"train/e/{i}.mp4" for i in range(300))]),
                       probabilities=np.concatenate([p, p[:1].repeat(300, 0)]), categories=categories)
    found, _ = split(tmp_path)
    assert "passed over, too small: act e" in capsys.readouterr().out
    assert found["train"].classes == [f"act {a}" for a in "abcd"] and {truth[p][0] for p in found["val"].paths} == {
        0, 1, 2, 3}


def refused(capsys, folder, words):
    """One line on stderr, exit code 2, nothing written. -> the line"""
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        common.cli(Args, None, smad.TOY, smad.SHORT, ["split", *words], smad.STEPS)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert sorted(path.name for path in folder.rglob("*")) == before
    return error[0]


def test_bad_input_to_split(tmp_path, capsys):
    listed(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/other.txt").write_text("a.mp4 0\n")
    (tmp_path / "val.txt").write_text("x.mp4 0\n")
    (tmp_path / "scenes.txt").write_text("".join(f"{a}.mp4 {a}\n" for a in range(6)))
    (tmp_path / "few.txt").write_text("x.mp4 1\n")
    common.save_arrays(tmp_path / "others.npz", paths=np.array(["x"]), probabilities=np.eye(2)[:1],
                       categories=np.array(["a", "b"]))
    good = dict(labels=f"scene={tmp_path}/scene.npz", out=str(tmp_path / "new")) | SMALL
    for change, lists, message in (
            ({}, (), "name a list of videos, then --labels NAME=FILE.npz, one or more"),
            (dict(labels=()), ["train"], "name a list of videos, then --labels NAME=FILE.npz, one or more"),
            (dict(labels="scene.npz"), ["train"], "--labels NAME=FILE.npz, one or more; scene.npz is none"),
            (dict(labels=f"scene={tmp_path}/none.npz"), ["train"], "none.npz: No such file"),
            (dict(labels=f"scene={tmp_path}/others.npz"), ["train"], "--labels: none has labels of the lists' video"),
            ({}, ["none"], "none.txt: cannot read it: No such file"),
            ({}, ["train", "there/other"], "the same folder, or in --root, and of the same classes"),
            (dict(out=str(tmp_path / "there")), ["train"], "there exists: remove it, or name another folder"),
            (dict(train_size=1000), ["train"], "only 0 of 6 actions have --train-size 1000 and --val-size 8 videos in "
                                               "disjoint scenes: .* .too few: act [a-f], act [a-f], act [a-f]; 0 vid"),
            (dict(classes=7), ["train"], "only 6 of 6 actions .*give fewer --classes"),
            (dict(val_size=59), ["train"], "only [0-3] of 6 actions have"),
            (dict(train_size=70, overlap=("1.0",)), ["train"], "only [0-3] of 6 actions have"),
            (dict(overlap=("0.5", "1.5")), ["train"], "--overlap 0.5 1.5: shares from 0 to 1"),
            (dict(overlap=("half",)), ["train"], "--overlap half: shares from 0 to 1"),
            (dict(overlap=("nan",)), ["train"], "--overlap nan: shares from 0 to 1"),
            (dict(val_size=0), ["train"], "--val-size 0: must be at least 1"),
            (dict(restrict=(f"{tmp_path}/val.txt",)), ["train"], "--restrict .*val.txt: .* another list is val.txt"),
            (dict(restrict=(f"{tmp_path}/scenes.txt",) * 2), ["train"], ".*scenes.txt: .* another list is scenes.txt"),
            (dict(restrict=(f"{tmp_path}/none.txt",)), ["train"], "none.txt: cannot read it")):
        words = [*(f"{tmp_path}/{name}.txt" for name in lists), *argv(good | change)]
        assert re.search(message, line := refused(capsys, tmp_path, words)), line
    few = min(set(range(6)) - {"abcdef".index(name[-1]) for name in split(tmp_path)[0]["val"].classes})
    (tmp_path / "few.txt").write_text(f"x.mp4 {few}\n")
    words = [f"{tmp_path}/train.txt", *argv(good | dict(restrict=(f"{tmp_path}/few.txt",), out=f"{tmp_path}/again"))]
    assert "none of its videos is of these classes" in refused(capsys, tmp_path, words)
