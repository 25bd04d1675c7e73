"""sdn.py's parts: each equation against a slow loop, which parameters either half of an iteration
moves and in which direction, clips without humans, masking in the real pipeline, the networks and
other people's weights. Whole runs are in test_train.py, the offline steps in test_offline.py."""

import json
import math

import common
import numpy as np
import pytest
import sdn
import torch
import torch.nn.functional as F
import torchvision
from common import UserError, Videos
from conftest import argv, command, ended, load, log_lines, same, two
from sdn import SDN, Args, Reverse, Tiny
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader, Subset
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

import albar
import toy

K = 5
M = 7
ACTIONS = list(toy.ACTIONS)


@pytest.fixture
def script():
    return sdn


def small_resnet():
    """As r3d_18: batch norm, a residual block, and one with a shortcut of type A."""
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, (1, 2, 2), 1, bias=False),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        BasicBlock(8, 8, Conv3DSimple),
        BasicBlock(8, 16, Conv3DSimple, 2, sdn.ShortcutA()),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, K),
    )


BACKBONES = {"tiny": lambda: Tiny(K, 8), "resnet": small_resnet}
both_networks = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture
def double(monkeypatch):
    """The losses, which mixed precision needs in float32, stay in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def network(name="tiny", lam=0.5, kind=torch.float64):
    torch.manual_seed(0)
    return SDN(BACKBONES[name](), K, M, lam).train().to(kind)


def make_batch(n=4, seed=1, kind=torch.float64):
    torch.manual_seed(seed)
    return {
        "clip": torch.randn(n, 3, 4, 16, 16, dtype=kind),
        "label": torch.arange(n) % K,
        "scene": torch.rand(n, M, dtype=kind).softmax(1),
        "weight": torch.ones(n, dtype=kind),
    }


def groups(net):
    """{theta_f, theta_A, theta_S: {name in the state dict: parameter}}"""
    parts = {"f": {}, "A": {}, "S": {}}
    of_prefix = {"backbone": "f", "head": "A", "scene_head": "S"}
    for name, parameter in net.named_parameters():
        parts[of_prefix[name.split(".")[0]]][name] = parameter
    return parts


def apart(net, clip):
    """f_A(G(x)) and f_S(G(x)) without the reversal layer, put together from the parts."""
    g = net.backbone(clip)
    return net.head(g), net.scene_head(g)


def slow_ce(z, target):
    """target (N,) labels or (N, M) rows that need not sum to 1"""
    if target.ndim == 1:
        target = F.one_hot(target, z.shape[1])
    return -(target * (z - z.logsumexp(1, keepdim=True))).sum(1).mean()


def slow_entropy(z):
    """(N, K) -> (N,)"""
    return torch.distributions.Categorical(logits=z).entropy()


def gradients(net, args, batch, masked=False):
    """-> {group: {name: gradient}} that one half of an iteration leaves; its loss"""
    net.zero_grad(set_to_none=True)
    loss, _ = sdn.training_step(net, batch, args, masked)
    loss.backward()
    left = {}
    for key, parameters in groups(net).items():
        left[key] = {}
        for name, parameter in parameters.items():
            left[key][name] = None if parameter.grad is None else parameter.grad.clone()
    return left, loss.detach()


def grad(loss, parameters):
    """{name: gradient}, zeros where the loss does not depend on a parameter"""
    values = torch.autograd.grad(
        loss,
        list(parameters.values()),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(parameters, values, strict=True))


def agree(a, b, least=1e-4):
    """Gradients of a group: equal to rounding, and not both next to nothing."""
    size = max(float(value.abs().max()) for value in b.values())
    assert a.keys() == b.keys() and size > least
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12 * size)


# ---- Losses --------------------------------------------------------------------------------------
def log_softmax(row):
    most = max(row)
    return [v - most - math.log(sum(math.exp(u - most) for u in row)) for v in row]


def test_equations_2_to_6_against_slow_loops():
    torch.manual_seed(0)
    z = torch.randn(6, K, dtype=torch.float64) * 3
    s = torch.randn(6, M, dtype=torch.float64) * 3
    label = torch.arange(6) % K
    p = torch.rand(6, M, dtype=torch.float64)
    p = p / p.sum(1, keepdim=True)
    weight = torch.tensor([0, 2, 1, 0, 2, 1], dtype=torch.float64)
    log_a = [log_softmax(row) for row in z.tolist()]
    log_s = [log_softmax(row) for row in s.tolist()]
    ce = adv = ent = 0.0
    for i in range(6):
        ce -= log_a[i][label[i]] / 6  # Eq. (2)
        adv -= sum(float(p[i, m]) * log_s[i][m] for m in range(M)) / 6  # Eq. (3)
        ent -= float(weight[i]) * sum(math.exp(v) * v for v in log_a[i]) / 6  # Eq. (4)
    assert sdn.cross_entropy(z, label).item() == pytest.approx(ce, rel=1e-12)
    assert sdn.scene_adversarial(s, p).item() == pytest.approx(adv, rel=1e-12)
    assert sdn.human_mask_confusion(z, weight).item() == pytest.approx(ent, rel=1e-12)
    assert sdn.debiasing_objective(2.0, 3.0) == 5  # Eq. (5)
    assert sdn.confusion_objective(3.0, 2.0) == -6  # Eq. (6)


def test_a_row_of_zeros_adds_nothing_to_equation_3():
    s = torch.randn(4, M, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1, 6, 0, 3])
    hard = F.one_hot(label, M).double()
    hard[2] = 0
    loss = sdn.scene_adversarial(s, hard)
    kept = torch.tensor([0, 1, 3])
    expected = 3 / 4 * F.cross_entropy(s[kept], label[kept]).item()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, s)
    assert (gradient[2] == 0).all() and (gradient[kept] != 0).all()


def test_entropy_lies_between_0_and_that_of_the_uniform_prediction():
    one = torch.ones(1)
    uniform = sdn.human_mask_confusion(torch.full((1, K), 7.0, dtype=torch.float64), one)
    assert uniform.item() == pytest.approx(math.log(K), rel=1e-12)
    for row in torch.randn(50, 1, K, dtype=torch.float64) * 10:
        assert 0 < sdn.human_mask_confusion(row, one) < math.log(K)


def test_losses_of_extreme_logits_are_finite():
    z = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0, 0]])
    ent = sdn.human_mask_confusion(z, torch.ones(2))
    assert ent.item() == pytest.approx(math.log(2) / 2)
    ce = sdn.cross_entropy(z, torch.tensor([1, 0]))
    for loss in (ent, ce, sdn.scene_adversarial(z, p)):
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("lam", [0.0, 0.3, 2.5])
def test_reverse_is_the_identity_and_turns_the_gradient(lam):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 4, dtype=torch.float64)
    y = Reverse.apply(x, lam)
    assert torch.equal(y, x) and y.dtype == x.dtype
    (plain,) = torch.autograd.grad((w * x.tanh()).sum(), x)
    (turned,) = torch.autograd.grad((w * y.tanh()).sum(), x)
    assert torch.equal(turned, -lam * plain)


# ---- The paper's point: which parameters each half moves, and in which direction -----------------
@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
@both_networks
def test_half_of_equation_5_moves_each_group_its_own_way(name, lam, double):
    net = network(name, lam=lam)
    batch = make_batch()
    left, loss = gradients(net, Args(lam=lam), batch)
    z, s = apart(net, batch["clip"])
    ce = slow_ce(z, batch["label"])
    adv = slow_ce(s, batch["scene"])
    theta = groups(net)
    d_ce = grad(ce, theta["f"])
    d_adv = grad(adv, theta["f"])
    assert max(float(value.abs().max()) for value in d_adv.values()) > 1e-4
    # theta_f descends L_CE and ascends L_Adv, theta_A sees L_CE alone, theta_S descends L_Adv.
    agree(left["f"], {name: d_ce[name] - lam * d_adv[name] for name in d_ce})
    agree(left["A"], grad(ce, theta["A"]))
    agree(left["S"], grad(adv, theta["S"]))
    assert loss.item() == pytest.approx((ce + adv).item(), rel=1e-9)


def move(parameters, directions, size):
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter += size * directions[name]


@both_networks
def test_half_of_equation_5_against_finite_differences(name, double):
    lam = 0.7
    net = network(name, lam=lam)
    batch = make_batch()
    left, _ = gradients(net, Args(lam=lam), batch)
    for key, (sign_ce, sign_adv) in {"f": (1, -lam), "A": (1, 0), "S": (0, 1)}.items():
        theta = groups(net)[key]
        size = sum(float(g.square().sum()) for g in left[key].values()) ** 0.5
        count = sum(p.numel() for p in theta.values())
        direction = {}
        for parameter, value in theta.items():
            noise = torch.randn_like(value) / count**0.5
            direction[parameter] = left[key][parameter] / size + noise
        ends = []
        for h in (1e-6, -1e-6):
            move(theta, direction, h)
            with torch.no_grad():
                z, s = apart(net, batch["clip"])
            loss = sign_ce * slow_ce(z, batch["label"]) + sign_adv * slow_ce(s, batch["scene"])
            ends.append(loss)
            move(theta, direction, -h)
        slope = sum(float((direction[n] * left[key][n]).sum()) for n in theta)
        assert slope > 1e-3
        assert ((ends[0] - ends[1]) / 2e-6).item() == pytest.approx(slope, rel=1e-4), key


@both_networks
def test_half_of_equation_6_raises_the_entropy_by_the_backbone_and_by_the_head(name, double):
    net = network(name)
    batch = make_batch()
    args = Args(w_ent=2.0)
    with torch.no_grad():
        net.head.weight.mul_(10)  # away from the uniform prediction
    # Running statistics of some clips.
    sdn.training_step(net, make_batch(seed=3), args)
    left, loss = gradients(net, args, batch, masked=True)

    def entropy():
        with common.running_statistics(net):
            return slow_entropy(apart(net, batch["clip"])[0]).mean()

    before = entropy()
    theta = groups(net)
    assert loss.item() == pytest.approx(-2 * before.item(), rel=1e-9)
    for key in "fA":
        agree(left[key], {name: -2 * g for name, g in grad(before, theta[key]).items()})
        size = sum(float(g.square().sum()) for g in left[key].values())
        # A step of this group alone.
        move(theta[key], left[key], -1e-5 / size**0.5)
        rise = entropy().item() - before.item()
        assert rise == pytest.approx(1e-5 * size**0.5 / 2, rel=1e-2), key
        move(theta[key], left[key], 1e-5 / size**0.5)
    assert all((g == 0).all() for g in left["S"].values())


@pytest.fixture
def steps(monkeypatch):
    """What the optimiser steps of a run do: .moved, the groups that each moves in every parameter,
    such as "fA"; .masked, which half each call of training_step is; .net."""

    class Steps:
        moved = []
        masked = []

        def now(self):
            values = {}
            for key, parameters in groups(self.net).items():
                values[key] = {name: p.detach().clone() for name, p in parameters.items()}
            return values

        def before(self, optimizer, args, kwargs):
            self.last = self.now()

        def after(self, optimizer, args, kwargs):
            now = self.now()
            word = ""
            for key, parameters in self.last.items():
                changed = {not torch.equal(value, now[key][n]) for n, value in parameters.items()}
                if changed == {True}:
                    word += key
                elif changed == {True, False}:
                    word += "?"
            self.moved.append(word)

    steps = Steps()
    steps.moved = []
    steps.masked = []
    build_model = sdn.build_model
    training_step = sdn.training_step

    def build(*args):
        steps.net = build_model(*args)
        return steps.net

    def step(model, batch, args, masked=False):
        steps.masked.append(masked)
        return training_step(model, batch, args, masked)

    monkeypatch.setattr(sdn, "build_model", build)
    monkeypatch.setattr(sdn, "training_step", step)
    hooks = [
        register_optimizer_step_pre_hook(steps.before),
        register_optimizer_step_post_hook(steps.after),
    ]
    yield steps
    for hook in hooks:
        hook.remove()


PLATEAU = dict(schedule="plateau", warmup=0.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_scene_head_moves_in_one_half_only_of_each_iteration(
    flags, steps, optimizer, accumulate
):
    """Although it has momentum and weight decay."""
    flags |= PLATEAU | dict(epochs=1, optimizer=optimizer, lr=1e-2, weight_decay=0.1)
    sdn.train(Args(**flags | dict(accumulate=accumulate)))
    assert steps.moved == ["fAS", "fA"] * 10
    assert steps.masked == ([False] * accumulate + [True] * accumulate) * 10


def weights(checkpoint):
    """Those of backbone and action head."""
    model = load(checkpoint)["model"]
    return {name: value for name, value in model.items() if not name.startswith("scene_head.")}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_baseline_is_a_plain_loop_and_so_is_lambda_0_bit_for_bit(flags, tmp_path, optimizer):
    flags |= PLATEAU | dict(epochs=2, optimizer=optimizer, lr=1e-2, weight_decay=0.1)
    plain = Args(**flags | sdn.BASELINE | dict(out=str(tmp_path / "plain")))
    watching = Args(**flags | dict(lam=0.0, w_ent=0.0))
    trained = [weights(sdn.train(args)["checkpoint"]) for args in (plain, watching)]

    common.start(plain.seed)
    data = sdn.make_data(plain)
    order = common.Order(80, 8, 0)
    net = SDN(Tiny(8), 8, 0, 0.5)
    if optimizer == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9, weight_decay=0.1)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.1)
    for epoch in range(2):
        order.start(epoch, 0)
        for batch in DataLoader(data.train, batch_sampler=order):
            optimizer.zero_grad()
            z = net(common.normalise(batch["clip"], plain.mean, plain.std))
            F.cross_entropy(z, batch["label"]).backward()
            optimizer.step()
    assert same(trained[0], net.state_dict()) and same(trained[1], net.state_dict())


@pytest.mark.parametrize(
    "change, off, columns",
    [
        (dict(scene_labels="none"), ("scene_adversarial", "read_scenes", "Reverse"), {"ce", "ent"}),
        (dict(w_ent=0.0), ("human_mask_confusion", "Boxes", "mask_humans"), {"ce", "adv"}),
    ],
)
def test_a_loss_that_is_switched_off_is_not_computed(flags, monkeypatch, change, off, columns):
    """Rows of Tables 4 and 5; nor are its labels or boxes read."""
    for name in off:
        monkeypatch.setattr(sdn, name, None)
    sdn.train(Args(**flags | change | dict(epochs=1)))
    record = log_lines(flags["out"])[1]
    assert record.keys() & {"ce", "adv", "ent"} == columns
    assert ("scene_accuracy" in record) == ("adv" in columns)


def test_logged_figures():
    net = network(kind=torch.float32)
    batch = make_batch(8, kind=torch.float32)
    batch["scene"][3] = 0  # no label
    _, metrics = sdn.training_step(net, batch, Args())
    z, s = apart(net, batch["clip"])
    assert float(metrics["accuracy"]) == (z.argmax(1) == batch["label"]).float().mean()
    right = [bool(s[i].argmax() == batch["scene"][i].argmax()) for i in range(8) if i != 3]
    assert float(metrics["scene_accuracy"]) == pytest.approx(sum(right) / 7)
    assert metrics["ce"].item() == pytest.approx(slow_ce(z, batch["label"]).item(), rel=1e-5)
    assert metrics["adv"].item() == pytest.approx(slow_ce(s, batch["scene"]).item(), rel=1e-5)
    batch["weight"] = torch.tensor([0, 2.0] * 4)
    loss, metrics = sdn.training_step(net, batch, Args(w_ent=3.0), masked=True)
    assert float(metrics["masked_share"]) == 0.5
    entropy = slow_entropy(z[1::2]).mean().item()
    assert metrics["ent"].item() == pytest.approx(entropy, rel=1e-5)
    assert loss.item() == pytest.approx(-3 * entropy, rel=1e-5)
    right = (z.argmax(1) == batch["label"])[1::2].float().mean().item()
    assert float(metrics["masked_accuracy"]) == pytest.approx(right)


# ---- Clips without humans ------------------------------------------------------------------------
@pytest.mark.parametrize("masked_bn", ["eval", "train"])
@both_networks
def test_clips_without_humans_take_no_part_in_equation_6(name, masked_bn, double):
    args = Args(masked_bn=masked_bn)
    batch = make_batch(6)
    batch["weight"] = torch.tensor([0, 1.5, 1.5, 0, 1.5, 1.5]).double()
    kept = batch["weight"] > 0
    net = network(name)
    left, loss = gradients(net, args, batch, masked=True)
    other = dict(batch)
    other["clip"] = torch.where(kept.view(-1, 1, 1, 1, 1), batch["clip"], 100.0)
    left_of_other, loss_of_other = gradients(network(name), args, other, masked=True)
    assert loss == loss_of_other and same(left, left_of_other)
    alone = {"clip": batch["clip"][kept], "label": batch["label"][kept], "weight": torch.ones(4)}
    net_alone = network(name)
    left_alone, loss_alone = gradients(net_alone, args, alone, masked=True)
    torch.testing.assert_close(loss, loss_alone)
    agree(left["f"], left_alone["f"])
    agree(left["A"], left_alone["A"])
    # Batch norm has not seen them either.
    assert same(net.state_dict(), net_alone.state_dict())


@both_networks
def test_a_part_without_humans_has_no_gradient_but_every_parameter_has_one(name):
    """DistributedDataParallel waits for all of them: this process has no human, others have."""
    batch = make_batch() | dict(weight=torch.zeros(4).double())
    left, loss = gradients(network(name), Args(), batch, masked=True)
    assert loss == 0
    for of_group in left.values():
        assert all((g == 0).all() for g in of_group.values())


def write_boxes(path, world, which):
    """A file of boxes: of training video number i on the frames f for which which(i, f)."""
    with path.open("w") as file:
        for i, line in enumerate((world / "train.txt").read_text().splitlines()):
            frames = [f for f in range(toy.LENGTH) if which(i, f)]
            boxes = [[10, 12, 24.5, 30]] * len(frames)
            video = {"path": line.split()[0], "every": 1, "frames": frames, "boxes": boxes}
            file.write(json.dumps(video) + "\n")
    return (str(path),)


def test_a_clip_takes_part_when_half_of_its_frames_have_a_box(flags, world, tmp_path, monkeypatch):
    """A box have, of the videos by their number, two of a clip's four frames; one; two; none."""
    shares = (0.5, 0.25, 0.5, 0)

    def which(i, f):
        share = shares[i % 4]
        return share > 0 and f // 2 % (1 / share) == 0

    flags |= dict(humans=write_boxes(tmp_path / "boxes.jsonl", world, which), epochs=1)
    data = sdn.make_data(Args(**flags))
    assert [data.train[i]["humans"] for i in range(80)] == [shares[i % 4] for i in range(80)]
    weights = []
    real = sdn.training_step

    def spy(model, batch, args, masked=False):
        if masked:
            weights.append(batch["weight"].tolist())
        return real(model, batch, args, masked)

    monkeypatch.setattr(sdn, "training_step", spy)
    sdn.train(Args(**flags))
    for weight, videos in zip(weights, common.Order(80, 8, 0), strict=True):
        has_humans = [int(i % 2 == 0) for i in videos]
        assert weight == pytest.approx([has * 8 / sum(has_humans) for has in has_humans])


