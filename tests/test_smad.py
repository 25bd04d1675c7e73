"""smad.py's parts: each equation against a slow loop, which way the gradient of each aspect moves
which parameters, SAAR's mask, the networks and other people's weights, HVU's tags, the
re-distributed splits. Whole runs are in test_train.py."""

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
from conftest import argv, load, log_lines, presets, same
from toy import write_labels_folder
from torch import nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

import albar
import common
import smad
from common import UserError, load_weights, nmi, read_list
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


def network(*aspects, double=True, **change):
    """With a score map that is no longer constant, as after some training."""
    torch.manual_seed(0)
    heads = {name: SIZES[name] for name in aspects}
    net = smad.build_model(Args(**TOY | change), K, heads).train()
    if net.saar is not None:
        nn.init.normal_(net.saar.score.weight, 0, 0.3)
    if double:
        net = net.double()
    return net


def random_batch(*aspects, n=4, double=True):
    torch.manual_seed(1)
    kind = torch.float64 if double else torch.float32
    labels = {}
    for name in aspects:
        if name in TAGS:
            labels[name] = torch.randint(2, (n, SIZES[name])).to(kind)
        else:
            labels[name] = torch.randn(n, SIZES[name], dtype=kind).softmax(1)
    clip = torch.randn(n, 3, 4, 16, 16, dtype=kind)
    return {"clip": clip, "label": torch.arange(n) % K, "aspects": labels, "tags": TAGS}


def apart(net, clip):
    """Features (N, S, D), action logits and each aspect's (N, S, D), without the reversal layer:
    put together from the parts, a TSN's frame by frame."""
    clips = [clip]
    if net.tsn:
        clips = clip.unbind(2)
        if net.is_tiny:
            clips = [frame[:, :, None] for frame in clips]
    features = torch.stack([features_apart(net, x) for x in clips], 1)
    logits = torch.stack([net.head(g) for g in features.unbind(1)]).mean(0)
    return features, logits, {name: head(features) for name, head in net.adversaries.items()}


def features_apart(net, x):
    if net.is_tiny:
        early = net.backbone.layers[:6]
        late = net.backbone.layers[6:]
    else:
        layers = list(net.backbone.children())  # ..., layer4, the pooling, the old head's place
        early = nn.Sequential(*layers[:-3])
        late = layers[-3]
    x = early(x)
    if net.saar is not None:
        x, _ = net.saar(x)
    return late(x).flatten(2).mean(2)


def slow_soft(row, p):
    """One row's SoftCE and KLDiv"""
    top = max(row)
    total = math.log(sum(math.exp(u - top) for u in row))
    log = [v - top - total for v in row]
    soft = -sum(b * v for b, v in zip(p, log, strict=True))
    kl = sum(b * (math.log(b) - v) for b, v in zip(p, log, strict=True) if b)
    return soft, kl


def slow_bce(row, tags):
    total = 0
    for v, tag in zip(row, tags, strict=True):
        q = 1 / (1 + math.exp(-v))
        total -= math.log(q if tag else 1 - q)
    return total / len(row)


def adversarial(s, p, args):
    """An aspect's weighted loss of logits (N, S, D), labels (N, D), row by row; the mean over
    videos and segments."""
    loss = 0
    for row, label in zip(s.flatten(0, 1), p.repeat_interleave(s.shape[1], 0), strict=True):
        if set(label.tolist()) <= {0.0, 1.0}:
            right = torch.where(label > 0, row.sigmoid(), 1 - row.sigmoid())
            loss = loss - args.w_bce * right.log().mean()
        else:
            log = row - row.logsumexp(0)
            loss = loss - args.w_ce * (label * log).sum()
            loss = loss + args.w_kl * (label * (label.log() - log)).sum()
    return loss / s.shape[:2].numel()


def groups(net):
    """{"head": theta_Y, "backbone", "stage", "score": Theta with SAAR, each aspect: theta_Z}, each
    {name: parameter}"""
    parts = {}
    for name, p in net.named_parameters():
        words = name.split(".")
        key = words[0]
        if key in ("saar", "adversaries"):
            key = words[1]
        parts.setdefault(key, {})[name] = p
    return parts


THETA = ("backbone", "stage", "score")


def gradient(loss, parameters):
    values = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, values, strict=True))


def assert_agree(gradients, expected, least=1e-5):
    """Gradients of a group: equal to rounding, and not next to nothing."""
    size = max(float(v.abs().max()) for v in expected.values())
    assert gradients.keys() == expected.keys() and size > least
    for name in expected:
        torch.testing.assert_close(
            gradients[name], expected[name], rtol=1e-9, atol=1e-12 * max(1, size)
        )


# ---- Losses --------------------------------------------------------------------------------------
@pytest.fixture
def rows():
    """Logits (6, 7) that want a gradient, soft labels"""
    torch.manual_seed(0)
    s, p = torch.randn(2, 6, 7, dtype=torch.float64)
    return (3 * s).requires_grad_(), p.softmax(1)


def test_equations_against_slow_loops(rows):
    s, p = rows
    losses = [slow_soft(a, b) for a, b in zip(s.tolist(), p.tolist(), strict=True)]
    soft, kl = zip(*losses, strict=True)
    assert smad.soft_cross_entropy(s, p).item() == pytest.approx(sum(soft) / 6, rel=1e-12)  # Eq. 3
    assert smad.kl_divergence(s, p).item() == pytest.approx(sum(kl) / 6, rel=1e-12)  # Eq. 4
    tags = (p > 0.1).double()
    bce = [slow_bce(a, b) for a, b in zip(s.tolist(), tags.tolist(), strict=True)]
    assert smad.binary_cross_entropy(s, tags).item() == pytest.approx(sum(bce) / 6, rel=1e-12)
    one_hot = torch.eye(7)[:6].tolist()
    ce = [slow_soft(a, b)[0] for a, b in zip(s.tolist(), one_hot, strict=True)]
    found = smad.cross_entropy(s, torch.arange(6)).item()
    assert found == pytest.approx(sum(ce) / 6, rel=1e-12)
    assert smad.heads_objective(7.0, [3.0, 5.0], [0.5, 0.1]) == 7 + 1.5 + 0.5  # Eq. 1
    assert smad.backbone_objective(7.0, [3.0, 5.0], [0.5, 0.1]) == 7 - 1.5 - 0.5  # Eq. 2
    assert smad.heads_objective(7.0, [], []) == smad.backbone_objective(7.0, [], []) == 7


def test_kldiv_is_softce_less_the_entropy_of_the_label_with_the_same_gradient(rows):
    """So that the paper's 0.5 of each is one SoftCE: S1."""
    s, p = rows
    entropy = torch.distributions.Categorical(p).entropy().mean()
    soft = smad.soft_cross_entropy(s, p)
    kl = smad.kl_divergence(s, p)
    assert entropy > 0.5
    assert (soft - entropy).item() == pytest.approx(kl.item(), rel=1e-12)
    gradients = []
    for loss in (soft, kl, (soft + kl) / 2):
        gradients.append(torch.autograd.grad(loss, s, retain_graph=True)[0])
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])
    assert gradients[0].abs().max() > 0.01


@pytest.mark.parametrize(
    "name, none",
    [("soft_cross_entropy", 0.0), ("kl_divergence", 0.0), ("binary_cross_entropy", math.nan)],
)
def test_a_video_without_labels_adds_nothing(rows, name, none):
    """But counts in the mean, so that a batch in parts has one gradient."""
    s, p = rows
    loss = getattr(smad, name)
    if math.isnan(none):
        p = p.round()
    rest = [0, 1, 3, 4, 5]
    p[2] = none
    value = loss(s, p)
    (d,) = torch.autograd.grad(value, s)
    assert value.item() == pytest.approx(5 / 6 * loss(s[rest], p[rest]).item(), rel=1e-12)
    assert (d[2] == 0).all() and (d[rest] != 0).all()


