"""sdn.py's parts: each equation against a slow loop, which parameters either half of an iteration moves and in which
direction, clips without humans, masking in the real pipeline, the networks and other people's weights. Whole runs are
in test_train.py, the offline steps in test_offline.py."""

import copy
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import argv, command, ended, load, log_lines, same, two
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Subset
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

import albar
import common
import sdn
from common import UserError, Videos, load_weights
from sdn import SDN, Args, Reverse, Tiny

K, M, ACTIONS = 5, 7, list(common.ACTIONS)


@pytest.fixture
def script():
    return sdn


def small_resnet():
    """As r3d_18: batch norm, a residual block, and one with a shortcut of type A."""
    return nn.Sequential(nn.Conv3d(3, 8, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(8), nn.ReLU(),
                         BasicBlock(8, 8, Conv3DSimple), BasicBlock(8, 16, Conv3DSimple, 2, sdn.ShortcutA()),
                         nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, K))


BACKBONES = {"tiny": lambda: Tiny(K, 8), "resnet": small_resnet}
both_networks = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture
def double(monkeypatch):
    """The losses, which mixed precision needs in float32, stay in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)



def network(name="tiny", seed=0, lam=0.5, scenes=M, double=True):
    torch.manual_seed(seed)
    net = SDN(BACKBONES[name](), K, scenes, lam).train()
    return net.double() if double else net


def batch(n=4, seed=1, double=True):
    torch.manual_seed(seed)
    kind = torch.float64 if double else torch.float32
    return {"clip": torch.randn(n, 3, 4, 16, 16, dtype=kind), "label": torch.arange(n) % K,
            "scene": torch.rand(n, M, dtype=kind).softmax(1), "weight": torch.ones(n, dtype=kind)}


def groups(net):
    """theta_f, theta_A, theta_S: {name in the state dict: parameter} of each"""
    found = {"f": {}, "A": {}, "S": {}}
    for name, p in net.named_parameters():
        scene, head = name.startswith("scene_head."), name.startswith(f"backbone.{net.head_name}.")
        found["S" if scene else "A" if head else "f"][name] = p
    assert all(found.values()) or net.scene_head is None and found["f"] and found["A"]
    return found


def apart(net, clip):
    """f_A(G(x)) and f_S(G(x)) without the reversal layer, put together from the parts."""
    head = net.head
    net.backbone.set_submodule(net.head_name, nn.Identity())
    g = net.backbone(clip)
    net.backbone.set_submodule(net.head_name, head)
    return head(g), net.scene_head(g)


def slow_ce(z, target):
    """target (N,) labels or (N, M) rows that need not sum to 1"""
    target = F.one_hot(target, z.shape[1]) if target.ndim == 1 else target
    return -(target * (z - z.logsumexp(1, keepdim=True))).sum(1).mean()


def slow_entropy(z):
    """(N, K) -> (N,)"""
    return torch.distributions.Categorical(logits=z).entropy()


def gradients(net, args, data, masked=False):
    """{group: {name: gradient}} that one half of an iteration leaves; and its loss"""
    net.zero_grad(set_to_none=True)
    loss, _ = sdn.training_step(net, data, args, masked)
    loss.backward()
    return {key: {n: p.grad.clone() if p.grad is not None else None for n, p in some.items()}
            for key, some in groups(net).items()}, loss.detach()


def grad(loss, parameters):
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


def agree(a, b, least=1e-4):
    """Gradients of a group: equal to rounding, and not both next to nothing."""
    size = max(float(v.abs().max()) for v in b.values())
    assert a.keys() == b.keys() and size > least
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12 * size)


# ---- Losses ---------------------------------------------------------------------------------------------------------
def log_softmax(row):
    most = max(row)
    return [v - most - math.log(sum(math.exp(u - most) for u in row)) for v in row]


def test_equations_2_to_6_against_slow_loops():
    torch.manual_seed(0)
    z, label = torch.randn(6, K, dtype=torch.float64) * 3, torch.arange(6) % K
    s, p = torch.randn(6, M, dtype=torch.float64) * 3, torch.rand(6, M, dtype=torch.float64)
    p, weight = p / p.sum(1, keepdim=True), torch.tensor([0, 2, 1, 0, 2, 1], dtype=torch.float64)
    log_a, log_s = ([log_softmax(row) for row in rows.tolist()] for rows in (z, s))
    ce = adv = ent = 0.0
    for i in range(6):
        ce -= log_a[i][label[i]] / 6                                                                    # Eq. (2)
        adv -= sum(float(p[i, m]) * log_s[i][m] for m in range(M)) / 6                                  # Eq. (3)
        ent -= float(weight[i]) * sum(math.exp(v) * v for v in log_a[i]) / 6                            # Eq. (4)
    assert sdn.cross_entropy(z, label).item() == pytest.approx(ce, rel=1e-12)
    assert sdn.scene_adversarial(s, p).item() == pytest.approx(adv, rel=1e-12)
    assert sdn.human_mask_confusion(z, weight).item() == pytest.approx(ent, rel=1e-12)
    assert sdn.debiasing_objective(2.0, 3.0) == 5 and sdn.confusion_objective(3.0, 2.0) == -6           # Eqs. (5), (6)


def test_equations_by_hand():
    z = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64)) + 3
    assert sdn.cross_entropy(z, torch.tensor([0, 2])).item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    by_hand = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25) + math.log(0.8)) / 2
    assert sdn.scene_adversarial(z, p).item() == pytest.approx(by_hand)
    assert sdn.human_mask_confusion(z, torch.tensor([2.0, 0.0])).item() == pytest.approx(1.5 * math.log(2))


def test_hard_labels_are_the_cross_entropy_of_the_one_hot_and_a_row_of_zeros_adds_nothing():
    s, label = torch.randn(4, M, dtype=torch.float64, requires_grad=True), torch.tensor([1, 6, 0, 3])
    hard = F.one_hot(label, M).double()
    assert sdn.scene_adversarial(s, hard).item() == pytest.approx(F.cross_entropy(s, label).item(), rel=1e-12)
    hard[2] = 0
    loss = sdn.scene_adversarial(s, hard)
    kept = torch.tensor([0, 1, 3])
    assert loss.item() == pytest.approx(3 / 4 * F.cross_entropy(s[kept], label[kept]).item(), rel=1e-12)
    g, = torch.autograd.grad(loss, s)
    assert (g[2] == 0).all() and (g[kept] != 0).all()


def test_entropy_lies_between_0_and_that_of_the_uniform_prediction():
    one = torch.ones(1)
    uniform = sdn.human_mask_confusion(torch.full((1, K), 7.0, dtype=torch.float64), one)
    assert uniform.item() == pytest.approx(math.log(K), rel=1e-12)
    for size in (1e-3, 1, 30):
        for row in torch.randn(50, 1, K, dtype=torch.float64) * size:
            assert 0 < sdn.human_mask_confusion(row, one) < math.log(K)
    assert sdn.human_mask_confusion(torch.tensor([[900.0, 0, 0]]), one) == 0


def test_weights_of_mean_1_are_the_mean_over_the_clips_that_have_one():
    z, has = torch.randn(6, K, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    found = sdn.human_mask_confusion(z, has * 6 / has.sum())
    assert found.item() == pytest.approx(slow_entropy(z[has]).mean().item(), rel=1e-12)


def test_losses_of_extreme_logits_are_finite():
    z = torch.tensor([[3e4, -3e4, 0.0], [0.0, 1e4, 1e4]], requires_grad=True)
    ent = sdn.human_mask_confusion(z, torch.ones(2))
    assert ent.item() == pytest.approx(math.log(2) / 2)
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0, 0]])
    for loss in (ent, sdn.cross_entropy(z, torch.tensor([1, 0])), sdn.scene_adversarial(z, p)):
        g, = torch.autograd.grad(loss, z, retain_graph=True)
        assert loss.isfinite() and g.isfinite().all()


# ---- Gradient reversal ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 2.5])
def test_reverse_is_the_identity_and_turns_the_gradient(lam):
    x, w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    y = Reverse.apply(x, lam)
    assert torch.equal(y, x) and y.dtype == x.dtype
    plain, = torch.autograd.grad((w * x.tanh()).sum(), x)
    turned, = torch.autograd.grad((w * y.tanh()).sum(), x)
    assert torch.equal(turned, -lam * plain)
    twice, = torch.autograd.grad((w * Reverse.apply(Reverse.apply(x, lam), 2.0).tanh()).sum(), x)
    torch.testing.assert_close(twice, 2 * lam * plain)


def test_reverse_by_gradcheck():
    """The numerical derivative is the identity's: the analytical one agrees for lam = -1 alone."""
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Reverse.apply(x, -1.0), x)
    assert not torch.autograd.gradcheck(lambda x: Reverse.apply(x, 1.0), x, raise_exception=False)


