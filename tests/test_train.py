"""Whole runs of albar.py on a small embedded benchmark: what they write, how they stop and go on, on two processes,
and what bad input says. And what the script promises about its own text: equation map, flags, imports."""

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
from conftest import ROOT, argv, ended, fails, load, log_lines, python, same

import albar
import common
from albar import Args, train
from common import UserError

SOURCE = Path(albar.__file__).read_text()
RESULT = ("model", "optimizer", "scheduler", "scaler", "step", "epoch", "best", "extra", "classes", "list_sha1", "rng")


def equal(a, b, equal=torch.equal):
    """Two checkpoint files are of the same state."""
    a, b = load(a), load(b)
    return [k for k in RESULT if not same(a[k], b[k], equal)] == []


@pytest.fixture
def whole(flags, tmp_path):
    """The checkpoint of the run `flags`, never interrupted."""
    return train(Args(**flags | dict(out=str(tmp_path / "whole"))))["checkpoint"]


# ---- A run ----------------------------------------------------------------------------------------------------------
def test_train_returns_figures_and_writes_what_the_contract_says(flags):
    result = train(Args(**flags))
    out = Path(flags["out"])
    assert result["checkpoint"] == str(out / "last.pt") and sorted(p.name for p in out.iterdir()) == [
        "best.pt", "last.pt", "log.jsonl"]
    assert 0 <= result["val/accuracy"] <= 1 and result["val/videos"] == 20 and result["val/chance"] == 1 / 8
    assert 0 <= result["val/static_entropy"] <= math.log(8) + 1e-6
    saved, best = load(out / "last.pt"), load(out / "best.pt")
    assert set(saved) == {"method", "args", "classes", "epoch", "step", "model", "optimizer", "scheduler", "scaler",
                          "rng", "extra", "best", "torch", "list_sha1"} == set(best)                # design.md, 3
    assert saved["method"] == "albar" and saved["classes"] == list(common.ACTIONS)
    assert (saved["epoch"], saved["step"]) == (2, 20) and saved["torch"] == str(torch.__version__)
    assert saved["args"] == flags | {f.name: saved["args"][f.name] for f in fields(Args)}
    net = albar.build_model(Args(**saved["args"]), 8)
    net.load_state_dict(saved["model"])                                                     # unwrapped: no `module.`
    assert saved["best"]["val/accuracy"] == max(r.get("val/accuracy", 0) for r in log_lines(out))
    assert best["epoch"] == best["best"]["epoch"]


def test_log_is_json_with_finite_numbers(flags):
    train(Args(**flags))
    head, *records = log_lines(flags["out"])
    assert head["args"]["w_ent"] == 4 and head["train_videos"] == 80 and head["val_videos"] == 20
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 21)) and len(records) == 22
    for record in steps:
        assert {"epoch", "lr", "clips_per_second", "loss", "ce", "accuracy", "adv", "ent", "gp", "static_accuracy",
                "gp_true_logit", "head_row_sum"} <= record.keys()
        assert all(isinstance(v, int | float) and math.isfinite(v) for v in record.values())
        total = record["ce"] + flags["w_adv"] * record["adv"] + 4 * record["ent"] + record["gp"]
        assert record["loss"] == pytest.approx(total, rel=1e-4)                                         # Eq. (5)
        assert record["adv"] < 0 and -math.log(8) - 1e-5 <= record["ent"] <= 0 <= record["gp"]
    assert steps[0]["lr"] == pytest.approx(4e-3 * 8 / 64 * 0.2) and steps[-1]["lr"] < 1e-9  # after the step: the next
    assert [r["unreadable"] for r in records if "unreadable" in r] == [[], []]


def test_training_learns(flags, world):
    """From random weights, plain cross-entropy on a benchmark this small: the loss falls and it beats chance."""
    result = train(Args(**flags | dict(w_adv=0.0, w_ent=0.0, w_gp=0.0, epochs=12, val=flags["train"], log_every=10)))
    loss = [r["loss"] for r in log_lines(flags["out"]) if "loss" in r]
    assert loss[-1] < 0.8 * loss[0] and result["val/accuracy"] > 0.3