def test_losses_of_extreme_logits_and_labels_are_finite():
    s = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    p = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for loss in (smad.soft_cross_entropy, smad.kl_divergence, smad.binary_cross_entropy):
        value = loss(s, p)
        assert value.isfinite() and torch.autograd.grad(value, s)[0].isfinite().all()


# ---- MAAT: which way each loss moves which parameters --------------------------------------------
WEIGHTS = Args(w_ce=0.3, w_kl=0.9, w_bce=4.0)
models = pytest.mark.parametrize("model", ["tiny", "tsn_tiny"])


@models
@pytest.mark.parametrize("aspects", [("scene",), ("event",), ("scene", "event"), tuple(SIZES)])
def test_heads_follow_equation_1_and_the_backbone_with_saar_equation_2(model, aspects, double):
    """By two separate objectives, without the reversal layer."""
    net = network(*aspects, model=model)
    batch = random_batch(*aspects)
    for name in aspects:
        batch["aspects"][name][1] = math.nan if name in TAGS else 0
    loss, logs = smad.training_step(net, batch, WEIGHTS)
    loss.backward()
    theta = groups(net)
    assert theta.keys() == {"head", *THETA, *aspects}

    _, z, s = apart(net, batch["clip"])
    ce = F.cross_entropy(z, batch["label"])
    labelled = [0, 2, 3]
    adv = []
    for name in aspects:
        mean = adversarial(s[name][labelled], batch["aspects"][name][labelled], WEIGHTS)
        adv.append(mean * 3 / 4)
    penalty = sum(adv) / len(aspects)
    for key, parameters in theta.items():
        reached = {name: p.grad for name, p in parameters.items()}
        if key in THETA:
            assert_agree(reached, gradient(ce - penalty, parameters))  # Eq. (2)
            # And the adversaries have a say in it.
            assert max(g.abs().max() for g in gradient(penalty, parameters).values()) > 1e-4
        else:
            assert_agree(reached, gradient(ce + penalty, parameters))  # Eq. (1)
    assert loss.item() == logs["loss"].item() == pytest.approx((ce + penalty).item(), rel=1e-9)
    assert logs["backbone"].item() == pytest.approx((ce - penalty).item(), rel=1e-9)
    for name, value in zip(aspects, adv, strict=True):
        assert logs[f"{name}_adv"].item() == pytest.approx(value.item(), rel=1e-9)


@models
def test_equation_2_against_finite_differences(model, double):
    """A step of backbone and SAAR along the gradient changes Eq. (2) by the gradient's length."""
    aspects = ("scene", "event")
    net = network(*aspects, model=model)
    batch = random_batch(*aspects)
    smad.training_step(net, batch, WEIGHTS)[0].backward()
    parameters = [p for key in THETA for p in groups(net)[key].values()]
    size = sum(float(p.grad.square().sum()) for p in parameters) ** 0.5
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p in parameters:
                p += step * p.grad / size
            _, z, s = apart(net, batch["clip"])
            adv = [adversarial(s[name], batch["aspects"][name], WEIGHTS) for name in aspects]
            ends.append(F.cross_entropy(z, batch["label"]) - sum(adv) / 2)
    assert size > 0.01
    assert ((ends[0] - ends[1]) / 2e-6).item() == pytest.approx(size, rel=1e-4)


def test_weights_of_0_are_no_adversary(double):
    net = network("scene", "event")
    batch = random_batch("scene", "event")
    smad.training_step(net, batch, Args(w_ce=0.0, w_kl=0.0, w_bce=0.0))[0].backward()
    reached = {name: p.grad for name, p in net.named_parameters()}
    assert not any(g.any() for name, g in reached.items() if name.startswith("adversaries."))
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(batch["clip"]), batch["label"]).backward()
    for name, p in net.named_parameters():
        assert p.grad is None or torch.equal(reached[name], p.grad)


@models
def test_logged_accuracies_count_what_is_known(model, double):
    """Of scenes the videos that are named right; of tags each tag; of a TSN each segment."""
    net = network("scene", "event", model=model)
    batch = random_batch("scene", "event", n=6)
    scene = batch["aspects"]["scene"]
    event = batch["aspects"]["event"]
    _, z, s = apart(net, batch["clip"])
    # Right of each second video, and of two of three tags.
    guess = s["scene"][:, 0].argmax(1) + torch.arange(6) % 2
    scene[:] = F.one_hot(guess % 7, 7)
    event[:] = (s["event"][:, 0] > 0) ^ torch.tensor([True, False, False])
    scene[2] = 0
    event[3] = math.nan
    _, logs = smad.training_step(net, batch, Args())
    assert logs["accuracy"].item() == (z.argmax(1) == batch["label"]).double().mean().item()
    scene_hits = []
    event_hits = []
    for i in range(6):
        for segment in range(s["scene"].shape[1]):
            if i != 2:
                scene_hits.append(bool(s["scene"][i, segment].argmax() == scene[i].argmax()))
            if i != 3:
                event_hits += ((s["event"][i, segment] > 0) == (event[i] > 0)).tolist()
    for name, hits in (("scene", scene_hits), ("event", event_hits)):
        assert logs[f"{name}_accuracy"].item() == pytest.approx(np.mean(hits))
        assert 0 < sum(hits) < len(hits)


def test_clip_grad_is_of_all_parameters_together(flags):
    """One step of plain SGD that may move them by 1e-3."""
    flags |= dict(epochs=1, batch_size=80, optimizer="sgd", lr=1.0, weight_decay=0.0)
    flags |= dict(warmup=0.0, schedule="step", clip_grad=1e-3)
    common.start(0)
    net = smad.build_model(Args(**flags), 8, {"scene": 24, "event": 2})
    moved = load(smad.train(Args(**flags))["checkpoint"])["model"]
    squares = 0.0
    for name, value in net.state_dict().items():
        squares += float((moved[name] - value).double().square().sum())
    assert squares**0.5 == pytest.approx(1e-3, rel=1e-2)


# ---- SAAR ----------------------------------------------------------------------------------------
def make_saar(channels=8, width=4, blocks=1, norm=lambda n: nn.GroupNorm(1, n), scored=True):
    torch.manual_seed(0)
    saar = SAAR(channels, width, blocks, norm)
    if scored:
        nn.init.normal_(saar.score.weight)
    return saar