# ---- The paper's point: which parameters each half moves, and in which direction ------------------------------------
@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
@both_networks
def test_half_of_equation_5_moves_each_group_its_own_way(name, lam, double):
    net, data = network(name, lam=lam), batch()
    found, loss = gradients(net, Args(lam=lam), data)
    z, s = apart(net, data["clip"])
    ce, adv, theta = slow_ce(z, data["label"]), slow_ce(s, data["scene"]), groups(net)
    d_ce, d_adv = grad(ce, theta["f"]), grad(adv, theta["f"])
    assert max(float(v.abs().max()) for v in d_adv.values()) > 1e-4
    agree(found["f"], {n: d_ce[n] - lam * d_adv[n] for n in d_ce})                     # descends L_CE, ascends L_Adv
    agree(found["A"], grad(ce, theta["A"]))                                            # L_CE alone
    agree(found["S"], grad(adv, theta["S"]))                                           # descends at full rate
    assert loss.item() == pytest.approx((ce + adv).item(), rel=1e-9)


def moved(parameters, directions, size):
    with torch.no_grad():
        for name, p in parameters.items():
            p += size * directions[name]


@both_networks
def test_half_of_equation_5_against_finite_differences(name, double):
    lam, net, data = 0.7, network(name, lam=0.7), batch()
    found, _ = gradients(net, Args(lam=lam), data)
    for key, signs in {"f": (1, -lam), "A": (1, 0), "S": (0, 1)}.items():              # of dL_CE, dL_Adv
        theta = groups(net)[key]
        size, ends = sum(float(g.square().sum()) for g in found[key].values()) ** 0.5, []
        count = sum(p.numel() for p in theta.values())
        direction = {n: found[key][n] / size + torch.randn_like(p) / count ** 0.5 for n, p in theta.items()}
        for h in (1e-6, -1e-6):
            moved(theta, direction, h)
            with torch.no_grad():
                z, s = apart(net, data["clip"])
            ends.append(signs[0] * slow_ce(z, data["label"]) + signs[1] * slow_ce(s, data["scene"]))
            moved(theta, direction, -h)
        slope = sum(float((direction[n] * found[key][n]).sum()) for n in theta)
        assert slope > 1e-3 and ((ends[0] - ends[1]) / 2e-6).item() == pytest.approx(slope, rel=1e-4), key


@both_networks
def test_half_of_equation_6_raises_the_entropy_by_the_backbone_and_by_the_head(name, double):
    net, data, args = network(name), batch(), Args(w_ent=2.0)
    with torch.no_grad():
        net.head.weight.mul_(10)                                                     # away from the uniform prediction
    if name == "resnet":
        sdn.training_step(net, batch(seed=3), args)                                  # running statistics of some clips
    found, loss = gradients(net, args, data, masked=True)

    def entropy():
        with torch.enable_grad(), common.running_statistics(net):
            return slow_entropy(apart(net, data["clip"])[0]).mean()

    before, theta = entropy(), groups(net)
    assert loss.item() == pytest.approx(-2 * before.item(), rel=1e-9)
    for key in "fA":
        agree(found[key], {n: -2 * g for n, g in grad(before, theta[key]).items()})
        size = sum(float(g.square().sum()) for g in found[key].values())
        moved(theta[key], found[key], -1e-5 / size ** 0.5)                           # a step of this group alone
        rise = entropy().item() - before.item()
        assert rise == pytest.approx(1e-5 * size ** 0.5 / 2, rel=1e-2), key
        moved(theta[key], found[key], 1e-5 / size ** 0.5)
    assert all(g is None or (g == 0).all() for g in found["S"].values())


