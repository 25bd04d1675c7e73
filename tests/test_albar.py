"""albar.py's parts: each loss against a closed form or a slow loop, the sign and size of its gradients, the static
clip, the augmentations, the models and their weights. Whole runs are in test_train.py."""

import contextlib
import copy
import math
import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

import albar
from albar import Args, Network, Tiny
from common import UserError, Videos, centre_clip, load_weights, random_clip, read_list, train_transform

K = 5
LOSSES = ("adv", "ent", "gp")


class Attention(nn.Module):
    """Patches, one layer of torch's own attention, a head. (N, 3, T, H, W) -> (N, num_classes)"""

    def __init__(self, num_classes):
        super().__init__()
        self.patches, self.qkv = nn.Conv3d(3, 8, (1, 4, 4), (1, 4, 4)), nn.Linear(8, 24)
        self.head = nn.Linear(8, num_classes)

    def forward(self, clip):
        qkv = self.qkv(self.patches(clip).flatten(2).transpose(1, 2)).unflatten(-1, (2, 12)).transpose(1, 2)
        x = F.scaled_dot_product_attention(*qkv.chunk(3, -1))                                   # (N, 2 heads, L, 4)
        return self.head(F.gelu(x.transpose(1, 2).flatten(2)).mean(1))


def swin(num_classes=K):
    return SwinTransformer3d([2, 4, 4], 12, [1, 1], [2, 2], [2, 2, 2], stochastic_depth_prob=0.0,
                             num_classes=num_classes)


def batch_norm():
    return nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 3, 2, 1),
                         nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, K))


NO_BATCH_NORM = {"tiny": lambda: Tiny(K, 8), "attention": lambda: Attention(K), "swin": swin}
BACKBONES = NO_BATCH_NORM | {"batch_norm": batch_norm}


def network(name="tiny", seed=0, double=True):
    torch.manual_seed(seed)
    net = Network(BACKBONES[name](), K).train()
    return net.double() if double else net


def batch(n=4, shape=(4, 16, 16), seed=1, double=True):
    """Clips and labels: the static clip of none is the clip itself."""
    torch.manual_seed(seed)
    clip = torch.randn(n, 3, *shape, dtype=torch.float64 if double else torch.float32)
    return {"clip": clip, "label": torch.arange(n) % K}


def weights(**given):
    """Args with these weights and the other two at 0."""
    return Args(**dict.fromkeys(("w_adv", "w_ent", "w_gp"), 0.0) | given)