def test_equation_5_against_loops(double):
    torch.manual_seed(0)
    f = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    a = torch.randn(3, 1, 5, 6, dtype=torch.float64) * 2
    out, mask = smad.actionness_reweighting(f, a)
    for n, h, w in product(range(3), range(5), range(6)):
        frame = a[n, 0].flatten().tolist()  # the softmax is of this frame alone
        weight = 30 * math.exp(a[n, 0, h, w]) / sum(math.exp(score) for score in frame)
        assert mask[n, 0, h, w].item() == pytest.approx(weight, rel=1e-12)
        assert out[n, :, h, w].tolist() == pytest.approx((weight * f[n, :, h, w]).tolist())
    a.requires_grad_()
    f.requires_grad_()
    assert torch.autograd.gradcheck(smad.actionness_reweighting, (f, a))
    shifted = smad.actionness_reweighting(f, a + 1e4)[1]
    torch.testing.assert_close(shifted, mask, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", [2, 4, 7, 8, 14, 16])
def test_a_new_saar_is_the_identity_exactly(side):
    f = torch.randn(4, 8, side, side)
    out, mask = make_saar(scored=False)(f)
    assert torch.equal(out, f) and torch.equal(mask, torch.ones(4, 1, side, side))


@pytest.mark.parametrize("norm", [lambda n: nn.GroupNorm(1, n), nn.BatchNorm2d])
def test_a_frame_has_a_mask_of_its_own_of_mean_1_for_all_channels(norm, double):
    saar = make_saar(norm=norm).eval().double()
    f = torch.randn(2, 8, 3, 5, 6, dtype=torch.float64) + 3
    with torch.no_grad():
        out, mask = saar(f)
        assert out.shape == f.shape and mask.shape == (6, 1, 5, 6) and mask.std() > 0.1
        torch.testing.assert_close(mask.mean((2, 3)), torch.ones(6, 1, dtype=torch.float64))
        for n, t in product(range(2), range(3)):
            # A frame by itself, as a TSN gives it.
            alone, its_mask = saar(f[n : n + 1, :, t])
            torch.testing.assert_close(out[n, :, t], alone[0])
            torch.testing.assert_close(mask[3 * n + t], its_mask[0])
            torch.testing.assert_close(out[n, :, t], f[n, :, t] * its_mask[0])


def test_the_stage_is_bottlenecks_of_the_width_asked_for():
    for channels, width, blocks in ((1024, 64, 2), (256, 32, 3), (32, 4, 1)):
        saar = make_saar(channels, width, blocks, nn.BatchNorm2d)
        assert len(saar.stage) == blocks
        for block in saar.stage:
            shapes = []
            for m in block.modules():
                if isinstance(m, nn.Conv2d):
                    shapes.append((m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]))
            assert shapes == [
                (channels, width, 1, 1),
                (width, width, 3, 1),
                (width, channels, 1, 1),
            ]
        assert saar.score.weight.shape == (1, channels, 3, 3)


def test_gradient_reaches_the_stage_once_the_last_convolution_has_moved():
    saar = make_saar(scored=False)
    f, w = torch.randn(2, 2, 8, 3, 5, 6)
    optimizer = torch.optim.SGD(saar.parameters(), 0.1)
    for moved in (False, True):
        optimizer.zero_grad()
        (saar(f)[0] * w).mean().backward()
        assert saar.score.weight.grad.abs().max() > 1e-4
        assert {bool(p.grad.any()) for p in saar.stage.parameters()} == {moved}
        optimizer.step()


@pytest.mark.parametrize("model", ["tiny", "tsn_tiny", "slowonly_r18", "tsn_r50"])
def test_a_new_network_with_saar_gives_what_it_gives_without(model):
    small = TOY | dict(model=model, size=64)
    torch.manual_seed(0)
    net = smad.build_model(Args(**small), K).eval()
    plain = smad.build_model(Args(**small | dict(saar=False)), K).eval()
    weights = {k: v for k, v in net.state_dict().items() if not k.startswith("saar.")}
    plain.load_state_dict(weights)
    clip = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        assert plain.saar is None and torch.equal(net(clip), plain(clip))
        nn.init.normal_(net.saar.score.weight)
        assert not torch.allclose(net(clip), plain(clip), atol=1e-4)


@models
def test_the_mask_of_a_forward_pass(model, double):
    """Is of the frames in their order, video after video, as evaluate.py shows it."""
    net = network(model=model).eval()
    clip = random_batch()["clip"]
    with torch.no_grad():
        output = net(clip, full=True)
        assert output.mask.shape == (16, 1, 4, 4) and output.mask.std() > 1e-3
        assert torch.equal(output.logits, net(clip))
        for n in range(4):
            torch.testing.assert_close(
                net(clip[n : n + 1], full=True).mask, output.mask[4 * n :][:4]
            )


# ---- Networks ------------------------------------------------------------------------------------
def meta(num_classes=400, **change):
    """A network without numbers: its shapes alone."""
    with torch.device("meta"):
        return smad.build_model(Args(**change), num_classes)


SIZED = {
    "tiny": TOY,
    "tsn_tiny": TOY,
    "slowonly_r18": {},
    "slowonly_r50": {},
    "tsn_r50": dict(frames=3),
    "r3d_18": dict(frames=16, size=112),
}


@pytest.mark.parametrize("model, change", SIZED.items())
def test_saar_is_at_most_2_percent_of_the_operations_at_14_x_14(model, change):
    counts = []
    shapes = []
    for saar in (False, True):
        args = Args(**change | dict(model=model, saar=saar))
        net = meta(**vars(args))
        clip = torch.zeros(1, 3, args.frames, args.size, args.size, device="meta")
        if saar:
            net.saar.stage.register_forward_hook(lambda m, x, out: shapes.append(tuple(out.shape)))
        with FlopCounterMode(display=False) as counter:
            net(clip)
        counts.append(counter.get_total_flops())
    assert 1 < counts[1] / counts[0] <= 1.02 and counts[0] > 3e7
    frames = {"r3d_18": 4}.get(model, args.frames)  # r3d_18 halves time
    if "tiny" in model:
        assert shapes == [(frames, 32, 8, 8)]
    else:
        assert shapes == [(frames, 1024 if "r50" in model else 256, 14, 14)]


def test_defaults_are_the_papers():
    args = Args()
    assert (args.model, args.frames, args.stride, args.size) == ("slowonly_r18", 8, 8, 224)
    assert (args.test_clips, args.weights, args.saar) == (10, "IMAGENET1K_V1", True)
    assert (args.w_ce, args.w_kl, args.w_bce) == (0.5, 0.5, 5.0)
    tsn = parsed("--train", "x.txt", "--tsn")
    assert (tsn.model, tsn.frames, tsn.test_clips) == ("tsn_r50", 3, 25)
    split = smad.SplitArgs()
    assert split.classes * split.train_size == 80_000
    assert split.classes * split.val_size == 10_000


@pytest.mark.parametrize("model, count", [("tsn_r50", 24_327_632), ("slowonly_r50", 32_454_096)])
def test_parameters_are_mmaction2s(model, count):
    """Its tables have 24.33M and 32.45M."""
    assert sum(p.numel() for p in meta(model=model, saar=False).parameters()) == count


@pytest.mark.parametrize("model", ["slowonly_r18", "slowonly_r50"])
def test_slowonly_keeps_every_frame_and_looks_in_time_in_the_last_two_stages_alone(model):
    net = meta(model=model, saar=False)
    lengths = []
    in_time = r"layer[34]\.\d\.conv1$" if "r50" in model else r"layer[34]\.\d\.conv[12]$"
    for name, m in net.backbone.named_modules():
        if isinstance(m, nn.Conv3d | nn.MaxPool3d):
            m.register_forward_hook(lambda m, x, out: lengths.append(out.shape[2]))
        if isinstance(m, nn.Conv3d):
            expected = (3, 1) if re.match(in_time, name) else (1, 0)
            assert (m.kernel_size[0], m.padding[0]) == expected, name
    net(torch.zeros(1, 3, 8, 224, 224, device="meta"))
    assert set(lengths) == {8} and len(lengths) == (21 if "r18" in model else 54)


@pytest.mark.parametrize("model", ["tsn_r50", "slowonly_r18", "slowonly_r50", "r2plus1d_18"])
def test_torchvision_s_names_under_backbone(model):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(smad.torchvision_name(model), weights=None)
    names = [name for name in theirs.state_dict() if not name.startswith("fc.")]
    ours = list(meta(K, model=model, saar=False).state_dict())
    assert ours == [f"backbone.{name}" for name in names] + ["head.weight", "head.bias"]


def randomised(net):
    """Statistics and weights as trained networks have them."""
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.1)
    return net.eval()


def with_weights(model, file, num_classes=K):
    """-> network with the weights of a file, what was said"""
    args = Args(model=model, saar=False, weights=str(file))
    net = smad.build_model(args, num_classes).eval()
    return net, smad.first_weights(net, args)