class Steps:
    """Each optimiser step of a run: parameters before and after, by group. `with Steps(monkeypatch) as steps`"""

    def __init__(self, monkeypatch):
        def build(*a, real=sdn.build_model):
            self.net = real(*a)
            return self.net
        monkeypatch.setattr(sdn, "build_model", build)
        self.moved, self.halves, self.lr = [], [], []

        def half(model, data, args, masked=False, real=sdn.training_step):
            self.halves.append(masked)
            return real(model, data, args, masked)
        monkeypatch.setattr(sdn, "training_step", half)

    def now(self):
        return {key: {n: p.detach().clone() for n, p in some.items()} for key, some in groups(self.net).items()}

    def __enter__(self):
        self.hooks = [register_optimizer_step_pre_hook(self.before), register_optimizer_step_post_hook(self.after)]
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()

    def before(self, optimizer, a, k):
        self.last = self.now()
        of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        self.lr.append({key: {of[p] for p in some.values()} for key, some in groups(self.net).items()})

    def after(self, optimizer, a, k):
        """Which groups moved in every parameter, and which in none ('?': neither)."""
        now, said = self.now(), ""
        for key in "fAS":
            changed = {not torch.equal(v, now[key][n]) for n, v in self.last[key].items()}
            said += key if changed == {True} else "" if changed <= {False} else "?"
        self.moved.append(said)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_scene_head_moves_in_one_half_only_of_each_iteration(flags, monkeypatch, optimizer, accumulate):
    """Although it has momentum and weight decay."""
    flags |= dict(epochs=1, optimizer=optimizer, lr=1e-2, weight_decay=0.1, accumulate=accumulate, scene_lr=3.0,
                  schedule="plateau", warmup=0.0)
    with Steps(monkeypatch) as steps:
        sdn.train(Args(**flags))
    assert steps.moved == ["fAS", "fA"] * 10
    assert steps.halves == ([False] * accumulate + [True] * accumulate) * 10
    assert steps.lr == [{"f": {1e-2}, "A": {1e-2}, "S": {3.0 * 1e-2}}] * 20


