"""The skeleton that the method scripts share: what a run writes, how it stops and goes on, two
processes, what bad input says, presets and --help. And what a script promises about its own text:
equation map, flags, imports, the blocks that it shares with others."""

import ast
import json
import math
import os
import re
import runpy
import shutil
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    ROOT,
    SCRIPTS,
    Forked,
    argv,
    command,
    ended,
    fails,
    load,
    log_lines,
    presets,
    python,
    same,
    two,
)

import albar
import common
import evaluate
import omnidebias
import smad
import toy
from common import UserError

# What differs between the scripts: the figures of a step beside loss, ce and accuracy, those of
# validation, the sum that the loss is, the rate of the optimiser, and what --help must say.
OWN = {
    "albar": dict(
        logged={"adv", "ent", "gp", "static_accuracy", "gp_true_logit", "head_row_sum"},
        validated={"val/static_accuracy", "val/static_entropy"},
        loss=lambda r: r["ce"] + albar.TOY["w_adv"] * r["adv"] + 4 * r["ent"] + r["gp"],
        lr=4e-3 * 8 / 64,
        equations=[1, 2, 3, 4, 5],
        help=r"--w-gp W_GP\s+weight of Eq. \(4\)",
    ),
    "sdn": dict(
        logged={"adv", "scene_accuracy", "ent", "masked_accuracy", "masked_share"},
        validated={"val/scene_accuracy"},
        loss=lambda r: r["ce"] + r["adv"],
        lr=2e-3,
        equations=[1, 2, 3, 4, 5, 6],
        help=r"--lam LAM\s+lambda of the gradient reversal, Eq. \(5\)",
    ),
    "smad": dict(
        logged={"scene_adv", "scene_accuracy", "event_adv", "event_accuracy", "backbone"},
        validated={"val/scene_accuracy", "val/event_accuracy"},
        loss=lambda r: r["ce"] + (r["scene_adv"] + r["event_adv"]) / 2,
        lr=2e-3,
        equations=[1, 2, 3, 4, 5],
        help=r"--w-bce W_BCE\s+weight of the binary cross-entropy, tags",
    ),
    "omnidebias": dict(
        logged={"scene_adv", "web_ce", "web_accuracy", "web_scene_adv"},
        validated=set(),
        loss=lambda r: r["ce"] + r["scene_adv"] + r["web_ce"] + r["web_scene_adv"],
        lr=2e-3,
        equations=[1, 3, 5],
        help=r"--web-ratio WEB_RATIO\s+web items a labelled",
    ),
}


@pytest.fixture(params=SCRIPTS)
def script(request):
    return SCRIPTS[request.param]


@pytest.fixture
def own(script):
    return OWN[script.__name__]


def each(names, **cases):
    """Parametrise over scripts and cases: {script: [case]}, a case being the values of the
    names."""
    rows = []
    for script, script_cases in cases.items():
        rows += [(script, *case) for case in script_cases]
    return pytest.mark.parametrize(["script", *names.split()], rows, indirect=["script"])


only_albar = pytest.mark.parametrize("script", ["albar"], indirect=True)


def train(script, flags, **change):
    return script.train(script.Args(**flags | change))


def differing(a, b):
    """The parts in which two checkpoint files differ; where they were written does not count."""
    a = load(a)
    b = load(b)
    assert a.keys() == b.keys()
    return [key for key in a if key != "args" and not same(a[key], b[key])]


def with_lists(flags, folder, edit=None, broken=None):
    """Flags of lists and videos of one's own, in `folder`: edit {part: function of its lines},
    broken {part: how many of its first videos are files that are none}."""
    world = Path(flags["train"]).parent
    folder.mkdir()
    shutil.copy(world / "classes.txt", folder)
    for part in ("train", "val"):
        lines = (world / f"{part}.txt").read_text().splitlines()
        if edit and part in edit:
            lines = edit[part](lines)
        (folder / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
        (folder / part).mkdir()
        for i, video in enumerate(sorted((world / part).iterdir())):
            if broken and i < broken.get(part, 0):
                (folder / part / video.name).write_bytes(b"not a video" * 100)
            else:
                (folder / part / video.name).symlink_to(video)
    return flags | dict(train=f"{folder}/train.txt", val=f"{folder}/val.txt", root=str(folder))


# ---- A run ---------------------------------------------------------------------------------------
def test_what_a_run_returns_logs_and_saves(script, flags, own):
    result = train(script, flags)
    out = Path(flags["out"])
    names = sorted(path.name for path in out.iterdir())
    assert names == [".lock", "best.pt", "last.pt", "log.jsonl"]
    assert result["checkpoint"] == str(out / "last.pt")
    assert result["val/videos"] == 20 and result["val/chance"] == 1 / 8
    assert 0 <= result["val/accuracy"] <= 1 and 1 < result["val/loss"] < 4
    for name in own["validated"]:
        assert 0 <= result[name] <= math.log(8) + 1e-5

    head, *records = log_lines(out)
    assert head["args"]["epochs"] == 2 and head["processes"] == 1
    assert head["train_videos"] == 80 and head["val_videos"] == 20
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 21)) and len(records) == 22
    names = {"step", "epoch", "lr", "clips_per_second", "loss", "ce", "accuracy"} | own["logged"]
    for record in steps:
        assert record.keys() == names
        assert all(math.isfinite(value) for value in record.values())
        assert record["loss"] == pytest.approx(own["loss"](record), rel=1e-4)
    # The rate of the step that comes next.
    assert steps[0]["lr"] == pytest.approx(own["lr"] * 0.2) and steps[-1]["lr"] < 1e-9

    saved = load(out / "last.pt")
    assert set(saved) == set(
        "method args classes epoch step model optimizer scheduler scaler rng extra best torch "
        "list_sha1 heads root train_paths val_paths labels_sha1".split()
    )
    assert saved["method"] == script.__name__ and saved["classes"] == list(toy.ACTIONS)
    assert (saved["epoch"], saved["step"]) == (2, 20)
    assert all(saved["args"][name] == value for name, value in flags.items())
    heads = [saved["heads"]] if saved["heads"] else []
    net = script.build_model(script.Args(**saved["args"]), 8, *heads)
    net.load_state_dict(saved["model"])  # unwrapped: no `module.`
    assert net.head.weight.shape[0] == 8
    accuracies = [record["val/accuracy"] for record in records if "val/accuracy" in record]
    best = load(out / "best.pt")
    assert best["best"] == saved["best"] and best["epoch"] == saved["best"]["epoch"]
    assert saved["best"]["val/accuracy"] == max(accuracies)