def middle(clip):
    """The static clip of the middle frame, written otherwise than albar.py does."""
    return torch.stack([clip[:, :, clip.shape[2] // 2]] * clip.shape[2], 2)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def step(model, args, data, sequential=False):
    """Gradients of training_step's loss, by one backward pass or by two one after the other. -> loss, gradients"""
    model.zero_grad(set_to_none=True)
    loss, _ = albar.training_step(model, data, args, (lambda part: part.backward()) if sequential else None)
    loss.backward()
    return loss.detach(), gradients(model)


def close(a, b, rtol=1e-5):
    """Dicts of tensors: equal up to rtol of the largest element of all."""
    scale = max(float(v.abs().max()) for v in b.values())
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol, rtol * scale) for k in b)


# ---- Losses ---------------------------------------------------------------------------------------------------------
def log_softmax(row):
    most = max(row)
    return [v - most - math.log(sum(math.exp(u - most) for u in row)) for v in row]


def test_equations_1_to_3_against_slow_loops():
    z, label = torch.randn(7, K, dtype=torch.float64) * 3, torch.arange(7) % K
    target = torch.rand(7, K, dtype=torch.float64)
    target /= target.sum(1, keepdim=True)
    log_p = [log_softmax(row) for row in z.tolist()]
    ce = -sum(row[y] for row, y in zip(log_p, label.tolist(), strict=True)) / 7
    soft = -sum(t * v for row, ts in zip(log_p, target.tolist(), strict=True) for v, t in zip(row, ts, strict=True)) / 7
    assert albar.cross_entropy(z, label).item() == pytest.approx(ce, rel=1e-12)
    assert albar.cross_entropy(z, target).item() == pytest.approx(soft, rel=1e-12)
    assert albar.static_adversarial(z, label).item() == pytest.approx(-ce, rel=1e-12)
    ent = sum(math.exp(v) * v for row in log_p for v in row) / 7
    assert albar.entropy_maximisation(z).item() == pytest.approx(ent, rel=1e-12)


def test_entropy_is_bounded_by_the_uniform_prediction():
    uniform = albar.entropy_maximisation(torch.full((3, K), 7.0, dtype=torch.float64))
    assert uniform.item() == pytest.approx(-math.log(K), rel=1e-12)
    for size in (1e-3, 1, 30):
        assert -math.log(K) < albar.entropy_maximisation(torch.randn(50, K, dtype=torch.float64) * size) < 0


def test_losses_of_extreme_logits_are_finite():
    z = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    ent = albar.entropy_maximisation(z)
    assert ent.item() == pytest.approx(-math.log(2) / 2)
    for loss in (ent, albar.cross_entropy(z, torch.tensor([1, 0])), albar.static_adversarial(z, torch.tensor([1, 0]))):
        gradient, = torch.autograd.grad(loss, z, retain_graph=True)
        assert loss.isfinite() and gradient.isfinite().all()


def test_equation_5_is_the_weighted_sum():
    assert albar.total_loss(2.0, 3.0, 5.0, 7.0, 1.0, 4.0, 10.0) == 2 + 3 + 20 + 70
    args = Args(model="tiny")
    assert (args.w_adv, args.w_ent, args.w_gp, args.gp_norm, args.static_frame) == (1, 4, 10, "official", "middle")
    net, data = network(), batch()
    loss, logs = albar.training_step(net, data, args)
    z, static = net(data["clip"]), middle(data["clip"]).requires_grad_()
    z_static = net(static)
    g, = torch.autograd.grad(z_static.sum(), static)
    parts = {"ce": F.cross_entropy(z, data["label"]), "adv": -F.cross_entropy(z_static, data["label"]),
             "ent": -torch.distributions.Categorical(logits=z_static).entropy().mean(),
             "gp": g.square().sum((1, 2, 3)).sqrt().mean()}
    for name, value in parts.items():
        assert float(torch.as_tensor(logs[name]).detach()) == pytest.approx(value.item(), rel=1e-5), name
    total = parts["ce"] + parts["adv"] + 4 * parts["ent"] + 10 * parts["gp"]
    assert loss.item() == logs["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert float(logs["accuracy"]) == pytest.approx((z.argmax(1) == data["label"]).double().mean().item())
    assert float(logs["static_accuracy"]) == pytest.approx((z_static.argmax(1) == data["label"]).double().mean().item())


# ---- Gradient penalty (Eq. 4) ---------------------------------------------------------------------------------------
def slow_norms(g):
    """(N, C, T, H, W) -> the norm as printed, and the official code's: each a mean over the batch"""
    full, official = [], []
    for clip in g.tolist():
        columns = np.zeros(g.shape[-1])
        for channel in clip:
            for frame in channel:
                for row in frame:
                    columns += np.square(row)
        full.append(math.sqrt(columns.sum()))
        official.append(np.sqrt(columns).mean())
    return {"full": np.mean(full), "official": np.mean(official)}


@pytest.mark.parametrize("name", ["attention", "tiny"])
def test_penalty_against_finite_differences_of_the_summed_logits(name):
    net, clip = network(name), batch(2, (2, 4, 8))["clip"]
    static = middle(clip)
    g, flat = torch.zeros_like(static), static.view(-1)
    with torch.no_grad():
        for i in range(flat.numel()):                                       # a clip's logits depend on that clip alone
            value, ends = flat[i].item(), []
            for h in (1e-5, -1e-5):
                flat[i] = value + h
                ends.append(net(static).sum())
            flat[i], g.view(-1)[i] = value, (ends[0] - ends[1]) / 2e-5
    static.requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        z = net(static)
    for norm, value in slow_norms(g).items():
        assert albar.gradient_penalty(z, static, norm).item() == pytest.approx(value, rel=1e-5)
        assert albar.gradient_penalty(z, static, norm, scale=1024.0).item() == pytest.approx(value, rel=1e-5)


def linear(rows, shape=(2, 3, 2, 4, 9)):
    """Logits of a linear model: rows(K, C, T, H, W) . clip. -> logits, clip"""
    clip = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    return torch.einsum("kcthw,ncthw->nk", rows, clip), clip


def test_penalty_of_a_linear_model_and_the_factor_between_the_norms():
    torch.manual_seed(0)
    for _ in range(5):
        rows = torch.randn(K, 3, 2, 4, 9, dtype=torch.float64)
        z, clip = linear(rows)
        full, official = (albar.gradient_penalty(z, clip, norm).item() for norm in ("full", "official"))
        assert full == pytest.approx(rows.sum(0).norm().item(), rel=1e-6)
        assert official == pytest.approx(rows.sum(0).square().sum((0, 1, 2)).sqrt().mean().item(), rel=1e-6)
        assert official < full / math.sqrt(9)                                               # Cauchy-Schwarz: D1
    z, clip = linear(torch.ones(K, 3, 2, 4, 9).double() * torch.randn(K, 3, 2, 4, 1).double())    # spread evenly over W
    full, official = (albar.gradient_penalty(z, clip, norm).item() for norm in ("full", "official"))
    assert official == pytest.approx(full / math.sqrt(9), rel=1e-6)
    rows = torch.zeros(K, 3, 2, 4, 9, dtype=torch.float64)
    rows[..., 4] = torch.randn(K, 3, 2, 4)                                                  # all of it in one column
    z, clip = linear(rows)
    full, official = (albar.gradient_penalty(z, clip, norm).item() for norm in ("full", "official"))
    assert official == pytest.approx(full / 9, rel=1e-4)


def test_penalty_sees_logits_and_not_probabilities_nor_centred_rows():
    torch.manual_seed(0)
    rows = torch.randn(K, 3, 2, 4, 9, dtype=torch.float64)
    z, clip = linear(rows)
    for norm in ("full", "official"):
        assert albar.gradient_penalty(z, clip, norm) > 1
        assert albar.gradient_penalty(z.softmax(1), clip, norm) < 2e-6                    # S1; 1e-6 is the root's floor
        assert albar.gradient_penalty(*linear(rows - rows.mean(0)), norm) < 2e-6                    # measured.md
    zero = torch.zeros(K, 3, 2, 4, 9, dtype=torch.float64, requires_grad=True)
    albar.gradient_penalty(*linear(zero)).backward()
    assert zero.grad.isfinite().all()                                                       # the root at 0


def test_log_names_the_gauge_and_the_true_logit():
    net, data = network(), batch()
    plain, _ = step(net, weights(w_gp=1.0), data)
    loss, logs = albar.training_step(net, data, weights(w_gp=1.0), log=True)
    assert loss.item() == plain.item()
    assert float(logs["head_row_sum"]) == pytest.approx(net.head.weight.sum(0).norm().item(), rel=1e-6)
    static = middle(data["clip"]).requires_grad_()
    g, = torch.autograd.grad(net(static)[torch.arange(4), data["label"]].sum(), static)
    assert float(logs["gp_true_logit"]) == pytest.approx(slow_norms(g)["official"], rel=1e-5)
    assert not any(torch.is_tensor(v) and v.requires_grad for k, v in logs.items() if k in ("gp_true_logit",))


@contextlib.contextmanager
def moved(changes):
    """Parameters with a change added to each, for as long as this is open."""
    for sign in (1, -1):
        with torch.no_grad():
            for p, change in changes:
                p += sign * change
        if sign == 1:
            yield


@pytest.mark.parametrize("norm", ["official", "full"])
@pytest.mark.parametrize("name", list(NO_BATCH_NORM))
def test_gradient_of_the_whole_loss_against_finite_differences(name, norm):
    """The double backward, through convolutions, torch's fused attention, shifted windows: parameter by parameter."""
    args, data = Args(w_adv=1.0, w_ent=4.0, w_gp=10.0, gp_norm=norm), batch(3)
    net = network(name)
    for key in [key for key, m in net.named_modules() if isinstance(m, nn.ReLU)]:
        net.set_submodule(key, nn.Softplus())                                   # at a ReLU's corner the penalty jumps
    _, g = step(net, args, data)
    size = math.sqrt(sum(float(v.square().sum()) for v in g.values()))

    for key, p in net.named_parameters():
        direction, ends = g[key] / g[key].norm().clamp_min(1e-12), []
        for h in (1e-3, -1e-3):
            with moved([(p, h * direction)]):
                ends.append(albar.training_step(net, data, args)[0].item())
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(g[key].norm().item(), rel=0.01, abs=2e-3 * size), key


# ---- Signs ----------------------------------------------------------------------------------------------------------
def static_figures(net, data):
    """What each loss is meant to move, computed apart: static CE, static entropy, penalty (as printed)."""
    static = middle(data["clip"]).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        z = net(static)
    g, = torch.autograd.grad(z.sum(), static)
    return {"adv": F.cross_entropy(z, data["label"]).item(), "gp": slow_norms(g)["official"],
            "ent": torch.distributions.Categorical(logits=z).entropy().mean().item()}


@pytest.mark.parametrize("part", ["encoder", "head"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["tiny", "swin"])
def test_a_step_down_each_loss_moves_what_it_should(name, loss, part):
    net, data = network(name), batch()
    with torch.no_grad():
        net.head.weight.mul_(10)                                                 # away from the uniform prediction
    net.zero_grad()
    term, _ = albar.training_step(net, data, weights(**{f"w_{loss}": 2.0}), backward=lambda ce: None)
    term.backward()                                                             # the gradient of 2 L_adv (or ...) alone
    before = static_figures(net, data)[loss]
    chosen = [p for key, p in net.named_parameters()
              if ("head." in key) == (part == "head") and p.grad is not None]               # no bias is in a penalty
    size = torch.stack([p.grad.norm() for p in chosen]).norm().item()
    assert size > 1e-3
    with moved([(p, -1e-5 * p.grad / size) for p in chosen]):
        change = static_figures(net, data)[loss] - before
    expected = (-1 if loss == "gp" else 1) * 1e-5 * size / 2
    assert change == pytest.approx(expected, rel=0.1)                    # CE and entropy rise, the penalty falls


# ---- Weights of 0 ---------------------------------------------------------------------------------------------------
class Calls(list):
    """The inputs of a model's forward passes."""

    def __init__(self, model):
        super().__init__()
        model.register_forward_pre_hook(lambda module, inputs: self.append(inputs[0].detach().clone()))


def test_all_weights_0_is_plain_cross_entropy_bit_for_bit():
    net, data = network(double=False), batch(double=False)
    calls = Calls(net)
    for sequential in (False, True):
        loss, g = step(net, weights(), data, sequential)
        assert len(calls) == 1 and torch.equal(calls[0], data["clip"])                    # no static forward at all
        net.zero_grad()
        plain = F.cross_entropy(net(data["clip"]), data["label"])
        plain.backward()
        assert torch.equal(loss, plain.detach()) and all(torch.equal(g[k], v) for k, v in gradients(net).items())
        calls.clear()
    _, logs = albar.training_step(net, data, weights(), log=True)
    assert set(logs) == {"loss", "ce", "accuracy"}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_0_switches_its_computation_off(loss, monkeypatch):
    functions = {"adv": "static_adversarial", "ent": "entropy_maximisation", "gp": "gradient_penalty"}
    called = []

    def spy(name, real, *a, **k):
        called.append(name)
        return real(*a, **k)

    for name, function in functions.items():
        monkeypatch.setattr(albar, function, partial(spy, name, getattr(albar, function)))
    net, data = network(), batch()
    calls = Calls(net)
    step(net, weights(**{f"w_{loss}": 1.0}), data)
    assert called == [loss] and len(calls) == 2
    assert torch.equal(calls[0], data["clip"]) and torch.equal(calls[1], middle(data["clip"]))
    step(net, weights(**{f"w_{name}": 1.0 for name in LOSSES if name != loss}), data)
    assert called[1:] == [name for name in LOSSES if name != loss]


# ---- Static clip ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sample", [centre_clip, random_clip])
def test_static_clip_of_the_real_pipeline_is_still_and_a_frame_of_its_moving_clip(world, sample):
    videos = Videos(read_list(world / "train.txt"), lambda n, rng: sample(n, 8, 2, rng=rng),
                    train_transform(32, (0.3, 0.6), 0.5), seed=3)
    clip = torch.stack([videos[i]["clip"] for i in range(4)])                                       # uint8
    assert clip.shape == (4, 3, 8, 32, 32) and clip.dtype == torch.uint8
    assert all((clip[:, :, t] != clip[:, :, t + 1]).flatten(1).any(1).all() for t in range(7))         # it moves
    for frame, t in {"first": 0, "middle": 4, "last": 7}.items():
        static = albar.static_clip(clip, frame)
        assert static.shape == clip.shape
        assert all(torch.equal(static[:, :, s], clip[:, :, t]) for s in range(8)), frame
    chosen = [set() for _ in clip]                                                  # of each clip, drawn apart
    for seed in range(60):
        torch.manual_seed(seed)
        static = albar.static_clip(clip, "random")
        assert (static == static[:, :, :1]).all()
        for i, (still, moving) in enumerate(zip(static, clip, strict=True)):
            which = [t for t in range(8) if torch.equal(still[:, 0], moving[:, t])]
            assert len(which) == 1
            chosen[i] |= set(which)
        torch.manual_seed(seed)
        assert torch.equal(static, albar.static_clip(clip, "random"))
    assert all(c == set(range(8)) for c in chosen)


@pytest.mark.parametrize("frame", ["first", "middle", "last", "random"])
@pytest.mark.parametrize("name", ["none", "mixup", "videomix", "stillmix"])
def test_the_network_sees_the_moving_clip_and_one_unmixed_frame_of_it(frame, name):
    """Same crop and flip (S2), and no augmentation of Table 1 touches the static clip (S4)."""
    net, data = network(double=False), batch(double=False)
    calls = Calls(net)
    _, logs = albar.training_step(net, data, Args(static_frame=frame, augment=name, augment_prob=1.0))
    moving, static = calls
    assert torch.equal(moving, data["clip"]) == (name == "none")
    for still, clip in zip(static, data["clip"], strict=True):
        t = [t for t in range(4) if torch.equal(still[:, 0], clip[:, t])]
        assert t == [{"first": 0, "middle": 2, "last": 3}.get(frame, t[0])] and (still == still[:, :1]).all()
    with torch.no_grad():
        assert float(logs["adv"]) == pytest.approx(-F.cross_entropy(net(static), data["label"]).item(), rel=1e-5)


# ---- Backward -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("static_bn", ["eval", "train"])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_backward_in_two_gives_the_gradient_of_one_sum(name, static_bn):
    args, data = Args(static_bn=static_bn), batch()
    (loss, g), (_, g_two) = step(network(name), args, data), step(network(name), args, data, sequential=True)
    assert close(g_two, g) and loss.isfinite() and max(float(v.abs().max()) for v in g.values()) > 1e-3


def test_a_batch_in_two_parts_gives_the_gradient_of_the_whole():
    net, args, data = network(), Args(), batch(6)
    _, whole = step(net, args, data)
    parts = [step(net, args, {k: v[i::2] for k, v in data.items()}, sequential=True)[1] for i in range(2)]
    assert close({k: (parts[0][k] + parts[1][k]) / 2 for k in whole}, whole)


def test_static_batch_norm_statistics():
    """--static-bn eval: the running statistics are what the moving clips alone leave (S3); train mixes them in."""
    start, data = network("batch_norm"), batch()
    left = {}
    for mode in ("plain", "eval", "train"):
        net = copy.deepcopy(start)
        args = weights() if mode == "plain" else Args(w_gp=0.0, static_bn=mode)
        albar.training_step(net, data, args)
        left[mode] = {k: v for k, v in net.state_dict().items() if "running" in k or "tracked" in k}
        assert all(m.training for m in net.modules())
    moved = [k for k, v in start.state_dict().items() if k in left["plain"] and not torch.equal(v, left["plain"][k])]
    assert len(moved) == len(left["plain"]) == 6
    assert all(torch.equal(left["eval"][k], v) for k, v in left["plain"].items())
    assert not any(torch.equal(left["train"][k], v) for k, v in left["plain"].items())


# ---- Augmentations --------------------------------------------------------------------------------------------------
def mixing(n=6, shape=(3, 8, 10), seed=0):
    torch.manual_seed(seed)
    clip, target = torch.rand(n, 3, *shape), F.one_hot(torch.arange(n), n).float()
    return clip, target, torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])


def test_mixup_against_a_slow_loop():
    clip, target, share = mixing()
    mixed, labels = albar.mixup(clip, target, share, 0.3)
    for i in range(6):
        lam = 0.3 if share[i] else 1.0
        torch.testing.assert_close(mixed[i], lam * clip[i] + (1 - lam) * clip[i - 1])
        torch.testing.assert_close(labels[i], lam * target[i] + (1 - lam) * target[i - 1])


@pytest.mark.parametrize("seed", range(6))
def test_videomix_against_a_slow_loop(seed):
    clip, target, share = mixing(seed=seed)
    lam = (0.9, 0.5, 0.1)[seed % 3]
    mixed, labels = albar.videomix(clip, target, share, lam)
    pasted = (mixed != clip).any(1)                                                                 # (N, T, H, W)
    assert (pasted == pasted[:, :1]).all()                                              # the same box in all frames
    for i in range(6):
        box = pasted[i, 0]
        rows, columns = (torch.where(box.any(axis))[0].tolist() for axis in (1, 0))
        assert box.any() == bool(share[i])
        assert box.sum() == len(rows) * len(columns)                                                # a rectangle
        assert len(rows) <= 8 * (1 - lam) ** 0.5 + 1 and len(columns) <= 10 * (1 - lam) ** 0.5 + 1
        torch.testing.assert_close(mixed[i], torch.where(box, clip[i - 1], clip[i]))
        area = box.float().mean()
        torch.testing.assert_close(labels[i], (1 - area) * target[i] + area * target[i - 1])


def test_videomix_boxes_have_the_area_of_lambda_on_average():
    clip, target, _ = mixing(2, (1, 64, 64))
    torch.manual_seed(0)
    areas = [1 - albar.videomix(clip, target, torch.ones(2), 0.75)[1][0, 0].item() for _ in range(400)]
    assert max(areas) == pytest.approx(0.25, abs=0.01) and 0.12 < np.mean(areas) < 0.25       # some cross the border


def test_stillmix_against_a_slow_loop():
    clip, target, share = mixing()
    frames = set()
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, labels = albar.stillmix(clip, target, share, 0.4)
        assert torch.equal(labels, target)                                                      # the label is kept
        fits = [t for t in range(3) if all(
            torch.allclose(mixed[i, :, s], 0.4 * clip[i, :, s] + 0.6 * clip[i - 1, :, t] if share[i] else clip[i, :, s])
            for i in range(6) for s in range(3))]
        assert len(fits) == 1                                                          # one frame, held still
        frames |= set(fits)
    assert frames == {0, 1, 2}


@pytest.mark.parametrize("name, a", [("mixup", 0.2), ("videomix", 1.0), ("stillmix", 200.0)])
def test_augment_draws_one_lambda_a_batch_and_samples_by_probability(name, a, monkeypatch):
    n, drawn, beta = 300, [], torch.distributions.Beta

    class Known(beta):
        def sample(self):
            drawn.append((float(self.concentration0), float(self.concentration1)))
            return torch.tensor(0.4)

    monkeypatch.setattr(torch.distributions, "Beta", Known)
    clip = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1, 1).expand(n, 3, 2, 20, 20).contiguous()
    target = F.one_hot(torch.arange(n)).double()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)                     # a share of 0 is then exactly 0
    kept, labels = albar.augment(clip, target, name, 0.0)
    assert torch.equal(kept, clip) and torch.equal(labels, target)
    assert albar.augment(clip, target, "none", 1.0)[0] is clip
    drawn.clear()
    torch.manual_seed(0)
    mixed, labels = albar.augment(clip, target, name, 0.75)
    assert drawn == [pytest.approx((a, a))]
    took = (clip - mixed)[1:, 0, 0].mean((1, 2)).round(decimals=6)        # of the sample before: 1 - lambda, or an area
    assert abs((took > 0).double().mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)
    assert len(took.unique()) == 2 and (took.max() == 0.6 or name == "videomix" and 0.1 < took.max() <= 0.6)
    torch.testing.assert_close(1 - labels.diagonal()[1:], took if name != "stillmix" else 0 * took, atol=1e-6, rtol=0)
    torch.testing.assert_close(labels.sum(1), torch.ones(n).double())