def test_a_batch_without_humans_has_the_step_of_equation_5_alone(flags, world, tmp_path, steps):
    boxes = write_boxes(tmp_path / "boxes.jsonl", world, lambda i, f: i == 33)
    sdn.train(Args(**flags | dict(humans=boxes, epochs=1)))
    where = [33 in videos for videos in common.Order(80, 8, 0)]
    expected = []
    for has_humans in where:
        expected += ["fAS", "fA"] if has_humans else ["fAS"]
    assert sum(where) == 1 and steps.moved == expected
    records = log_lines(flags["out"])[1:11]
    assert [("ent" in record, "masked_accuracy" in record) for record in records] == [
        (has, has) for has in where
    ]


def test_an_epoch_without_any_human_is_an_error(flags, world, tmp_path):
    """Eq. (6) would be silently without a clip: of four frames one has a box."""
    boxes = write_boxes(tmp_path / "boxes.jsonl", world, lambda i, f: f % 8 == 0)
    with pytest.raises(UserError, match="--humans: no clip of an epoch has boxes in half"):
        sdn.train(Args(**flags | dict(humans=boxes)))
    assert not list(tmp_path.glob("run/*.pt"))


def test_uneven_shares_of_humans_in_parts_and_on_two_processes(flags, world, tmp_path):
    """The mean is over the clips with humans of the whole batch, whoever has them, also if one has
    none, or nobody."""
    boxes = write_boxes(tmp_path / "boxes.jsonl", world, lambda i, f: i % 80 in range(6))
    flags |= PLATEAU | dict(humans=boxes, optimizer="sgd", lr=0.05, w_ent=5.0, epochs=1)
    counts = set()
    for videos in common.Order(80, 8, 0):
        counts.add(tuple(any(i < 6 for i in videos[part::2]) for part in range(2)))
    assert counts >= {(True, False), (False, False)}
    one = weights(sdn.train(Args(**flags))["checkpoint"])
    flags["out"] = str(tmp_path / "parts")
    parts = weights(sdn.train(Args(**flags | dict(accumulate=2)))["checkpoint"])
    flags["out"] = str(tmp_path / "two")
    processes = two(command, "sdn.py", argv(flags))
    with ended(*processes) as printed:
        assert [process.returncode for process in processes] == [0, 0], printed
    both = weights(tmp_path / "two/last.pt")
    flags |= dict(w_ent=0.0, out=str(tmp_path / "none"))
    without = weights(sdn.train(Args(**flags))["checkpoint"])
    for key in one:
        torch.testing.assert_close(parts[key], one[key], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(both[key], one[key], rtol=1e-4, atol=2e-5)
    assert max(float((without[key] - one[key]).abs().max()) for key in one) > 1e-3


@pytest.mark.parametrize("masked_bn", ["eval", "train"])
def test_batch_norm_statistics_of_masked_clips(masked_bn):
    """eval: the masked clips use the running statistics and leave them alone; train: they mix into
    them."""
    torch.manual_seed(0)
    net = sdn.build_model(Args(model="r3d_18", num_scenes=M), K).train()
    batch = make_batch(2, kind=torch.float32)
    before = {}
    for name, value in net.state_dict().items():
        if "running" in name or "tracked" in name:
            before[name] = value.clone()
    with torch.no_grad():
        _, metrics = sdn.training_step(net, batch, Args(masked_bn=masked_bn), masked=True)
        after = net.state_dict()
        unmoved = {torch.equal(value, after[name]) for name, value in before.items()}
        assert unmoved == {masked_bn == "eval"} and all(m.training for m in net.modules())
        if masked_bn == "eval":
            entropy = slow_entropy(net.eval()(batch["clip"])).mean()
            assert float(metrics["ent"]) == pytest.approx(entropy.item(), rel=1e-4)


# ---- Masking and labels in the real pipeline -----------------------------------------------------
def test_clip_and_masked_clip_share_the_crop_and_differ_inside_the_boxes_alone(flags, world):
    """The same crop of a picture of the boxes, from the true masks, says where they may differ."""
    args = Args(**flags | dict(size=32, resize=36, frames=8, flip=0.5, scale=(0.3, 0.8)))
    data = sdn.make_data(args).train
    truth = np.unpackbits(np.load(world / "truth.npz")["train/masks"], 1)
    truth = truth.reshape(80, toy.LENGTH, toy.SIDE, toy.SIDE)
    means = {}
    with_human = {}

    def change(frames, path, indices):
        both, shown, more = data.change(frames, path, indices)
        with_human[path] = truth[data.paths.index(path), indices].any((1, 2)).mean()
        picture = torch.zeros_like(frames)
        for image, t in zip(picture, indices, strict=True):
            actor = truth[data.paths.index(path), t]
            # The boxes; there are several where an actor crosses the border.
            image[torch.from_numpy(actor.any(1)[:, None] & actor.any(0))] = 255
        means[path] = frames.double().mean((1, 2)).round()  # (T, 3)
        return torch.cat([both, picture]), np.concatenate([shown, indices[None]]), more

    three = Videos(data.videos, data.sample, data.transform, args.seed, change=change)
    filled = 0
    for i in range(6):
        item = data[80 * i + i]
        clip, masked, box = three[80 * i + i]["clip"]
        assert torch.equal(item["clip"], torch.stack([clip, masked]))
        assert item["humans"] == with_human[data.paths[i]]
        outside = (box == 0).all(0)
        assert torch.equal(clip[:, outside], masked[:, outside]) and outside.any()
        for t in range(8):
            within = (box[:, t] == 255).all(0)
            mean = means[data.paths[i]][t][:, None]
            assert (masked[:, t][:, within] == mean).all()
            filled += int((clip[:, t][:, within] != masked[:, t][:, within]).sum())
    assert filled > 1000


def test_which_clip_each_half_sees(flags, monkeypatch):
    """Eq. (5) the clip, Eq. (6) the masked one, of the same videos."""
    args = Args(**flags | dict(epochs=1, batch_size=80))
    batches = {}
    real = sdn.training_step

    def spy(model, batch, args, masked=False):
        batches[masked] = batch
        return real(model, batch, args, masked)

    monkeypatch.setattr(sdn, "training_step", spy)
    sdn.train(args)
    data = sdn.make_data(args)
    order = next(iter(common.Order(80, 80, 0)))
    for masked, batch in batches.items():
        clips = torch.stack([data.train[i]["clip"][int(masked)] for i in order])
        assert torch.equal(batch["clip"], common.normalise(clips, args.mean, args.std))
        assert batch["label"].tolist() == [data.train.videos.labels[i] for i in order]
    assert torch.equal(batches[False]["scene"], data.scenes[order])
    assert not torch.equal(batches[False]["clip"], batches[True]["clip"])


def with_broken(world, folder, *broken):
    """A root with the videos of train and val, of which these are broken."""
    for split in ("train", "val"):
        (folder / split).mkdir()
        for path in (world / split).iterdir():
            name = f"{split}/{path.name}"
            if name in broken:
                (folder / name).write_bytes(b"no video")
            else:
                (folder / name).symlink_to(path)
    return str(folder)


def test_what_replaces_an_unreadable_video_brings_its_own_label_and_boxes(
    flags, world, tmp_path, monkeypatch
):
    root = with_broken(world, tmp_path, "train/0003.mp4", "train/0004.mp4")
    boxes = write_boxes(tmp_path / "boxes.jsonl", world, lambda i, f: i in (3, 4, 6, 50))
    args = Args(**flags | dict(root=root, max_bad=0.1, humans=boxes, epochs=1, batch_size=80))
    batches = []
    real = sdn.training_step

    def spy(model, batch, args, masked=False):
        batches.append(batch)
        return real(model, batch, args, masked)

    monkeypatch.setattr(sdn, "training_step", spy)
    sdn.train(args)
    data = sdn.make_data(args)
    shown = [{3: 5, 4: 5}.get(i, i) for i in next(iter(common.Order(80, 80, 0)))]
    assert torch.equal(batches[0]["scene"], data.scenes[shown])
    assert batches[0]["label"].tolist() == [data.train.videos.labels[i] for i in shown]
    assert batches[1]["weight"].tolist() == [40.0 * (i in (6, 50)) for i in shown]


def without_labels(world, folder, *paths):
    """The world's scene labels, except those of some videos."""
    part = common.open_labels(world / "scenes")
    keep = [row for row, path in enumerate(part.paths) if path not in paths]
    toy.write_labels_folder(
        folder, [part.paths[row] for row in keep], part.categories, part.labels[keep], made={}
    )
    return (str(folder),)


def test_labels_of_the_lists_soft_and_hard(flags, world, tmp_path):
    scenes = without_labels(world, tmp_path / "some", "train/0007.mp4", "val/0003.mp4")
    flags |= dict(scenes=scenes, max_bad=0.05)
    soft = sdn.make_data(Args(**flags))
    hard = sdn.make_data(Args(**flags | dict(scene_labels="hard")))
    part = common.open_labels(world / "scenes")
    row_of = dict(zip(part.paths, part.labels.astype(np.float32), strict=True))
    for videos, rows, hot in (
        (soft.train, soft.scenes, hard.scenes),
        (soft.val, soft.val_scenes, hard.val_scenes),
    ):
        assert rows.dtype == hot.dtype == torch.float32 and rows.shape == (len(videos), 24)
        for path, row, one_hot in zip(videos.paths, rows, hot, strict=True):
            if path in ("train/0007.mp4", "val/0003.mp4"):
                assert not row.any() and not one_hot.any()
            else:
                assert torch.equal(row, torch.from_numpy(row_of[path]))
                assert one_hot.nonzero().tolist() == [[int(row_of[path].argmax())]]
    with pytest.raises(UserError, match="no labels of 2 of 100 videos, first train/0007.mp4"):
        sdn.make_data(Args(**flags | dict(max_bad=0.01)))


def test_validation_figures_against_brute_force(flags, world, tmp_path):
    """Not counted: an unreadable video; of the scene accuracy also one without a label."""
    scenes = without_labels(world, tmp_path / "some", "val/0003.mp4")
    root = with_broken(world, tmp_path, "val/0005.mp4")
    args = Args(**flags | dict(scenes=scenes, root=root, max_bad=0.1))
    torch.manual_seed(0)
    data = sdn.make_data(args)
    net = SDN(small_resnet(), 8, 24, 0.5)
    with torch.no_grad():
        net(torch.randn(4, 3, 4, 16, 16) * 3)  # running statistics of something
        for parameter in net.parameters():
            parameter.mul_(3)  # so that guesses differ
    loader = DataLoader(Subset(data.val, range(20)), 6)
    figures = sdn.validate(net, loader, data.val_scenes, args, torch.device("cpu"))
    assert net.training
    net.eval()
    loss = right = scene_right = 0
    for i in range(20):
        if i == 5:
            continue
        label = data.val.videos.labels[i]
        with torch.no_grad():
            z, s = apart(net, common.normalise(data.val[i]["clip"][None], args.mean, args.std))
        loss += -log_softmax(z[0].tolist())[label] / 19
        right += int(z.argmax()) == label
        scene_right += i != 3 and int(s.argmax()) == int(data.val_scenes[i].argmax())
    assert figures == {
        "val/loss": pytest.approx(loss, rel=1e-5),
        "val/accuracy": right / 19,
        "val/chance": 1 / 8,
        "val/videos": 19,
        "val/unreadable": ["val/0005.mp4"],
        "val/scene_accuracy": scene_right / 18,
    }


def test_plateau_divides_the_learning_rate_by_ten_after_patience_epochs(flags, monkeypatch):
    losses = iter([2.0, 1.5, 1.5, 1.6, 1.7, 1.4, 1.45, 1.45, 1.45, 1.3])

    def validate(*args):
        return {"val/loss": next(losses), "val/accuracy": 0.5, "val/chance": 0.1}

    monkeypatch.setattr(sdn, "validate", validate)
    flags |= PLATEAU | dict(patience=2, lr=0.01, epochs=10, batch_size=80, optimizer="sgd")
    sdn.train(Args(**flags))
    rates = [record["lr"] for record in log_lines(flags["out"]) if "ce" in record]
    # Three in a row were not lower.
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 4 + [0.0001])