@pytest.mark.parametrize("change", [dict(schedule="plateau", warmup=0.0), dict(schedule="cosine", warmup=1.0)])
def test_the_first_epochs_train_the_heads_alone(flags, monkeypatch, change):
    """At a learning rate of their own; then the schedule begins."""
    flags |= dict(epochs=3, head_epochs=1, head_lr=0.02, optimizer="sgd", lr=1e-2, weight_decay=0.1, scene_lr=2.0)
    with Steps(monkeypatch) as steps:
        sdn.train(Args(**flags | change))
    assert steps.moved == ["AS"] * 10 + ["fAS", "fA"] * 20 and steps.halves == [False] * 10 + [False, True] * 20
    assert [(rate["A"], rate["S"]) for rate in steps.lr[:10]] == [({0.02}, {0.02})] * 10
    rates = [1e-2 * (sdn.learning_rate(i // 2, 20, 10) if change["schedule"] == "cosine" else 1) for i in range(40)]
    for key, times in (("f", 1), ("A", 1), ("S", 2)):
        assert [rate for now in steps.lr[10:] for rate in now[key]] == pytest.approx([times * rate for rate in rates])


@both_networks
def test_lambda_0_is_plain_cross_entropy_for_backbone_and_head_bit_for_bit(name):
    net, data = network(name, lam=0.0, double=False), batch(double=False)
    found, _ = gradients(net, Args(lam=0.0), data)
    net.zero_grad()
    F.cross_entropy(net(data["clip"]), data["label"]).backward()
    for key in "fA":
        assert all(torch.equal(found[key][n], p.grad) for n, p in groups(net)[key].items())
    assert all(p.grad is None for p in groups(net)["S"].values()) and all(v.abs().max() for v in found["S"].values())


def backbone(checkpoint):
    return {k: v for k, v in load(checkpoint)["model"].items() if k.startswith("backbone.")}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_baseline_is_a_plain_loop_and_so_is_lambda_0_bit_for_bit(flags, tmp_path, optimizer):
    flags |= dict(epochs=2, optimizer=optimizer, schedule="plateau", warmup=0.0, lr=1e-2, weight_decay=0.1)
    plain = sdn.SHORT["baseline"] | dict(out=str(tmp_path / "plain"))
    found = [backbone(sdn.train(Args(**flags | change))["checkpoint"]) for change in (plain, dict(lam=0.0, w_ent=0.0))]
    args = Args(**flags | plain)
    common.start(args.seed)
    data, order = sdn.make_data(args)[0], common.Order(80, 8, 0)
    net = SDN(Tiny(8), 8, 0, 0.5)
    how = dict(lr=1e-2, weight_decay=0.1)
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, **how) if optimizer == "sgd" else torch.optim.AdamW(
        net.parameters(), **how)
    for order.epoch in range(2):
        for some in DataLoader(data, batch_sampler=order):
            optimizer.zero_grad()
            F.cross_entropy(net(common.normalise(some["clip"], args.mean, args.std)), some["label"]).backward()
            optimizer.step()
    assert same(found[0], net.state_dict()) and same(found[1], net.state_dict())
    assert load(tmp_path / "plain/last.pt")["optimizer"]["param_groups"][0].get("dampening", 0) == 0


@pytest.mark.parametrize("change, off, columns", [
    (dict(scene_labels="none"), "scene_adversarial", {"ce", "ent"}),
    (dict(w_ent=0.0), "human_mask_confusion", {"ce", "adv"})])
def test_a_loss_that_is_switched_off_is_not_computed(flags, monkeypatch, change, off, columns):
    """Rows of Tables 4 and 5; nor are its labels or boxes read."""
    def refuse(*a, **k):
        raise AssertionError("called")
    monkeypatch.setattr(sdn, off, refuse)
    for name in ("scene_labels", "Reverse") if "scene_labels" in change else ("Boxes", "mask_humans"):
        monkeypatch.setattr(sdn, name, refuse)
    with Steps(monkeypatch) as steps:
        sdn.train(Args(**flags | change | dict(epochs=1)))
    assert (steps.net.scene_head is None) == ("scene_labels" in change)
    assert Counter(steps.halves) == ({False: 10} if "w_ent" in change else {False: 10, True: 10})
    record = log_lines(flags["out"])[1]
    assert record.keys() & {"ce", "adv", "ent"} == columns
    if "scene_labels" in change:
        assert "scene_accuracy" not in record and "val/scene_accuracy" not in log_lines(flags["out"])[-1]


def test_logged_figures():
    net, data = network(double=False), batch(8, double=False)
    data["scene"][3] = 0                                                                                # no label
    _, logs = sdn.training_step(net, data, Args())
    z, s = apart(net, data["clip"])
    assert float(logs["accuracy"]) == (z.argmax(1) == data["label"]).float().mean()
    right = [bool(s[i].argmax() == data["scene"][i].argmax()) for i in range(8) if i != 3]
    assert float(logs["scene_accuracy"]) == pytest.approx(sum(right) / 7)
    for name, value in {"ce": slow_ce(z, data["label"]), "adv": slow_ce(s, data["scene"])}.items():
        assert logs[name].item() == pytest.approx(value.item(), rel=1e-5)
    data["weight"] = torch.tensor([0, 2.0] * 4)
    loss, logs = sdn.training_step(net, data, Args(w_ent=3.0), masked=True)
    assert float(logs["masked_share"]) == 0.5
    assert logs["ent"].item() == pytest.approx(slow_entropy(z[1::2]).mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(-3 * logs["ent"].item(), rel=1e-5)
    assert float(logs["masked_accuracy"]) == pytest.approx((z.argmax(1) == data["label"])[1::2].float().mean().item())


# ---- Clips without humans -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masked_bn", ["eval", "train"])
@both_networks
def test_clips_without_humans_take_no_part_in_equation_6(name, masked_bn):
    args, weight = Args(masked_bn=masked_bn), torch.tensor([0, 1.5, 1.5, 0, 1.5, 1.5]).double()
    data, kept = batch(6) | dict(weight=weight), weight > 0
    found, loss = gradients(start := network(name), args, data, masked=True)
    other = dict(data, clip=torch.where(kept.view(-1, 1, 1, 1, 1), data["clip"], 100.0), label=data["label"] * kept)
    again, loss_again = gradients(network(name), args, other, masked=True)
    assert loss == loss_again and same(found, again)
    alone, loss_alone = gradients(net := network(name), args, {
        "clip": data["clip"][kept], "label": data["label"][kept], "weight": torch.ones(4).double()}, masked=True)
    torch.testing.assert_close(loss, loss_alone)
    agree(found["f"], alone["f"])
    agree(found["A"], alone["A"])
    assert same(start.state_dict(), net.state_dict())                              # batch norm has not seen them either


@both_networks
def test_a_part_of_a_batch_without_humans_has_no_gradient_but_every_parameter_has_one(name):
    """DistributedDataParallel waits for all of them: this process has no human, others have."""
    found, loss = gradients(network(name), Args(), batch() | dict(weight=torch.zeros(4).double()), masked=True)
    assert loss == 0 and all((g == 0).all() for some in found.values() for g in some.values())


def write_boxes(path, world, which):
    """Text of boxes: of video number i on the frames f for which which(i, f)."""
    names = [line.split()[0] for line in (world / "train.txt").read_text().splitlines()]
    path.write_text("".join(f"{name} {f} 10 12 24.5 30\n" for i, name in enumerate(names)
                            for f in range(common.LENGTH) if which(i, f)))
    return (str(path),)


def test_a_clip_takes_part_when_half_of_its_frames_have_a_box(flags, world, tmp_path, monkeypatch):
    """Each second of seven frames. A box have, of the videos by their number, two of the four; one; two; none."""
    shares = 0.5, 0.25, 0.5, 0
    boxes = write_boxes(tmp_path / "boxes.txt", world, lambda i, f: shares[i % 4] and f // 2 % (1 / shares[i % 4]) == 0)
    flags |= dict(humans=boxes, epochs=1)
    data = sdn.make_data(Args(**flags))[0]
    assert [data[i]["humans"] for i in range(80)] == [shares[i % 4] for i in range(80)]
    seen, some = [], []

    def spy(model, data, args, masked=False, real=sdn.training_step):
        seen.append((masked, data.get("weight")))
        return real(model, data, args, masked)

    monkeypatch.setattr(sdn, "training_step", spy)
    sdn.train(Args(**flags))
    order = iter(common.Order(80, 8, 0))
    for masked, weight in seen:
        if masked:
            assert weight.tolist() == pytest.approx([has * 8 / sum(some) for has in some])
        else:
            assert weight is None
            some = [int(i % 2 == 0) for i in next(order)]
    assert [masked for masked, _ in seen] == [False, True] * 10


def test_a_batch_without_humans_has_the_step_of_equation_5_alone(flags, world, tmp_path, monkeypatch):
    flags |= dict(humans=write_boxes(tmp_path / "boxes.txt", world, lambda i, f: i == 33), epochs=1)
    with Steps(monkeypatch) as steps:
        sdn.train(Args(**flags))
    where = [33 in batch for batch in common.Order(80, 8, 0)]
    assert sum(where) == 1 and steps.moved == [word for has in where for word in ["fAS", "fA"][:1 + has]]
    records = log_lines(flags["out"])[1:11]
    assert [("ent" in r, "masked_accuracy" in r) for r in records] == [(has, has) for has in where]
    assert all(0 <= r["ent"] <= math.log(8) + 1e-5 for r in records if "ent" in r)


def test_an_epoch_without_any_human_is_an_error(flags, world, tmp_path):
    """Eq. (6) would be silently without a clip: each eighth frame has a box, of each second frame four are seen."""
    flags |= dict(humans=write_boxes(tmp_path / "boxes.txt", world, lambda i, f: f % 8 == 0))
    with pytest.raises(UserError, match=r"--humans: no clip of an epoch has boxes in half of its frames, so Eq. \(6\)"):
        sdn.train(Args(**flags))
    assert not list(tmp_path.glob("run/*.pt"))
    sdn.train(Args(**flags | dict(epochs=1, w_ent=0.0, overwrite=True)))


def test_uneven_shares_of_humans_in_parts_and_on_two_processes(flags, world, tmp_path):
    """The mean is over the clips with humans of the whole batch, whoever has them, also if one has none, or nobody."""
    flags |= dict(humans=write_boxes(tmp_path / "boxes.txt", world, lambda i, f: i % 80 in range(6)), optimizer="sgd",
                  lr=0.05, schedule="plateau", warmup=0.0, w_ent=5.0, epochs=1)
    counts = [[sum(i < 6 for i in some[part::2]) for part in range(2)] for some in common.Order(80, 8, 0)]
    assert {tuple(map(bool, some)) for some in counts} >= {(True, False), (False, False)}
    one = backbone(sdn.train(Args(**flags))["checkpoint"])
    flags["out"] = str(tmp_path / "parts")
    parts = backbone(sdn.train(Args(**flags | dict(accumulate=2)))["checkpoint"])
    flags["out"] = str(tmp_path / "two")
    with ended(*(processes := two(command, "sdn.py", argv(flags)))) as said:
        assert [process.returncode for process in processes] == [0, 0], said
    start, both = SDN(Tiny(8), 8, 0, 0.5).state_dict(), backbone(tmp_path / "two/last.pt")
    flags |= dict(w_ent=0.0, out=str(tmp_path / "none"))
    without = backbone(sdn.train(Args(**flags))["checkpoint"])
    for key in start:
        torch.testing.assert_close(parts[key], one[key], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(both[key], one[key], rtol=1e-4, atol=2e-5)
    assert max(float((without[key] - one[key]).abs().max()) for key in start) > 1e-3


@pytest.mark.parametrize("masked_bn", ["eval", "train"])
def test_batch_norm_statistics_of_masked_clips(masked_bn):
    """eval: the masked clips use the running statistics and leave them alone; train: they mix into them."""
    torch.manual_seed(0)
    net, data = sdn.build_model(Args(model="r3d_18", num_scenes=M), K).train(), batch(2, double=False)
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k or "tracked" in k}
    with torch.no_grad():
        _, logs = sdn.training_step(net, data, Args(masked_bn=masked_bn), masked=True)
        after = net.state_dict()
        unmoved = {torch.equal(v, after[k]) for k, v in before.items()}
        assert unmoved == ({True} if masked_bn == "eval" else {False}) and all(m.training for m in net.modules())
        if masked_bn == "eval":
            entropy = slow_entropy(net.eval()(data["clip"])).mean()
            assert float(logs["ent"]) == pytest.approx(entropy.item(), rel=1e-4)
            net.train()
        sdn.training_step(net, data, Args(masked_bn=masked_bn))
        assert {torch.equal(v, after[k]) for k, v in before.items()} == {False}         # the moving clips' half


# ---- Masking in the real pipeline -----------------------------------------------------------------------------------
def test_clip_and_masked_clip_share_crop_and_flip_and_differ_inside_the_boxes_alone(flags, world):
    """The same crop of a picture of the boxes, from the benchmark's ground truth, says where they may differ."""
    args = Args(**flags | dict(size=32, resize=36, frames=8, flip=0.5, scale=(0.3, 0.8)))
    data = sdn.make_data(args)[0]
    truth, inside, read = np.unpackbits(np.load(world / "truth.npz")["train/masks"], 1), 0, {}
    truth = truth.reshape(80, common.LENGTH, common.SIDE, common.SIDE)

    def change(frames, path, at):
        both, shown, more = data.change(frames, path, at)
        picture = torch.zeros_like(frames)
        for image, t in zip(picture, at, strict=True):
            actor = truth[data.videos.paths.index(path), t]
            for y in range(common.SIDE):
                for x in range(common.SIDE):
                    if actor[y].any() and actor[:, x].any():       # its box; on either side where it crosses the border
                        image[y, x] = 255
        read["mean"] = frames.double().mean((1, 2)).round()                                             # (T, 3)
        return torch.cat([both, picture]), np.concatenate([shown, at[None]]), more

    three = Videos(data.videos, data.sample, data.transform, args.seed, change=change)
    for i in range(6):
        item, with_picture = data[80 * i + i], three[80 * i + i]
        clip, masked, box = with_picture["clip"]
        assert torch.equal(item["clip"], with_picture["clip"][:2]) and item["humans"] == 1
        assert clip.shape == (3, 8, 32, 32) and clip.dtype == torch.uint8
        outside = (box == 0).all(0)
        assert torch.equal(clip[:, outside], masked[:, outside]) and outside.any()
        for t in range(8):
            within = (box[:, t] == 255).all(0)
            assert (masked[:, t][:, within] == read["mean"][t][:, None]).all()
            inside += int((clip[:, t][:, within] != masked[:, t][:, within]).sum())
    assert inside > 1000


def test_which_clip_each_half_sees(flags, monkeypatch):
    """Eq. (5) the clip, Eq. (6) the masked one, of the same videos; none of them is masked without Eq. (6)."""
    flags |= dict(epochs=1, batch_size=80)
    seen, validated = {}, []

    def spy(model, data, args, masked=False, real=sdn.training_step):
        seen[masked] = data
        return real(model, data, args, masked)

    def look(model, loader, labels, *more, real=sdn.validate):
        validated.append(labels)
        return real(model, loader, labels, *more)

    monkeypatch.setattr(sdn, "training_step", spy)
    monkeypatch.setattr(sdn, "validate", look)
    sdn.train(Args(**flags))
    data, _, labels, val_labels = sdn.make_data(args := Args(**flags))
    assert torch.equal(validated[0], val_labels)
    order = next(iter(common.Order(80, 80, 0)))
    for masked, one in seen.items():
        clips = torch.stack([data[i]["clip"][int(masked)] for i in order])
        assert torch.equal(one["clip"], common.normalise(clips, args.mean, args.std))
        assert one["label"].tolist() == [data.videos.labels[i] for i in order]
    assert torch.equal(seen[False]["scene"], labels[order]) and not torch.equal(seen[False]["clip"], seen[True]["clip"])
    plain = sdn.make_data(Args(**flags | dict(w_ent=0.0)))[0]
    assert torch.equal(plain[order[0]]["clip"], data[order[0]]["clip"][0])


def with_broken(world, folder, *broken):
    """A root with the videos of train and val, these excepted."""
    for split in ("train", "val"):
        (folder / split).mkdir()
        for path in (world / split).iterdir():
            if (name := f"{split}/{path.name}") in broken:
                (folder / name).write_bytes(b"no video")
            else:
                (folder / name).symlink_to(path)
    return str(folder)


def test_what_replaces_an_unreadable_video_brings_its_own_label_and_boxes(flags, world, tmp_path, monkeypatch):
    root = with_broken(world, tmp_path, "train/0003.mp4", "train/0004.mp4")
    humans = write_boxes(tmp_path / "boxes.txt", world, lambda i, f: i in (3, 4, 6, 50))
    flags |= dict(root=root, max_bad=0.1, humans=humans, epochs=1, batch_size=80)
    seen = []

    def spy(model, data, args, masked=False, real=sdn.training_step):
        seen.append(data)
        return real(model, data, args, masked)

    monkeypatch.setattr(sdn, "training_step", spy)
    sdn.train(Args(**flags))
    data, _, labels, _ = sdn.make_data(Args(**flags))
    shown = [{3: 5, 4: 5}.get(i, i) for i in next(iter(common.Order(80, 80, 0)))]
    assert torch.equal(seen[0]["scene"], labels[shown])
    assert seen[0]["label"].tolist() == [data.videos.labels[i] for i in shown]
    assert seen[1]["weight"].tolist() == [40.0 * (i in (6, 50)) for i in shown]


# ---- Scene labels ---------------------------------------------------------------------------------------------------
def test_labels_of_the_lists_soft_and_hard(flags, world, tmp_path):
    with np.load(world / "scenes.npz") as file:
        table = dict(zip(file["paths"].tolist(), file["probabilities"].astype(np.float32), strict=True))
        rest = {name: file[name] for name in ("categories", "made", "unreadable")}
    left = {path for path in table if path not in ("train/0007.mp4", "val/0003.mp4")}
    common.save_arrays(tmp_path / "some.npz", paths=np.array(sorted(left)), **rest,
                       probabilities=np.stack([table[path] for path in sorted(left)]))
    flags |= dict(scenes=(str(tmp_path / "some.npz"),), max_bad=0.05)
    found = {how: sdn.make_data(Args(**flags | dict(scene_labels=how))) for how in ("soft", "hard")}
    for part in (0, 1):
        for i, path in enumerate(found["soft"][part].videos.paths):
            row, hard = found["soft"][2 + part][i], found["hard"][2 + part][i]
            assert row.dtype == hard.dtype == torch.float32 and row.shape == hard.shape == (24,)
            if path in left:
                assert torch.equal(row, torch.from_numpy(table[path]))
                assert hard.tolist() == [float(m == int(table[path].argmax())) for m in range(24)]
            else:
                assert not row.any() and not hard.any()
    with pytest.raises(UserError, match="no labels of 2 of 100 videos, first train/0007.mp4.*--max-bad"):
        sdn.make_data(Args(**flags | dict(max_bad=0.01)))


def test_embedded_benchmark_has_labels_and_boxes_of_its_own(world, monkeypatch):
    monkeypatch.setattr(common, "toy", lambda seed, folder: world)
    monkeypatch.setattr(sdn, "toy", lambda seed, folder: world)
    train, val, labels, val_labels = sdn.make_data(Args(**sdn.TOY))
    assert labels.shape == (80, 24) and val_labels.shape == (20, 24) and train[0]["humans"] == 1
    assert (labels.sum(1) - 1).abs().max() < 0.01 and "humans" not in val[0]


# ---- Validation -----------------------------------------------------------------------------------------------------
def test_validation_figures_against_brute_force(flags, world, tmp_path):
    """Not counted: an unreadable video; of the scene accuracy also one without a label."""
    with np.load(world / "scenes.npz") as file:
        keep = file["paths"] != "val/0003.mp4"
        common.save_arrays(tmp_path / "some.npz", categories=file["categories"], paths=file["paths"][keep],
                           probabilities=file["probabilities"][keep])
    lines = (world / "val.txt").read_text().splitlines()
    root = with_broken(world, tmp_path, "val/0005.mp4")
    args = Args(**flags | dict(scenes=(str(tmp_path / "some.npz"),), root=root, max_bad=0.1))
    torch.manual_seed(0)
    _, val, _, labels = sdn.make_data(args)
    net = SDN(small_resnet(), 8, 24, 0.5)
    with torch.no_grad():
        net(torch.randn(4, 3, 4, 16, 16) * 3)                                         # running statistics of something
        for p in net.parameters():
            p.mul_(3)                                                                 # so that guesses differ
    loader = DataLoader(Subset(val, range(20)), 6)
    figures = sdn.validate(net, loader, labels, args, torch.device("cpu"))
    assert net.training
    net.eval()
    loss = right = scene_right = 0
    with torch.no_grad():
        for i in range(20):
            if i == 5:
                continue
            path = tmp_path / lines[i].split()[0]
            frames = common.read_clip(path, common.centre_clip(20, args.frames, args.stride))
            clip = common.test_transform(args.size, args.resize)(frames.permute(0, 3, 1, 2)).transpose(0, 1)
            z, s = apart(net, common.normalise(clip[None], args.mean, args.std))
            label = int(lines[i].split()[1])
            loss += -log_softmax(z[0].tolist())[label] / 19
            right += int(z.argmax()) == label
            scene_right += i != 3 and int(s.argmax()) == int(labels[i].argmax())
    assert figures == {"val/loss": pytest.approx(loss, rel=1e-5), "val/accuracy": right / 19, "val/chance": 1 / 8,
                       "val/videos": 19, "val/unreadable": ["val/0005.mp4"], "val/scene_accuracy": scene_right / 18}
    with torch.no_grad():
        net.scene_head[-1].bias[0] += 1e9                                             # names scene 0, always
    always = sdn.validate(net, loader, labels, args, torch.device("cpu"))["val/scene_accuracy"]
    assert always == sum(int(labels[i].argmax()) == 0 for i in range(20) if i not in (3, 5)) / 18
    plain = sdn.validate(SDN(net.backbone, 8, 0, 0.5), loader, None, args, torch.device("cpu"))
    assert "val/scene_accuracy" not in plain and plain["val/videos"] == 19


# ---- Schedule -------------------------------------------------------------------------------------------------------
def test_plateau_divides_the_learning_rate_by_ten_after_patience_epochs(flags, monkeypatch):
    losses = iter([2.0, 1.5, 1.5, 1.6, 1.7, 1.4, 1.45, 1.45, 1.45, 1.3])
    monkeypatch.setattr(sdn, "validate", lambda *a: {"val/loss": next(losses), "val/accuracy": 0.5, "val/chance": 0.1})
    flags |= dict(schedule="plateau", warmup=0.0, patience=2, lr=0.01, scene_lr=3.0, epochs=10, batch_size=80,
                  optimizer="sgd")
    result = sdn.train(Args(**flags))
    rates = [r["lr"] for r in log_lines(flags["out"]) if "ce" in r]
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 4 + [0.0001])             # three in a row were not lower
    last = load(result["checkpoint"])["optimizer"]["param_groups"]
    assert [group["lr"] for group in last] == pytest.approx([1e-4, 3e-4])


def test_plateau_does_not_look_at_the_epochs_of_the_heads_alone(flags, monkeypatch):
    losses = iter([0.1, 2.0, 1.9, 1.8, 1.7])
    monkeypatch.setattr(sdn, "validate", lambda *a: {"val/loss": next(losses), "val/accuracy": 0.5, "val/chance": 0.1})
    flags |= dict(schedule="plateau", warmup=0.0, patience=0, lr=0.01, head_epochs=1, head_lr=0.5, epochs=5,
                  batch_size=80)
    sdn.train(Args(**flags))
    assert [r["lr"] for r in log_lines(flags["out"]) if "ce" in r] == [0.5] + [0.01] * 4


def test_cosine_is_that_of_albar(flags):
    for steps, warmup in ((100, 10), (30, 2.5), (7, 0)):
        assert [sdn.learning_rate(s, steps, warmup) for s in range(steps + 1)] == [
            albar.learning_rate(s, steps, warmup) for s in range(steps + 1)]
    sdn.train(Args(**flags | dict(scene_lr=3.0)))
    rates = [r["lr"] for r in log_lines(flags["out"]) if "ce" in r]                # after the step: the next one's
    assert rates == pytest.approx([flags["lr"] * albar.learning_rate(s, 20, 10) for s in range(1, 21)])


# ---- Models ---------------------------------------------------------------------------------------------------------
def meta(num_classes=400, **change):
    with torch.device("meta"):
        return sdn.build_model(Args(**dict(scene_labels="none") | change), num_classes)


def test_defaults_are_the_papers():
    args, net = Args(), sdn.build_model(Args(model="tiny"), K)
    assert (args.lam, args.w_ent, args.scene_labels, args.num_scenes, args.frames, args.size) == (
        0.5, 1, "soft", 365, 16, 112)
    assert (args.optimizer, args.lr, args.weight_decay, args.batch_size, args.epochs, args.schedule) == (
        "sgd", 1e-3, 1e-5, 32, 100, "plateau")
    assert [str(m) for m in net.scene_head if isinstance(m, nn.Linear)] == [               # four layers, 512 hidden
        str(nn.Linear(a, b)) for a, b in ((64, 512), (512, 512), (512, 512), (512, 365))]
    assert [type(m) for m in net.scene_head] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    assert sdn.build_model(Args(model="tiny", scene_labels="none"), K).scene_head is None


@pytest.mark.parametrize("shortcut", "AB")
def test_size_of_hara_s_network(shortcut):
    """Convolutions without bias, a norm's weight and bias after each: counted by hand."""
    stem, norm = 7 ** 3 * 3 * 64 + 2 * 64, 2
    stages = sum(27 * a * b + 3 * 27 * b * b + 4 * norm * b for a, b in ((64, 64), (64, 128), (128, 256), (256, 512)))
    count = stem + stages + 512 * 400 + 400
    if shortcut == "B":
        count += sum(a * b + norm * b for a, b in ((64, 128), (128, 256), (256, 512)))
    assert count == {"A": 33_235_280, "B": 33_409_104}[shortcut]
    net = meta(model="r3d_18_hara", shortcut=shortcut)
    assert sum(p.numel() for p in net.parameters()) == count and net.head_name == "fc"
    shapes = {}
    for name in ("stem.2", "stem", "layer1", "layer2", "layer3", "layer4"):
        net.backbone.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    clip = torch.zeros(2, 3, 16, 112, 112, device="meta")
    assert net(clip).shape == (2, 400) and net.features(clip).shape == (2, 512)
    assert shapes == {"stem.2": (64, 16, 56, 56), "stem": (64, 8, 28, 28), "layer1": (64, 8, 28, 28),
                      "layer2": (128, 4, 14, 14), "layer3": (256, 2, 7, 7), "layer4": (512, 1, 4, 4)}
    assert sum(p.numel() for p in meta(model="r3d_18").parameters()) == 33_371_472                     # torchvision's


class HaraBlock(nn.Module):
    """Hara et al. 2018, in their names: conv-bn-relu-conv-bn, plus the shortcut, relu."""

    def __init__(self, a, b, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(a, b, 3, stride, 1, bias=False), nn.BatchNorm3d(b)
        self.conv2, self.bn2 = nn.Conv3d(b, b, 3, 1, 1, bias=False), nn.BatchNorm3d(b)
        self.downsample, self.stride, self.new = None, stride, b - a
        if shortcut == "B" and stride > 1:
            self.downsample = nn.Sequential(nn.Conv3d(a, b, 1, stride, bias=False), nn.BatchNorm3d(b))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample:
            x = self.downsample(x)
        elif self.stride > 1:
            x = F.avg_pool3d(x, kernel_size=1, stride=self.stride)
            x = torch.cat([x, x.new_zeros(len(x), self.new, *x.shape[2:])], 1)
        return F.relu(x + y)


class Hara(nn.Module):
    def __init__(self, shortcut, num_classes=400):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, 64, 7, (1, 2, 2), (3, 3, 3), bias=False), nn.BatchNorm3d(64)
        for i, (a, b) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
            blocks = HaraBlock(a, b, 1 if i == 0 else 2, shortcut), HaraBlock(b, b, 1, shortcut)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3, 4)))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """{shortcut: (network, file as theirs)}: a checkpoint of torch 0.3, its format and without num_batches_tracked"""
    found = {}
    for shortcut in "AB":
        torch.manual_seed(1)
        net = Hara(shortcut).eval()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm3d):
                m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 2)
                nn.init.uniform_(m.weight, 0.5, 1.5), nn.init.normal_(m.bias, 0, 0.1)
        state = {f"module.{k}": v for k, v in net.state_dict().items() if "tracked" not in k}
        optimizer = torch.optim.SGD([net.fc.weight], 0.1, momentum=0.9).state_dict()
        file = tmp_path_factory.mktemp("hara") / f"resnet-18-{shortcut}.pth"
        torch.save({"epoch": 200, "arch": "resnet-18", "state_dict": state, "optimizer": optimizer}, file,
                   _use_new_zipfile_serialization=False)
        found[shortcut] = net, file
    return found