def test_augmented_labels_reach_the_loss():
    net, data = network(double=False), batch(double=False)
    for name in albar.AUGMENT:
        torch.manual_seed(5)
        loss, _ = albar.training_step(net, data, Args(w_adv=0.0, w_ent=0.0, w_gp=0.0, augment=name, augment_prob=1.0))
        torch.manual_seed(5)
        mixed, target = albar.augment(data["clip"], F.one_hot(data["label"], K).float(), name, 1.0)
        expected = -(target * net(mixed).log_softmax(1)).sum(1).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# ---- Schedule -------------------------------------------------------------------------------------------------------
def test_learning_rate_warms_up_and_ends_at_0():
    factor = [albar.learning_rate(s, 100, 10) for s in range(101)]
    assert factor[:10] == pytest.approx([0.1 * k for k in range(1, 11)]) and factor[10] == 1
    assert factor[55] == pytest.approx(0.5) and factor[100] == pytest.approx(0) and 0 < factor[99] < 1e-3
    assert factor[40] == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert all(a > b for a, b in zip(factor[10:], factor[11:], strict=False))
    assert albar.learning_rate(0, 100, 0) == 1


@pytest.mark.parametrize("warmup", [2.5, 0.3, 7.75])
def test_learning_rate_never_exceeds_its_peak(warmup):
    assert max(albar.learning_rate(s, 30, warmup) for s in range(31)) <= 1