def test_cosine_is_that_of_albar():
    for args in (Args(epochs=10, warmup=1.0), Args(epochs=3, warmup=0.25)):
        steps = range(10 * args.epochs + 1)
        theirs = [albar.learning_rate(step, 10, args) for step in steps]
        assert [sdn.learning_rate(step, 10, args) for step in steps] == theirs


# ---- Models --------------------------------------------------------------------------------------
def test_defaults_are_the_papers():
    args = Args()
    assert (args.lam, args.w_ent, args.scene_labels, args.num_scenes) == (0.5, 1, "soft", 365)
    assert (args.frames, args.size, args.batch_size, args.epochs) == (16, 112, 32, 100)
    assert (args.optimizer, args.lr, args.weight_decay) == ("sgd", 1e-3, 1e-5)
    layers = sdn.build_model(Args(model="tiny"), K).scene_head
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    assert [layer.out_features for layer in layers[::2]] == [512, 512, 512, 365]
    assert sdn.build_model(Args(model="tiny", scene_labels="none"), K).scene_head is None


class HaraBlock(nn.Module):
    """Hara et al. 2018, in their names: conv-bn-relu-conv-bn, plus the shortcut, relu."""

    def __init__(self, a, b, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv3d(a, b, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(b)
        self.conv2 = nn.Conv3d(b, b, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(b)
        self.stride = stride
        self.new_channels = b - a
        self.downsample = None
        if shortcut == "B" and stride > 1:
            convolution = nn.Conv3d(a, b, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm3d(b))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample:
            x = self.downsample(x)
        elif self.stride > 1:
            x = F.avg_pool3d(x, kernel_size=1, stride=self.stride)
            x = torch.cat([x, x.new_zeros(len(x), self.new_channels, *x.shape[2:])], 1)
        return F.relu(x + y)


class Hara(nn.Module):
    def __init__(self, shortcut, num_classes=400):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), (3, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        for i, (a, b) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            first = HaraBlock(a, b, 1 if i == 1 else 2, shortcut)
            self.add_module(f"layer{i}", nn.Sequential(first, HaraBlock(b, b, 1, shortcut)))
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3, 4)))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """{shortcut: (network, file as theirs)}: a checkpoint of torch 0.3, its format and without
    num_batches_tracked"""
    files = {}
    for shortcut in "AB":
        torch.manual_seed(1)
        net = Hara(shortcut).eval()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)
        state = {f"module.{k}": v for k, v in net.state_dict().items() if "tracked" not in k}
        file = tmp_path_factory.mktemp("hara") / f"resnet-18-{shortcut}.pth"
        content = {"epoch": 200, "arch": "resnet-18", "state_dict": state}
        torch.save(content, file, _use_new_zipfile_serialization=False)
        files[shortcut] = net, file
    return files