def hara(file, num_classes=400, **change):
    """-> our network with these weights, what was said"""
    args = Args(**dict(scene_labels="none", weights=str(file)) | change)
    net = sdn.build_model(args, num_classes).eval()
    return net, sdn.first_weights(net, args, ACTIONS)


@pytest.mark.parametrize("shortcut", "AB")
def test_released_weights_of_hara_give_their_logits(released, shortcut):
    theirs, file = released[shortcut]
    names = set(load(file)["state_dict"])
    assert {"module.conv1.weight", "module.layer2.0.bn1.running_mean", "module.fc.weight"} <= names
    assert ("module.layer2.0.downsample.0.weight" in names) == (shortcut == "B")
    net, said = hara(file, shortcut=shortcut)
    assert f"{len(names)} tensors from {file}, stripped module." == said
    clip = torch.randn(2, 3, 9, 50, 52)                                            # sizes that do not halve evenly
    with torch.no_grad():
        ours, expected = net(clip), theirs(clip)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_official_checkpoint_s_own_heads_are_left_out_and_said(released, tmp_path):
    saved, extra = load(released["A"][1]), {}
    for head in ("place_mlp", "hm_mlp"):
        extra |= {f"module.{head}.{key}": torch.zeros(shape) for key, shape in {
            "0.fc.weight": (512, 512), "0.bn.running_mean": (512,), "p_last_fc.weight": (365, 512)}.items()}
    torch.save(saved | dict(state_dict=saved["state_dict"] | extra), tmp_path / "sdn.pth")
    net, said = hara(tmp_path / "sdn.pth", 8, scene_labels="soft")
    assert "left out hm_mlp, place_mlp" in said and "new head of 8 classes for one of 400" in said
    before = sdn.build_model(Args(), 8).scene_head
    assert torch.equal(net.backbone.layer4[1].conv2[0].weight, saved["state_dict"]["module.layer4.1.conv2.weight"])
    assert [p.shape for p in net.scene_head.parameters()] == [p.shape for p in before.parameters()]
    torch.save(saved | dict(state_dict=saved["state_dict"] | {"module.other_mlp.weight": torch.zeros(3)}),
               tmp_path / "other.pth")
    with pytest.raises(UserError, match="1 keys do not fit the model: (module.)?other_mlp.weight"):
        hara(tmp_path / "other.pth")