@only_albar
def test_tensorboard_has_the_figures_of_the_log(script, flags, monkeypatch):
    shown = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert Path(folder) == Path(flags["out"])
            shown.append(purge_step)

        def add_scalar(self, name, value, step):
            shown.append((name, value, step))

        def flush(self):
            pass

    module = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(script, flags, tensorboard=True, epochs=1)
    expected = [1]
    for line in log_lines(Path(flags["out"])):
        for name, value in line.items():
            if isinstance(value, float):
                expected.append((name, value, line["step"]))
    assert shown == expected and any(name == "val/accuracy" for name, _, _ in shown[1:])
    # A resumed run takes back what came after the step that it goes on from.
    train(script, flags, tensorboard=True, epochs=1, resume=True)
    assert shown[-1] == 11


@only_albar
def test_tensorboard_is_asked_for_where_it_is_not_installed(flags, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in fails(capsys, [*argv(flags), "--tensorboard"])
    assert not Path(flags["out"]).exists()


def test_training_learns(script, flags):
    """Plain cross-entropy from random weights: the loss falls, and it beats chance."""
    plain = flags | script.BASELINE | dict(epochs=12, log_every=10)
    train(script, plain, out=flags["out"])
    records = [record for record in log_lines(flags["out"]) if "loss" in record]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"] and records[-1]["accuracy"] > 0.3


def test_no_epoch_leaves_the_loaded_weights_as_they_are(script, flags, tmp_path):
    given = train(script, flags, epochs=0, out=str(tmp_path / "given"))
    assert given == {"checkpoint": str(tmp_path / "given/last.pt")}
    result = train(script, flags, epochs=0, seed=1, weights=given["checkpoint"])
    before = load(given["checkpoint"])
    after = load(result["checkpoint"])
    assert (after["epoch"], after["step"]) == (0, 0)
    for name, value in after["model"].items():
        if name.startswith(("backbone.", "head.")):
            assert torch.equal(value, before["model"][name])


def test_a_run_on_other_classes_starts_with_a_new_head(script, flags, tmp_path, capsys):
    """Even where they are as many."""
    flags |= script.BASELINE | dict(out=flags["out"])
    given = train(script, flags, epochs=0, out=str(tmp_path / "given"))["checkpoint"]
    other = with_lists(flags, tmp_path / "other")
    for names, is_new in ((toy.ACTIONS, False), (toy.NOVEL, True)):
        (tmp_path / "other/classes.txt").write_text("\n".join(names) + "\n")
        result = train(script, other, epochs=0, seed=1, weights=given, overwrite=True)
        before = load(given)["model"]
        after = load(result["checkpoint"])["model"]
        assert torch.equal(before["head.weight"], after["head.weight"]) != is_new
        name = "backbone.layers.0.weight"
        assert torch.equal(before[name], after[name])
        printed = "".join(capsys.readouterr())
        assert ("new head, for theirs names right, left, down" in printed) == is_new


@pytest.mark.parametrize("script", ["smad", "omnidebias"], indirect=True)
def test_saar_goes_on_from_a_run_that_has_one(script, flags, tmp_path):
    flags |= dict(epochs=0, overwrite=True)
    without = {"smad": dict(saar=False), "omnidebias": dict(smad=False, aspect=())}
    kept = train(script, flags, out=str(tmp_path / "kept"))["checkpoint"]
    lacking = train(script, flags | without[script.__name__], out=str(tmp_path / "lacking"))
    again = train(script, flags, seed=1, weights=kept)["checkpoint"]
    before = load(kept)["model"]
    after = load(again)["model"]
    parts = [key for key in before if key.startswith("saar.")]
    assert parts and all(torch.equal(before[key], after[key]) for key in parts)
    # One that has none leaves it new.
    new = load(train(script, flags, seed=2, weights=lacking["checkpoint"])["checkpoint"])["model"]
    assert not all(torch.equal(before[key], new[key]) for key in parts)


OWN_NETWORKS = """
import torch
from torch import nn
from common import Tiny

class Wrapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = nn.Conv3d(3, 8, 1)
        self.head = nn.Linear(8, num_classes)
    def forward(self, clip):
        return self.head(self.backbone(clip).relu().mean((2, 3, 4)))

class HeadFirst(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.classify = nn.Linear(8, num_classes)
        self.pixels = nn.Conv3d(3, 8, 1)

class Frames(nn.Module):
    def __init__(self, num_classes, alone=False):
        super().__init__()
        self.alone = alone
        self.pixels = nn.Conv3d(3, 8, 1)
        self.classify = nn.Linear(8, num_classes)
    def forward(self, clip):
        x = self.pixels(clip).relu().mean((3, 4)).transpose(1, 2)  # (N, T, 8)
        return self.classify(x if self.alone else x.mean(1))

def wide(num_classes):
    return Tiny(num_classes, width=24)

def a_frame_each(num_classes):
    return Frames(num_classes, alone=True)

def of_ten(num_classes):
    return Frames(10)

def nothing(num_classes):
    return None
"""


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """A module of the person's own, in the current folder."""
    (tmp_path / "own_networks.py").write_text(OWN_NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_networks", None)


def test_a_network_of_ones_own(script, flags, world, capsys, own_networks):
    """It is trained; of a checkpoint it is imported only where the command names it, too."""
    own = flags | dict(model="own_networks:Frames", epochs=1)
    if script is smad:
        own["saar"] = False
    if script is omnidebias:
        own |= dict(smad=False, aspect=())
    checkpoint = train(script, own)["checkpoint"]
    names = [name for name in load(checkpoint)["model"] if name.startswith(("backbone.", "head."))]
    pixels = ["backbone.pixels.weight", "backbone.pixels.bias"]
    assert names == [*pixels, "head.weight", "head.bias"]

    with pytest.raises(UserError, match="code of your own: say so by --model own_networks:Frames"):
        evaluate.load_run(checkpoint)
    words = ["--test", f"{world}/val.txt", "--shuffles", 0, "--model", "own_networks:Frames"]
    command("evaluate.py", [checkpoint, *words])
    assert "| IID" in capsys.readouterr().out


@only_albar
def test_a_run_of_a_network_whose_parts_are_called_as_ours_goes_on(script, flags, own_networks):
    flags |= script.BASELINE | dict(model="own_networks:Wrapped", epochs=0, overwrite=True)
    given = train(script, flags, out="given")["checkpoint"]
    after = train(script, flags, out="after", weights=given, seed=1)["checkpoint"]
    assert same(load(given)["model"], load(after)["model"])


@pytest.mark.parametrize("script", ["smad", "omnidebias"], indirect=True)
def test_saar_has_its_place_in_ones_own_tiny_and_in_no_other_network(script, flags, own_networks):
    change = {"smad": dict(saar=True), "omnidebias": dict(smad=True)}[script.__name__]
    args = script.Args(**flags | change | dict(model="own_networks:wide"))
    clip = torch.rand(2, 3, args.frames, args.size, args.size)
    assert script.build_model(args, 8)(clip, full=True).mask.shape[1:] == (1, 4, 4)
    args.model = "own_networks:Frames"
    with pytest.raises(UserError, match="SAAR sits before a ResNet's layer4"):
        script.build_model(args, 8)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_such_module:f", "No module named 'no_such_module'; expected PACKAGE.MODULE:FUNCTION"),
        ("own_networks:f", "has no attribute 'f'; expected PACKAGE"),
        ("own_networks:", "has no attribute ''"),
        ("own_networks:HeadFirst", "whose last layer, the one defined last, is nn.Linear"),
        ("own_networks:nothing", "expected a module whose last layer, "),
        ("own_networks:of_ten", r"is nn.Linear\(..., num_classes\), here 8"),
        ("own_networks:a_frame_each", r"before its last layer are not \(N, D\) but \(1, 4\)"),
    ],
)
@only_albar
def test_what_is_no_network_of_ones_own(flags, capsys, name, message, own_networks):
    line = fails(capsys, argv(flags | dict(model=name)))
    assert line.startswith(f"error: --model {name}: ") and re.search(message, line), line


