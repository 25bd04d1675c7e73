"""Checkpoints as the field's own training code writes them (3D-ResNets-PyTorch, the official SDN,
mmaction2, ALBAR, torchvision's reference scripts): files of the same names and shapes with random
tensors, and what each network computes from them written out here. That they start a script, and
that --epochs 0 makes of them a run that evaluate.py measures."""

import argparse
import runpy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import ROOT, argv, fails, same
from torch import nn

import albar
import common
import evaluate
import omnidebias
import sdn
import smad
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
    clip = torch.randn(2, 3, 5, 34, 36)  # sizes that do not halve evenly
    logits = net(clip)
    expected = hara_logits(state, 50, clip, t_stride, max_pool)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    # The two flags that a file does not tell change the logits: they do something.
    assert (logits - hara_logits(state, 50, clip, 3 - t_stride, max_pool)).abs().max() > 1e-3
    assert (logits - hara_logits(state, 50, clip, t_stride, not max_pool)).abs().max() > 1e-3


def refused(state, path, shortcut):
    """What is said of a file of tensors of these shapes, into a network without numbers."""
    shapes = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    file = hara_file(path, shapes)
    with torch.device("meta"), pytest.raises(UserError) as error:
        start_sdn(model="r3d_50_hara", weights=file, shortcut=shortcut)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize("ours, theirs, keys", [("A", "B", 24), ("B", "A", 20)])
def test_hara_s_other_shortcut_is_one_clear_line(ours, theirs, keys, hara_states, tmp_path):
    line = refused(hara_states(50, theirs), tmp_path / "r3d50.pth", ours)
    assert line.startswith(
        f"{keys} keys do not fit the model: backbone.layer1.0.downsample.0.weight"
    )
    assert line.endswith(": the file may be of the other --shortcut, A or B")


def test_files_of_hara_that_do_not_fit(hara_states, tmp_path):
    state = dict(hara_states(50, "B"))
    del state["layer3.5.bn3.running_var"]
    state["conv1.weight"] = torch.zeros(64, 3, 3, 7, 7)
    state["bn9.weight"] = torch.zeros(3)
    assert refused(state, tmp_path / "odd.pth", "B") == (
        "3 keys do not fit the model: backbone.bn9.weight (unknown), "
        "backbone.layer3.5.conv3.1.running_var (missing), "
        "backbone.stem.0.weight ([64, 3, 3, 7, 7], not [64, 3, 7, 7, 7])"
    )
    # One file of two networks, such as one and its average.
    two = {"bn1.bias": torch.zeros(64), "module.bn1.bias": torch.ones(64)}
    line = refused(two, tmp_path / "two.pth", "B")
    assert (
        line == "holds backbone.stem.1.bias twice, under module.bn1.bias and under another prefix"
    )


def parsed(*words):
    """-> Args of `python sdn.py WORDS`, with its own presets"""
    got = []
    cli = common.cli

    def parse(Args, main, presets, steps):
        cli(Args, got.append, presets, steps, argv=list(words))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "cli", parse)
        runpy.run_path(str(ROOT / "sdn.py"), run_name="__main__")
    return got[0]


def test_the_recipe_of_hara_s_study_is_a_preset():
    args = parsed("--hara", "--baseline", "--train", "train.txt")
    recipe = dict(model="r3d_50_hara", frames=32, size=112, lr=0.03, epochs=250, batch_size=4 * 32)
    recipe |= dict(optimizer="sgd", weight_decay=1e-4, scene_labels="none", w_ent=0.0)
    assert {name: getattr(args, name) for name in recipe} == recipe
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), args.lr)
    scheduler = sdn.make_scheduler(optimizer, 3, args)
    rates = []
    for _ in range(3 * args.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.03] * 300 + [0.003] * 300 + [0.0003] * 150)
    with pytest.raises(UserError, match="--warmup is of --schedule cosine"):
        sdn.make_data(parsed("--hara", "--baseline", "--warmup", "1", "--train", "train.txt"))