# ---- Models and weights ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, shape, width", [("tiny", (2, 3, 8, 32, 32), 64), ("r3d_18", (2, 3, 4, 32, 32), 512),
                                                ("swin3d_t", (2, 3, 4, 32, 32), 768),
                                                ("s3d", (1, 3, 16, 224, 224), 1024)])
@torch.no_grad()
def test_head_of_features_is_forward(name, shape, width):
    net, clip = albar.build_model(Args(model=name), K).eval(), torch.randn(shape)
    features, logits = net.features(clip), net(clip)
    assert features.shape == (shape[0], width) and logits.shape == (shape[0], K)
    head = net.head(features[..., None, None, None]).flatten(1) if name == "s3d" else net.head(features)
    torch.testing.assert_close(head, logits, rtol=1e-4, atol=1e-5)
    net.features(clip)
    assert not net.head._forward_pre_hooks                                                     # no hook stays behind


@pytest.mark.parametrize("name", torchvision.models.list_models(torchvision.models.video))
def test_head_swap_keeps_torchvisions_names(name):
    with torch.device("meta"):
        net, theirs = albar.build_model(Args(model=name), K), torchvision.models.get_model(name, weights=None)
    ours, theirs = net.state_dict(), {f"backbone.{k}": v for k, v in theirs.state_dict().items()}
    assert list(ours) == list(theirs)
    other = {k.rsplit(".", 1)[0] for k in ours if ours[k].shape != theirs[k].shape}
    assert other == {f"backbone.{net.head_name}"} and net.head.weight.shape[0] == K
    assert net.head is net.backbone.get_submodule(net.head_name)