def test_validation_list_or_a_share_held_out(script, flags, world):
    def paths(**change):
        data = script.make_data(script.Args(**flags | change))
        return data.train.videos.paths, data.val.videos.paths

    kept, held = paths(val="", val_share=0.2)
    assert len(kept) == 64 and len(held) == 16 and not set(kept) & set(held)
    assert paths(val="", val_share=0.2, seed=1)[1] != held
    kept, held = paths()
    assert len(kept) == 80 and held == common.read_list(world / "val.txt").paths


@each(
    "change",
    albar=[(dict(static_frame="random", augment="stillmix"),)],
    sdn=[(dict(scene_labels="hard", optimizer="sgd", schedule="plateau", warmup=0.0),)],
    smad=[(dict(model="tsn_tiny", optimizer="sgd", schedule="step"),)],
    omnidebias=[(dict(model="tsn_tiny", optimizer="sgd", schedule="step", web_ratio=0.25),)],
)
def test_same_seed_same_weights(script, flags, tmp_path, change):
    """Whatever the number of loader processes; and another seed gives other weights."""
    flags |= dict(epochs=1, flip=0.5) | change
    train(script, flags, out=str(tmp_path / "a"))
    train(script, flags, out=str(tmp_path / "b"), workers=2, cache=False)
    train(script, flags, out=str(tmp_path / "c"), seed=1)
    assert not differing(tmp_path / "a/last.pt", tmp_path / "b/last.pt")
    assert "model" in differing(tmp_path / "a/last.pt", tmp_path / "c/last.pt")


# One step that moves nothing, so that Adam's first moment holds the gradients at the start.
ONE_STEP = dict(batch_size=80, epochs=1, lr=1e-12)


def check_first_moments(a, b):
    ours = load(a)["optimizer"]["state"]
    theirs = load(b)["optimizer"]["state"]
    assert ours.keys() == theirs.keys()
    size = max(float(state["exp_avg"].abs().max()) for state in theirs.values())
    assert size > 1e-3
    for i, state in theirs.items():
        gradient = ours[i]["exp_avg"]
        torch.testing.assert_close(gradient, state["exp_avg"], rtol=1e-4, atol=1e-5 * size)


def test_a_batch_in_parts_gives_the_whole_batchs_gradient(script, flags, tmp_path):
    for parts in (1, 4):
        out = str(tmp_path / str(parts))
        train(script, flags | ONE_STEP, accumulate=parts, out=out)
    check_first_moments(tmp_path / "4/last.pt", tmp_path / "1/last.pt")


# ---- Stop and go on ------------------------------------------------------------------------------
def halves(script):
    """How many passes a step has: SDN's has two halves."""
    return 2 if script.__name__ == "sdn" else 1


def strike(monkeypatch, script, step, number=signal.SIGTERM, accumulate=1):
    """A signal reaches this process in its step `step`, from 0. -> the seeds that steps take"""
    seeds = []
    real = script.seed_step

    def struck(seed, part, rank=0):
        real(seed, part, rank)
        seeds.append(part)
        if part == step * accumulate * halves(script):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(script, "seed_step", struck)
    return seeds


MIXED = dict(accumulate=2, static_frame="random", augment="stillmix")
PLATEAU = dict(schedule="plateau", warmup=0.0, patience=0, optimizer="sgd", accumulate=2)
TSN = dict(model="tsn_tiny", schedule="step", optimizer="sgd", clip_grad=1.0, accumulate=2)
TSN |= dict(milestones=(1, 2))