@torch.no_grad()
def test_hara_s_head_is_kept_in_a_run_of_no_epochs(hara_states, world, tmp_path):
    state = hara_states(18, "A")
    file = hara_file(tmp_path / "r3d18.pth", state)
    words = ["--baseline", "--train", f"{world}/train.txt", "--val", f"{world}/val.txt"]
    words += ["--epochs", "0", "--weights", file, "--out", str(tmp_path / "run")]
    words += ["--size", "32", "--resize", "32", "--workers", "0"]
    sdn.train(parsed(*words))
    run = evaluate.load_run(tmp_path / "run")
    assert run.epoch == 0 and len(run.classes) == K
    clip = torch.randn(2, 3, 5, 32, 32)
    expected = hara_logits(state, 18, clip)
    torch.testing.assert_close(run.model(clip), expected, rtol=1e-4, atol=1e-4)


# ---- The official SDN ----------------------------------------------------------------------------
def official_scene_head(batch_norm, num_scenes=12):
    """{name: tensor} of its scene head: three hidden layers, as its README has it"""
    torch.manual_seed(5)
    state = {}
    for i in range(3):
        name = f"place_mlp.{i}"
        state[f"{name}.fc.weight"] = torch.randn(512, 512) / 16
        state[f"{name}.fc.bias"] = torch.randn(512) / 10
        if batch_norm:
            for kind in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.bn.{kind}"] = torch.rand(512)
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(3)
    state["place_mlp.p_last_fc.weight"] = torch.randn(num_scenes, 512) / 16
    state["place_mlp.p_last_fc.bias"] = torch.randn(num_scenes)
    return state


@pytest.fixture
def official(hara_states, tmp_path):
    """official(batch_norm) -> the file that its training writes, the tensors in it"""

    def make(batch_norm):
        state = hara_states(18, "A") | official_scene_head(batch_norm)
        state |= {"hm_mlp.0.fc.bias": torch.zeros(512), "hm_mlp.hm_last_fc.bias": torch.zeros(K)}
        return hara_file(tmp_path / "save_100.pth", state, release=2018), state

    return make


@torch.no_grad()
def test_init_goes_on_from_the_official_sdn_with_its_scene_head_where_it_fits(official):
    file, state = official(batch_norm=False)
    flags = dict(init=file, scene_labels="soft", num_scenes=12)
    net, note = start_sdn(**flags)
    assert "left out 10 tensors" in note and "the 8 of place_mlp in the scene head" in note
    clip = torch.randn(2, 3, 5, 32, 32)
    logits, scenes = net(clip, scenes=True)
    torch.testing.assert_close(logits, hara_logits(state, 18, clip), rtol=1e-4, atol=1e-4)
    identity = {"fc.weight": torch.eye(512), "fc.bias": torch.zeros(512)}
    x = hara_logits(state | identity, 18, clip)
    for i in range(3):
        x = F.linear(x, state[f"place_mlp.{i}.fc.weight"], state[f"place_mlp.{i}.fc.bias"]).relu()
    x = F.linear(x, state["place_mlp.p_last_fc.weight"], state["place_mlp.p_last_fc.bias"])
    assert (x[0] - x[1]).abs().max() > 1e-2
    torch.testing.assert_close(scenes, x, rtol=1e-4, atol=1e-4)
    # Another number of scenes.
    _, note = start_sdn(**flags | dict(num_scenes=9))
    assert "new scene head, as theirs differs in 6.bias ([12], not [9]), 6.weight" in note


def test_the_official_scene_head_of_batch_norm_is_dropped_in_one_line(official):
    file, state = official(batch_norm=True)
    net, note = start_sdn(init=file, scene_labels="soft", num_scenes=12)
    assert "new scene head, as theirs differs in place_mlp.0.bn.bias (unknown), " in note
    assert note.endswith(" and 12 more") and "\n" not in note
    assert torch.equal(net.head.weight, state["fc.weight"])
    assert not torch.equal(net.scene_head[0].weight, state["place_mlp.0.fc.weight"])