def test_validation_list_and_held_out_share(flags, world):
    data, held = albar.make_data(Args(**flags | dict(val="")))
    assert len(data) == 64 and len(held) == 16 and not set(data.videos.paths) & set(held.videos.paths)       # App. B
    assert albar.make_data(Args(**flags | dict(val="")))[1].videos.paths == held.videos.paths
    assert albar.make_data(Args(**flags | dict(val="", seed=1)))[1].videos.paths != held.videos.paths
    data, held = albar.make_data(Args(**flags))
    assert len(data) == 80 and held.videos.paths == common.read_list(world / "val.txt").paths


@pytest.mark.parametrize("static_frame, augment, workers", [("random", "stillmix", 2), ("first", "mixup", 0)])
def test_same_seed_same_weights(flags, tmp_path, static_frame, augment, workers):
    """Whatever the number of loader processes, and another seed gives other weights."""
    flags |= dict(static_frame=static_frame, augment=augment, epochs=1)
    for name, change in (("a", {}), ("b", dict(workers=workers, cache=False)), ("c", dict(seed=1))):
        train(Args(**flags | change | dict(out=str(tmp_path / name))))
    assert equal(tmp_path / "a/last.pt", tmp_path / "b/last.pt")
    assert not equal(tmp_path / "a/last.pt", tmp_path / "c/last.pt")


def test_accumulated_parts_give_the_whole_batchs_gradient(flags, tmp_path):
    """One step, so that Adam's first moment is a tenth of the gradient."""
    for parts in (1, 2, 4):
        train(Args(**flags | dict(batch_size=80, epochs=1, accumulate=parts, out=str(tmp_path / str(parts)))))
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
    monkeypatch.setattr(albar, "Log", Struck)


@pytest.mark.parametrize("number, at, change", [
    (signal.SIGTERM, 13, dict(accumulate=2, static_frame="random", augment="stillmix")), (signal.SIGINT, 7, {}),
    (signal.SIGTERM, 10, {}), (signal.SIGINT, 19, {})])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(flags, tmp_path, monkeypatch, number, at, change):
    flags |= change
    train(Args(**flags | dict(out=str(tmp_path / "whole"))))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        strike(patch, at, number)
        train(Args(**flags))
    last = tmp_path / "run/last.pt"
    assert stopped.value.code == 128 + number and load(last)["step"] in (at, at + 1)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)             # handlers given back
    result = train(Args(**flags | dict(resume=True)))
    assert result["checkpoint"] == str(last) and equal(last, tmp_path / "whole/last.pt")
    assert equal(tmp_path / "run/best.pt", tmp_path / "whole/best.pt")
    logs = [[{k: v for k, v in r.items() if k != "clips_per_second"} for r in log_lines(tmp_path / name)
             if "args" not in r] for name in ("run", "whole")]
    assert logs[0] == logs[1]
    train(Args(**flags | dict(resume=True)))                                            # a finished run stays as it is
    assert equal(last, tmp_path / "whole/last.pt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_with_loader_processes(flags, tmp_path, number):
    """As the terminal's Ctrl-C and a cluster's scancel do: it reaches the loaders' processes too."""
    flags |= dict(epochs=30, workers=2, cache=False)
    process, log = python("albar.py", *argv(flags)), Path(flags["out"]) / "log.jsonl"
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
            strike(patch, 60 * math.ceil((step + 10) / 60))                             # no need to train all 30
            train(Args(**flags | dict(workers=0, cache=True, out=str(tmp_path / name)) | change))
    assert equal(tmp_path / "run/last.pt", tmp_path / "whole/last.pt")


KILL = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch, albar, common
real, calls = torch.save, []
def save(content, path):
    calls.append(path)
    real(content, path)
    if content["epoch"] == 2:
        with open(path, "r+b") as file:
            file.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
common.cli(albar.Args, albar.train, albar.TOY, albar.SHORT)
"""


def test_a_kill_in_the_middle_of_saving_leaves_the_last_good_checkpoint(flags, whole, tmp_path):
    flags |= dict(epochs=2)
    with ended(python("-c", KILL.format(root=str(ROOT)), *argv(flags))) as (_, error):
        assert not error
    assert list((tmp_path / "run").glob("*.part"))                                      # so it did stop half-way
    assert load(tmp_path / "run/last.pt")["epoch"] == 1
    train(Args(**flags | dict(resume=True)))
    assert equal(tmp_path / "run/last.pt", whole)


def test_a_killed_overwrite_leaves_nothing_to_resume(flags, tmp_path, monkeypatch):
    """Else --resume would give the old run as the new one's result."""
    train(Args(**flags))
    monkeypatch.setattr(albar, "training_step", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        train(Args(**flags | dict(overwrite=True)))
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.pt"))
    with pytest.raises(UserError, match="no such file"):
        train(Args(**flags | dict(resume=True)))


# ---- Several processes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [dict(batch_size=80, epochs=1), dict(batch_size=8, accumulate=2, epochs=1),
                                    dict(batch_size=80, epochs=1, w_adv=0.0, w_ent=0.0)])   # no gradient of the bias
