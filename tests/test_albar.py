"""albar.py's parts: each loss against a closed form or a slow loop, the sign and size of its
gradients, the static clip, the augmentations, the models and their weights. Whole runs are in
test_train.py."""

import contextlib
import copy
import math
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models.video.swin_transformer import SwinTransformer3d

import albar
from albar import Args
from common import Network, Tiny, UserError, load_weights

K = 5
LOSSES = ("adv", "ent", "gp")


class Attention(nn.Module):
    """Patches, one layer of torch's own attention, a head. (N, 3, T, H, W) -> (N, num_classes)"""

    def __init__(self, num_classes):
        super().__init__()
        self.patches = nn.Conv3d(3, 8, (1, 4, 4), (1, 4, 4))
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, num_classes)

    def forward(self, clip):
        tokens = self.patches(clip).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).unflatten(-1, (2, 12)).transpose(1, 2)
        x = F.scaled_dot_product_attention(*qkv.chunk(3, -1))  # (N, 2 heads, L, 4)
        return self.head(F.gelu(x.transpose(1, 2).flatten(2)).mean(1))


def swin(num_classes=K):
    sizes = dict(patch_size=[2, 4, 4], embed_dim=12, window_size=[2, 2, 2])
    depths = dict(depths=[1, 1], num_heads=[2, 2], stochastic_depth_prob=0.0)
    return SwinTransformer3d(**sizes, **depths, num_classes=num_classes)


def batch_norm():
    layers = [nn.Conv3d(3, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveAvgPool3d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, K))


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
    """Args with these weights and the others at 0."""
    return Args(**dict(w_adv=0.0, w_ent=0.0, w_gp=0.0) | given)