def test_unknown_model_is_named():
    with pytest.raises(UserError, match="--model resnet50.*tiny.*swin3d_t"):
        albar.build_model(Args(model="resnet50"), K)


def load(net, content, tmp_path):
    """load_weights of a file that holds this"""
    torch.save(content, tmp_path / "weights.pt")
    return load_weights(net, tmp_path / "weights.pt", "swin3d_t", net.head_name)


def test_weights_of_torchvision_with_another_number_of_classes(tmp_path):
    torch.manual_seed(1)
    theirs, net = swin(7).state_dict(), network("swin", double=False)
    head, said = copy.deepcopy(net.head), load(net, theirs, tmp_path)
    assert "new head of 5 classes for one of 7" in said and f"{len(theirs) - 2} tensors" in said
    for key, value in net.backbone.state_dict().items():
        new = head.state_dict().get(key.removeprefix("head."), value)
        assert torch.equal(value, new if key.startswith("head.") else theirs[key]), key


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "backbone.", "model.", "module.model.", ""])
def test_weights_with_other_peoples_prefixes(prefix, tmp_path):
    theirs, net = network("swin", seed=1, double=False), network("swin", double=False)
    saved = {prefix + k: v for k, v in theirs.backbone.state_dict().items()}
    for content in (saved, {"state_dict": saved}, {"model": saved, "epoch": 3}):
        said = load(network("swin", double=False), content, tmp_path)
        assert ("stripped" in said) == (prefix not in ("", "backbone.")) and "new head" not in said
    load(net, saved, tmp_path)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in net.state_dict().items())