def test_two_processes_train_what_one_trains(flags, tmp_path, change):
    """The full loss through DistributedDataParallel: its averaged gradient, and the weights after ten steps."""
    flags |= change
    train(Args(**flags))
    flags["out"] = str(tmp_path / "two")
    with ended(python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "albar.py", *argv(flags),
                      OMP_NUM_THREADS=1)) as (said, error):
        assert "Traceback" not in error and "2 x cpu" in said and said.count("epoch 1/1") == 1, error
    one, two = tmp_path / "run/last.pt", tmp_path / "two/last.pt"
    if change["batch_size"] == 80:
        assert first_moments_agree(one, two)
    else:
        a, b = load(one)["model"], load(two)["model"]
        assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4 < float((a["backbone.head.weight"]).abs().max())
    figures = [[r for r in log_lines(p.parent) if "args" not in r] for p in (one, two)]
    last = {"gp_true_logit", "head_row_sum"} if "accumulate" in change else set()            # of the last part alone
    for a, b in zip(*figures, strict=True):
        a, b = ({k: v for k, v in r.items() if k not in {"clips_per_second", *last} and not isinstance(v, list)}
                for r in (a, b))
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    assert log_lines(tmp_path / "two")[0]["processes"] == 2


def buffers_of_the_first(rank, meet):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    norm = torch.nn.BatchNorm3d(2)
    norm.running_mean.fill_(rank + 1)
    common.broadcast(norm)
    assert (norm.running_mean == 1).all()
    torch.distributed.destroy_process_group()


def test_the_first_process_gives_its_batch_norm_statistics(tmp_path):
    """Else every process validates, and a resumed run starts with, statistics of its own."""
    torch.multiprocessing.spawn(buffers_of_the_first, (tmp_path / "meet",), nprocs=2)


# ---- A loss that is not finite --------------------------------------------------------------------------------------
def finite(path):
    return all(v.isfinite().all() for v in load(path)["model"].values())


def spoil(monkeypatch, at, also=lambda: None):
    """Cross-entropy is NaN from its call number `at` (from 0) on."""
    calls, real = [], albar.cross_entropy

    def spoilt(z, target):
        calls.append(0)
        if len(calls) == at + 2:
            also()
        return real(z, target) * (math.nan if len(calls) > at else 1)

    monkeypatch.setattr(albar, "cross_entropy", spoilt)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(flags, tmp_path, capsys, monkeypatch):
    flags |= dict(epochs=3, log_every=3)
    spoil(monkeypatch, 13)
    assert re.search("loss is not finite by step 1[45]", fails(capsys, argv(flags), flags["out"]))
    last = tmp_path / "run/last.pt"
    assert load(last)["epoch"] == 1 and finite(last)
    assert all(math.isfinite(v) for r in log_lines(tmp_path / "run")[1:] for v in r.values() if isinstance(v, float))


