"""Checkpoints as the field's own training code writes them (3D-ResNets-PyTorch, the official SDN,
mmaction2, ALBAR, torchvision's reference scripts): files of the same names and shapes with random
tensors, and what each network computes from them written out here. That they start a script, and
that --epochs 0 makes of them a run that evaluate.py measures."""

import argparse
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import albar
import evaluate
import sdn
from common import UserError

K = 8  # the classes of the embedded world
ACTIONS = [f"action {k}" for k in range(K)]


# ---- Hara et al. ---------------------------------------------------------------------------------
BLOCKS = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}


def add_convolution(state, name, norm, outputs, inputs, size):
    """A convolution without bias, and the batch norm after it, as trained ones are."""
    deviation = (2 / (inputs * size**3)) ** 0.5
    state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, size) * deviation
    state[f"{norm}.weight"] = 0.5 + torch.rand(outputs)
    state[f"{norm}.bias"] = torch.randn(outputs) / 10
    state[f"{norm}.running_mean"] = torch.randn(outputs) / 10
    state[f"{norm}.running_var"] = 0.5 + torch.rand(outputs)
    state[f"{norm}.num_batches_tracked"] = torch.tensor(7)


def hara_state(depth, shortcut, num_classes=K):
    """{name: tensor} of a 3D ResNet in the names of 3D-ResNets-PyTorch"""
    torch.manual_seed(depth)
    state = {}
    add_convolution(state, "conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        width = 32 * 2**stage
        outputs = width if depth == 18 else 4 * width
        for number in range(blocks):
            block = f"layer{stage}.{number}"
            if depth == 18:
                shapes = [(width, inputs, 3), (width, width, 3)]
            else:
                shapes = [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
            for i, shape in enumerate(shapes, 1):
                add_convolution(state, f"{block}.conv{i}", f"{block}.bn{i}", *shape)
            if shortcut == "B" and number == 0 and (stage > 1 or inputs != outputs):
                names = f"{block}.downsample.0", f"{block}.downsample.1"
                add_convolution(state, *names, outputs, inputs, 1)
            inputs = outputs
    state["fc.weight"] = torch.randn(num_classes, inputs) / inputs**0.5
    state["fc.bias"] = torch.randn(num_classes)
    return state


def hara_logits(state, depth, clip, t_stride=1, max_pool=True):
    """What their network computes with these tensors: a bottleneck has its stride in the middle."""

    def convolve(x, name, norm, stride=1):
        kernel = state[f"{name}.weight"]
        x = F.conv3d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        statistics = [state[f"{norm}.{kind}"] for kind in ("running_mean", "running_var")]
        return F.batch_norm(x, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = convolve(clip, "conv1", "bn1", (t_stride, 2, 2)).relu()
    if max_pool:
        x = F.max_pool3d(x, 3, 2, 1)
    convolutions = 2 if depth == 18 else 3
    strided = 1 if depth == 18 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        for number in range(blocks):
            block = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            y = x
            for i in range(1, convolutions + 1):
                step = stride if i == strided else 1
                y = convolve(y, f"{block}.conv{i}", f"{block}.bn{i}", step)
                if i < convolutions:
                    y = y.relu()
            if f"{block}.downsample.0.weight" in state:
                x = convolve(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            elif x.shape != y.shape:
                old = x[:, :, ::stride, ::stride, ::stride]
                x = torch.zeros_like(y)
                x[:, : old.shape[1]] = old
            x = (x + y).relu()
    return F.linear(x.mean((2, 3, 4)), state["fc.weight"], state["fc.bias"])


@pytest.fixture(scope="module")
def hara_states():
    """state(depth, shortcut), each drawn once"""
    drawn = {}

    def state(depth, shortcut):
        key = depth, shortcut
        if key not in drawn:
            drawn[key] = hara_state(depth, shortcut)
        return drawn[key]

    return state


def hara_file(path, state, release=2020, arch="resnet"):
    """The file that main.py of their release writes: until 2019 that of nn.DataParallel."""
    if release == 2018:
        state = {f"module.{name}": value for name, value in state.items()}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
    content = dict(epoch=200, arch=arch, state_dict=state, optimizer=optimizer.state_dict())
    if release == 2020:
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [50, 100])
        content["scheduler"] = scheduler.state_dict()
    torch.save(content, path)
    return str(path)


def start_sdn(num_classes=K, **change):
    """-> sdn.py's network with the weights of these flags, what was said"""
    args = sdn.Args(**dict(scene_labels="none") | change)
    net = sdn.build_model(args, num_classes).eval()
    return net, sdn.first_weights(net, args, ACTIONS)


@pytest.mark.parametrize("shortcut, t_stride, max_pool", [("A", 2, False), ("B", 1, True)])
@torch.no_grad()
def test_hara_s_resnet_50_gives_its_logits(shortcut, t_stride, max_pool, hara_states, tmp_path):
    state = hara_states(50, shortcut)
    file = hara_file(tmp_path / "r3d50.pth", state, release=2018 if shortcut == "A" else 2020)
    flags = dict(shortcut=shortcut, conv1_t_stride=t_stride, max_pool=max_pool)
    net, note = start_sdn(model="r3d_50_hara", weights=file, **flags)
    assert note.startswith(f"{len(state)} tensors from {file}, ") and "new head" not in note
    clip = torch.randn(2, 3, 9, 42, 44)  # sizes that do not halve evenly
    logits = net(clip)
    expected = hara_logits(state, 50, clip, t_stride, max_pool)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    # The two flags that a file does not tell change the logits: they do something.
    assert (logits - hara_logits(state, 50, clip, 3 - t_stride, max_pool)).abs().max() > 1e-3
    assert (logits - hara_logits(state, 50, clip, t_stride, not max_pool)).abs().max() > 1e-3


@pytest.mark.parametrize("ours, theirs, keys", [("A", "B", 24), ("B", "A", 20)])
def test_hara_s_other_shortcut_is_one_clear_line(ours, theirs, keys, hara_states, tmp_path):
    file = hara_file(tmp_path / "r3d50.pth", hara_states(50, theirs))
    message = f"{keys} keys do not fit .*downsample.* may be of the other --shortcut, A or B"
    with pytest.raises(UserError, match=message) as refused:
        start_sdn(model="r3d_50_hara", weights=file, shortcut=ours)
    assert "\n" not in str(refused.value)


def test_files_of_hara_that_do_not_fit(hara_states, tmp_path):
    state = dict(hara_states(50, "B"))
    del state["layer3.5.bn3.running_var"]
    whole = hara_states(50, "B")
    odd = {
        "1 keys do not fit the model: backbone.layer3.5.conv3.1.running_var (missing)": state,
        "1 keys do not fit the model: backbone.bn9.weight (unknown)": whole
        | {"bn9.weight": torch.zeros(3)},
        "backbone.stem.0.weight ([64, 3, 3, 7, 7], not [64, 3, 7, 7, 7])": whole
        | {"conv1.weight": torch.zeros(64, 3, 3, 7, 7)},
        # One file has two networks, such as a copy that is averaged.
        "holds backbone.stem.1.bias twice, under module.bn1.bias": whole
        | {"module.bn1.bias": torch.zeros(64)},
    }
    for message, content in odd.items():
        file = hara_file(tmp_path / "odd.pth", content)
        with pytest.raises(UserError, match=re.escape(message)):
            start_sdn(model="r3d_50_hara", weights=file, shortcut="B")


# ---- The official SDN ----------------------------------------------------------------------------
def sdn_file(path, state, norm):
    """The file of the official code: its scene head is place_mlp, with batch norm."""
    state = {f"module.{name}": value for name, value in state.items()}
    for layer in range(3):
        state[f"module.place_mlp.{layer}.fc.weight"] = torch.randn(512, 512)
        state[f"module.place_mlp.{layer}.fc.bias"] = torch.randn(512)
        if norm:
            state[f"module.place_mlp.{layer}.bn.weight"] = torch.ones(512)
    state["module.place_mlp.p_last_fc.weight"] = torch.randn(365, 512)
    state["module.place_mlp.p_last_fc.bias"] = torch.randn(365)
    torch.save(dict(epoch=20, arch="resnet-18", state_dict=state), path)
    return str(path)


def test_the_official_sdn_goes_on_with_its_scene_head_where_it_is_ours(hara_states, tmp_path):
    state = hara_states(18, "A")
    flags = dict(model="r3d_18_hara", scene_labels="soft")
    for norm in (False, True):
        net, note = start_sdn(init=sdn_file(tmp_path / "sdn.pth", state, norm), **flags)
        assert torch.equal(net.head.weight, state["fc.weight"])
        assert torch.equal(net.backbone.layer4[1].conv2[0].weight, state["layer4.1.conv2.weight"])
        theirs = torch.load(tmp_path / "sdn.pth")["state_dict"]
        loaded = torch.equal(net.scene_head[6].weight, theirs["module.place_mlp.p_last_fc.weight"])
        assert loaded == (not norm)
    # What is not loaded is said.
    assert "new scene head, as theirs differs in 0.bn.weight (unknown)" in note.replace(
        "place_mlp.0.", "0."
    )


# ---- Video Swin: mmaction2, its authors, ALBAR ---------------------------------------------------
@pytest.fixture(scope="module")
def swin():
    """A network of torchvision's with K classes"""
    torch.manual_seed(0)
    return torchvision.models.video.swin3d_t(num_classes=K).eval()


def mmaction_name(key):
    """torchvision's key -> mmaction2's"""
    parts = key.split(".")
    if parts[0] == "head":
        return f"cls_head.fc_cls.{parts[1]}"
    if parts[0] == "norm":
        return f"backbone.norm3.{parts[1]}"
    if parts[0] == "features":
        layer, odd = divmod(int(parts[1]), 2)
        rest = ".".join(parts[2:]).replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        return f"backbone.layers.{layer}.{'downsample' if odd else 'blocks'}.{rest}"
    return f"backbone.{key}"


def start_albar(file, model="swin3d_t"):
    args = albar.Args(model=model, weights=str(file))
    net = albar.build_model(args, K).eval()
    return net, albar.first_weights(net, args)


def test_swin_of_mmaction2_and_of_albar(swin, tmp_path):
    state = swin.state_dict()
    theirs = {mmaction_name(key): value for key, value in state.items()}
    torch.save(dict(meta=dict(epoch=30), state_dict=theirs), tmp_path / "mmaction2.pth")
    parallel = {f"module.{key}": value for key, value in state.items()}
    torch.save(dict(epoch=3, model_state_dict=parallel, amp={}), tmp_path / "albar.pth")
    for name in ("mmaction2.pth", "albar.pth"):
        net, note = start_albar(tmp_path / name)
        assert note.startswith(f"{len(state)} tensors from") and "new head" not in note
        loaded = net.state_dict()
        for key, value in state.items():
            ours = key if key.startswith("head.") else f"backbone.{key}"
            assert torch.equal(loaded[ours], value), key
    del theirs["backbone.layers.2.blocks.5.mlp.fc2.bias"]
    torch.save(dict(state_dict=theirs), tmp_path / "cut.pth")
    missing = re.escape("backbone.features.4.5.mlp.3.bias (missing)")
    with pytest.raises(UserError, match=missing):
        start_albar(tmp_path / "cut.pth")


# ---- torchvision's reference scripts -------------------------------------------------------------
class Odd:
    pass


@torch.no_grad()
def test_flags_in_a_file_are_read_and_other_objects_are_not(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.video.mc3_18(num_classes=K).eval()
    content = dict(model=theirs.state_dict(), epoch=44, args=argparse.Namespace(lr=0.1, name="x"))
    torch.save(content, tmp_path / "model_44.pth")
    net, _ = start_albar(tmp_path / "model_44.pth", "mc3_18")
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(net(clip), theirs(clip))
    torch.save(content | dict(args=Odd()), tmp_path / "odd.pth")
    with pytest.raises(
        UserError, match=r"nothing in it was run\): it holds .*Odd; if you trust it"
    ):
        start_albar(tmp_path / "odd.pth", "mc3_18")


# ---- A run of which nothing is trained -----------------------------------------------------------
@torch.no_grad()
def test_epochs_0_makes_a_run_of_other_peoples_weights(flags, tmp_path):
    args = albar.Args(**flags)
    theirs = albar.build_model(args, K).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        state["module." + key.removeprefix("backbone.")] = value + 0.01
    torch.save(dict(state_dict=state), tmp_path / "theirs.pth")
    result = albar.train(albar.Args(**flags | dict(epochs=0, weights=f"{tmp_path}/theirs.pth")))
    run = evaluate.load_run(result["checkpoint"])
    theirs.load_state_dict({key: value + 0.01 for key, value in theirs.state_dict().items()})
    clip = torch.randn(2, 3, args.frames, args.size, args.size)
    assert torch.equal(run.model(clip), theirs(clip))
    assert run.epoch == 0