# Convolutions of three frames in layers 3 and 4.
@pytest.mark.parametrize("depth, reach", [(18, 8), (50, 9)])
def test_an_inflated_resnet_sees_in_equal_frames_what_it_saw_in_one(depth, reach, tmp_path):
    """Far from the ends, where the padding in time is seen."""
    torch.manual_seed(0)
    flat = randomised(torchvision.models.get_model(f"resnet{depth}", weights=None))
    torch.save(flat.state_dict(), tmp_path / "resnet.pth")
    net, note = with_weights(f"slowonly_r{depth}", tmp_path / "resnet.pth")
    assert f"new head of {K} classes for one of 1000" in note
    image = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        one = nn.Sequential(*list(flat.children())[:-2])(image)
        clip = image[:, :, None].expand(-1, -1, 2 * reach + 2, -1, -1)
        several = net.last_stage(net.early_stages(clip))
    size = one.abs().max()
    assert size > 1e-2 and several.shape[2] == 2 * reach + 2
    for frame in several[:, :, reach : reach + 2].unbind(2):
        assert (frame - one).abs().max() < 1e-4 * size
    assert (several[:, :, 0] - one).abs().max() > 1e-2 * size


def mmaction2s(key):
    """A key of torchvision's ResNets in the names of mmaction2: its ConvModule has `conv`, `bn`."""
    *where, leaf = key.split(".")
    if where == ["fc"]:
        return f"cls_head.fc_cls.{leaf}"
    if "downsample" in where:
        where[-1] = {"0": "conv", "1": "bn"}[where[-1]]
    else:
        # conv2 -> conv2.conv
        where[-1:] = [f"conv{where[-1][-1]}", where[-1][:-1]]
    return f"backbone.{'.'.join(where)}.{leaf}"


def torchvisions(key):
    """One of our keys in the names of torchvision's ResNets."""
    return key.replace("head.", "fc.").removeprefix("backbone.")


@pytest.mark.parametrize("model", ["tsn_r50", "slowonly_r18"])
def test_mmaction2_s_checkpoints_load_whole(model, tmp_path):
    torch.manual_seed(0)
    weights = {}
    for key, value in smad.build_model(Args(model=model, saar=False), 400).state_dict().items():
        weights[key] = torch.randn(value.shape) if value.is_floating_point() else value + 7
    theirs = {mmaction2s(torchvisions(key)): value for key, value in weights.items()}
    assert {
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.running_var",
        "backbone.layer4.1.conv2.bn.bias",
        "backbone.layer2.0.downsample.conv.weight",
        "backbone.layer2.0.downsample.bn.num_batches_tracked",
        "cls_head.fc_cls.bias",
    } <= theirs.keys()
    file = tmp_path / "theirs.pth"
    mean = {"data_preprocessor.mean": torch.zeros(1, 3, 1, 1)}  # some have it
    torch.save({"meta": {"epoch": 100}, "state_dict": theirs | mean}, file)
    net, note = with_weights(model, file, 400)
    assert same(dict(net.state_dict()), weights)
    assert note.startswith(f"{len(weights)} tensors from ")
    assert "left out 1 tensors, first data_preprocessor.mean" in note and "new head" not in note
    net, note = with_weights(model, file)
    assert f"new head of {K} classes for one of 400" in note
    assert torch.equal(net.backbone.conv1.weight, weights["backbone.conv1.weight"])
    # A key is gone, and there is one more.
    del theirs["backbone.layer3.1.conv1.conv.weight"]
    torch.save({"state_dict": theirs | {"neck.weight": torch.zeros(3)}}, file)
    message = r"2 keys do not fit the model: .*layer3.1.conv1.weight .missing., .*neck.weight"
    with pytest.raises(UserError, match=message):
        with_weights(model, file, 400)


def test_a_slowonly_checkpoint_does_not_load_into_a_tsn(tmp_path):
    state = smad.build_model(Args(model="slowonly_r18", saar=False), K).state_dict()
    theirs = {mmaction2s(torchvisions(key)): value for key, value in state.items()}
    torch.save(dict(state_dict=theirs), tmp_path / "slow.pth")
    with pytest.raises(UserError, match="keys do not fit the model"):
        with_weights("tsn_r50", tmp_path / "slow.pth")