@pytest.mark.parametrize("shortcut", "AB")
def test_hara_s_network_goes_back_into_itself(shortcut, tmp_path):
    """Its names are ours already: nothing is renamed."""
    net = sdn.build_model(Args(shortcut=shortcut, num_scenes=M), 8)
    own = dict(net.backbone.state_dict())
    for content in (net.state_dict(), own, {f"module.{k}": v for k, v in own.items()}):
        torch.save(dict(method="sdn", model=content), tmp_path / "ours.pt")
        again, said = hara(tmp_path / "ours.pt", 8, shortcut=shortcut)
        assert ("left out scene_head" in said) == ("scene_head.0.weight" in content) and "new head" not in said
        assert same(dict(again.backbone.state_dict()), own)


def test_weights_of_the_other_shortcut_are_refused_by_their_keys(released):
    for ours, theirs in ("AB", "BA"):
        with pytest.raises(UserError, match="1[58] keys do not fit the model: .*layer2.0.downsample.0.weight") as error:
            hara(released[theirs][1], shortcut=ours)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vgg16", *torchvision.models.list_models(torchvision.models.video)])
def test_torchvision_s_names_under_backbone(name):
    with torch.device("meta"):
        net = sdn.build_model(Args(model=name, num_scenes=M), K)
        theirs = torchvision.models.get_model(name, weights=None, **dict(init_weights=False) if name == "vgg16" else {})
    ours = {k: v.shape for k, v in net.state_dict().items() if not k.startswith("scene_head.")}
    theirs = {f"backbone.{k}": v.shape for k, v in theirs.state_dict().items()}
    assert list(ours) == list(theirs)
    assert {k.rsplit(".", 1)[0] for k in ours if ours[k] != theirs[k]} == {f"backbone.{net.head_name}"}
    assert len(net.scene_head) == 7 and net.scene_head[-1].out_features == M