@each(
    "number step stop change",
    albar=[(signal.SIGTERM, 12, 13, MIXED), (signal.SIGINT, 5, 8, dict(log_every=4))],
    sdn=[
        (signal.SIGTERM, 12, 13, PLATEAU),
        (signal.SIGINT, 9, 10, PLATEAU),
        (signal.SIGINT, 5, 8, dict(log_every=4)),
    ],
    smad=[(signal.SIGTERM, 12, 13, TSN), (signal.SIGINT, 8, 10, dict(log_every=4))],
    omnidebias=[
        (signal.SIGTERM, 12, 13, TSN | dict(web_ratio=1.5)),
        (signal.SIGINT, 6, 10, dict(log_every=100)),
    ],
)
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    script, flags, tmp_path, monkeypatch, number, step, stop, change
):
    """It stops where it writes the next line of its log."""
    flags |= change
    accumulate = flags.get("accumulate", 1)
    train(script, flags, out=str(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        seeds = strike(patch, script, step, number, accumulate)
        train(script, flags)
    last = tmp_path / "run/last.pt"
    assert stopped.value.code == 128 + number and load(last)["step"] == stop
    assert sorted(seeds) == list(range(stop * accumulate * halves(script)))
    # The handlers are given back.
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)

    result = train(script, flags, resume=True)
    assert result["checkpoint"] == str(last)
    assert not differing(last, tmp_path / "whole/last.pt")
    assert not differing(tmp_path / "run/best.pt", tmp_path / "whole/best.pt")
    logs = []
    for name in ("run", "whole"):
        records = [record for record in log_lines(tmp_path / name) if "args" not in record]
        logs.append([record | dict(clips_per_second=0) for record in records])
    assert logs[0] == logs[1]
    train(script, flags, resume=True)  # a finished run stays as it is
    assert not differing(last, tmp_path / "whole/last.pt")


@only_albar
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_with_loader_processes(flags, number):
    """As the terminal's Ctrl-C and a cluster's scancel do: it reaches the loaders' processes."""
    out = Path(flags["out"])
    flags |= dict(epochs=1000, workers=2, cache=False)
    process = Forked(command, "albar.py", argv(flags))
    until = time.time() + 60
    while time.time() < until and process.poll() is None:
        if (out / "log.jsonl").exists() and len(log_lines(out)) > 15:
            break
        time.sleep(0.01)
    os.killpg(process.pid, number)
    with ended(process) as (printed, error):
        assert process.returncode == 128 + number and not error, error
    step = load(out / "last.pt")["step"]
    assert step == log_lines(out)[-1]["step"] and f"stopped at step {step}" in printed
    assert not list(out.glob("*.part"))


def killed_while_saving(flags):
    """A run that is killed when half of its checkpoint of epoch 2 is written."""
    real = torch.save

    def save(content, path):
        real(content, path)
        if content["epoch"] == 2:
            os.truncate(path, 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save
    train(albar, flags)


@only_albar
def test_a_kill_in_the_middle_of_saving_leaves_the_last_good_checkpoint(flags, tmp_path):
    with ended(process := Forked(killed_while_saving, flags)) as (_, error):
        assert process.returncode == -signal.SIGKILL and not error
    assert list((tmp_path / "run").glob("*.part-*"))  # so it did stop half-way
    assert load(tmp_path / "run/last.pt")["epoch"] == 1
    train(albar, flags, resume=True)
    assert not list((tmp_path / "run").glob("*.part-*"))
    train(albar, flags, out=str(tmp_path / "whole"))
    assert not differing(tmp_path / "run/last.pt", tmp_path / "whole/last.pt")


@only_albar
def test_a_run_is_overwritten_or_resumed_on_request_alone(flags, tmp_path, capsys, monkeypatch):
    flags = with_lists(flags, tmp_path / "own") | dict(epochs=1)
    train(albar, flags)
    before = (tmp_path / "run/last.pt").read_bytes()
    line = fails(capsys, argv(flags))
    assert "holds a run: --resume it, --overwrite it" in line
    line = fails(capsys, [*argv(flags | dict(w_adv=0.5, lr=0.1)), "--resume"])
    assert "made with other w_adv, lr:" in line
    line = fails(capsys, [*argv(flags), "--resume", "--overwrite"])
    assert "contradicts" in line
    rows = Path(flags["train"]).read_text()
    Path(flags["train"]).write_text("\n" + rows)
    line = fails(capsys, [*argv(flags), "--resume"])
    assert "made with other contents of the training list" in line
    assert (tmp_path / "run/last.pt").read_bytes() == before
    train(albar, flags, overwrite=True, seed=1)
    assert log_lines(tmp_path / "run")[0]["args"]["seed"] == 1
    train(albar, flags, resume=True, seed=1, workers=1, log_every=5)  # these may change

    # An overwriting run that dies early leaves nothing that --resume takes for its own.
    monkeypatch.setattr(albar, "prepare", lambda *args: [][0])
    with pytest.raises(IndexError):
        train(albar, flags, overwrite=True)
    assert not list((tmp_path / "run").glob("*.pt"))


def test_plain_training_is_the_same_in_all_scripts(world, tmp_path):
    """One recipe: the --baseline of each is the same network, to the bit."""
    networks = []
    for name, script in SCRIPTS.items():
        flags = script.TOY | script.BASELINE
        flags |= dict(train=f"{world}/train.txt", val=f"{world}/val.txt", weights="none")
        flags |= dict(epochs=1, frames=4, size=16, resize=18, out=str(tmp_path / name))
        networks.append(load(train(script, flags)["checkpoint"])["model"])
    for other in networks[1:]:
        assert same(other, networks[0])


# ---- Several processes ---------------------------------------------------------------------------
TEN_STEPS = dict(batch_size=8, accumulate=2, epochs=1, max_bad=0.1)
SGD = TEN_STEPS | dict(optimizer="sgd", lr=0.01)


@each(
    "change torchrun",
    # The penalty alone has no part of the head's bias in it, the others' baselines no adversary.
    albar=[(ONE_STEP, False), (TEN_STEPS | dict(w_adv=0.0, w_ent=0.0), False)],
    sdn=[(ONE_STEP, False), (SGD, True), (SGD | dict(scene_labels="none"), False)],
    smad=[(ONE_STEP, False), (SGD | dict(aspect=("none",)), False)],
    omnidebias=[(ONE_STEP, False), (SGD | dict(smad=False, aspect=(), web_ratio=0.5), False)],
)
def test_two_processes_train_what_one_trains(script, flags, tmp_path, change, torchrun):
    """The averaged gradient, or the weights after ten steps in parts, with videos that cannot be
    read."""
    flags |= change
    if change["batch_size"] == 8:
        flags = with_lists(flags, tmp_path / "own", broken={"train": 4, "val": 3})
    train(script, flags)
    flags["out"] = str(tmp_path / "two")
    name = f"{script.__name__}.py"
    if torchrun:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
        processes = [python(*launcher, name, *argv(flags))]
    else:
        processes = two(command, name, argv(flags))
    with ended(*processes) as printed:
        text = str(printed)
        assert [process.returncode for process in processes] == [0] * len(processes), text
        assert "Traceback" not in text and "2 x cpu" in text and text.count("epoch 1/") == 1, text

    one = tmp_path / "run/last.pt"
    both = tmp_path / "two/last.pt"
    if change["batch_size"] == 80:
        check_first_moments(both, one)
    else:
        weights = load(one)["model"]
        start = load(train(script, flags, epochs=0, out=str(tmp_path / "start"))["checkpoint"])
        assert max((weights[k] - start["model"][k]).abs().max() for k in weights) > 1e-3
        for key, value in load(both)["model"].items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-4)
    ours = log_lines(tmp_path / "two")
    theirs = log_lines(tmp_path / "run")
    assert ours[0]["processes"] == 2 and len(ours) == len(theirs)
    # Of the last part alone, which is another with two processes.
    unequal = {"clips_per_second", "gp_true_logit", "head_row_sum"}
    for record, expected in zip(ours[1:], theirs[1:], strict=True):
        assert record.keys() == expected.keys()
        for key in record.keys() - unequal:
            if isinstance(record[key], list):
                assert record[key] == expected[key]
            else:
                assert record[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key
    if change["batch_size"] == 8:
        assert ours[-1]["unreadable"] == [f"train/000{i}.mp4" for i in range(4)]
        assert ours[-1]["val/unreadable"] == [f"val/000{i}.mp4" for i in range(3)]
        assert ours[-1]["val/videos"] == 17


def what_processes_share():
    rank, world, _ = common.start(0)
    norm = torch.nn.BatchNorm3d(2)
    norm.running_mean.fill_(rank + 1)
    common.broadcast(norm)
    assert (norm.running_mean == 1).all() and world == 2
    assert common.total(rank + 1, 0.5) == [3, 1]
    assert common.union([rank, 7]) == [0, 1, 7]
    common.seed_step(3, 4, rank)
    draws = torch.rand(2).tolist()
    assert common.total(*draws) != [2 * value for value in draws]  # each its own
    with common.Interrupt() as interrupt:
        assert not interrupt.asked()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked()  # both know


def test_what_processes_tell_each_other():
    with ended(*(processes := two(what_processes_share))) as printed:
        assert [process.returncode for process in processes] == [0, 0], printed


# ---- A loss that is not finite -------------------------------------------------------------------
def check_finite(path):
    assert all(value.isfinite().all() for value in load(path)["model"].values())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    script, flags, tmp_path, capsys, monkeypatch
):
    """Nobody has looked at it when a signal comes: nothing of it is saved then either."""
    flags |= dict(epochs=3, log_every=3)
    real = script.cross_entropy
    seeds = strike(monkeypatch, script, 12)

    def spoilt(z, target):
        loss = real(z, target)
        if seeds[-1] // halves(script) >= 12:
            return loss * math.nan
        return loss

    monkeypatch.setattr(script, "cross_entropy", spoilt)
    line = fails(capsys, argv(flags), flags["out"], script)
    assert "the loss is not finite by step 15" in line and "last.pt is good" in line
    assert load(tmp_path / "run/last.pt")["epoch"] == 1
    check_finite(tmp_path / "run/last.pt")
    log_lines(tmp_path / "run")  # JSON, so without NaN


def test_a_huge_learning_rate(script, flags, tmp_path, capsys):
    """The last step breaks the weights, while its own loss was still finite."""
    change = dict(lr=2e37, batch_size=80, warmup=0.0, epochs=1)
    assert "not finite" in fails(capsys, argv(flags | change), flags["out"], script)
    assert not list((tmp_path / "run").glob("*.pt"))
    log_lines(flags["out"])


# ---- Bad input -----------------------------------------------------------------------------------
def test_bad_videos_are_skipped_up_to_a_share_and_named(script, flags, tmp_path):
    edit = {"train": lambda lines: lines[:2] + ["gone/0000.mp4 1"] + lines[2:]}
    flags = with_lists(flags, tmp_path / "own", edit, broken={"train": 2, "val": 3})
    result = train(script, flags, max_bad=0.03, epochs=1)
    assert result["val/videos"] == 17
    head, *_, last = log_lines(tmp_path / "run")
    assert head["missing"] == ["gone/0000.mp4"] and head["train_videos"] == 80
    assert last["unreadable"] == ["train/0000.mp4", "train/0001.mp4"]
    assert last["val/unreadable"] == [f"val/000{i}.mp4" for i in range(3)]


# Flags that are wrong, and what the message says; {world} and {tmp} are folders.
EVERY_SCRIPT = {
    "model": (dict(model="resnet51"), "--model resnet51: not one of tiny, .*r3d_18"),
    "weights": (dict(weights="KINETICS"), "--weights KINETICS: no such file"),
    "accumulate": (dict(accumulate=3), "--batch-size 8 .* processes x --accumulate = 3"),
    "amp": (dict(amp="bf16"), "--amp bf16 is for CUDA"),
    "val": (dict(val="none.txt"), "none.txt: cannot read it: No such file"),
}
BAD = {
    "albar": EVERY_SCRIPT
    | {
        "clip": (dict(model="s3d"), "--model s3d takes no clip of --frames 4 and --size 16"),
        "no list": (dict(train="none.txt"), "none.txt: cannot read it: No such file"),
        "wrong root": (dict(root="{tmp}"), "80 of 80 videos do not exist, first .*check --root"),
        "no weights": (dict(weights="{world}/train.txt"), "train.txt: not tensors and plain cont"),
        "a folder": (dict(weights="{world}"), "Is a directory"),
        "share": (dict(val="", val_share=0.0), "a share of 0.0 of 80 videos leaves none"),
        "batch": (dict(batch_size=81), "80 training videos are fewer than --batch-size 81"),
        "mixed": (dict(augment="mixup", accumulate=8), "--augment .*mixes .* --batch-size"),
        "weight": (dict(w_ent=-1.0), "--w-ent -1.0: must be at least 0"),
        "rate": (dict(lr=math.nan), "--lr nan: must be at least 0"),
        "mean": (dict(mean=(0.5,)), "--mean takes 3 numbers, not 1"),
        "std": (dict(std=(0.0, 1.0, 1.0)), "--std 0.0: must be at least 0.001"),
        "flip": (dict(flip=1.5), "--flip 1.5: must be at most 1"),
        "resize": (dict(size=32, resize=18), "--resize 18 is less than --size 32"),
        "out": (dict(out="{world}/train.txt"), "train.txt: File exists"),
        "resume": (dict(resume=True), "last.pt: no such file"),
    },
    "sdn": EVERY_SCRIPT
    | {
        "clip": (dict(model="s3d"), "--model s3d takes no clip of --frames 4 and --size 16"),
        "no scenes": (dict(scenes=()), "--scenes FOLDER, made by `python sdn.py scenes`, or --sc"),
        "no boxes": (
            dict(humans=()),
            "--humans FILE, made by `python sdn.py humans`, or --w-ent 0",
        ),
        "number": (dict(num_scenes=25), "24 categories, not --num-scenes 25"),
        "no labels": (
            dict(val="{world}/conflfg.txt"),
            "scenes: no labels of 20 of 100 videos, first conflfg/0000.mp4: .*--max-bad",
        ),
        "other boxes": (
            dict(humans=("{tmp}/other.jsonl",)),
            "other.jsonl: nothing of 80 of 80 videos, first train/0000.mp4: .*--max-bad",
        ),
        "malformed": (dict(humans=("{world}/val.txt",)), "val.txt:1: expected a line of `sdn.py h"),
        "no folder": (dict(scenes=("{world}/humans.jsonl",)), "humans.jsonl: not a folder of lab"),
        "warm-up": (dict(schedule="plateau"), "--warmup is of --schedule cosine"),
        "init": (dict(init="{tmp}/albar.pt"), "albar.pt: made by albar.py, not sdn.py"),
        "classes": (dict(init="{tmp}/sdn.pt"), "--init .*sdn.pt: a run on other classes"),
    },
    "smad": EVERY_SCRIPT
    | {
        "no aspect": (dict(aspect=()), "MAAT needs labels: --aspect NAME=FOLDER .*--aspect none"),
        "no folder": (dict(aspect=("scene=none",)), "none: not a folder of labels"),
        "two": (dict(aspect=("s={world}/scenes",) * 2), "--aspect s=.*: a second of that name"),
        "name": (dict(aspect=("training={world}/scenes",)), "training=.*: a name that cannot be u"),
        "dash": (dict(aspect=("my-scene={world}/scenes",)), "my-scene=.*: expected NAME=FOLDER, N"),
        "none too": (dict(aspect=("none", "s={world}/scenes")), "--aspect none: expected NAME=FOL"),
        "category": (dict(aspect=("event=x.csv",)), "event=x.csv: expected .*FILE.csv:CATEGORY"),
    },
    "omnidebias": EVERY_SCRIPT
    | {
        "no web": (dict(web=""), "--web: name a list of web items .`python omnidebias.py select`"),
        "web root": (dict(web_root="{tmp}"), "60 of 60 videos do not exist, .*check --web-root"),
        "ratio": (
            dict(web_ratio=0.75, accumulate=4),
            "--web-ratio 0.75 of --batch-size 8: 6 web items in a step must be a whole multiple of "
            "processes x --accumulate = 4",
        ),
        "half": (dict(web_ratio=0.7), "--web-ratio 0.7 of --batch-size 8: 5.6 web items"),
        "none": (dict(web_ratio=0.0), "--web-ratio 0.0 of --batch-size 8: 0 web items"),
        "doubles": (dict(web="{world}/val.txt"), "--web: 20 items are .*validation videos, first"),
        "web labels": (
            dict(web="{world}/conflfg.txt"),
            "--aspect scene=.*/scenes: no labels of any item of --web",
        ),
    },
}


@each("name", **{script: [(name,) for name in cases] for script, cases in BAD.items()})
def test_bad_input_ends_with_one_line(name, script, flags, world, tmp_path, capsys):
    change, message = BAD[script.__name__][name]
    for method in ("albar", "sdn"):
        content = dict(method=method, args={}, classes=["x"], heads={}, epoch=1, step=1)
        content |= dict(model={"x": torch.zeros(1)})
        torch.save(content, tmp_path / f"{method}.pt")
    line = {"path": "x.mp4", "every": 1, "frames": [], "boxes": [], "scores": []}
    (tmp_path / "other.jsonl").write_text(json.dumps(line))
    for flag, value in change.items():
        if isinstance(value, str):
            value = value.format(world=world, tmp=tmp_path)
        elif flag in ("aspect", "scenes", "humans"):
            value = tuple(part.format(world=world, tmp=tmp_path) for part in value)
        flags[flag] = value
    line = fails(capsys, argv(flags), script=script)
    assert re.search(message, line), line
    assert not list((tmp_path / "run").glob("*.pt"))


BAD_LISTS = {
    "empty": (dict(edit={"train": lambda lines: []}), "train.txt: empty list"),
    "malformed": (
        dict(edit={"train": lambda lines: lines[:4] + ["video.mp4 jump"]}),
        "train.txt:5: expected `path label`.*jump",
    ),
    "label": (
        dict(edit={"val": lambda lines: lines + ["val/0001x.mp4 8"]}),
        "val.txt:21: label 8 is outside the 8 classes, 0 to 7",
    ),
    "missing": (
        dict(edit={"train": lambda lines: [f"gone/{line}" for line in lines[:3]] + lines[3:]}),
        "3 of 80 videos do not exist, first .*gone/.*check --root",
    ),
    "broken": (
        dict(broken={"train": 4}),
        r"1 of 80 videos cannot be read \(--max-bad 0.01\): .*train/000[0-3].mp4",
    ),
    "all broken": (dict(broken={"train": 80}), "cannot be read .*the last: cannot read .*train/"),
    "val broken": (dict(broken={"val": 20}), "no validation video can be read"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
@only_albar
def test_bad_lists_and_videos_end_with_one_line(name, flags, tmp_path, capsys):
    how, message = BAD_LISTS[name]
    line = fails(capsys, argv(with_lists(flags, tmp_path / "own", **how)))
    assert re.search(message, line), line
    assert not list((tmp_path / "run").glob("*.pt"))


@only_albar
def test_bad_videos_in_a_loaders_process_end_with_one_line(flags, tmp_path):
    flags = with_lists(flags, tmp_path / "own", broken={"train": 80}) | dict(workers=2)
    with ended(process := Forked(command, "albar.py", argv(flags))) as (_, error):
        assert len(error.strip().splitlines()) == 1 and error.startswith("error: "), error
        assert "cannot read" in error and process.returncode == 2


@only_albar
@pytest.mark.parametrize(
    "content, message",
    [
        ({"weights": 1}, "not a checkpoint of these scripts"),
        (
            dict(method="other", args={}, classes=[], heads={}, model={}, epoch=0, step=0),
            "made by other.py, not albar.py",
        ),
    ],
)
def test_resume_from_something_else(flags, tmp_path, capsys, content, message):
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run/last.pt")
    before = (tmp_path / "run/last.pt").read_bytes()
    assert message in fails(capsys, [*argv(flags), "--resume"])
    assert (tmp_path / "run/last.pt").read_bytes() == before


# ---- Command line --------------------------------------------------------------------------------
def test_presets_stand_for_flags_which_win(script, monkeypatch):
    parsed = []
    drawn = []
    monkeypatch.setattr(common, "draw_toy", drawn.append)

    def parse(*words):
        common.cli(script.Args, parsed.append, presets(script), argv=list(words))
        return parsed[-1]

    def check(args, values):
        assert {name: getattr(args, name) for name in values} == values

    check(parse(), script.TOY)
    check(parse("--baseline"), script.TOY | script.BASELINE)
    assert drawn == parsed and script.BASELINE["out"] == f"runs/{script.__name__}-baseline"
    check(parse("--lr", "7", "--toy", "--train", "a.txt"), script.TOY | dict(lr=7, train="a.txt"))
    assert drawn == parsed
    args = parse("--train", "a.txt", "--epochs", "3", "--baseline")
    check(args, script.BASELINE | dict(train="a.txt", epochs=3))
    assert args == script.Args(**script.BASELINE | dict(train="a.txt", epochs=3))
    if hasattr(script, "TSN"):
        check(parse("--tsn", "--train", "a.txt"), script.TSN)
        check(parse("--tsn"), script.TOY | script.TSN)
    assert len(drawn) < len(parsed)


def test_a_flag_of_several_values_replaces_the_presets_and_may_be_repeated():
    parsed = []
    words = "--aspect scene=a --train a.txt --toy --aspect event=b:event c=d".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "draw_toy", lambda args: None)
        common.cli(smad.Args, parsed.append, presets(smad), argv=words)
    assert parsed[0].aspect == ("scene=a", "event=b:event", "c=d")


DRAW = """import sys
from pathlib import Path
with open("drawn.txt", "w") as file:
    file.write("\\n".join(sys.argv[1:]))
for name in sys.argv[1:]:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).touch()
"""


def test_what_is_missing_of_the_embedded_data_set_is_drawn(script, tmp_path, monkeypatch):
    """By tests/toy.py, of which this is a stand-in: those files of the preset, no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "__file__", str(tmp_path / "common.py"))
    args = script.Args(**script.TOY)
    with pytest.raises(UserError, match="name a list of your own with --train: tests/toy.py,"):
        common.draw_toy(args)
    Path("tests").mkdir()
    Path("tests/toy.py").write_text("raise SystemExit(1)")
    with pytest.raises(UserError, match="toy.py: it did not make .*data/toy0/train.txt"):
        common.draw_toy(args)
    Path("tests/toy.py").write_text(DRAW)
    common.draw_toy(args)
    named = re.findall(r"data/toy0/[\w./-]+", repr(script.TOY))
    drawn = Path("drawn.txt").read_text().split("\n")
    assert sorted(drawn) == sorted(named)
    Path("data/toy0/val.txt").unlink()
    common.draw_toy(args)
    assert Path("drawn.txt").read_text() == "data/toy0/val.txt"
    Path("tests/toy.py").unlink()
    common.draw_toy(args)


def test_help_is_in_groups_and_shows_the_papers_values(script, own, capsys):
    with pytest.raises(SystemExit) as stopped:
        common.cli(script.Args, script.train, presets(script), argv=["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "Eq. (5)" in text and re.search(own["help"], text)
    titles = [line[:-1] for line in text.splitlines() if re.fullmatch("[a-z]+:", line)]
    assert titles == ["options", "method", "data", "model", "training", "machine"]
    groups = dict(zip(titles, re.split("\n[a-z]+:\n", text)[1:], strict=True))
    places = {"--train": "data", "--weights": "model", "--lr": "training", "--out": "machine"}
    for flag, title in (places | {"--toy": "method", "--baseline": "method"}).items():
        assert re.search(f"^  {flag}[ \n]", groups[title], re.M), flag


STEPS = {name: getattr(script, "STEPS", {}) for name, script in SCRIPTS.items()}


@each("word", **{script: [(word,) for word in steps] for script, steps in STEPS.items()})
def test_help_of_a_step(script, word, capsys):
    arguments = dict(presets=presets(script), steps=script.STEPS, argv=[word, "--help"])
    with pytest.raises(SystemExit) as stopped:
        common.cli(script.Args, script.train, **arguments)
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and f"python {script.__name__}.py {word} " in text


# ---- The file ------------------------------------------------------------------------------------
def alone(name, words):
    """`python NAME WORDS` in the working folder, and nothing else of this repository is found."""
    for module in [*SCRIPTS, "common", "evaluate", "toy", "conftest"]:
        sys.modules.pop(module, None)
    others = [path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests")]
    sys.path[:] = [os.getcwd(), *others]
    sys.argv = [name, *words]
    runpy.run_path(name, run_name="__main__")
    assert sys.modules["common"].__file__ == f"{os.getcwd()}/common.py"


def test_a_script_and_common_alone_train_in_an_empty_folder(script, flags, tmp_path):
    name = script.__name__
    folder = tmp_path / "empty"
    folder.mkdir()
    for file in (f"{name}.py", "common.py"):
        shutil.copy(ROOT / file, folder)
    words = argv({flag: value for flag, value in flags.items() if flag != "out"} | dict(epochs=1))
    with ended(process := Forked(alone, f"{name}.py", words, cwd=folder)) as (printed, error):
        assert process.returncode == 0 and not error, error
        assert f"runs/{name}: random weights; " in printed and "epoch 1/1" in printed
    assert load(folder / f"runs/{name}/last.pt")["step"] == 10


def source(module):
    return Path(module.__file__).read_text()


def blocks(text):
    """[(scripts, name, block)] between `# [same in SCRIPTS: NAME]` and `# [end]`"""
    pattern = r"^ *# \[same in ([^:\n]+): ([^\]\n]+)\]\n(.*?)^ *# \[end\]$"
    found = re.findall(pattern, text, re.M | re.S)
    assert len(found) == text.count("# [same in") == text.count("# [end]")
    return found


def test_blocks_that_are_the_same_in_several_scripts():
    holders = {}
    contents = {}
    for name, script in SCRIPTS.items():
        for scripts, block, content in blocks(source(script)):
            holders.setdefault((scripts, block), []).append(f"{name}.py")
            contents.setdefault(block, set()).add(content)
    for (scripts, block), names in holders.items():
        assert len(contents[block]) == 1, block
        named = scripts.replace(" and ", ", ").split(", ")
        if scripts == "all scripts":
            named = [f"{name}.py" for name in SCRIPTS]
        assert sorted(names) == sorted(named)
    assert ("all scripts", "the loop's tail") in holders and len(contents) > 5


def functions(module):
    """{name: node} of a module's functions and classes"""
    nodes = ast.parse(source(module)).body
    return {n.name: n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def numbered_functions(module):
    """{(tag, name)} of the functions whose docstring begins with a place in the paper"""
    found = set()
    for name, node in functions(module).items():
        match = re.match(
            r"(Eq\. \(\d+\)|Sec\. [\d.]+|Footnote \d+)  ", ast.get_docstring(node) or ""
        )
        if match:
            found.add((match[1].replace("Footnote", "Foot."), name))
    return found


def equation_map(script):
    """{(tag, name)} of the rows of the first docstring's map"""
    text = ast.get_docstring(ast.parse(source(script)))
    rows = set()
    for tag, names in re.findall(
        r"^  (Eq\. \(\d+\)|Sec\. [\d.]+|Foot\. \d+) +((?:[\w.]+, )*[\w.]+) ", text, re.M
    ):
        rows |= {(tag, name) for name in names.split(", ")}
    return rows


def test_equation_map_is_the_functions_and_the_lines_of_use(script, own):
    rows = equation_map(script)
    tags = sorted(tag for tag, _ in rows if tag.startswith("Eq."))
    assert tags == [f"Eq. ({number})" for number in own["equations"]]
    of_evaluate = {(tag, name) for tag, name in rows if name.startswith("evaluate.")}
    here = rows - of_evaluate
    numbered = numbered_functions(script)
    assert here <= numbered
    assert not [tag for tag, _ in numbered - here if tag.startswith("Eq.")]
    for tag, name in of_evaluate:
        assert (tag, name.removeprefix("evaluate.")) in numbered_functions(evaluate)
    # `grep "Eq. (5)"` finds the row, the function and a line that calls it.
    lines = source(script).splitlines()
    used = set()
    for node in ast.walk(ast.parse(source(script))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            comment = lines[node.lineno - 1].partition("#")[2]
            used |= {(tag, name) for tag, name in here if name == node.func.id and tag in comment}
    unused = {(tag, name) for tag, name in here - used if tag.startswith("Eq.")}
    assert not unused, "no line that calls it says so"


def flags_read(script, main):
    """Names x of all args.x that are read in main and in what it reaches of the script and of
    common.py."""
    known = functions(common) | functions(script)
    for _, other, _ in [(None, script.train, None), *getattr(script, "STEPS", {}).values()]:
        if other is not main:
            known.pop(other.__name__)  # it has Args of its own
    left = [main.__name__]
    seen = set()
    read = set()
    while left:
        name = left.pop()
        if name not in known or name in seen:
            continue
        seen.add(name)
        for node in ast.walk(known[name]):
            if isinstance(node, ast.Name):
                left.append(node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if ast.unparse(node.value) in ("args", "self.args"):
                    read.add(node.attr)
    return read


def test_every_flag_is_read_and_presets_are_flags(script):
    """Of each step too."""
    steps = getattr(script, "STEPS", {}).values()
    for Args, main, _ in [(script.Args, script.train, None), *steps]:
        names = {f.name for f in fields(Args)}
        by_evaluate = set()
        if script in (smad, omnidebias) and main is script.train:
            by_evaluate = {"test_clips"}
            assert '"test_clips"' in source(evaluate)
        assert not names - flags_read(script, main) - by_evaluate, main.__name__
    for preset in presets(script).values():
        assert set(preset) <= {f.name for f in fields(script.Args)}
    for node in ast.walk(ast.parse(source(script))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            assert ast.unparse(node.value) != "args", "flags are not written"


@pytest.mark.parametrize("name", [*SCRIPTS, "common"])
def test_imports(name):
    nodes = list(ast.walk(ast.parse((ROOT / f"{name}.py").read_text())))
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
            assert "*" not in [alias.name for alias in node.names]
    # common.py imports what --model names.
    own = {"av", "importlib"} if name == "common" else {"common"}
    standard = sys.stdlib_module_names - {"importlib", "runpy"}
    assert modules <= {"torch", "torchvision", "tqdm", "numpy"} | own | standard
