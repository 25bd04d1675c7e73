"""Whole runs of each method script on a small embedded benchmark: what they write, how they stop and go on, on two
processes, and what bad input says. And what a script promises about its own text: equation map, flags, imports, the
blocks that it shares with others."""

import ast
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SCRIPTS, Forked, argv, command, ended, fails, load, log_lines, python, same, two

import common
import evaluate
import omnidebias
import smad
from common import UserError

RESULT = ("model", "optimizer", "scheduler", "scaler", "step", "epoch", "best", "extra", "classes", "list_sha1", "rng")
LN = math.log(8) + 1e-5
OWN = {  # what differs between the scripts; calls: of cross_entropy in a step
    "albar": dict(
        calls=1, other=dict(w_adv=0.5), lr=4e-3 * 8 / 64, equations=range(1, 6),
        help=r"--w-gp W_GP\s+weight of Eq. \(4\)",
        figures={"val/static_accuracy": 1, "val/static_entropy": LN},                                # at most
        logged=lambda args: {"adv": (-99, 0), "ent": (-LN, 0), "gp": (0, 99), "static_accuracy": (0, 1),
                             "gp_true_logit": (0, 99), "head_row_sum": (0, 99)},                     # from, to
        loss=lambda args, r: r["ce"] + args["w_adv"] * r["adv"] + args["w_ent"] * r["ent"] + args["w_gp"] * r["gp"],
        last_part={"gp_true_logit", "head_row_sum"}),                           # logged of the last part of a batch
    "sdn": dict(
        calls=1, other=dict(lam=0.1), lr=2e-3, equations=range(1, 7),
        help=r"--lam LAM\s+lambda of the gradient reversal, Eq. \(5\)",
        figures={"val/scene_accuracy": 1},
        logged=lambda args: {"adv": (0, 99), "scene_accuracy": (0, 1), "ent": (0, LN), "masked_accuracy": (0, 1),
                             "masked_share": (1, 1)},
        loss=lambda args, r: r["ce"] + r["adv"], last_part=set()),
    "smad": dict(
        calls=1, other=dict(w_kl=0.1), lr=2e-3, equations=range(1, 6),
        help=r"--w-bce W_BCE\s+weight of the binary cross-entropy, tags",
        figures={"val/scene_accuracy": 1, "val/event_accuracy": 1},
        logged=lambda args: {"scene_adv": (0, 99), "scene_accuracy": (0, 1), "event_adv": (0, 99),
                             "event_accuracy": (0, 1), "backbone": (-99, 99)},
        loss=lambda args, r: r["ce"] + (r["scene_adv"] + r["event_adv"]) / 2, last_part=set()),
    "omnidebias": dict(
        calls=2, other=dict(web_ratio=0.5), lr=2e-3, equations=(1, 3, 5),
        help=r"--web-ratio WEB_RATIO\s+web items a labelled",
        figures={}, logged=lambda args: {"scene_adv": (0, 99), "web_ce": (0, 99), "web_accuracy": (0, 1),
                                         "web_scene_adv": (0, 99)},
        loss=lambda args, r: r["ce"] + r["scene_adv"] + r["web_ce"] + r["web_scene_adv"], last_part=set())}


@pytest.fixture(params=SCRIPTS)
def script(request):
    return SCRIPTS[request.param]


@pytest.fixture
def own(script):
    return OWN[script.__name__]


def each(names, **cases):
    """Parametrise over scripts and cases: {script: [case]}, where a case is the values of the names."""
    rows = [(script, *case) for script, some in cases.items() for case in some]
    return pytest.mark.parametrize(["script", *names.split()], rows, indirect=["script"])


def train(script, flags, **change):
    return script.train(script.Args(**flags | change))


def source(module):
    return Path(module.__file__).read_text()


def equal(a, b, equal=torch.equal):
    """Two checkpoint files are of the same state."""
    a, b = load(a), load(b)
    return [k for k in RESULT if not same(a[k], b[k], equal)] == []


@pytest.fixture
def whole(script, flags, tmp_path):
    """The checkpoint of the run `flags`, never interrupted."""
    return train(script, flags, out=str(tmp_path / "whole"))["checkpoint"]


# ---- A run ----------------------------------------------------------------------------------------------------------
def test_train_returns_figures_and_writes_what_the_contract_says(script, flags, own):
    result = train(script, flags)
    out = Path(flags["out"])
    assert result["checkpoint"] == str(out / "last.pt") and sorted(p.name for p in out.iterdir()) == [
        "best.pt", "last.pt", "log.jsonl"]
    assert 0 <= result["val/accuracy"] <= 1 and result["val/videos"] == 20 and result["val/chance"] == 1 / 8
    assert all(0 <= result[name] <= most for name, most in own["figures"].items()) and 1 < result["val/loss"] < 4
    saved, best = load(out / "last.pt"), load(out / "best.pt")
    assert set(saved) == {"method", "args", "classes", "epoch", "step", "model", "optimizer", "scheduler", "scaler",
                          "rng", "extra", "best", "torch", "list_sha1"} == set(best)                # design.md, 3
    assert saved["method"] == script.__name__ and saved["classes"] == list(common.ACTIONS)
    assert (saved["epoch"], saved["step"]) == (2, 20) and saved["torch"] == str(torch.__version__)
    assert saved["args"] == flags | {f.name: saved["args"][f.name] for f in fields(script.Args)}
    net = script.build_model(script.Args(**saved["args"]), 8)
    net.load_state_dict(saved["model"])                                                     # unwrapped: no `module.`
    assert saved["best"]["val/accuracy"] == max(r.get("val/accuracy", 0) for r in log_lines(out))
    assert best["epoch"] == best["best"]["epoch"]