def load_hara(file, num_classes=400, **change):
    """-> our network with these weights, what was done"""
    args = Args(**dict(scene_labels="none", weights=str(file)) | change)
    net = sdn.build_model(args, num_classes).eval()
    return net, sdn.first_weights(net, args, ACTIONS)


@pytest.mark.parametrize("shortcut", "AB")
def test_released_weights_of_hara_give_their_logits(released, shortcut):
    theirs, file = released[shortcut]
    names = set(load(file)["state_dict"])
    assert ("module.layer2.0.downsample.0.weight" in names) == (shortcut == "B")
    net, note = load_hara(file, shortcut=shortcut)
    # Nothing in the file says which --mean and --std it was trained with.
    what = f"{len(names)} tensors from {file}, stripped module."
    assert note == f"{what}, which may expect another --mean and --std, see --help"
    _, note = load_hara(file, shortcut=shortcut, mean=(0.4501, 0.4225, 0.3901))
    assert note == what
    other = "B" if shortcut == "A" else "A"
    with pytest.raises(UserError, match="downsample.*may be of the other --shortcut, A or B"):
        load_hara(file, shortcut=other)
    clip = torch.randn(2, 3, 9, 50, 52)  # sizes that do not halve evenly
    with torch.no_grad():
        ours = net(clip)
        expected = theirs(clip)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_official_checkpoint_s_own_heads_are_left_out_and_said(released, tmp_path):
    saved = load(released["A"][1])
    heads = {}
    for head in ("place_mlp", "hm_mlp"):
        heads[f"module.{head}.0.fc.weight"] = torch.zeros(512, 512)
        heads[f"module.{head}.p_last_fc.weight"] = torch.zeros(365, 512)
    torch.save({"state_dict": saved["state_dict"] | heads}, tmp_path / "sdn.pth")
    net, note = load_hara(tmp_path / "sdn.pth", 8, scene_labels="soft")
    assert "left out 4 tensors, first place_mlp.0.fc.weight" in note
    assert "new head of 8 classes for one of 400" in note
    kernel = saved["state_dict"]["module.layer4.1.conv2.weight"]
    assert torch.equal(net.backbone.layer4[1].conv2[0].weight, kernel)
    other = {"module.other_mlp.weight": torch.zeros(3)}
    torch.save({"state_dict": saved["state_dict"] | other}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="1 keys do not fit the model: .*other_mlp.weight"):
        load_hara(tmp_path / "other.pth")