def test_vgg16_sees_one_frame_and_its_features_are_fc7():
    args = Args(model="vgg16", frames=1, size=300, resize=300, num_scenes=M)
    with torch.device("meta"):
        net, seen = sdn.build_model(args, K), []
        net.backbone.classifier[6].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        clip = torch.zeros(2, 3, 1, 300, 300)
        features = net.features(clip)
        assert features is seen[0] and features.shape == (2, 4096) and net.head is net.backbone.classifier[6]
        z, s = net(clip, scenes=True)
        assert z.shape == (2, K) and s.shape == (2, M)
        common.try_clip(net, args)
        with pytest.raises(UserError, match="--model vgg16 takes no clip of --frames 2 and --size 300: .*") as error:
            common.try_clip(net, Args(model="vgg16", frames=2, size=300, resize=300))
    assert "\n" not in str(error.value)


def test_forward_features_and_scene_logits_are_of_one_network():
    for name in BACKBONES:
        net, clip = network(name).eval(), batch()["clip"]
        z, s = net(clip, scenes=True)
        assert torch.equal(z, net(clip)) and torch.equal(s, net.scene_head(net.features(clip)))
        torch.testing.assert_close(net.head(net.features(clip)), z)
        assert not net.head._forward_pre_hooks


# ---- Transfer -------------------------------------------------------------------------------------------------------
@pytest.fixture
def trained(flags):
    return sdn.train(Args(**flags | dict(epochs=1)))["checkpoint"]