def test_a_signal_after_a_loss_that_is_not_finite_saves_nothing(flags, tmp_path, capsys, monkeypatch):
    """It came between two lines of the log, so nobody has looked at the loss yet."""
    flags |= dict(epochs=3, log_every=1000)
    spoil(monkeypatch, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert "not finite" in fails(capsys, argv(flags), flags["out"])
    assert load(tmp_path / "run/last.pt")["epoch"] == 1 and finite(tmp_path / "run/last.pt")


@pytest.mark.parametrize("change", [dict(lr=1e30), dict(lr=1e30, batch_size=80, warmup=0.0),
                                    dict(lr=2e37, batch_size=80, warmup=0.0, epochs=1)])
def test_a_huge_learning_rate(flags, capsys, change):
    """Also where the step that breaks the weights is an epoch's last, so that its own loss was still finite."""
    assert "not finite" in fails(capsys, argv(flags | change), flags["out"])
    for name in ("last.pt", "best.pt"):
        assert not (Path(flags["out"]) / name).exists() or finite(Path(flags["out"]) / name)
    log_lines(flags["out"])


# ---- Bad input ------------------------------------------------------------------------------------------------------
def test_an_existing_run_is_not_overwritten(flags, capsys, tmp_path):
    flags |= dict(epochs=1)
    train(Args(**flags))
    before = (tmp_path / "run/last.pt").read_bytes()
    assert "holds a run: --resume it, --overwrite it" in fails(capsys, argv(flags))
    assert "made with other w_adv" in fails(capsys, [*argv(flags | dict(w_adv=0.5)), "--resume"])
    assert "contradicts" in fails(capsys, [*argv(flags), "--resume", "--overwrite"])
    listed = edited(flags, tmp_path, lambda lines: lines)
    shutil.copy(tmp_path / "run/last.pt", tmp_path / "copy.pt")
    train(Args(**listed | dict(overwrite=True)))                                        # the list's name is a flag
    edited(flags, tmp_path, lambda lines: lines[::-1])
    assert "made with other contents of the training list" in fails(capsys, [*argv(listed), "--resume"])
    (tmp_path / "copy.pt").replace(tmp_path / "run/last.pt")
    assert (tmp_path / "run/last.pt").read_bytes() == before
    train(Args(**flags | dict(overwrite=True, seed=1)))
    assert (tmp_path / "run/last.pt").read_bytes() != before and log_lines(tmp_path / "run")[0]["args"]["seed"] == 1
    train(Args(**flags | dict(resume=True, seed=1, workers=1, log_every=5)))                  # these may change


def edited(flags, tmp_path, edit, part="train"):
    """Flags whose train (or val) list is the benchmark's after edit(lines), in tmp_path."""
    listed = tmp_path / "edited.txt"
    listed.write_text("".join(edit(Path(flags[part]).read_text().splitlines(True))))
    shutil.copy(Path(flags[part]).with_name("classes.txt"), tmp_path)
    return flags | {part: str(listed), "root": str(Path(flags[part]).parent)}


def broken(tmp_path, n):
    """Edit: the first n videos are files that are none."""
    for i in range(n):
        (tmp_path / f"broken{i}.mp4").write_bytes(b"not a video" * 100)
    return lambda lines: [f"{tmp_path}/broken{i}.mp4 {line.split()[1]}\n" if i < n else line
                          for i, line in enumerate(lines)]


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
    "broken videos": (lambda f, p: edited(f, p, broken(p, 4)) | dict(max_bad=0.02),
                      r"of 80 videos cannot be read \(--max-bad 0.02\): .*broken[0-3].mp4"),
    "all videos broken": (lambda f, p: edited(f, p, broken(p, 80)), "cannot be read|cannot read .*broken.*.mp4"),
    "all broken, loaders": (lambda f, p: edited(f, p, broken(p, 80)) | dict(workers=1),
                            "cannot be read|cannot read .*broken.*.mp4"),
    "all val broken": (lambda f, p: edited(f, p, broken(p, 20), "val"), "no validation video can be read"),
    "model": (lambda f, p: f | dict(model="resnet50"), "--model resnet50: not one of tiny, .*swin3d_t"),
    "weights": (lambda f, p: f | dict(weights="KINETICS"), "--weights KINETICS: no such file"),
    "weights no file of weights": (lambda f, p: f | dict(weights=__file__), "test_train.py: not a file of weights"),
    "weights a folder": (lambda f, p: f | dict(weights=str(p)), "Is a directory"),
    "share": (lambda f, p: f | dict(val="", val_share=0.0), "a share of 0.0 of 80 videos leaves none"),
    "batch size": (lambda f, p: f | dict(batch_size=81), "80 training videos are fewer than --batch-size 81"),
    "accumulate": (lambda f, p: f | dict(accumulate=3), "--batch-size 8 .*multiple of processes x --accumulate = 3"),
    "negative weight": (lambda f, p: f | dict(w_adv=-1.0), "--w-adv -1.0: must be at least 0"),
    "lr nan": (lambda f, p: f | dict(lr=math.nan), "--lr nan: must be at least 0"),
    "mean": (lambda f, p: f | dict(mean=(0.5,)), "--mean"),
    "std": (lambda f, p: f | dict(std=(0.0, 0.0, 0.0)), "--std|not finite"),
    "scale": (lambda f, p: f | dict(scale=(0.5,)), "--scale"),
    "probability": (lambda f, p: f | dict(flip=1.5), "--flip"),
    "amp": (lambda f, p: f | dict(amp="bf16"), "--amp bf16 is for CUDA"),
    "one clip to mix": (lambda f, p: f | dict(augment="mixup", accumulate=8), "--augment mixes .* --batch-size"),
    "size of the model": (lambda f, p: f | dict(model="s3d"), "--model s3d takes no clip of --frames"),
    "out is a file": (lambda f, p: f | dict(out=__file__), "test_train.py: File exists"),
    "resize": (lambda f, p: f | dict(size=32, resize=18), "--resize"),
    "out a file": (lambda f, p: f | dict(out=__file__), "test_train.py"),
    "nothing to resume": (lambda f, p: f | dict(resume=True), "last.pt: no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(name, flags, tmp_path, capsys):
    wrong, message = BAD[name]
    line = fails(capsys, argv(wrong(flags, tmp_path)))
    assert re.search(message, line), line
    run = tmp_path / "run"
    assert not run.exists() or {p.name for p in run.iterdir()} <= {"log.jsonl"}                     # no checkpoint


@pytest.mark.parametrize("content, message", [
    ({"weights": 1}, "not a checkpoint of these scripts"),
    ({"method": "sdn", "args": {}, "classes": [], "model": {}, "epoch": 0, "step": 0}, "by sdn.py, not albar.py")])
def test_resume_from_something_else(flags, tmp_path, capsys, content, message):
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run/last.pt")
    before = (tmp_path / "run/last.pt").read_bytes()
    assert message in fails(capsys, [*argv(flags), "--resume"])
    assert (tmp_path / "run/last.pt").read_bytes() == before


def test_baseline_with_a_weight_is_a_contradiction(flags, capsys):
    del flags["w_adv"]
    assert "--baseline contradicts --w-gp" in fails(capsys, [*argv(flags), "--baseline"])
    for name in [name for name in flags if name.startswith("w_")]:
        del flags[name]
    common.cli(Args, lambda args: flags.update(got=args), albar.TOY, albar.SHORT, ["--baseline"])
    assert (flags["got"].w_adv, flags["got"].w_ent, flags["got"].w_gp) == (0, 0, 0)
    assert flags["got"].out == "runs/albar-baseline" and flags["got"].model == "tiny"


@pytest.mark.parametrize("edit, max_bad", [(lambda p: broken(p, 2), 0.03), (lambda p: gone(2), 0.03)],
                         ids=["broken", "missing"])
def test_a_few_bad_videos_are_skipped_counted_and_named_in_the_log(flags, tmp_path, edit, max_bad):
    flags = edited(flags, tmp_path, edit(tmp_path)) | dict(max_bad=max_bad)
    train(Args(**flags))
    log = json.dumps(log_lines(tmp_path / "run"))
    for line in Path(flags["train"]).read_text().splitlines()[:2]:
        assert line.split()[0] in log


def test_unreadable_validation_videos_do_not_count_and_are_named(flags, tmp_path):
    flags = edited(flags, tmp_path, broken(tmp_path, 3), "val")
    assert train(Args(**flags))["val/videos"] == 17
    assert "broken2.mp4" in (tmp_path / "run/log.jsonl").read_text()


def test_bad_input_on_the_real_command_line(flags, tmp_path):
    flags = edited(flags, tmp_path, broken(tmp_path, 80)) | dict(workers=2)
    with ended(python("albar.py", *argv(flags))) as (_, error):
        assert len(error.strip().splitlines()) == 1 and error.startswith("error: ") and "broken" in error, error


# ---- The file -------------------------------------------------------------------------------------------------------
def test_albar_and_common_alone_train_in_an_empty_folder(world, tmp_path):
    """From nothing but the two files and the drawn benchmark: pretraining stage, ALBAR, and once more without it."""
    for name in ("albar.py", "common.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(world, tmp_path / "data/toy0")
    with ended(python("albar.py", "--epochs", 1, cwd=tmp_path)) as (said, error):
        assert not error and "runs/albar: " in said and "weights-tiny.pt" in said, error
    assert load(tmp_path / "data/toy0/weights-tiny.pt")["args"]["w_adv"] == 0
    with ended(python("albar.py", "--epochs", 1, "--weights", "none", "--baseline", cwd=tmp_path)) as (said, error):
        assert not error and "runs/albar-baseline: random weights" in said, error
    assert load(tmp_path / "runs/albar/last.pt")["args"]["w_ent"] == 4
    assert load(tmp_path / "runs/albar-baseline/last.pt")["args"]["train"] == ""


def test_equation_map_is_the_functions_and_the_lines_of_use():
    tree = ast.parse(SOURCE)
    rows = re.findall(r"^  (Eq\. \(\d+\))  (\w+) ", ast.get_docstring(tree, clean=False), re.M)
    assert [tag for tag, _ in rows] == [f"Eq. ({i})" for i in range(1, 6)]                      # every equation
    functions = {f.name: ast.get_docstring(f) or "" for f in tree.body if isinstance(f, ast.FunctionDef)}
    tagged = [(m.group(), name) for name, said in functions.items() if (m := re.match(r"Eq\. \(\d+\)", said))]
    assert tagged == rows
    calls = [n for f in tree.body if getattr(f, "name", "") == "training_step" for n in ast.walk(f)
             if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert {name for _, name in rows} <= {call.func.id for call in calls}
    for tag, name in rows:                                           # `grep "Eq. (5)"`: the row, the function, the use
        used = [SOURCE.splitlines()[call.lineno - 1] for call in calls if call.func.id == name]
        assert any(tag in line.partition("#")[2] for line in used), f"no line that calls {name} says {tag}"


def test_every_flag_is_read_and_shortcuts_are_flags():
    read = {n.attr for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name) and n.value.id == "args" and isinstance(n.ctx, ast.Load)}
    elsewhere = {"resume", "overwrite"}                                                         # common.open_run's
    assert elsewhere <= set(re.findall(r"args\.(\w+)", Path(common.__file__).read_text()))
    names = {f.name for f in fields(Args)}
    assert names == (read | elsewhere) & names and read <= names
    assert set(albar.TOY) <= names and set().union(*albar.SHORT.values()) <= names
    assert not [n for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
                and isinstance(n.value, ast.Name) and n.value.id == "args"]                     # never changed


def test_imports():
    for source, allowed in ((SOURCE, {"torch", "torchvision", "tqdm", "common"}),
                            (Path(common.__file__).read_text(), {"torch", "torchvision", "tqdm", "numpy", "av"})):
        nodes = list(ast.walk(ast.parse(source)))
        modules = [name.name for n in nodes if isinstance(n, ast.Import) for name in n.names]
        modules += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
        assert {m.split(".")[0] for m in modules} <= allowed | sys.stdlib_module_names


def test_help_shows_the_papers_values(capsys):
    with pytest.raises(SystemExit) as stopped:
        common.cli(Args, train, albar.TOY, albar.SHORT, ["--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "Eq. (5)" in said and re.search(r"--w-gp W_GP\s+weight of Eq. \(4\)", said)