def test_weights_that_do_not_fit_are_listed(tmp_path):
    net = network("swin", double=False)
    before, good = copy.deepcopy(net.state_dict()), swin().state_dict()
    key = "features.0.0.attn.qkv.weight"
    for bad, odd in (({**good, key: torch.zeros(3, 3)}, key), ({k: v for k, v in good.items() if k != key}, key),
                     ({**good, "extra.weight": torch.zeros(1)}, "extra.weight"),
                     ({k: v for k, v in good.items() if k != "head.bias"}, "head.bias")):
        with pytest.raises(UserError, match=f"do not fit.*{odd}"):
            load(net, bad, tmp_path)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for none in ({"a": 3}, {}, {"state_dict": {"a": "b"}}):
        with pytest.raises(UserError):
            load(net, none, tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_weights_that_would_run_code_are_refused(save, tmp_path):
    save({"model": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    why = "evil.pt: (its pickle asks for [a-z]+.system|not a file of weights)"
    with pytest.raises(UserError, match=why) as refused:
        load_weights(network(double=False), tmp_path / "evil.pt", "tiny", "head")
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)


def test_named_weights_of_torchvision(monkeypatch):
    net = albar.build_model(Args(model="r3d_18"), K)
    named = torchvision.models.get_model_weights("r3d_18")["KINETICS400_V1"]
    theirs = {k.removeprefix("backbone."): torch.full_like(v, 2) for k, v in net.state_dict().items()}
    theirs["fc.weight"], theirs["fc.bias"] = torch.zeros(400, 512), torch.zeros(400)
    monkeypatch.setattr(type(named), "get_state_dict", lambda self, **k: theirs)
    assert "new head of 5 classes for one of 400" in load_weights(net, "KINETICS400_V1", "r3d_18", net.head_name)
    assert (net.backbone.stem[0].weight == 2).all() and (net.head.weight != 2).all()

    def offline(self, **k):
        raise OSError("no network")

    monkeypatch.setattr(type(named), "get_state_dict", offline)
    for given, message in (("KINETICS400_V1", "cannot download .*no network.*give a file"),
                           ("IMAGENET", "no such file, nor r3d_18's")):
        with pytest.raises(UserError, match=message):
            load_weights(net, given, "r3d_18", net.head_name)
    with pytest.raises(UserError, match="no such file, nor tiny's"):
        load_weights(network(double=False), "KINETICS400_V1", "tiny", "head")
    assert load_weights(net, "none", "r3d_18", net.head_name) == "random weights"