def test_log_is_json_with_finite_numbers(script, flags, own):
    train(script, flags)
    head, *records = log_lines(flags["out"])
    args = head["args"]
    assert args["epochs"] == 2 and head["train_videos"] == 80 and head["val_videos"] == 20
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 21)) and len(records) == 22
    for record in steps:
        assert {"step", "epoch", "lr", "clips_per_second", "loss", "ce", "accuracy",
                *own["logged"](args)} == record.keys()
        assert all(isinstance(v, int | float) and math.isfinite(v) for v in record.values())
        assert record["loss"] == pytest.approx(own["loss"](args, record), rel=1e-4)                     # Eq. (5)
        assert all(low <= record[name] <= high for name, (low, high) in own["logged"](args).items())
    assert steps[0]["lr"] == pytest.approx(own["lr"] * 0.2) and steps[-1]["lr"] < 1e-9      # after the step: the next
    assert [r["unreadable"] for r in records if "unreadable" in r] == [[], []]


def test_training_learns(script, flags, world):
    """From random weights, plain cross-entropy on a benchmark this small: the loss falls and it beats chance."""
    result = train(script, flags | script.SHORT["baseline"], epochs=12, val=flags["train"], log_every=10,
                   out=flags["out"])
    loss = [r["loss"] for r in log_lines(flags["out"]) if "loss" in r]
    assert loss[-1] < 0.8 * loss[0] and result["val/accuracy"] > 0.3


def test_validation_list_and_held_out_share(script, flags, world):
    def data(**change):
        return [some.videos for some in script.make_data(script.Args(**flags | change))[:2]]

    kept, held = data(val="", val_share=0.2)
    assert len(kept) == 64 and len(held) == 16 and not set(kept.paths) & set(held.paths)
    assert data(val="", val_share=0.2)[1].paths == held.paths != data(val="", val_share=0.2, seed=1)[1].paths
    kept, held = data()
    assert len(kept) == 80 and held.paths == common.read_list(world / "val.txt").paths


@each("workers change", albar=[(2, dict(static_frame="random", augment="stillmix")),
                               (0, dict(static_frame="first", augment="mixup"))],
      sdn=[(2, {}), (0, dict(scene_labels="hard", optimizer="sgd", schedule="plateau", warmup=0.0, flip=0.5))],
      smad=[(2, {}), (0, dict(model="tsn_tiny", optimizer="sgd", schedule="step", flip=0.5))],
      omnidebias=[(2, {}), (0, dict(model="tsn_tiny", optimizer="sgd", schedule="step", flip=0.5, web_ratio=0.25))])
def test_same_seed_same_weights(script, flags, tmp_path, workers, change):
    """Whatever the number of loader processes, and another seed gives other weights."""
    flags |= dict(epochs=1) | change
    for name, other in (("a", {}), ("b", dict(workers=workers, cache=False)), ("c", dict(seed=1))):
        train(script, flags | other, out=str(tmp_path / name))
    assert equal(tmp_path / "a/last.pt", tmp_path / "b/last.pt")
    assert not equal(tmp_path / "a/last.pt", tmp_path / "c/last.pt")


def test_accumulated_parts_give_the_whole_batchs_gradient(script, flags, tmp_path):
    """One step, too small to move the weights, so that Adam's first moment holds the gradients at the start."""
    for parts in (1, 2, 4):
        train(script, flags, batch_size=80, epochs=1, lr=1e-12, accumulate=parts, out=str(tmp_path / str(parts)))
    for parts in (2, 4):
        assert first_moments_agree(tmp_path / "1/last.pt", tmp_path / f"{parts}/last.pt")


def first_moments_agree(a, b):
    a, b = ({i: s["exp_avg"] for i, s in load(p)["optimizer"]["state"].items()} for p in (a, b))
    size = max(float(v.abs().max()) for v in a.values())
    return size > 1e-3 and a.keys() == b.keys() and all(torch.allclose(a[i], b[i], 1e-4, 1e-5 * size) for i in a)


# ---- Stop and go on -------------------------------------------------------------------------------------------------
def strike(monkeypatch, at, number=signal.SIGTERM):
    """A signal reaches this process when it logs step `at`."""
    class Struck(common.Log):
        def __call__(self, **record):
            super().__call__(**record)
            if record["step"] == at and "loss" in record:
                os.kill(os.getpid(), number)
    monkeypatch.setattr(common, "Log", Struck)


PLATEAU = dict(schedule="plateau", warmup=0.0, patience=0, optimizer="sgd", head_epochs=1, epochs=3, accumulate=2)
TSN = dict(model="tsn_tiny", schedule="step", milestones=(1, 2), optimizer="sgd", clip_grad=1.0, accumulate=2)