def test_weights_of_the_other_shortcut_are_refused_by_their_keys(released):
    for ours, theirs in ("AB", "BA"):
        with pytest.raises(UserError, match="1[58] keys do not fit .*layer2.0.downsample.0"):
            load_hara(released[theirs][1], shortcut=ours)


@pytest.mark.parametrize(
    "name", ["vgg16", *torchvision.models.list_models(torchvision.models.video)]
)
def test_torchvision_s_names_under_backbone(name):
    """All but the head's; and theirs go into our network."""
    with torch.device("meta"):
        net = sdn.build_model(Args(model=name, num_scenes=M), K)
        theirs = torchvision.models.get_model(name, weights=None)
    ours = {}
    for key, value in net.state_dict().items():
        if key.startswith("backbone."):
            ours[key.removeprefix("backbone.")] = value.shape
    expected = {}
    for key, value in theirs.state_dict().items():
        if not key.startswith(f"{net.head_name}."):
            expected[key] = value.shape
    assert ours == expected
    assert net.head.out_features == K and net.scene_head[-1].out_features == M


def test_vgg16_sees_one_frame_and_its_features_are_fc7():
    args = Args(model="vgg16", frames=1, size=300, resize=300, num_scenes=M)
    with torch.device("meta"):
        net = sdn.build_model(args, K)
        clip = torch.zeros(2, 3, 1, 300, 300)
        assert net.features(clip).shape == (2, 4096)
        z, s = net(clip, scenes=True)
        assert z.shape == (2, K) and s.shape == (2, M)
        with pytest.raises(UserError, match="--model vgg16 takes no clip of --frames 2 and"):
            common.try_clip(net, Args(model="vgg16", frames=2, size=300, resize=300))