def middle(clip):
    """The static clip of the middle frame, written otherwise than albar.py does."""
    return torch.stack([clip[:, :, clip.shape[2] // 2]] * clip.shape[2], 2)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def step(model, args, data, in_two=False):
    """training_step, and one backward pass of its loss, or two one after the other. -> loss,
    gradients"""
    model.zero_grad(set_to_none=True)
    backward = (lambda part: part.backward()) if in_two else None
    loss, _ = albar.training_step(model, data, args, backward)
    loss.backward()
    return loss.detach(), gradients(model)


# ---- Losses --------------------------------------------------------------------------------------
def log_softmax(row):
    most = max(row)
    log_sum = math.log(sum(math.exp(v - most) for v in row))
    return [v - most - log_sum for v in row]


def test_equations_1_to_3_against_slow_loops():
    torch.manual_seed(0)
    z = torch.randn(7, K, dtype=torch.float64) * 3
    label = torch.arange(7) % K
    target = torch.rand(7, K, dtype=torch.float64).softmax(1)
    hard = soft = ent = 0
    for row, y, probabilities in zip(z.tolist(), label.tolist(), target.tolist(), strict=True):
        log_p = log_softmax(row)
        hard -= log_p[y] / 7
        for v, t in zip(log_p, probabilities, strict=True):
            soft -= t * v / 7
            ent += math.exp(v) * v / 7
    assert albar.cross_entropy(z, label).item() == pytest.approx(hard, rel=1e-12)
    assert albar.cross_entropy(z, target).item() == pytest.approx(soft, rel=1e-12)
    assert albar.static_adversarial(z, label).item() == pytest.approx(-hard, rel=1e-12)
    assert albar.entropy_maximisation(z).item() == pytest.approx(ent, rel=1e-12)


def test_losses_of_extreme_logits_are_finite():
    z = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    label = torch.tensor([1, 0])
    ent = albar.entropy_maximisation(z)
    assert ent.item() == pytest.approx(-math.log(2) / 2)
    for loss in (ent, albar.cross_entropy(z, label), albar.static_adversarial(z, label)):
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert loss.isfinite() and gradient.isfinite().all()


def test_equation_5_is_the_weighted_sum():
    assert albar.total_loss(2.0, 3.0, 5.0, 7.0, 1.0, 4.0, 10.0) == 2 + 3 + 20 + 70
    args = Args()
    assert (args.w_adv, args.w_ent, args.w_gp) == (1, 4, 10)
    assert (args.gp_norm, args.static_frame) == ("official", "middle")
    net = network()
    data = batch()
    loss, metrics = albar.training_step(net, data, args)
    z = net(data["clip"])
    static = middle(data["clip"]).requires_grad_()
    z_static = net(static)
    (g,) = torch.autograd.grad(z_static.sum(), static)
    entropy = torch.distributions.Categorical(logits=z_static).entropy()
    expected = {
        "ce": F.cross_entropy(z, data["label"]),
        "adv": -F.cross_entropy(z_static, data["label"]),
        "ent": -entropy.mean(),
        "gp": g.square().sum((1, 2, 3)).sqrt().mean(),
        "accuracy": (z.argmax(1) == data["label"]).double().mean(),
        "static_accuracy": (z_static.argmax(1) == data["label"]).double().mean(),
    }
    expected["loss"] = expected["ce"] + expected["adv"] + 4 * expected["ent"] + 10 * expected["gp"]
    assert metrics.keys() == expected.keys() and loss is metrics["loss"]
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-5), name


# ---- Gradient penalty (Eq. 4) --------------------------------------------------------------------
def slow_norms(g):
    """(N, C, T, H, W) -> the norm as printed, and the official code's: each a mean over the
    batch"""
    full = []
    official = []
    for clip in g.numpy():
        columns = np.zeros(g.shape[-1])
        for row in clip.reshape(-1, g.shape[-1]):
            columns += np.square(row)
        full.append(math.sqrt(columns.sum()))
        official.append(np.sqrt(columns).mean())
    return {"full": np.mean(full), "official": np.mean(official)}


def linear_penalties(rows):
    """The penalties of a linear model, logits = rows (K, C, T, H, W) . clip."""
    clip = torch.randn(2, *rows.shape[1:], dtype=torch.float64, requires_grad=True)
    z = torch.einsum("kcthw,ncthw->nk", rows, clip)
    return [albar.gradient_penalty(z, clip, norm) for norm in ("full", "official")]


def test_penalty_of_a_linear_model_and_the_factor_between_the_norms():
    torch.manual_seed(0)
    rows = torch.randn(K, 3, 2, 4, 9, dtype=torch.float64)
    full, official = linear_penalties(rows)
    assert full.item() == pytest.approx(rows.sum(0).norm().item(), rel=1e-6)
    columns = rows.sum(0).square().sum((0, 1, 2)).sqrt()
    assert official.item() == pytest.approx(columns.mean().item(), rel=1e-6)
    assert official < full / math.sqrt(9)  # Cauchy-Schwarz: D1
    # Spread evenly over W.
    full, official = linear_penalties(rows[..., :1].expand_as(rows))
    assert official.item() == pytest.approx(full.item() / math.sqrt(9), rel=1e-6)
    # All of it in one column.
    rows[..., :4] = 0
    rows[..., 5:] = 0
    full, official = linear_penalties(rows)
    assert official.item() == pytest.approx(full.item() / 9, rel=1e-4)


def test_penalty_sees_logits_and_not_probabilities_nor_centred_rows():
    torch.manual_seed(0)
    rows = torch.randn(K, 3, 2, 4, 9, dtype=torch.float64)
    clip = torch.randn(2, 3, 2, 4, 9, dtype=torch.float64, requires_grad=True)
    p = torch.einsum("kcthw,ncthw->nk", rows, clip).softmax(1)
    assert min(linear_penalties(rows)) > 1
    # 1e-6 is the root's floor.
    assert albar.gradient_penalty(p, clip) < 2e-6  # S1
    assert max(linear_penalties(rows - rows.mean(0))) < 2e-6
    # The root's derivative at 0.
    zero = torch.zeros_like(rows, requires_grad=True)
    sum(linear_penalties(zero)).backward()
    assert zero.grad.isfinite().all()


def test_log_names_the_gauge_and_the_true_logit():
    net = network()
    data = batch()
    plain, _ = step(net, weights(w_gp=1.0), data)
    loss, metrics = albar.training_step(net, data, weights(w_gp=1.0), log=True)
    assert loss.item() == plain.item()
    row_sum = net.head.weight.sum(0).norm().item()
    assert metrics["head_row_sum"].item() == pytest.approx(row_sum, rel=1e-6)
    static = middle(data["clip"]).requires_grad_()
    (g,) = torch.autograd.grad(net(static)[torch.arange(4), data["label"]].sum(), static)
    expected = slow_norms(g)["official"]
    assert metrics["gp_true_logit"].item() == pytest.approx(expected, rel=1e-5)


@contextlib.contextmanager
def moved(changes):
    """Parameters with a change added to each, for as long as this is open."""
    with torch.no_grad():
        for parameter, change in changes:
            parameter += change
    yield
    with torch.no_grad():
        for parameter, change in changes:
            parameter -= change


@pytest.mark.parametrize("norm", ["official", "full"])
@pytest.mark.parametrize("name", list(NO_BATCH_NORM))
def test_gradient_of_the_whole_loss_against_finite_differences(name, norm):
    """The double backward, through convolutions, torch's fused attention, shifted windows:
    parameter by parameter."""
    args = Args(gp_norm=norm)
    data = batch(3)
    net = network(name)
    # At a ReLU's corner the penalty jumps.
    for key in [key for key, module in net.named_modules() if isinstance(module, nn.ReLU)]:
        net.set_submodule(key, nn.Softplus())
    _, g = step(net, args, data)
    size = torch.stack([value.norm() for value in g.values()]).norm().item()

    for key, parameter in net.named_parameters():
        norm = g[key].norm()
        direction = 1e-3 * g[key] / norm.clamp_min(1e-12)
        ends = []
        for change in (direction, -direction):
            with moved([(parameter, change)]):
                ends.append(albar.training_step(net, data, args)[0].item())
        slope = (ends[0] - ends[1]) / 2e-3
        assert slope == pytest.approx(norm.item(), rel=0.01, abs=2e-3 * size), key


# ---- Signs ---------------------------------------------------------------------------------------
def static_figures(net, data):
    """What each loss is meant to move, computed apart."""
    static = middle(data["clip"]).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        z = net(static)
    (g,) = torch.autograd.grad(z.sum(), static)
    return {
        "adv": F.cross_entropy(z, data["label"]).item(),
        "ent": torch.distributions.Categorical(logits=z).entropy().mean().item(),
        "gp": slow_norms(g)["official"],
    }


@pytest.mark.parametrize("part", ["encoder", "head"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["tiny", "swin"])
def test_a_step_down_each_loss_moves_what_it_should(name, loss, part):
    net = network(name)
    data = batch()
    with torch.no_grad():
        net.head.weight.mul_(10)  # away from the uniform prediction
    net.zero_grad()
    # L_CE goes to `backward`: the rest is 2 L_adv, or another alone.
    args = weights(**{f"w_{loss}": 2.0})
    term, metrics = albar.training_step(net, data, args, backward=lambda ce: None)
    term.backward()
    # What has a weight of 0 is not computed.
    assert [name for name in LOSSES if metrics[name] != 0] == [loss]
    before = static_figures(net, data)[loss]
    chosen = []
    for key, parameter in net.named_parameters():
        if key.startswith("head.") == (part == "head"):
            chosen.append(parameter)
    size = torch.stack([parameter.grad.norm() for parameter in chosen]).norm().item()
    assert size > 1e-3
    with moved([(parameter, -1e-5 * parameter.grad / size) for parameter in chosen]):
        change = static_figures(net, data)[loss] - before
    # Cross-entropy and entropy of the static clip rise, the penalty falls.
    sign = -1 if loss == "gp" else 1
    assert change == pytest.approx(sign * 1e-5 * size / 2, rel=0.1)


# ---- Weights of 0 --------------------------------------------------------------------------------
def inputs_of(model):
    """A list that fills with the inputs of a model's forward passes."""
    clips = []
    model.register_forward_pre_hook(lambda module, inputs: clips.append(inputs[0].detach().clone()))
    return clips


def test_all_weights_0_is_plain_cross_entropy_bit_for_bit():
    net = network(double=False)
    data = batch(double=False)
    clips = inputs_of(net)
    for in_two in (False, True):
        loss, g = step(net, weights(), data, in_two)
        assert len(clips) == 1 and torch.equal(clips[0], data["clip"])  # no static forward at all
        net.zero_grad()
        plain = F.cross_entropy(net(data["clip"]), data["label"])
        plain.backward()
        assert torch.equal(loss, plain.detach())
        assert all(torch.equal(g[key], value) for key, value in gradients(net).items())
        clips.clear()
    _, metrics = albar.training_step(net, data, weights(), log=True)
    assert set(metrics) == {"loss", "ce", "accuracy"}


# ---- Static clip ---------------------------------------------------------------------------------
def same_frames(still, clip):
    """The frames of clip (3, T, H, W) that the first frame of `still` is."""
    return [t for t in range(clip.shape[1]) if torch.equal(still[:, 0], clip[:, t])]


def test_static_clip_is_one_frame_of_each_clip():
    clips = torch.randint(256, (4, 3, 8, 6, 6), dtype=torch.uint8)
    for frame, t in {"first": 0, "middle": 4, "last": 7}.items():
        static = albar.static_clip(clips, frame)
        assert torch.equal(static, clips[:, :, t : t + 1].expand_as(clips)), frame
    chosen = [set() for _ in clips]  # of each clip, drawn apart
    for seed in range(60):
        torch.manual_seed(seed)
        static = albar.static_clip(clips, "random")
        assert (static == static[:, :, :1]).all()
        for i in range(4):
            (t,) = same_frames(static[i], clips[i])
            chosen[i].add(t)
    assert all(frames == set(range(8)) for frames in chosen)


@pytest.mark.parametrize("frame", ["first", "middle", "last", "random"])
@pytest.mark.parametrize("name", ["none", "mixup", "videomix", "stillmix"])
def test_the_network_sees_the_moving_clip_and_one_unmixed_frame_of_it(frame, name):
    """Same crop and flip (S2), and no augmentation of Table 1 touches the static clip (S4)."""
    net = network(double=False)
    data = batch(double=False)
    clips = inputs_of(net)
    args = Args(static_frame=frame, augment=name, augment_prob=1.0)
    _, metrics = albar.training_step(net, data, args)
    moving, static = clips
    assert torch.equal(moving, data["clip"]) == (name == "none")
    assert (static == static[:, :, :1]).all()
    for still, clip in zip(static, data["clip"], strict=True):
        (t,) = same_frames(still, clip)
        assert frame == "random" or t == {"first": 0, "middle": 2, "last": 3}[frame]
    with torch.no_grad():
        expected = -F.cross_entropy(net(static), data["label"]).item()
    assert metrics["adv"].item() == pytest.approx(expected, rel=1e-5)


# ---- Backward ------------------------------------------------------------------------------------
@pytest.mark.parametrize("static_bn", ["eval", "train"])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_backward_in_two_gives_the_gradient_of_one_sum(name, static_bn):
    args = Args(static_bn=static_bn)
    _, whole = step(network(name), args, batch())
    _, in_two = step(network(name), args, batch(), in_two=True)
    size = max(value.abs().max() for value in whole.values())
    assert size > 1e-3
    for key, value in whole.items():
        torch.testing.assert_close(in_two[key], value, rtol=1e-5, atol=1e-5 * size.item())


def test_static_batch_norm_statistics():
    """--static-bn eval: the running statistics are what the moving clips alone leave (S3); train
    mixes them in."""
    start = network("batch_norm")
    left = {}
    plain = weights()
    held = Args(w_gp=0.0, static_bn="eval")
    mixed = Args(w_gp=0.0, static_bn="train")
    for name, args in (("plain", plain), ("eval", held), ("train", mixed)):
        net = copy.deepcopy(start)
        albar.training_step(net, batch(), args)
        left[name] = dict(net.named_buffers())
        assert all(module.training for module in net.modules())
    assert len(left["plain"]) == 3
    for key, value in left["plain"].items():
        assert not torch.equal(start.state_dict()[key], value)
        assert torch.equal(left["eval"][key], value)
        assert not torch.equal(left["train"][key], value)


# ---- Schedule ------------------------------------------------------------------------------------
def test_learning_rate_warms_up_and_ends_at_0():
    factor = [albar.learning_rate(i, 10, Args(epochs=10, warmup=1.0)) for i in range(101)]
    assert factor[:10] == pytest.approx([0.1 * k for k in range(1, 11)]) and factor[10] == 1
    assert factor[40] == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert factor[55] == pytest.approx(0.5) and factor[100] == pytest.approx(0)
    assert factor[10:] == sorted(factor[10:], reverse=True)
    for warmup in (0.0, 0.03, 0.25, 0.775):
        args = Args(epochs=3, warmup=warmup)
        factor = [albar.learning_rate(i, 10, args) for i in range(31)]
        assert 0.9 < max(factor) <= 1


# ---- Models and weights --------------------------------------------------------------------------
@pytest.mark.parametrize("name", torchvision.models.list_models(torchvision.models.video))
def test_backbone_keeps_torchvisions_names(name):
    with torch.device("meta"):
        net = albar.build_model(Args(model=name), K)
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    expected = {}
    for key, value in theirs.items():
        if not key.startswith(f"{net.head_name}."):
            expected[f"backbone.{key}"] = value.shape
    ours = {key: value.shape for key, value in net.state_dict().items()}
    width = theirs[f"{net.head_name}.weight"].shape[1]
    assert ours.pop("head.weight") == (K, width) and ours.pop("head.bias") == (K,)
    assert ours == expected


@pytest.mark.parametrize(
    "name, shape",
    [("r3d_18", (2, 3, 4, 32, 32)), ("swin3d_t", (2, 3, 4, 32, 32)), ("s3d", (2, 3, 16, 64, 64))],
)
@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_logits(name, shape, tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=K).eval()
    for module in theirs.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)  # else s3d's features are next to nothing
    net = albar.build_model(Args(model=name), K).eval()
    note = load(net, theirs.state_dict(), tmp_path)
    assert note == f"{len(theirs.state_dict())} tensors from {tmp_path / 'weights.pt'}"
    if name == "s3d":
        # Its own pool takes no smaller clip than 224 pixels.
        theirs.avgpool = net.backbone.avgpool = nn.AdaptiveAvgPool3d(1)
    clip = torch.randn(shape)
    logits = net(clip)
    assert net.features(clip).shape == (shape[0], net.head.in_features)
    torch.testing.assert_close(logits, theirs(clip), rtol=1e-4, atol=1e-5)
    assert (logits - net.head.bias).abs().max() > 0.1
    torch.testing.assert_close(net.head(net.features(clip)), logits)


def load(net, content, tmp_path):
    """load_weights of a file that holds this"""
    torch.save(content, tmp_path / "weights.pt")
    return load_weights(net, tmp_path / "weights.pt", "swin3d_t")


def test_weights_of_torchvision_with_another_number_of_classes(tmp_path):
    net = network("swin", double=False)
    theirs = swin(7).state_dict()
    head = copy.deepcopy(net.head.state_dict())
    note = load(net, theirs, tmp_path)
    assert "new head of 5 classes for one of 7" in note and f"{len(theirs) - 2} tensors" in note
    for key, value in net.backbone.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    for key, value in net.head.state_dict().items():
        assert torch.equal(value, head[key]), key


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "model.", "module.model.", ""])
def test_weights_with_other_peoples_prefixes(prefix, tmp_path):
    torch.manual_seed(1)
    theirs = swin().state_dict()
    saved = {prefix + key: value for key, value in theirs.items()}
    for content in (saved, {"state_dict": saved}, {"model": saved, "epoch": 3}):
        net = network("swin", double=False)
        note = load(net, content, tmp_path)
        assert "new head" not in note
        assert (f"stripped {prefix}" in note) == bool(prefix)
        ours = net.backbone.state_dict()
        ours |= {f"head.{key}": value for key, value in net.head.state_dict().items()}
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_weights_that_do_not_fit_are_listed(tmp_path):
    net = network("swin", double=False)
    before = copy.deepcopy(net.state_dict())
    good = swin().state_dict()
    key = "features.0.0.attn.qkv.weight"
    bad = {
        key: good | {key: torch.zeros(3, 3)},
        "features.0.0.norm1.bias": {
            k: v for k, v in good.items() if k != "features.0.0.norm1.bias"
        },
        "extra.weight": good | {"extra.weight": torch.zeros(1)},
        "head.bias": {k: v for k, v in good.items() if k != "head.bias"},
    }
    for odd, content in bad.items():
        with pytest.raises(UserError, match=f"1 keys do not fit the model: .*{odd}"):
            load(net, content, tmp_path)
    for content in ({"a": 3}, {}, {"state_dict": {"a": "b"}}):
        with pytest.raises(UserError):
            load(net, content, tmp_path)
    assert all(torch.equal(value, before[k]) for k, value in net.state_dict().items())


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda v, path: path.write_bytes(pickle.dumps(v))])
def test_weights_that_would_run_code_are_refused(save, tmp_path):
    save({"model": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    reason = "evil.pt: not tensors and plain containers .*nothing in it was run"
    with pytest.raises(UserError, match=reason) as refused:
        load_weights(network(double=False), tmp_path / "evil.pt", "tiny")
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)


def test_named_weights_of_torchvision(monkeypatch):
    net = albar.build_model(Args(model="r3d_18"), K)
    named = type(torchvision.models.get_model_weights("r3d_18")["KINETICS400_V1"])
    theirs = {key: torch.full_like(v, 2) for key, v in net.backbone.state_dict().items()}
    theirs |= {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    monkeypatch.setattr(named, "get_state_dict", lambda self, **how: theirs)
    note = load_weights(net, "KINETICS400_V1", "r3d_18")
    assert "new head of 5 classes for one of 400" in note
    assert (net.backbone.stem[0].weight == 2).all() and (net.head.weight != 2).all()

    def offline(self, **how):
        raise OSError("no network")

    monkeypatch.setattr(named, "get_state_dict", offline)
    bad = {
        ("KINETICS400_V1", "r3d_18"): "cannot download .*no network.*give a file",
        ("IMAGENET", "r3d_18"): "no such file, nor r3d_18's",
        ("KINETICS400_V1", "tiny"): "no such file, nor tiny's",
    }
    for (given, model), message in bad.items():
        with pytest.raises(UserError, match=message):
            load_weights(net, given, model)
    assert load_weights(net, "none", "r3d_18") == "random weights"