@each("number at change", albar=[
    (signal.SIGTERM, 13, dict(accumulate=2, static_frame="random", augment="stillmix")), (signal.SIGINT, 7, {}),
    (signal.SIGTERM, 10, {}), (signal.SIGINT, 19, {})], sdn=[
    (signal.SIGTERM, 13, PLATEAU), (signal.SIGINT, 20, PLATEAU), (signal.SIGTERM, 12, dict(head_epochs=1)),
    (signal.SIGINT, 7, {})], smad=[(signal.SIGTERM, 13, TSN), (signal.SIGINT, 7, {})],
    omnidebias=[(signal.SIGTERM, 13, TSN | dict(web_ratio=1.5)), (signal.SIGINT, 7, {})])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(script, flags, tmp_path, monkeypatch, number, at, change):
    flags |= change
    train(script, flags, out=str(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        strike(patch, at, number)
        train(script, flags)
    last = tmp_path / "run/last.pt"
    assert stopped.value.code == 128 + number and load(last)["step"] in (at, at + 1)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)             # handlers given back
    result = train(script, flags, resume=True)
    assert result["checkpoint"] == str(last) and equal(last, tmp_path / "whole/last.pt")
    assert equal(tmp_path / "run/best.pt", tmp_path / "whole/best.pt")
    logs = [[{k: v for k, v in r.items() if k != "clips_per_second"} for r in log_lines(tmp_path / name)
             if "args" not in r] for name in ("run", "whole")]
    assert logs[0] == logs[1]
    train(script, flags, resume=True)                                                   # a finished run stays as it is
    assert equal(last, tmp_path / "whole/last.pt")


@each("number", albar=[(signal.SIGTERM,), (signal.SIGINT,)], sdn=[(signal.SIGINT,)], smad=[(signal.SIGTERM,)])
def test_a_signal_to_the_whole_group_with_loader_processes(script, flags, tmp_path, number):
    """As the terminal's Ctrl-C and a cluster's scancel do: it reaches the loaders' processes too."""
    flags |= dict(epochs=30, workers=2, cache=False)
    process, log = Forked(command, f"{script.__name__}.py", argv(flags)), Path(flags["out"]) / "log.jsonl"
    until = time.time() + 60
    while time.time() < until and process.poll() is None and (not log.exists() or log.read_text().count("\n") < 15):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    with ended(process) as (said, error):
        assert process.returncode == 128 + number and not error, error
    step = load(tmp_path / "run/last.pt")["step"]
    assert 10 < step < 300 and f"stopped at step {step}" in said and not list((tmp_path / "run").glob("*.part"))
    for name, change in (("run", dict(resume=True)), ("whole", {})):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            strike(patch, 10 * math.ceil((step + 5) / 10))                     # no need to train all 30
            train(script, flags, **dict(workers=0, cache=True, out=str(tmp_path / name)) | change)
    assert equal(tmp_path / "run/last.pt", tmp_path / "whole/last.pt")


def killed_while_saving(name, flags):
    """A run that is killed when half of its checkpoint of epoch 2 is written."""
    real = torch.save

    def save(content, path):
        real(content, path)
        if content["epoch"] == 2:
            os.truncate(path, 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save
    train(SCRIPTS[name], flags)


def test_a_kill_in_the_middle_of_saving_leaves_the_last_good_checkpoint(script, flags, whole, tmp_path):
    with ended(process := Forked(killed_while_saving, script.__name__, flags)) as (_, error):
        assert process.returncode == -signal.SIGKILL and not error
    assert list((tmp_path / "run").glob("*.part"))                                      # so it did stop half-way
    assert load(tmp_path / "run/last.pt")["epoch"] == 1
    train(script, flags, resume=True)
    assert equal(tmp_path / "run/last.pt", whole)


def test_a_killed_overwrite_leaves_nothing_to_resume(script, flags, tmp_path, monkeypatch):
    """Else --resume would give the old run as the new one's result."""
    train(script, flags)
    monkeypatch.setattr(script, "training_step", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        train(script, flags, overwrite=True)
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.pt"))
    with pytest.raises(UserError, match="no such file"):
        train(script, flags, resume=True)


# ---- Several processes ----------------------------------------------------------------------------------------------
ALL = dict(batch_size=80, epochs=1, lr=1e-12)                   # one step that moves nothing: the gradients themselves
TEN = dict(batch_size=8, accumulate=2, epochs=1)


@each("change torchrun", albar=[(ALL, False), (TEN, False), (ALL | dict(w_adv=0.0, w_ent=0.0), False)],  # no bias in it
      sdn=[(ALL, False), (TEN | dict(optimizer="sgd", lr=0.01), True), (ALL | dict(scene_labels="none"), False),
           (ALL | dict(w_ent=0.0), False), (ALL | dict(head_epochs=1, head_lr=1e-12, epochs=2), False)],
      smad=[(ALL, False), (TEN | dict(optimizer="sgd", lr=0.01), False), (ALL | dict(aspect=("none",)), False)],
      omnidebias=[(ALL, False), (TEN | dict(optimizer="sgd", lr=0.01, web_ratio=0.5), False),
                  (ALL | dict(smad=False, aspect=(), web_ratio=0.5), False)])
def test_two_processes_train_what_one_trains(script, flags, tmp_path, own, change, torchrun):
    """The full loss through DistributedDataParallel: its averaged gradient, and the weights after ten steps."""
    flags |= change
    train(script, flags)
    flags["out"], name = str(tmp_path / "two"), f"{script.__name__}.py"
    processes = ([python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, name, *argv(flags))]
                 if torchrun else two(command, name, argv(flags)))
    with ended(*processes) as said:
        said, error = said if torchrun else map("".join, zip(*said, strict=True))
        assert "Traceback" not in error and "2 x cpu" in said and said.count("epoch 1/") == 1, error
        assert all(process.returncode == 0 for process in processes)
    one, two_ = tmp_path / "run/last.pt", tmp_path / "two/last.pt"
    if change["batch_size"] == 80:
        assert first_moments_agree(one, two_)
    else:
        a, b = load(one)["model"], load(two_)["model"]
        assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4 < float((a["backbone.head.weight"]).abs().max())
    figures = [[r for r in log_lines(p.parent) if "args" not in r] for p in (one, two_)]
    last = own["last_part"] if "accumulate" in change else set()
    for a, b in zip(*figures, strict=True):
        a, b = ({k: v for k, v in r.items() if k not in {"clips_per_second", *last} and not isinstance(v, list)}
                for r in (a, b))
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    assert log_lines(tmp_path / "two")[0]["processes"] == 2


@pytest.mark.parametrize("part, key", [("train", "unreadable"), ("val", "val/unreadable")])
def test_two_processes_name_what_either_could_not_read(script, flags, tmp_path, part, key):
    flags = edited(flags, tmp_path, part=part, broken=4) | dict(max_bad=0.2, epochs=1)
    with ended(*(processes := two(command, f"{script.__name__}.py", argv(flags)))) as said:
        assert [process.returncode for process in processes] == [0, 0], said
    assert log_lines(flags["out"])[-1][key] == [f"{part}/000{i}.mp4" for i in range(4)]


def buffers_of_the_first():
    rank, *_ = common.start(0)
    norm = torch.nn.BatchNorm3d(2)
    norm.running_mean.fill_(rank + 1)
    common.broadcast(norm)
    assert (norm.running_mean == 1).all()


def test_the_first_process_gives_its_batch_norm_statistics():
    """Else every process validates, and a resumed run starts with, statistics of its own."""
    with ended(*(processes := two(buffers_of_the_first))) as said:
        assert [process.returncode for process in processes] == [0, 0], said


# ---- A loss that is not finite --------------------------------------------------------------------------------------
def finite(path):
    return all(v.isfinite().all() for v in load(path)["model"].values())


def spoil(monkeypatch, script, at, also=lambda: None):
    """Cross-entropy is NaN from its call number `at` (from 0) on."""
    calls, real = [], script.cross_entropy

    def spoilt(z, target):
        calls.append(0)
        if len(calls) == at + 2:
            also()
        return real(z, target) * (math.nan if len(calls) > at else 1)

    monkeypatch.setattr(script, "cross_entropy", spoilt)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(script, flags, tmp_path, capsys,
                                                                           monkeypatch, own):
    flags |= dict(epochs=3, log_every=3)
    spoil(monkeypatch, script, 13 * own["calls"])
    assert re.search("loss is not finite by step 1[45]", fails(capsys, argv(flags), flags["out"], script))
    last = tmp_path / "run/last.pt"
    assert load(last)["epoch"] == 1 and finite(last)
    assert all(math.isfinite(v) for r in log_lines(tmp_path / "run")[1:] for v in r.values() if isinstance(v, float))


def test_a_signal_after_a_loss_that_is_not_finite_saves_nothing(script, flags, tmp_path, capsys, monkeypatch, own):
    """It came between two lines of the log, so nobody has looked at the loss yet."""
    flags |= dict(epochs=3, log_every=1000)
    spoil(monkeypatch, script, 12 * own["calls"], lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert "not finite" in fails(capsys, argv(flags), flags["out"], script)
    assert load(tmp_path / "run/last.pt")["epoch"] == 1 and finite(tmp_path / "run/last.pt")


@pytest.mark.parametrize("change", [dict(lr=1e30), dict(lr=1e30, batch_size=80, warmup=0.0),
                                    dict(lr=2e37, batch_size=80, warmup=0.0, epochs=1)])
def test_a_huge_learning_rate(script, flags, capsys, change):
    """Also where the step that breaks the weights is an epoch's last, so that its own loss was still finite."""
    assert "not finite" in fails(capsys, argv(flags | change), flags["out"], script)
    for name in ("last.pt", "best.pt"):
        assert not (Path(flags["out"]) / name).exists() or finite(Path(flags["out"]) / name)
    log_lines(flags["out"])


# ---- Bad input ------------------------------------------------------------------------------------------------------
def test_an_existing_run_is_not_overwritten(script, flags, own, capsys, tmp_path):
    flags |= dict(epochs=1)
    train(script, flags)
    before, other = (tmp_path / "run/last.pt").read_bytes(), own["other"]
    assert "holds a run: --resume it, --overwrite it" in fails(capsys, argv(flags), script=script)
    assert f"made with other {[*other][0]}:" in fails(capsys, [*argv(flags | other), "--resume"], script=script)
    assert "contradicts" in fails(capsys, [*argv(flags), "--resume", "--overwrite"], script=script)
    listed = edited(flags, tmp_path)
    shutil.copy(tmp_path / "run/last.pt", tmp_path / "copy.pt")
    train(script, listed, overwrite=True)                                               # the list's name is a flag
    edited(flags, tmp_path, lambda lines: lines[::-1])
    assert "made with other contents of the training list" in fails(capsys, [*argv(listed), "--resume"], script=script)
    (tmp_path / "copy.pt").replace(tmp_path / "run/last.pt")
    assert (tmp_path / "run/last.pt").read_bytes() == before
    train(script, flags, overwrite=True, seed=1)
    assert (tmp_path / "run/last.pt").read_bytes() != before and log_lines(tmp_path / "run")[0]["args"]["seed"] == 1
    train(script, flags, resume=True, seed=1, workers=1, log_every=5)                         # these may change


def edited(flags, tmp_path, edit=lambda lines: lines, part="train", broken=0):
    """Flags whose train (or val) list is the benchmark's after edit(lines), in tmp_path, and the first videos of which
    are files that are none."""
    given, root = Path(flags[part]), tmp_path / "videos"
    (tmp_path / "edited.txt").write_text("".join(edit(given.read_text().splitlines(True))))
    shutil.copy(given.with_name("classes.txt"), tmp_path)
    if broken:
        (root / part).mkdir(parents=True)
        other = {"train": "val", "val": "train"}[part]
        (root / other).symlink_to(given.with_name(other))
        for i, path in enumerate(given.read_text().split()[::2]):
            if i < broken:
                (root / path).write_bytes(b"not a video" * 100)
            else:
                (root / path).symlink_to(given.with_name(part) / Path(path).name)
    return flags | {part: str(tmp_path / "edited.txt"), "root": str(root if broken else given.parent)}


def gone(n):
    """Edit: the first n videos do not exist."""
    return lambda lines: [f"gone/{line}" if i < n else line for i, line in enumerate(lines)]


BAD = {  # name: what is wrong (flags, tmp_path -> flags), what the message says
    "no list": (lambda f, p: f | dict(train=str(p / "none.txt")), "none.txt: cannot read it: No such file"),
    "empty list": (lambda f, p: edited(f, p, lambda lines: []), "edited.txt: empty list"),
    "malformed line": (lambda f, p: edited(f, p, lambda lines: lines[:4] + ["video.mp4 jump\n"] + lines),
                       "edited.txt:5: expected `path label`.*jump"),
    "val label": (lambda f, p: edited(f, p, lambda lines: lines + ["val/0001x.mp4 8\n"], "val"),
                  "edited.txt:21: label 8 is outside the 8 classes, 0 to 7"),
    "no val list": (lambda f, p: f | dict(val=str(p / "none.txt")), "none.txt: cannot read it"),
    "missing videos": (lambda f, p: edited(f, p, gone(3)), "3 of 80 videos do not exist, first .*gone/.*check --root"),
    "wrong root": (lambda f, p: f | dict(root=str(p)), f"80 of 80 videos do not exist.*{os.sep}.*check --root"),
    "broken videos": (lambda f, p: edited(f, p, broken=4) | dict(max_bad=0.02),
                      r"of 80 videos cannot be read \(--max-bad 0.02\): train/000[0-4].mp4"),
    "all videos broken": (lambda f, p: edited(f, p, broken=80), "cannot be read|cannot read .*train/.*.mp4"),
    "all val broken": (lambda f, p: edited(f, p, part="val", broken=20), "no validation video can be read"),
    "model": (lambda f, p: f | dict(model="resnet50"), "--model resnet50: not one of tiny, .*r3d_18"),
    "weights": (lambda f, p: f | dict(weights="KINETICS"), "--weights KINETICS: no such file"),
    "weights no file of weights": (lambda f, p: f | dict(weights=__file__), "test_train.py: not a file of weights"),
    "weights a folder": (lambda f, p: f | dict(weights=str(p)), "Is a directory"),
    "share": (lambda f, p: f | dict(val="", val_share=0.0), "a share of 0.0 of 80 videos leaves none"),
    "batch size": (lambda f, p: f | dict(batch_size=81), "80 training videos are fewer than --batch-size 81"),
    "accumulate": (lambda f, p: f | dict(accumulate=3), "--batch-size 8 .*multiple of processes x --accumulate = 3"),
    "negative weight": (lambda f, p: f | dict(w_ent=-1.0), "--w-ent -1.0: must be at least 0"),
    "lr nan": (lambda f, p: f | dict(lr=math.nan), "--lr nan: must be at least 0"),
    "mean": (lambda f, p: f | dict(mean=(0.5,)), "--mean"),
    "std": (lambda f, p: f | dict(std=(0.0, 0.0, 0.0)), "--std|not finite"),
    "scale": (lambda f, p: f | dict(scale=(0.5,)), "--scale"),
    "probability": (lambda f, p: f | dict(flip=1.5), "--flip"),
    "amp": (lambda f, p: f | dict(amp="bf16"), "--amp bf16 is for CUDA"),
    "size of the model": (lambda f, p: f | dict(model="s3d"), "--model s3d takes no clip of --frames"),
    "out is a file": (lambda f, p: f | dict(out=__file__), "test_train.py: File exists"),
    "resize": (lambda f, p: f | dict(size=32, resize=18), "--resize"),
    "out a file": (lambda f, p: f | dict(out=__file__), "test_train.py"),
    "nothing to resume": (lambda f, p: f | dict(resume=True), "last.pt: no such file"),
}


BAD_ALSO = {  # of one script
    "albar": {"one clip to mix": (lambda f, p: f | dict(augment="mixup", accumulate=8),
                                  "--augment mixes .* --batch-size")},
    "sdn": {
        "no scene labels": (lambda f, p: f | dict(scenes=()), "--scenes FILE, made by `python sdn.py scenes`, or "
                                                              "--scene-labels none"),
        "no boxes": (lambda f, p: f | dict(humans=()), "--humans FILE, made by `python sdn.py humans`, or --w-ent 0"),
        "another number of scenes": (lambda f, p: f | dict(num_scenes=25), "24 categories, not --num-scenes 25"),
        "videos without labels": (lambda f, p: f | dict(val=f["val"].replace("val.txt", "conflfg.txt")),
                                  "scenes.npz: no labels of 20 of 100 videos, first conflfg/0000.mp4: .*--max-bad"),
        "boxes of other videos": (lambda f, p: f | dict(humans=(text(p / "boxes.txt", "x.mp4 0 1 2 3 4"),)),
                                  "boxes.txt: not on 80 of 80 training videos, first train/0000.mp4"),
        "boxes malformed": (lambda f, p: f | dict(humans=(text(p / "boxes.txt", "x.mp4 0 1 2 3"),)), "boxes.txt:1: "),
        "boxes that are labels": (lambda f, p: f | dict(humans=f["scenes"]), "scenes.npz: not a file that"),
        "labels that are boxes": (lambda f, p: f | dict(scenes=f["humans"]), "humans.npz: not a file that"),
        "init of another script": (lambda f, p: f | dict(init=checkpoint(p, "albar")), "made by albar.py, not sdn.py"),
        "init of other classes": (lambda f, p: f | dict(init=checkpoint(p, "sdn")), "--init .*first.pt: of other cl"),
        "warm-up of the plateau": (lambda f, p: f | dict(schedule="plateau"), "--warmup is of --schedule cosine"),
        "heads alone": (lambda f, p: f | dict(head_epochs=2), "--head-epochs must be fewer than --epochs"),
        "init is missing": (lambda f, p: f | dict(init=str(p / "none.pt")), "none.pt: no such file")},
    "smad": {
        "negative weight": (lambda f, p: f | dict(w_bce=-1.0), "--w-bce -1.0: must be at least 0"),
        "size of the model": (lambda f, p: f | dict(model="s3d"), "--model s3d: not one of tiny, tsn_tiny, .*r3d_18"),
        "no aspect": (lambda f, p: f | dict(aspect=()), "MAAT needs labels: --aspect NAME=FILE .* or --aspect none"),
        "no such file": (lambda f, p: f | dict(aspect=(f"scene={p}/none.npz",)), "none.npz: No such file"),
        "boxes for an aspect": (lambda f, p: aspect(f, "scene", "humans.npz"), "humans.npz: not a file that an offl"),
        "tags for labels": (lambda f, p: aspect(f, "event", "tags.npz"), "tags.npz: not a file that an offline step"),
        "labels for tags": (lambda f, p: aspect(f, "event", "scenes.npz:event"), "scenes.npz: not a file that an off"),
        "two of a name": (lambda f, p: f | dict(aspect=f["aspect"][:1] * 2), "--aspect scene=.*: a second of that n"),
        "name of a method": (lambda f, p: aspect(f, "training", "scenes.npz"), "--aspect training=.*cannot be used"),
        "name": (lambda f, p: aspect(f, "my-scene", "scenes.npz"), "--aspect my-scene=.*: expected NAME=FILE.npz, NA"),
        "none and one": (lambda f, p: f | dict(aspect=("none", *f["aspect"])), "--aspect none: expected NAME=FILE"),
        "bare name": (lambda f, p: f | dict(aspect=("scene",)), "--aspect scene: expected NAME=FILE.npz"),
        "no category": (lambda f, p: f | dict(aspect=("event=x.csv",)), "--aspect event=x.csv: .*FILE.csv:CATEGORY"),
        "category": (lambda f, p: aspect(f, "event", "tags.npz:scene"),
                     "tags.npz: no tags of 'scene', but of attribute, context, event"),
        "videos without labels": (lambda f, p: f | dict(val=f["val"].replace("val.txt", "conflfg.txt")),
                                  "scenes.npz: no labels of 20 of 100 videos, first conflfg/0000.mp4: .*--max-bad"),
        "videos without tags": (
            lambda f, p: f | dict(val=f["val"].replace("val.txt", "conflfg.txt"), aspect=f["aspect"][1:]),
            "tags.npz: no tags of 20 of 100 videos, first conflfg/0000.mp4: .*--max-bad"),
        "line of tags": (lambda f, p: f | dict(aspect=(f"event={hvu(p, 'run,0000,0,10', 'run,0001,0')}:event",)),
                         "hvu.csv:3: expected `tag.tag,id,0.0,10.0`: 'run,0001,0'")},
    "omnidebias": {
        "negative weight": (lambda f, p: f | dict(web_ratio=-1.0), "--web-ratio -1.0: must be at least 0"),
        "size of the model": (lambda f, p: f | dict(model="s3d"), "--model s3d: not one of tiny, tsn_tiny, .*r3d_18"),
        "no web": (lambda f, p: f | dict(web=()), "--web: name lists of web items .`python omnidebias.py sel"),
        "web and none": (lambda f, p: f | dict(web=(*f["web"], "none")), "--web: name lists .* or none, not both"),
        "no such web": (lambda f, p: f | dict(web=(f"{p}/none.txt",)), "none.txt: cannot read it: No such file"),
        "web elsewhere": (lambda f, p: f | dict(web_root=str(p)),
                          "60 of 60 videos do not exist, first .*: check --web-root .now .*[)]$"),
        "web label": (lambda f, p: f | dict(web=(text(p / "web.txt", "web/0000.mp4 8"),)),
                      "web.txt:1: label 8 is outside the 8 classes"),
        "two labels": (lambda f, p: f | dict(web_root=str(Path(f["train"]).parent), web=(
            text(p / "web.txt", "web/0000.mp4 0\nweb/0000.mp4 1"),)), "web.txt:2: 'web/0000.mp4' has label 1"),
        "share of the web": (lambda f, p: f | dict(web_ratio=0.75, accumulate=4),
                             "--web-ratio 0.75 of --batch-size 8: 6 web items in a step must be a whole multiple of "
                             "processes x --accumulate = 4"),
        "half a web item": (lambda f, p: f | dict(web_ratio=0.7), "--web-ratio 0.7 of --batch-size 8: 5.6 web items"),
        "no share of the web": (lambda f, p: f | dict(web_ratio=0.0), "--web-ratio 0.0 of --batch-size 8: 0 web items"),
        "web is validation": (lambda f, p: f | dict(web=(f["val"],)), "--web: 20 items are .*validation videos, fir"),
        "smad without labels": (lambda f, p: f | dict(aspect=()), "--smad and --aspect go together: .*NAME=FILE"),
        "labels without smad": (lambda f, p: f | dict(smad=False), "--smad and --aspect go together"),
        "two of a name": (lambda f, p: f | dict(aspect=f["aspect"] * 2), "--aspect scene=.*: a second of that name"),
        "tags": (lambda f, p: aspect(f, "event", "tags.npz:event"), "--aspect event=.*: .*tags, which are for smad.py"),
        "web without labels": (lambda f, p: f | dict(web=(f["web"][0].replace("web.txt", "conflfg.txt"),)),
                               "scenes.npz: no labels of 20 of 20 videos, first conflfg/0000.mp4: .*--max-bad")}}


def aspect(flags, name, file):
    """--aspect of a file of the benchmark's."""
    return flags | dict(aspect=(f"{name}={Path(flags['train']).parent / file}",))


def hvu(folder, *lines):
    """A file of HVU's tags with its one category beside it."""
    text(folder / "HVU_Tags_Categories_V1.0.csv", "Tag,Category\nrun,event")
    return text(folder / "hvu.csv", "\n".join(["Tags,youtube_id,time_start,time_end", *lines]))


def text(path, line):
    path.write_text(f"{line}\n")
    return str(path)


def checkpoint(folder, method):
    torch.save(dict(method=method, args={}, classes=[], model={}, epoch=1, step=1), folder / "first.pt")
    return str(folder / "first.pt")


@each("name", **{script: [(name,) for name in BAD | BAD_ALSO[script]] for script in SCRIPTS})
def test_bad_input_ends_with_one_line(name, script, flags, tmp_path, capsys):
    wrong, message = (BAD | BAD_ALSO[script.__name__])[name]
    line = fails(capsys, argv(wrong(flags, tmp_path)), script=script)
    assert re.search(message, line), line
    run = tmp_path / "run"
    assert not run.exists() or {p.name for p in run.iterdir()} <= {"log.jsonl"}                     # no checkpoint


@pytest.mark.parametrize("content, message", [
    ({"weights": 1}, "not a checkpoint of these scripts"),
    ({"method": "other", "args": {}, "classes": [], "model": {}, "epoch": 0, "step": 0}, "made by other.py, not ")])
def test_resume_from_something_else(script, flags, tmp_path, capsys, content, message):
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run/last.pt")
    before = (tmp_path / "run/last.pt").read_bytes()
    assert message in fails(capsys, [*argv(flags), "--resume"], script=script)
    assert (tmp_path / "run/last.pt").read_bytes() == before


@each("own_flag", albar=[("w_gp",)], sdn=[("scene_labels",), ("w_ent",)], smad=[("aspect",), ("saar",)],
      omnidebias=[("web",), ("smad",)])
def test_baseline_with_a_weight_is_a_contradiction(script, flags, capsys, own_flag):
    short = script.SHORT["baseline"]
    bare = {name: value for name, value in flags.items() if name not in short}
    given = argv(bare | {own_flag: flags.get(own_flag, getattr(script.Args(), own_flag))})
    assert f"--baseline contradicts --{own_flag.replace('_', '-')}" in fails(capsys, [*given, "--baseline"],
                                                                             script=script)
    got = []
    common.cli(script.Args, got.append, script.TOY, script.SHORT, ["--baseline"])
    assert {name: getattr(got[0], name) for name in short} == short and got[0].model == "tiny"
    assert short["out"] == f"runs/{script.__name__}-baseline"


@pytest.mark.parametrize("how", [dict(broken=2), dict(edit=gone(2))], ids=["broken", "missing"])
def test_a_few_bad_videos_are_skipped_counted_and_named_in_the_log(script, flags, tmp_path, how):
    flags = edited(flags, tmp_path, **how) | dict(max_bad=0.03)
    train(script, flags)
    log = json.dumps(log_lines(tmp_path / "run"))
    for line in Path(flags["train"]).read_text().splitlines()[:2]:
        assert line.split()[0] in log


def test_unreadable_validation_videos_do_not_count_and_are_named(script, flags, tmp_path):
    flags = edited(flags, tmp_path, part="val", broken=3)
    assert train(script, flags)["val/videos"] == 17
    unread = Path(flags["val"]).read_text().split()[:6:2]
    assert [r["val/unreadable"] for r in log_lines(tmp_path / "run") if "val/unreadable" in r] == [unread] * 2


def test_bad_input_on_the_real_command_line(script, flags, tmp_path):
    flags = edited(flags, tmp_path, broken=80) | dict(workers=2)
    with ended(process := Forked(command, f"{script.__name__}.py", argv(flags))) as (_, error):
        assert len(error.strip().splitlines()) == 1 and error.startswith("error: ") and "cannot" in error, error
        assert process.returncode == 2


# ---- The file -------------------------------------------------------------------------------------------------------
def test_a_script_and_common_alone_train_in_an_empty_folder(script, world, tmp_path):
    """From nothing but the two files and the drawn benchmark: pretraining stage, the method, and once more without."""
    name = script.__name__
    for file in (f"{name}.py", "common.py"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(world, tmp_path / "data/toy0")
    with ended(python(f"{name}.py", "--epochs", 1, cwd=tmp_path)) as (said, error):
        assert not error and f"runs/{name}: " in said and "weights-tiny.pt" in said, error
    with ended(Forked(command, f"{name}.py", ["--epochs", 1, "--weights", "none", "--baseline"],
                      cwd=tmp_path)) as (said, error):
        assert not error and f"runs/{name}-baseline: random weights" in said, error
    for file, short in (("data/toy0/weights-tiny.pt", True), (f"runs/{name}/last.pt", False),
                        (f"runs/{name}-baseline/last.pt", True)):
        saved = load(tmp_path / file)["args"]
        plain = {k: v for k, v in script.SHORT["baseline"].items() if k != "out"}
        assert ({k: saved[k] for k in plain} == plain) == short and ("pretrain" in saved["train"]) == ("data" in file)


def test_pretraining_on_the_benchmark_gives_the_same_weights_from_any_script(world, tmp_path, monkeypatch):
    """They share its file: who comes first trains it."""
    found = {}
    for name, script in SCRIPTS.items():
        folder = tmp_path / name / "toy0"
        folder.mkdir(parents=True)
        for path in world.iterdir():
            (folder / path.name).symlink_to(path)
        monkeypatch.setattr(script, "PRETRAIN", script.PRETRAIN | dict(epochs=2))
        found[name] = load(script.pretrain(script.Args(**script.TOY | dict(data=str(folder.parent)))))
        assert found[name]["epoch"] == 2 and found[name]["args"]["train"].endswith("pretrain.txt")
    first, *others = found.values()
    for other in others:
        assert same(first["model"], other["model"]) and first["step"] == other["step"]


def blocks(text):
    """{NAME: block} between `# [same in all scripts: NAME]` and `# [end]`."""
    found = re.findall(r"^# \[same in all scripts: (\w+)\]\n(.*?)^# \[end\]$", text, re.M | re.S)
    assert len(found) == text.count("[same in all scripts") == text.count("# [end]") == len(dict(found))
    return dict(found)


def test_blocks_that_are_the_same_in_all_scripts():
    found = {name: blocks(source(script)) for name, script in SCRIPTS.items()}
    assert all("pretrain" in some for some in found.values())
    for one in found.values():
        for other in found.values():
            assert all(one[name] == other[name] for name in one.keys() & other.keys())
    assert blocks("# [same in all scripts: a]\nx = 1\n# [end]\n") == {"a": "x = 1\n"}


def functions(module):
    return {f.name: f for f in ast.parse(source(module)).body if isinstance(f, ast.FunctionDef | ast.ClassDef)}


def test_equation_map_is_the_functions_and_the_lines_of_use(script, own):
    lines = source(script).splitlines()
    rows = re.findall(r"^  (Eq\. \(\d+\))  ([\w.]+) ", ast.get_docstring(ast.parse(source(script)), clean=False), re.M)
    assert [tag for tag, _ in rows] == [f"Eq. ({i})" for i in own["equations"]]                        # every equation
    here = [(tag, name) for tag, name in rows if not name.startswith("evaluate.")]
    for tag, name in set(rows) - set(here):
        assert ast.get_docstring(functions(evaluate)[name.removeprefix("evaluate.")]).startswith(tag)
    docs = {name: ast.get_docstring(f) or "" for name, f in functions(script).items()}
    assert sorted((m.group(), f) for f, said in docs.items() if (m := re.match(r"Eq\. \(\d+\)", said))) == here
    calls = [n for n in ast.walk(ast.parse(source(script))) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert {name for _, name in here} <= {call.func.id for call in calls}
    for tag, name in here:                                           # `grep "Eq. (5)"`: the row, the function, the use
        used = [lines[call.lineno - 1] for call in calls if call.func.id == name]
        assert any(tag in line.partition("#")[2] for line in used), f"no line that calls {name} says {tag}"


def flags_read(script, main):
    """Names x of all args.x that are read in main and in what it reaches of the script and of common.py."""
    known, left, seen = functions(common) | functions(script), [main], set()
    if main != "select":
        known.pop("select", None)                                                              # it has Args of its own
    while left:
        if (name := left.pop()) in known and name not in seen:
            seen.add(name)
            left += [n.id for n in ast.walk(known[name]) if isinstance(n, ast.Name)]
    return {n.attr for name in seen for n in ast.walk(known[name]) if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name) and n.value.id == "args" and isinstance(n.ctx, ast.Load)}


def test_every_flag_is_read_and_shortcuts_are_flags(script):
    """Of each sub-command too."""
    for Args, main in [(script.Args, script.train), *getattr(script, "STEPS", {}).values()]:
        tested = {"test_clips"} if script in (smad, omnidebias) and main is script.train else set()    # by evaluate.py
        assert {f.name for f in fields(Args)} == flags_read(script, main.__name__) | tested, main.__name__
        assert all(f'"{name}"' in source(evaluate) for name in tested)
    names = {f.name for f in fields(script.Args)}
    assert set(script.TOY) <= names and set().union(*script.SHORT.values()) <= names
    assert not [n for n in ast.walk(ast.parse(source(script))) if isinstance(n, ast.Attribute)
                and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name) and n.value.id == "args"]


@pytest.mark.parametrize("module, more", [*((script, "common") for script in SCRIPTS.values()), (common, "av")],
                         ids=lambda value: getattr(value, "__name__", value))
def test_imports(module, more):
    nodes = list(ast.walk(ast.parse(source(module))))
    modules = [name.name for n in nodes if isinstance(n, ast.Import) for name in n.names]
    modules += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
    allowed = {"torch", "torchvision", "tqdm", "numpy", more} | sys.stdlib_module_names
    assert {m.split(".")[0] for m in modules} <= allowed
    assert "*" not in [name.name for n in nodes if isinstance(n, ast.ImportFrom) for name in n.names]


def test_help_shows_the_papers_values(script, own, capsys):
    with pytest.raises(SystemExit) as stopped:
        common.cli(script.Args, script.train, script.TOY, script.SHORT, ["--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "Eq. (5)" in said and re.search(own["help"], said)