def test_weights_go_to_albar_without_the_scene_head_and_back(trained, tmp_path):
    saved = backbone(trained)
    net = albar.build_model(albar.Args(model="tiny"), 8)
    said = load_weights(net, trained, "tiny", net.head_name)
    assert said == f"{len(saved)} tensors from {trained}, left out scene_head" and same(dict(net.state_dict()), saved)
    other = albar.build_model(albar.Args(model="tiny"), 5)
    assert "new head of 5 classes for one of 8" in load_weights(other, trained, "tiny", other.head_name)
    assert torch.equal(other.backbone.layers[0].weight, saved["backbone.layers.0.weight"])
    torch.save(dict(method="albar", model=net.state_dict()), tmp_path / "albar.pt")
    for file, said in ((tmp_path / "albar.pt", "albar.pt"), (trained, "left out scene_head")):
        back = sdn.build_model(args := Args(model="tiny", weights=str(file), num_scenes=M), 8)
        new = copy.deepcopy(back.scene_head.state_dict())
        assert said in sdn.first_weights(back, args, ACTIONS)
        assert same({k: v for k, v in back.state_dict().items() if "backbone" in k}, saved)
        assert same(back.scene_head.state_dict(), new)


def test_albar_trains_from_a_run_of_sdn(trained, flags, tmp_path):
    """The command line's way: a folder's last.pt."""
    shared = {k: v for k, v in flags.items() if k in albar.Args.__dataclass_fields__}
    albar.train(albar.Args(**shared | dict(weights=trained, epochs=1, out=str(tmp_path / "albar"))))
    assert "left out scene_head" in log_lines(tmp_path / "albar")[0]["note"]


def test_init_takes_everything(trained, flags, tmp_path):
    saved = load(trained)["model"]
    net = sdn.build_model(args := Args(**flags | dict(init=trained)), 8)
    assert sdn.first_weights(net, args, ACTIONS) == f"all of {trained}, epoch 1"
    assert same(dict(net.state_dict()), dict(saved))
    sdn.train(Args(**flags | dict(init=trained, epochs=1, lr=0.0, weight_decay=0.0, out=str(tmp_path / "second"))))
    assert same(load(tmp_path / "second/last.pt")["model"], saved)
    for change, classes, message in ((dict(num_scenes=23), ACTIONS, "another model, .*size mismatch"),
                                     (dict(scene_labels="none"), ACTIONS, "another model, .*scene_head"),
                                     ({}, ACTIONS[1:], "other classes"), ({}, ACTIONS[::-1], "other classes"),
                                     (dict(weights="some.pt"), ACTIONS, "give one of the two")):
        with pytest.raises(UserError, match=f"--init .*last.pt: .*{message}") as error:
            args = Args(**flags | dict(init=trained) | change)
            sdn.first_weights(sdn.build_model(args, len(classes)), args, classes)
        assert "\n" not in str(error.value)


def test_a_checkpoint_holds_what_makes_its_network(trained):
    saved = load(trained)
    net = sdn.build_model(Args(**saved["args"]), len(saved["classes"]))
    net.load_state_dict(saved["model"])
    assert saved["model"]["scene_head.6.weight"].shape == (24, 512) and net.lam == 0.5
    json.dumps(saved["args"])