# ---- Transfer ------------------------------------------------------------------------------------
@pytest.fixture
def trained(flags):
    return sdn.train(Args(**flags | dict(epochs=1)))["checkpoint"]


def test_weights_go_to_albar_without_the_scene_head_and_back(trained, tmp_path):
    saved = weights(trained)
    net = albar.build_model(albar.Args(model="tiny"), 8)
    note = common.load_weights(net, trained, "tiny")
    assert (
        note
        == f"{len(saved)} tensors from {trained}, left out 8 tensors, first scene_head.0.weight"
    )
    assert same(dict(net.state_dict()), saved)
    other = albar.build_model(albar.Args(model="tiny"), 5)
    note = common.load_weights(other, trained, "tiny")
    assert "new head of 5 classes for one of 8" in note
    assert torch.equal(other.backbone.layers[0].weight, saved["backbone.layers.0.weight"])
    torch.save(dict(method="albar", model=net.state_dict()), tmp_path / "albar.pt")
    args = Args(model="tiny", weights=str(tmp_path / "albar.pt"), num_scenes=M)
    back = sdn.build_model(args, 8)
    sdn.first_weights(back, args, ACTIONS)
    assert same({k: v for k, v in back.state_dict().items() if "scene" not in k}, saved)


def test_haras_network_gets_a_new_head_for_other_classes_too(tmp_path):
    args = Args(model="r3d_18_hara", num_scenes=M)
    given = sdn.build_model(args, len(ACTIONS))
    file = tmp_path / "run.pt"
    about = dict(mean=tuple(args.mean), std=tuple(args.std))
    torch.save(dict(list_sha1="0", model=given.state_dict(), classes=ACTIONS, args=about), file)
    args.weights = str(file)
    for classes, kept in ((ACTIONS, True), (ACTIONS[::-1], False)):
        net = sdn.build_model(args, len(ACTIONS))
        note = sdn.first_weights(net, args, classes)
        assert torch.equal(net.head.weight, given.head.weight) == kept
        assert ("new head" in note) != kept


def test_init_takes_everything(trained, flags):
    args = Args(**flags | dict(init=trained))
    net = sdn.build_model(args, 8)
    assert sdn.first_weights(net, args, ACTIONS) == f"all of {trained}, epoch 1"
    assert same(dict(net.state_dict()), dict(load(trained)["model"]))
    for change, classes, message in (
        (
            dict(num_scenes=23),
            ACTIONS,
            r"do not fit the model: scene_head.6.bias \(\[24\], not \[23\]\)",
        ),
        (
            dict(scene_labels="none"),
            ACTIONS,
            r"do not fit the model: scene_head.0.bias \(unknown\)",
        ),
        ({}, ACTIONS[1:], "other classes"),
        ({}, ACTIONS[::-1], "other classes"),
    ):
        args = Args(**flags | dict(init=trained) | change)
        with pytest.raises(UserError, match=f"--init .*last.pt: .*{message}"):
            sdn.first_weights(sdn.build_model(args, len(classes)), args, classes)