@pytest.mark.parametrize("model", ["tsn_tiny", "tsn_r50"])
def test_tsn_averages_its_frames_logits_whatever_their_order(model):
    net = randomised(network("scene", model=model, double=False, size=32))
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        output = net(clip, full=True)
        features, logits, aspects = apart(net, clip)
        torch.testing.assert_close(output.logits, logits)
        torch.testing.assert_close(output.features, features)
        torch.testing.assert_close(output.aspects["scene"], aspects["scene"])
        torch.testing.assert_close(net(clip[:, :, [2, 0, 1]]), logits)
        torch.testing.assert_close(net.features(clip), features.mean(1))
        torch.testing.assert_close(net.head(net.features(clip)), logits)
        # As evaluate.py does.
        singles = torch.stack([net(clip[:, :, t : t + 1]) for t in range(3)])
        torch.testing.assert_close(singles.mean(0), logits)
        assert singles.std(0).min() > 1e-5 and (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("model, width", [("tiny", 64), ("slowonly_r18", 512), ("r3d_18", 512)])
def test_logits_features_and_aspects_are_of_one_network(model, width):
    net = network("scene", "event", model=model, double=False, size=32).eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        output = net(clip, full=True)
        features = net.features(clip)
        assert output.logits.shape == (2, K) and features.shape == (2, width)
        assert torch.equal(output.logits, net(clip))
        torch.testing.assert_close(net.head(features), output.logits)
        torch.testing.assert_close(apart(net, clip)[1], output.logits)
        assert torch.equal(output.features, features[:, None])
        assert output.aspects["scene"].shape == (2, 1, 7)
        assert torch.equal(output.aspects["event"][:, 0], net.adversaries["event"](features))
    assert net.scene_head is net.adversaries["scene"] and network().scene_head is None


@pytest.mark.parametrize("kind, widths", [("mlp", [64, 512, 512, 512]), ("linear", [64])])
def test_adversaries(kind, widths):
    net = network("scene", "event", adversary=kind)
    for name in ("scene", "event"):
        layers = [m for m in net.adversaries[name] if isinstance(m, nn.Linear)]
        assert [m.in_features for m in layers] == widths
        assert layers[-1].out_features == SIZES[name]
        assert len(net.adversaries[name]) == 2 * len(widths) - 1


def test_weights_go_to_albar_without_saar_and_the_adversaries_and_back(tmp_path):
    net = network("scene", double=False)
    torch.save(dict(method="smad", model=net.state_dict()), tmp_path / "smad.pt")
    other = albar.build_model(albar.Args(model="tiny"), K)
    note = load_weights(other, str(tmp_path / "smad.pt"), "")
    assert note.endswith("left out 19 tensors, first adversaries.scene.0.weight")
    assert same(dict(other.backbone.state_dict()), dict(net.backbone.state_dict()))
    torch.save(dict(method="albar", model=other.state_dict()), tmp_path / "albar.pt")
    back, note = with_weights("tsn_tiny", tmp_path / "albar.pt")
    assert same(dict(back.backbone.state_dict()), dict(net.backbone.state_dict()))
    assert torch.equal(back.head.weight, net.head.weight) and "left out" not in note


# ---- Flags and data ------------------------------------------------------------------------------
class Built(Exception):
    """Carries the network and how its weights are asked for, out of train()."""


@pytest.fixture
def built(monkeypatch, world, tmp_path):
    """built(words) -> the network that this command line trains, load_weights' arguments"""

    def stop(*words, **more):
        raise Built(words, more)

    def build(*words):
        toy = TOY | dict(train=f"{world}/train.txt", val=f"{world}/val.txt", weights="none")
        toy |= dict(aspect=(f"scene={world}/scenes", f"object={world}/objects"))
        named = presets(smad) | {"toy": toy}
        monkeypatch.setattr(smad, "load_weights", stop)
        with pytest.raises(Built) as out:
            words = [*words, "--out", str(tmp_path / "run")]
            common.cli(Args, smad.train, named, smad.STEPS, argv=words)
        (net, *words), more = out.value.args
        return net, words, more

    return build


FIVE = {"scene": 24, "object": 8, "event": 2, "attribute": 2, "context": 2}
FLAGS = [
    # Table 7
    ("--baseline", "", False),
    ("--no-saar", "scene object", False),
    ("--aspect none", "", True),
    ("", "scene object", True),
    # Table 8
    ("--aspect scene", "scene", True),
    ("--aspect scene object", "scene object", True),
    ("--aspect scene --aspect object", "scene object", True),
    ("--aspect scene object event attribute context", " ".join(FIVE), True),
]


@pytest.mark.parametrize("words, aspects, saar", FLAGS)
def test_tables_7_and_8_by_flags_alone(built, world, words, aspects, saar):
    sources = {"scene": f"scene={world}/scenes", "object": f"object={world}/objects"}
    for name in ("event", "attribute", "context"):
        sources[name] = f"{name}={world}/tags:{name}"
    net, *_ = built(*(sources.get(word, word) for word in words.split()))
    sizes = {name: head[-1].out_features for name, head in net.adversaries.items()}
    assert list(sizes) == aspects.split()
    assert sizes == {name: FIVE[name] for name in sizes}
    assert (net.saar is not None) == saar


@pytest.mark.parametrize(
    "model, arch", [("slowonly_r18", "resnet18"), ("tsn_r50", "resnet50"), ("r3d_18", "r3d_18")]
)
def test_weights_by_name_are_those_of_the_2d_network(built, model, arch):
    _, words, more = built("--model", model, "--weights", "IMAGENET1K_V1")
    assert words == ["IMAGENET1K_V1", arch] and more["fit"] is smad.inflate


def parsed(*words):
    got = []
    common.cli(Args, got.append, presets(smad), smad.STEPS, argv=list(words))
    return got[0]


def test_flags_are_stronger_than_presets():
    assert parsed("--train", "x.txt", "--tsn", "--frames", "8").frames == 8
    assert parsed("--train", "x.txt", "--baseline").aspect == ("none",)
    bare = parsed("--train", "x.txt", "--baseline", "--tsn")
    assert (bare.model, bare.aspect, bare.saar) == ("tsn_r50", ("none",), False)


def test_labels_reach_their_videos(flags, world):
    """Soft labels and tags of both lists."""
    data = smad.make_data(Args(**flags))
    assert data.tags == {"event"}
    labels = np.load(world / "scenes/labels.npy").astype(np.float32)
    rows = dict(zip((world / "scenes/paths.txt").read_text().split(), labels, strict=True))
    with np.load(world / "truth.npz") as file:
        truth = dict(file)
    for part, aspects in (("train", data.aspects), ("val", data.val_aspects)):
        paths = read_list(world / f"{part}.txt").paths
        assert aspects["scene"].tolist() == [rows[path].tolist() for path in paths]
        confetti_and_night = truth[f"{part}/tags"][:, [0, 1]]
        assert aspects["event"].tolist() == confetti_and_night.tolist()


def broken_copy(world, folder, split, names):
    """A folder with a split's videos, of which some are no videos."""
    (folder / split).mkdir()
    for path in (world / split).iterdir():
        (folder / split / path.name).symlink_to(__file__ if path.name in names else path)


def test_what_replaces_an_unreadable_video_brings_its_own_labels(
    flags, world, tmp_path, monkeypatch
):
    broken_copy(world, tmp_path, "train", ["0003.mp4", "0004.mp4"])
    broken_copy(world, tmp_path, "val", [])
    flags |= dict(root=str(tmp_path), max_bad=0.1, epochs=1, batch_size=80)
    batches = []

    def spy(model, batch, args, real=smad.training_step):
        batches.append(batch)
        return real(model, batch, args)

    monkeypatch.setattr(smad, "training_step", spy)
    smad.train(Args(**flags))
    data = smad.make_data(Args(**flags))
    shown = [{3: 5, 4: 5}.get(i, i) for i in next(iter(common.Order(80, 80, 0)))]
    assert batches[0]["label"].tolist() == [data.train.videos.labels[i] for i in shown]
    assert batches[0]["aspects"].keys() == {"scene", "event"}
    assert same(batches[0]["aspects"], {name: p[shown] for name, p in data.aspects.items()})


def test_frames_of_a_clip_and_of_a_tsn(flags):
    data = smad.make_data(Args(**flags | dict(model="tsn_tiny", frames=3)))
    drawn = [data.train.sample(30, rng=np.random.default_rng(i)) for i in range(50)]
    assert (np.array(drawn) // 10 == [0, 1, 2]).all() and len({i for i, *_ in drawn}) > 5
    assert data.val.sample(30, rng=None).tolist() == [5, 15, 25]
    assert data.train[0]["clip"].shape == (3, 3, 16, 16)
    data = smad.make_data(Args(**flags))
    assert np.diff(data.train.sample(30, rng=np.random.default_rng(0))).tolist() == [2] * 3
    assert data.val.sample(30, rng=None).tolist() == common.centre_clip(30, 4, 2).tolist()


@models
def test_validation_figures_against_brute_force(flags, world, tmp_path, model):
    """Not counted: an unreadable video; of an aspect's accuracy also one without a label."""
    broken_copy(world, tmp_path, "val", ["0005.mp4"])
    broken_copy(world, tmp_path, "train", [])
    args = Args(**flags | dict(root=str(tmp_path), max_bad=0.1, model=model, frames=3))
    data = smad.make_data(args)
    labels = data.val_aspects
    labels["scene"][3] = 0
    labels["event"][4] = math.nan
    torch.manual_seed(0)
    net = smad.build_model(args, 8, data.sizes())
    loader = DataLoader(Subset(data.val, range(20)), 6)
    figures = smad.validate(net, loader, data, args, torch.device("cpu"))
    assert net.training
    net.eval()
    indices = [3, 10, 16]  # the middles of three parts
    if model == "tiny":
        indices = common.centre_clip(20, 3, 2).tolist()
    losses = []
    right = []
    hits = {"scene": [], "event": []}
    for i, line in enumerate((world / "val.txt").read_text().splitlines()):
        if i == 5:
            continue
        path, label = line.split()
        frames = common.read_clip(world / path, indices).permute(0, 3, 1, 2)
        clip = common.test_transform(args.size, args.resize)(frames).transpose(0, 1)
        with torch.no_grad():
            _, z, s = apart(net, common.normalise(clip[None], args.mean, args.std))
        losses.append(F.cross_entropy(z[0], torch.tensor(int(label))).item())
        right.append(int(z.argmax()) == int(label))
        if i != 3:
            hits["scene"] += (s["scene"][0].argmax(1) == labels["scene"][i].argmax()).tolist()
        if i != 4:
            hits["event"] += ((s["event"][0] > 0) == (labels["event"][i] > 0)).flatten().tolist()
    assert figures == {
        "val/loss": pytest.approx(np.mean(losses), rel=1e-5),
        "val/accuracy": pytest.approx(np.mean(right)),
        "val/chance": 1 / 8,
        "val/videos": 19,
        "val/unreadable": ["val/0005.mp4"],
        "val/scene_accuracy": pytest.approx(np.mean(hits["scene"])),
        "val/event_accuracy": pytest.approx(np.mean(hits["event"])),
    }


def test_learning_rate(flags):
    args = Args(epochs=6, warmup=2.0, milestones=(3, 5))
    rates = [smad.learning_rate(step, 10, args) for step in range(60)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[20:] == pytest.approx([1] * 10 + [0.1] * 20 + [0.01] * 10)
    args = Args(epochs=6, warmup=2.0, schedule="cosine")
    rates = [smad.learning_rate(step, 10, args) for step in range(61)]
    for step in range(20, 61):
        assert rates[step] == pytest.approx((1 + math.cos(math.pi * (step - 20) / 40)) / 2)
    # Of a run, logged after each step: the next one's.
    flags |= dict(epochs=3, batch_size=40, schedule="step", milestones=(1, 2), warmup=0.5, lr=0.01)
    smad.train(Args(**flags))
    logged = [line["lr"] for line in log_lines(flags["out"]) if "ce" in line]
    assert logged == pytest.approx([0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4])


# ---- HVU's tags ----------------------------------------------------------------------------------
CATEGORIES = """Tag,Category
running,action
wedding,event
fog,concept
warm_up,event
red,attribute
ice,concept
"""
LINES = """running|wedding,abc-_123XYZ,2.3,12.3
fog|ice|red,9,0,10
warm_up|wedding|fog,-fog,100.0,110.0
"""


def write_hvu(folder, lines, categories=CATEGORIES):
    (folder / "HVU_Tags_Categories_V1.0.csv").write_text(categories)
    (folder / "tags.csv").write_text("Tags,youtube_id,time_start,time_end\n" + lines)
    return folder / "tags.csv"


def read_tags(source, category, paths, max_missing=1.0):
    """(n, M) tags of the videos"""
    aspect = smad.read_aspect(f"mood={source}:{category}", paths, max_missing)
    assert aspect.name == "mood" and aspect.are_tags and aspect.labels.dtype == torch.float32
    return aspect.labels


@pytest.mark.parametrize(
    "name",
    [
        "clips/abc-_123XYZ_000002_000012.mp4",
        "abc-_123XYZ_000023_000123.mkv",
        "a/b/abc-_123XYZ.mp4",
        "abc-_123XYZ",
    ],
)
def test_hvu_s_videos_by_name_in_seconds_in_tenths_and_bare(tmp_path, name):
    """The columns are warm_up, wedding; fog, ice: in alphabetical order."""
    file = write_hvu(tmp_path, LINES)
    tags = read_tags(file, "event", [name, "-fog_000100_000110.mp4"])
    assert tags.tolist() == [[0, 1], [1, 1]]
    paths = ["-fog_001000_001100.avi", name, "9.mp4"]
    tags = read_tags(file, "context", paths)
    assert tags.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert torch.equal(tags, read_tags(file, "concept", paths))  # HVU calls it so


def test_tags_without_a_header_and_clips_of_one_id(tmp_path):
    file = write_hvu(tmp_path, "")
    file.write_text("wedding,a,0,10\nwarm_up,a,20,30\nwarm_up,b,0,10\n")
    paths = ["a_000000_000010.mp4", "a_000020_000030.mp4", "b"]
    assert read_tags(file, "event", paths).tolist() == [[0, 1], [1, 0], [1, 0]]
    message = "tags.csv:2: a second clip of a: call its files ID_start_end"
    with pytest.raises(UserError, match=message):
        read_tags(file, "event", ["a.mp4", "b.mp4"])


def test_hvu_s_videos_that_are_not_there_are_nan_up_to_a_share(tmp_path):
    paths = ["9.mp4", "abc-_123XYZ_000003_000013.mp4", "other.mp4"]
    file = write_hvu(tmp_path, LINES)
    tags = read_tags(file, "attribute", paths)
    assert tags[0].tolist() == [1] and tags[1:].isnan().all()
    message = r"tags.csv: no tags of 2 of 3 videos, first abc-_123XYZ_0.*--max-bad"
    with pytest.raises(UserError, match=message):
        read_tags(file, "attribute", paths, 0.5)


@pytest.mark.parametrize(
    "line, message",
    [
        ("running,abc", r"expected `tag\|tag,id,0.0,10.0`: 'running,abc'"),
        ("running,abc,0,ten", "expected"),
        ("running,a,b,0,10", "expected"),
        ("running,abc,nan,10", "expected"),
        ("running,abc,0,inf", "expected"),
        ("walking|running,abc,0,10", "no category of 'walking': 'walking"),
    ],
)
def test_malformed_lines_of_tags_are_refused_by_number(tmp_path, line, message):
    file = write_hvu(tmp_path, LINES + line + "\n" + LINES)
    with pytest.raises(UserError, match=f"tags.csv:5: {message}") as error:
        read_tags(file, "event", ["9.mp4"])
    assert "\n" not in str(error.value)


def test_what_else_is_wrong_with_tags(tmp_path):
    for category, categories, message in (
        ("scene", CATEGORIES, "tags.csv: no tags of 'scene', but of action, attribute, concept, e"),
        ("event", "Tag,Category\nwedding\n", "V1.0.csv:2: expected `Tag,Category`: 'wedding'"),
        ("event", "Tag,Category\na,b,c\n", "V1.0.csv:2: expected `Tag,Category`: 'a,b,c'"),
        ("event", "Tag,Category\n", "tags.csv: no tags of 'event', but of nothing"),
    ):
        file = write_hvu(tmp_path, LINES, categories)
        with pytest.raises(UserError, match=message):
            read_tags(file, category, ["9.mp4"])
    (tmp_path / "HVU_Tags_Categories_V1.0.csv").unlink()
    with pytest.raises(UserError, match="HVU_Tags_Categories_V1.0.csv: cannot read it: No such fi"):
        read_tags(file, "event", ["9.mp4"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not here")
def test_hvu_s_own_categories(tmp_path):
    text = (REAL / "HVU_Tags_Categories_V1.0.csv").read_text()
    label_map = json.loads((REAL / "label_map.json").read_text())
    event = sorted(label_map["event"])
    concept = sorted(label_map["concept"])
    assert (len(event), len(concept)) == (69, 291)
    lines = [f"{event[i]}|{concept[2 * i]},v{i},0,10\n" for i in range(9)]
    file = write_hvu(tmp_path, "".join(lines), text)
    paths = [f"v{i}.mp4" for i in range(9)]
    assert torch.equal(read_tags(file, "event", paths), torch.eye(69)[:9])
    assert torch.equal(read_tags(file, "context", paths), torch.eye(291)[0:18:2])
    assert not read_tags(file, "attribute", paths).any()


def test_tags_of_a_folder_in_the_order_of_its_categories(tmp_path):
    folder = tmp_path / "tags"
    names = ["event:x", "mood:y", "event:w"]
    values = np.array([[1, 0, 1], [0, 1, 1], [math.nan] * 3])
    write_labels_folder(folder, "abc", names, values, {})
    assert read_tags(folder, "event", ["b", "a"]).tolist() == [[0, 1], [1, 1]]
    assert read_tags(folder, "mood", ["a", "c", "d"]).isnan().flatten().tolist() == [0, 1, 1]
    with pytest.raises(UserError, match="tags: no tags of 'context', but of event, mood"):
        read_tags(folder, "context", ["a"])
    np.save(folder / "labels.npy", values.astype(np.float16) / 2)
    with pytest.raises(UserError, match="tags: labels that are not 0 and 1 are no tags"):
        read_tags(folder, "event", ["a"])


@pytest.mark.parametrize("row", [[0.5, 0.2], [1.5, -0.5], [0.0, 0.0]])
def test_soft_labels_that_are_no_probabilities_are_refused(tmp_path, row):
    write_labels_folder(tmp_path / "p", "ab", "xy", np.array([[0.5, 0.5], row]), {})
    aspect = smad.read_aspect(f"scene={tmp_path}/p", ["c", "a"], 0.5)
    assert aspect.labels.tolist() == [[0, 0], [0.5, 0.5]] and not aspect.are_tags
    with pytest.raises(UserError, match="p: the labels of b do not sum to 1"):
        smad.read_aspect(f"scene={tmp_path}/p", ["b", "a"], 0.5)


@pytest.mark.parametrize("spec", ["scene", "a b=x", "=x", "scene=", "scene=x.csv", "pop=x"])
def test_what_is_no_aspect(spec):
    with pytest.raises(UserError, match=f"^--aspect {spec}: (expected NAME=FOLDER|a name that)"):
        smad.read_aspect(spec, ["a"], 0.0)


# sklearn.metrics.normalized_mutual_info_score of scikit-learn 1.9.1, its default
# average_method="arithmetic"
def test_mutual_information_is_scikit_learns():
    i = np.arange(60)
    a = i * i % 7
    b = (i * i // 3 + i) % 5
    for other, value in (
        (b, 0.030029769890984676),
        (i % 3, 0.0024473230334312182),
        (a // 2, 0.8851410596012893),
    ):
        assert nmi(a, other) == pytest.approx(value, abs=1e-12) == nmi(other, a)


# ---- The re-distributed split --------------------------------------------------------------------
def tail_of(facet, n_val):
    """Scenes, whole, the rarest first and of equals the lower number, until they have n_val
    videos."""
    counts = Counter(facet.tolist())
    tail = []
    for scene in sorted(counts, key=lambda scene: (counts[scene], scene)):
        if sum(counts[s] for s in tail) < n_val:
            tail.append(scene)
    return tail


@pytest.mark.parametrize("n_facets", [1, 2])
@pytest.mark.parametrize("reserve", [0, 6])
def test_no_scene_is_in_both_halves_of_any_action(n_facets, reserve):
    """The algorithm of one action, of random sizes and distributions."""
    made = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n = rng.integers(20, 120)
        n_train = rng.integers(5, 50)
        n_val = rng.integers(6, 20)
        facets = [rng.geometric(rng.uniform(0.08, 0.5), n) % 30 for _ in range(n_facets)]
        rare = np.any([np.isin(facet, tail_of(facet, n_val)) for facet in facets], 0)
        parts = smad.redistribute(facets, n_train, n_val, reserve, np.random.default_rng(seed))
        if parts is None:
            assert reserve or (~rare).sum() < n_train or rare.sum() < n_val
            continue
        made += 1
        assert len(parts.train) == n_train and len(parts.tail) == n_val
        assert len(parts.held_out) == reserve
        head = np.concatenate([parts.train, parts.held_out])
        assert len({*head, *parts.tail}) == n_train + n_val + reserve
        assert rare[parts.tail].all() and not rare[head].any()
        for facet in facets:
            assert set(facet[parts.held_out]) <= set(facet[parts.train])
        if n_facets == 1:
            facet = facets[0]
            assert not set(facet[head]) & set(facet[parts.tail])
            # Training takes the most frequent scenes, of which one at most is cut.
            unused = ~rare
            unused[head] = False
            counts = Counter(facet.tolist())
            if unused.any():
                least = min(counts[scene] for scene in facet[head])
                assert max(counts[scene] for scene in facet[unused]) <= least
            assert len(set(facet[unused]) & set(facet[head])) <= 1
    assert made > 30


LETTERS = "abcdefgh"


def write_videos(folder, seed=0, facets=("scene",), actions=6, name="train"):
    """A list of videos of actions with their own long-tailed scenes, of some 60 to 130 each, and a
    labels folder of each facet. -> {path: (action, scene, ...)}"""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    habits = []
    for _ in facets:
        habits.append([rng.permutation(15) for _ in range(actions)])
    truth = {}
    for action in range(actions):
        for i in range(60 + 12 * int(rng.permutation(actions)[0]) + 10 * (action == 2)):
            scenes = [int(habit[action][min(rng.geometric(0.2) - 1, 14)]) for habit in habits]
            truth[f"{name}/{LETTERS[action]}/{i}.mp4"] = (action, *scenes)
    paths = [str(path) for path in rng.permutation(list(truth))]
    lines = [f"{path} {truth[path][0]}\n" for path in paths]
    (folder / f"{name}.txt").write_text("".join(lines))
    names = [f"act {letter}\n" for letter in LETTERS[:actions]]
    (folder / "classes.txt").write_text("".join(names))
    for k, facet in enumerate(facets, 1):
        labels = rng.random((len(paths), 15)) / 30
        labels = labels + np.eye(15)[[truth[path][k] for path in paths]]
        labels = labels / labels.sum(1, keepdims=True)
        if name == "train":
            write_labels_folder(
                folder / facet, paths, [f"{facet}{i}" for i in range(15)], labels, {}
            )
    return truth


SMALL = dict(classes=4, train_size=20, val_size=8)


def split(folder, out="new", facets=("scene",), **change):
    """-> {NAME: VideoList} of the files written, {NAME: {facet: information}}"""
    labels = tuple(f"{facet}={folder}/{facet}" for facet in facets)
    settings = dict(list=f"{folder}/train.txt", labels=labels, out=str(folder / out)) | SMALL
    information = smad.split(smad.SplitArgs(**settings | change))
    files = sorted(path.name for path in (folder / out).iterdir())
    files.remove("classes.txt")
    lists = {name.removesuffix(".txt"): read_list(folder / out / name) for name in files}
    return lists, information


@pytest.mark.parametrize("seed", range(3))
def test_split_of_a_list(tmp_path, capsys, seed):
    truth = write_videos(tmp_path, seed)
    lists, information = split(tmp_path)
    printed = capsys.readouterr().out
    assert lists.keys() == {"train", "val"}
    counts = Counter(action for action, _ in truth.values())
    chosen = sorted(sorted(counts, key=lambda action: (-counts[action], action))[:4])
    scenes = {}
    for name, size in (("train", 20), ("val", 8)):
        videos = lists[name]
        assert videos.classes == [f"act {LETTERS[a]}" for a in chosen]
        assert len(set(videos.paths)) == 4 * size
        assert Counter(videos.labels) == dict.fromkeys(range(4), size)
        assert [truth[path][0] for path in videos.paths] == [chosen[k] for k in videos.labels]
        scenes[name] = {truth[path] for path in videos.paths}  # (action, scene)
        value, at_random = information[name]["scene"]
        assert value == pytest.approx(nmi(*np.array([truth[path] for path in videos.paths]).T))
        assert f"{name}.txt: {4 * size} videos" in printed
        assert f"scene {value:.3f} ({at_random:.3f} if sampled at random)" in printed
    assert not scenes["train"] & scenes["val"] and len(scenes["val"]) > 4


def test_what_a_random_sample_would_give(tmp_path):
    truth = write_videos(tmp_path)
    lists, information = split(tmp_path)
    value, at_random = information["train"]["scene"]
    rng = np.random.default_rng(0)
    values = []
    for _ in range(60):
        rows = []
        for action in {truth[path][0] for path in lists["train"].paths}:
            videos = [row for row in truth.values() if row[0] == action]
            rows += rng.permutation(videos)[:20].tolist()
        values.append(nmi(*np.array(rows).T))
    assert abs(at_random - np.mean(values)) < 4 * np.std(values) and np.std(values) < 0.05
    assert value > max(values)  # the heads of the actions differ more


def test_split_is_a_function_of_the_seed(tmp_path):
    write_videos(tmp_path)
    first, _ = split(tmp_path, "a")
    again, _ = split(tmp_path, "b")
    other, _ = split(tmp_path, "c", seed=1)
    for name in ("train", "val"):
        assert first[name].paths == again[name].paths != other[name].paths


def test_overlap(tmp_path):
    truth = write_videos(tmp_path)
    lists, _ = split(tmp_path, overlap=("0", "0.25", "1"), train_size=15)
    assert lists.keys() == {"train", "val-0", "val-0.25", "val-1"}
    # The greatest share says what is held out.
    alone, _ = split(tmp_path, "other", overlap=("1",), train_size=15)
    assert lists["train"].paths == alone["train"].paths
    known = {truth[path] for path in lists["train"].paths}
    for name, n_known in (("val-0", 0), ("val-0.25", 2), ("val-1", 8)):
        videos = lists[name]
        assert Counter(videos.labels) == dict.fromkeys(range(4), 8)
        assert len(set(videos.paths)) == 32 and not set(videos.paths) & set(lists["train"].paths)
        for label in range(4):
            mine = [path for path, k in zip(videos.paths, videos.labels, strict=True) if k == label]
            assert sum(truth[path] in known for path in mine) == n_known
    none, some, all_ = (set(lists[name].paths) for name in ("val-0", "val-0.25", "val-1"))
    assert (len(none & some), len(some & all_), len(none & all_)) == (24, 8, 0)


@pytest.mark.parametrize("seed", range(2))
def test_two_facets_at_once(tmp_path, seed):
    facets = ("scene", "object")
    truth = write_videos(tmp_path, seed, facets)
    lists, information = split(tmp_path, facets=facets, train_size=15, overlap=("0", "0.5"))
    assert information["val-0"].keys() == set(facets)
    for k, name in enumerate(lists["train"].classes):
        action = LETTERS.index(name.split()[1])
        videos = np.array([row for row in truth.values() if row[0] == action])
        tail_scenes = tail_of(videos[:, 1], 8)
        tail_objects = tail_of(videos[:, 2], 8)
        for part, n_rare in (("train", 0), ("val-0", 8), ("val-0.5", 4)):
            rare = 0
            for path, label in zip(lists[part].paths, lists[part].labels, strict=True):
                _, scene, thing = truth[path]
                rare += label == k and (scene in tail_scenes or thing in tail_objects)
            assert rare == n_rare


def test_restrict_cuts_and_relabels_other_lists(tmp_path):
    truth = write_videos(tmp_path)
    others = write_videos(tmp_path, 7, name="ordinary") | write_videos(tmp_path, 8, name="aras")
    restrict = (f"{tmp_path}/ordinary.txt", f"{tmp_path}/aras.txt")
    lists, _ = split(tmp_path, restrict=restrict)
    chosen = sorted({truth[path][0] for path in lists["train"].paths})
    for name in ("ordinary", "aras"):
        videos = lists[name]
        assert videos.classes == lists["train"].classes
        everything = read_list(tmp_path / f"{name}.txt").paths
        assert videos.paths == [path for path in everything if others[path][0] in chosen]
        assert videos.labels == [chosen.index(others[path][0]) for path in videos.paths]


def test_videos_without_labels_are_nowhere(tmp_path, capsys):
    write_videos(tmp_path, actions=4)
    labels = np.load(tmp_path / "scene/labels.npy")
    labels[:40] = math.nan
    np.save(tmp_path / "scene/labels.npy", labels)
    without = set((tmp_path / "scene/paths.txt").read_text().splitlines()[:40])
    lists, _ = split(tmp_path)
    assert "40 videos without labels left out" in capsys.readouterr().out
    paths = lists["train"].paths + lists["val"].paths
    assert len(set(paths)) == 4 * 28 and not without & set(paths)


def test_actions_that_are_too_small_are_passed_over_and_named(tmp_path, capsys):
    write_videos(tmp_path, actions=5)
    # The largest by far, but all of it in one scene.
    more = [f"train/e/more{i}.mp4" for i in range(300)]
    with (tmp_path / "train.txt").open("a") as file:
        file.write("".join(f"{path} 4\n" for path in more))
    paths = (tmp_path / "scene/paths.txt").read_text().split() + more
    rows = np.concatenate([np.load(tmp_path / "scene/labels.npy"), np.eye(15)[[0] * 300]])
    for i, path in enumerate(paths):
        if path.startswith("train/e/"):
            rows[i] = np.eye(15)[0]
    write_labels_folder(tmp_path / "one", paths, [f"scene{i}" for i in range(15)], rows, {})
    lists, _ = split(tmp_path, facets=("one",))
    assert "passed over, too small: act e" in capsys.readouterr().out
    assert lists["train"].classes == [f"act {letter}" for letter in "abcd"]


def refused(capsys, folder, words):
    """`smad.py split WORDS`: one line on stderr, exit code 2, nothing written. -> the line"""
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        common.cli(Args, smad.train, presets(smad), smad.STEPS, argv=["split", *words])
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert sorted(path.name for path in folder.rglob("*")) == before
    return error[0]


TOO_FEW = "only [0-3] of 6 actions have .*too few: act [a-f], act [a-f], act [a-f]; 0 videos"
BAD_SPLITS = [
    ("train", dict(labels=()), "name the videos' labels: --labels NAME=FOLDER, one or more"),
    ("train", dict(labels="scene"), "--labels scene: expected NAME=FOLDER"),
    ("train", dict(labels="scene={}/none"), "none: not a folder of labels"),
    ("train", dict(labels="scene={}/others"), "--labels: no labels of the list's videos, such as"),
    ("none", {}, "none.txt: cannot read it: No such file"),
    ("train", dict(out="{}/others"), "others exists: remove it, or name another folder"),
    ("train", dict(train_size=1000), "only 0 of 6 .*--train-size 1000 and --val-size 8 videos"),
    ("train", dict(classes=7), "only 6 of 6 actions .*give fewer --classes"),
    ("train", dict(val_size=59), TOO_FEW),
    ("train", dict(train_size=70, overlap=("1.0",)), TOO_FEW),
    ("train", dict(overlap=("0.5", "1.5")), "--overlap 1.5: expected a share from 0 to 1"),
    ("train", dict(overlap=("half",)), "--overlap half: expected a share from 0 to 1"),
    ("train", dict(overlap=("nan",)), "--overlap nan: expected a share from 0 to 1"),
    ("train", dict(val_size=0), "--val-size 0: must be at least 1"),
    ("train", dict(restrict=("{}/val.txt",)), "--restrict .*val.txt: .* another list is val.txt"),
    ("train", dict(restrict=("{}/b.txt",) * 2), "--restrict .*b.txt: .* another list is b.txt"),
    ("train", dict(restrict=("{}/none.txt",)), "none.txt: cannot read it"),
]


@pytest.fixture(scope="module")
def videos_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    lines = "".join(f"{action}.mp4 {action}\n" for action in range(6))
    for name in ("val", "b"):
        (folder / f"{name}.txt").write_text(lines)
    write_labels_folder(folder / "others", "x", "ab", np.eye(2)[:1], {})
    return folder


@pytest.mark.parametrize("name, change, message", BAD_SPLITS)
def test_bad_input_to_split(videos_folder, capsys, name, change, message):
    settings = dict(labels=("scene={}/scene",), out="{}/new") | SMALL | change
    words = [f"{videos_folder}/{name}.txt", *argv(settings)]
    words = [word.replace("{}", str(videos_folder)) for word in words]
    line = refused(capsys, videos_folder, words)
    assert re.search(message, line), line


def test_restrict_to_classes_that_were_not_chosen(tmp_path, capsys):
    write_videos(tmp_path)
    lists, _ = split(tmp_path)
    (left_out, *_) = set(LETTERS[:6]) - {name[-1] for name in lists["train"].classes}
    (tmp_path / "few.txt").write_text(f"x.mp4 {LETTERS.index(left_out)}\n")
    with pytest.raises(UserError, match="none of its videos is of these classes"):
        split(tmp_path, "again", restrict=(f"{tmp_path}/few.txt",))