# ---- Swin-T: mmaction2, ALBAR, torchvision's reference scripts -----------------------------------
@pytest.fixture(scope="module")
def swin():
    """torchvision's swin3d_t, none of whose vectors is constant and whose attention is sharp."""
    torch.manual_seed(2)
    net = torchvision.models.video.swin3d_t(num_classes=K).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 1:
                value += torch.randn(value.shape) / 5
            elif "relative_position_bias_table" in name:
                value.normal_()
            elif "qkv" in name:
                value.mul_(5)
    return net


def mmaction_swin(state):
    """{name: tensor} in torchvision's names -> in mmaction2's, where a stage holds its blocks and
    the merging after them"""
    theirs = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first == "features":
            stage, is_merging = divmod(int(rest[0]), 2)
            rest[0] = "downsample" if is_merging else "blocks"
            rest = ".".join(rest).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
            theirs[f"backbone.layers.{stage}.{rest}"] = value
        elif first == "head":
            theirs[f"cls_head.fc_cls.{rest[0]}"] = value
        elif first == "norm":
            theirs[f"backbone.norm3.{rest[0]}"] = value
        else:
            theirs[f"backbone.{name}"] = value
    return theirs


def of_mmaction(net):
    state = mmaction_swin(net.state_dict())
    assert {
        "backbone.patch_embed.proj.weight",
        "backbone.patch_embed.norm.bias",
        "backbone.layers.0.blocks.1.attn.relative_position_bias_table",
        "backbone.layers.2.blocks.5.attn.relative_position_index",
        "backbone.layers.2.blocks.5.attn.qkv.weight",
        "backbone.layers.2.blocks.5.mlp.fc2.bias",
        "backbone.layers.2.downsample.reduction.weight",
        "backbone.norm3.weight",
        "cls_head.fc_cls.bias",
    } <= state.keys()
    return {"meta": {"epoch": 30, "cfg": "model = dict()"}, "state_dict": state}


def of_albar(net):
    optimizer = torch.optim.AdamW(net.parameters()).state_dict()
    return {"epoch": 12, "model_state_dict": net.state_dict(), "optimizer": optimizer}


def of_torchvision(net):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
    optimizer.step()
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30])
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, steps], [2])
    # The average of its classification script.
    average = {f"module.{name}": value for name, value in net.state_dict().items()}
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 44,
        "args": argparse.Namespace(model="swin3d_t", lr=0.1, lr_milestones=[20, 30], weights=None),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "model_ema": average | {"n_averaged": torch.tensor(3)},
    }


@pytest.fixture(scope="module")
def clip_and_logits(swin):
    """Of a clip whose windows are cut off, and shifted in time and space."""
    torch.manual_seed(3)
    clip = torch.randn(2, 3, 18, 36, 36)
    with torch.no_grad():
        logits = swin(clip)
    assert (logits[0] - logits[1]).abs().max() > 0.01
    return clip, logits


@pytest.mark.parametrize("write", [of_mmaction, of_albar])
@torch.no_grad()
def test_files_of_swin_give_its_logits(write, swin, clip_and_logits, tmp_path):
    file = tmp_path / "theirs.pth"
    torch.save(write(swin), file)
    args = albar.Args(weights=str(file))
    net = albar.build_model(args, K).eval()
    note = albar.first_weights(net, args)
    assert note.startswith(f"{len(swin.state_dict())} tensors from {file}")
    assert "new head" not in note
    clip, expected = clip_and_logits
    torch.testing.assert_close(net(clip), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_torchvision_s_swin_keeps_its_head_in_a_run_of_no_epochs(
    swin, clip_and_logits, flags, tmp_path, capsys
):
    torch.save(of_torchvision(swin), tmp_path / "model_44.pth")
    flags |= dict(model="swin3d_t", epochs=0, weights=str(tmp_path / "model_44.pth"))
    albar.train(albar.Args(**flags))
    printed = capsys.readouterr().out
    assert f"{len(swin.state_dict())} tensors from" in printed and "new head" not in printed
    run = evaluate.load_run(flags["out"])
    assert run.epoch == 0 and len(run.classes) == K
    clip, expected = clip_and_logits
    torch.testing.assert_close(run.model(clip), expected, rtol=1e-4, atol=1e-4)


def test_a_key_too_few_of_mmaction2_s_swin(swin, tmp_path):
    state = of_mmaction(swin)["state_dict"]
    del state["backbone.layers.1.downsample.norm.bias"]
    shapes = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    torch.save({"state_dict": shapes}, tmp_path / "theirs.pth")
    args = albar.Args(weights=str(tmp_path / "theirs.pth"))
    with torch.device("meta"):
        net = albar.build_model(args, K)
    message = r"1 keys do not fit the model: backbone.features.3.norm.bias \(missing\)$"
    with pytest.raises(UserError, match=message):
        albar.first_weights(net, args)


# ---- Classes in a file ---------------------------------------------------------------------------
class HistoryBuffer:
    """mmengine's checkpoints of a training hold objects of a class of this name."""


@pytest.mark.parametrize(
    "odd", [{"hub": HistoryBuffer()}, {"args": argparse.Namespace(lr=HistoryBuffer())}]
)
def test_another_class_is_refused_and_how_to_strip_it_is_said(odd, flags, tmp_path, capsys):
    file = tmp_path / "epoch_3.pth"
    torch.save({"state_dict": common.Tiny(K).state_dict()} | odd, file)
    line = fails(capsys, argv(flags | dict(weights=str(file))))
    assert "nothing in it was run): it holds test_peers.HistoryBuffer; if you trust it" in line
    assert "torch.save(torch.load(OLD, weights_only=False)['state_dict'], NEW)" in line
    # What this makes is taken.
    torch.save(torch.load(file, weights_only=False)["state_dict"], tmp_path / "new.pth")
    args = albar.Args(**flags | dict(weights=str(tmp_path / "new.pth")))
    assert "tensors from" in albar.first_weights(albar.build_model(args, K), args)


# ---- SlowOnly of mmaction2 -----------------------------------------------------------------------
def mmaction_resnet(name):
    """A name of ours, torchvision's ResNet in a backbone, in mmaction2's names"""
    name = name.replace("downsample.0", "downsample.conv").replace("downsample.1", "downsample.bn")
    for i in "123":
        name = name.replace(f"conv{i}.", f"conv{i}.conv.").replace(f"bn{i}.", f"conv{i}.bn.")
    return name.replace("head.", "cls_head.fc_cls.")


@pytest.mark.parametrize("script", [smad, omnidebias])
@torch.no_grad()
def test_slowonly_s_head_is_kept_in_a_run_of_no_epochs(script, flags, tmp_path):
    torch.manual_seed(4)
    args = script.Args(model="slowonly_r18", saar=False) if script is smad else script.Args()
    net = script.build_model(args, K).eval()
    state = {mmaction_resnet(name): value for name, value in net.state_dict().items()}
    assert {"backbone.layer3.0.conv2.bn.bias", "backbone.conv1.conv.weight"} <= state.keys()
    torch.save({"meta": {"epoch": 100}, "state_dict": state}, tmp_path / "theirs.pth")
    flags |= dict(model="slowonly_r18", epochs=0, weights=str(tmp_path / "theirs.pth"))
    script.train(script.Args(**flags))
    run = evaluate.load_run(flags["out"])
    loaded = {
        name: value for name, value in run.model.state_dict().items() if name in net.state_dict()
    }
    assert same(loaded, dict(net.state_dict()))
    clip = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(run.model(clip), net(clip), rtol=1e-4, atol=1e-5)
