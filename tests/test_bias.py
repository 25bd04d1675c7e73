"""evaluate.py's figures of SDN and SMAD (masked clips, scene probe, fairness, B_scene, maps) against closed forms."""

import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import argv
from PIL import Image
from torch import nn

import albar
import common
import evaluate
import smad
import test_evaluate
from common import UserError


def fails(capsys, words):
    """Run evaluate.py's command line here, which must end with exit code 2 and one line on stderr. -> that line"""
    with pytest.raises(SystemExit) as stopped:
        command(*words)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    return error[0]


def command(*words):
    steps = {"bias": (evaluate.BiasArgs, evaluate.bias), "cam": (evaluate.CamArgs, evaluate.cam)}
    common.cli(evaluate.Args, evaluate.evaluate, argv=[str(word) for word in words], steps=steps)


# ---- The scene probe -----------------------------------------------------------------------------------------------

def accuracy(x, scene, x_test, scene_test, scenes, seed=0):
    x, x_test = evaluate.standardise(*(torch.as_tensor(some, dtype=torch.float32) for some in (x, x_test)))
    net = evaluate.train_probe(x, nn.functional.one_hot(torch.as_tensor(scene), scenes).float(), seed)
    with torch.no_grad():
        return float((net(x_test).argmax(1).numpy() == scene_test).mean())


def test_standardise():
    x = torch.tensor([[1.0, 5, 1e6], [3, 5, 1e6], [5, 5, 1e6]])
    a, b = evaluate.standardise(x, x + 2)
    assert a[:, 0].tolist() == pytest.approx([-1.5 ** 0.5, 0, 1.5 ** 0.5])
    assert not a[:, 1:].any() and b[:, 1:].flatten().tolist() == [2] * 6                  # constant: shifted alone
    assert (b - a)[:, 0].tolist() == pytest.approx([2 / (8 / 3) ** 0.5] * 3) and x[0, 0] == 1


def test_probe_reaches_the_bayes_accuracy():
    rng = np.random.default_rng(0)
    scene, test = rng.integers(0, 6, 1500), rng.integers(0, 6, 3000)
    x, x_test = (np.eye(6)[s] + 0.4 * rng.standard_normal((len(s), 6)) for s in (scene, test))
    best = (x_test.argmax(1) == test).mean()                       # equal priors and noise: the nearest corner
    assert 0.7 < best < 0.9 and accuracy(x, scene, x_test, test, 6) == pytest.approx(best, abs=0.025)


def test_probe_is_not_linear():
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 2, (2, 400, 2))
    x, x_test = corner + 0.1 * rng.standard_normal(corner.shape)
    scene, test = corner.sum(2) % 2                                                          # exclusive or
    assert accuracy(x, scene, x_test, test, 2) > 0.99


def test_probe_of_features_without_scenes_names_the_most_frequent():
    rng = np.random.default_rng(2)
    scene, test = (rng.choice(4, 1000, p=(0.45, 0.25, 0.2, 0.1)) for _ in range(2))
    x, x_test = rng.standard_normal((2, 1000, 16))
    assert accuracy(x, scene, x_test, test, 4) == pytest.approx((test == 0).mean(), abs=0.03)


def test_probe_of_the_action_alone_is_the_floor():
    rng = np.random.default_rng(3)
    table = rng.permuted(np.tile((0.5, 0.2, 0.15, 0.1, 0.05), (8, 1)), axis=1)                 # scenes of each action
    action, other = rng.integers(0, 8, (2, 800))
    scene, test = (np.array([rng.choice(5, p=table[a]) for a in some]) for some in (action, other))
    most, floor = evaluate.scene_floors(action, scene, other, test)
    assert floor > most + 0.1 and accuracy(np.eye(8)[action], scene, np.eye(8)[other], test, 5) == pytest.approx(floor)


def test_probe_depends_on_its_seed_alone():
    rng = np.random.default_rng(4)
    x, p = torch.randn(120, 8), torch.from_numpy(rng.dirichlet(np.ones(3), 120)).float()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = evaluate.train_probe(x, p, 0, patience=3)
    assert torch.equal(torch.get_rng_state(), state)                                       # nobody else's draws change
    torch.manual_seed(8)
    again, other = (evaluate.train_probe(x, p, seed, patience=3) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one[0].weight, other[0].weight)
    shapes = [tuple(m.weight.shape) for m in one if isinstance(m, nn.Linear)]
    assert shapes == [(512, 8), (512, 512), (512, 512), (3, 512)]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in one.modules())


def test_probe_is_what_it_was_at_its_best():
    """Labels without a rule: the loss on the held-out tenth is least at once; what follows learns the list by heart."""
    x, p = torch.randn(300, 32, generator=torch.Generator().manual_seed(0)), torch.eye(4)[torch.arange(300) % 4]
    z = evaluate.train_probe(x, p, 0)(x).detach()
    assert float((z.argmax(1) == p.argmax(1)).float().mean()) < 0.6
    assert float(nn.functional.cross_entropy(z, p)) > 1.1                                               # ln 4 = 1.39


def test_scene_floors_against_brute_force():
    rng = np.random.default_rng(5)
    action, scene, other, test = rng.integers(0, (6, 5, 7, 5), (200, 4)).T              # action 6: at test alone
    usual = np.bincount(scene).argmax()
    most = [np.bincount(scene[action == a]).argmax() if a < 6 else usual for a in other]
    want = np.mean([t == usual for t in test]), np.mean([t == m for t, m in zip(test, most, strict=True)])
    assert evaluate.scene_floors(action, scene, other, test) == pytest.approx(want)


# ---- Whole runs of networks that look at known places ---------------------------------------------------------------
# A frame of 16 x 16: the actor is the middle quarter, green says its action and nothing else is green. In the
# corner blue says the action too, red one of four scenes. A network reads the middle's green or the corner's blue.

@dataclass
class FakeArgs(test_evaluate.FakeArgs):
    sees: str = "actor"
    size: int = 16
    resize: int = 16
    head: bool = False


class Fake(nn.Module):
    def __init__(self, args, classes):
        super().__init__()
        self.sees, self.head, self.scene_head = args.sees, nn.Linear(4, classes), None
        if args.head:                                   # takes scenes 2 and 3 for 0; standardised features it would not
            self.scene_head = nn.Linear(4, 4)
            self.scene_head.weight.data = torch.diag(torch.tensor([0, 0.6, 0.4, 0.4]))
            self.scene_head.bias.data = torch.tensor([0.5, 0, 0, 0])

    def forward(self, clip):                                                       # (N, 3, T, H, W)
        red, green, blue = (clip * 255).unbind(1)
        level = green[:, 0, 8, 8] if self.sees == "actor" else blue[:, 0, 0, 0]            # of the first frame
        label = ((level - 100) / 50).round().long()                                # 100, 150, 200; without an actor < 0
        known = nn.functional.one_hot(label.clamp_min(0), 3) * (label >= 0)[:, None]
        return 9.0 * known + 0 * self.head.weight.sum()

    def features(self, clip):
        return torch.eye(4)[(clip[:, 0, 0, 0, 0] * 255 / 60).round().long()]       # one-hot scenes


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """48 videos, folders of 5 frames, with their list, scenes and boxes, and a maker of checkpoints of Fake."""
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(Args=FakeArgs, build_model=Fake))
    monkeypatch.setattr(common, "METHODS", (*common.METHODS, "fake"))
    names, actions, scenes = [f"v{i:02d}" for i in range(48)], np.arange(48) % 3, np.arange(48) // 3 % 4
    for name, action, scene in zip(names, actions, scenes, strict=True):
        (tmp_path / "v" / name).mkdir(parents=True)
        for t in range(5):
            frame = np.zeros((16, 16, 3), np.uint8)
            frame[4:12, 4:12, 1] = 100 + 50 * action
            frame[:2, :2] = 60 * scene, 0, 100 + 50 * action
            Image.fromarray(frame).save(tmp_path / "v" / name / f"{t}.png")
    lines = [f"v/{n} {a}\n" for n, a in zip(names, actions, strict=True)]
    for name, some in (("list", lines), ("train", lines[:20]), ("val", lines[20:])):
        (tmp_path / f"{name}.txt").write_text("".join(some))
    # the centre clip is frames 0 to 3: of v00 to v09 the last has a box, of the others the first two or more
    lines = [f"v/{n} {t} 4 4 12 12\n" for i, n in enumerate(names) for t in ([3] if i < 10 else range(2 + i % 3))]
    (tmp_path / "boxes.txt").write_text("".join(lines))
    common.save_arrays(tmp_path / "scenes.npz", paths=np.array([f"v/{n}" for n in names]),
                       probabilities=np.eye(4, dtype=np.float16)[scenes] * 0.6 + np.float16(0.1),
                       categories=np.array(list("abcd")))

    def save(name, **args):
        args = vars(FakeArgs()) | args
        saved = dict(method="fake", args=args, classes=["a", "b", "c"], epoch=1, step=1, list_sha1="",
                     model=Fake(FakeArgs(**args), 3).state_dict())
        (tmp_path / "runs" / name).mkdir(parents=True)
        torch.save(saved, tmp_path / "runs" / name / "last.pt")
        return str(tmp_path / "runs" / name)
    return SimpleNamespace(path=tmp_path, save=save, list=str(tmp_path / "list.txt"), actions=actions, scenes=scenes,
                           humans=dict(humans=(str(tmp_path / "boxes.txt"),)),
                           probe=dict(scenes=(str(tmp_path / "scenes.npz"),), train=str(tmp_path / "train.txt"),
                                      val=str(tmp_path / "val.txt")))


def run(*runs, **flags):
    return evaluate.evaluate(evaluate.Args(runs=runs, **flags))


def test_masked_clips_of_a_network_that_looks_at_the_box_and_one_that_does_not(bench, capsys):
    rows = run(bench.save("actor"), bench.save("corner", sees="corner"), test=bench.list, **bench.humans)
    first = 100 * (bench.actions[10:] == 0).mean()                             # without an actor all classes are equal
    sure = math.log(2 + math.exp(9)) - 9 * math.exp(9) / (2 + math.exp(9))
    assert rows[0]["mean"]["iid"] == rows[1]["mean"]["iid"] == rows[1]["mean"]["masked"] == 100
    assert rows[0]["mean"]["masked"] == pytest.approx(first)
    assert rows[0]["mean"]["masked_entropy"] == pytest.approx(math.log(3))
    assert rows[1]["mean"]["masked_entropy"] == pytest.approx(sure, abs=1e-6)
    assert rows[0]["masked"] == rows[1]["masked"] == [38, 48]
    share = first / 100
    assert rows[0]["plus_minus"]["masked"] == pytest.approx(100 * (share * (1 - share) / 38) ** 0.5, rel=0.1)
    assert rows[0]["plus_minus"]["masked_entropy"] == pytest.approx(0, abs=1e-9)
    assert "38 of 48 test clips" in capsys.readouterr().out
    with np.load(bench.path / "runs/actor/evaluate.npz") as saved:
        assert saved["masked/humans"].tolist() == [0.25] * 10 + [(2 + i % 3) / 4 for i in range(10, 48)]
        equal = np.ptp(saved["masked/logits"], -1)[:, 0] == 0
        assert equal.tolist() == [False] * 10 + [True] * 38           # the ten that take no part still show their actor


def test_videos_are_read_once_for_clips_masks_and_shuffles(bench, monkeypatch):
    read, original = [], common.read_clip
    monkeypatch.setattr(common, "read_clip",
                        lambda path, at: (read.append(path) if Path(path).is_dir() else 0, original(path, at))[1])
    row, = run(bench.save("actor"), test=bench.list, clips=2, **bench.humans)
    assert len(read) == len(set(read)) == 48 and row["mean"]["shuffled"] == 100


def test_scene_figures_of_known_features(bench, capsys):
    rows = run(bench.save("plain"), bench.save("sdn", head=True), test=bench.list, shuffles=0, **bench.probe)
    val, right = bench.scenes[20:], (bench.scenes[20:] < 2).mean()
    assert [row["mean"]["scene_probe"] for row in rows] == [100, 100]
    assert "adversary" not in rows[0]["mean"] and rows[1]["mean"]["adversary"] == pytest.approx(100 * right)
    assert rows[1]["plus_minus"]["adversary"] == pytest.approx(100 * (right * (1 - right) / 28) ** 0.5, rel=0.1)
    assert not any("masked" in key for row in rows for key in row["mean"])                     # none without --humans
    about = rows[0]["probe"]
    assert (about["videos"], about["scenes"], about["chance"]) == ([20, 28], 4, 25)
    floors = evaluate.scene_floors(bench.actions[:20], bench.scenes[:20], bench.actions[20:], val)
    assert [about["most_frequent"], about["from_action"]] == pytest.approx([100 * some for some in floors])
    out = capsys.readouterr().out
    head, _, plain, sdn, *_ = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("|")]
    assert [h.strip() for h in head] == ["run", "IID ↑", "scene probe ↓", "adversary"]
    assert plain[3].strip() == "-" and sdn[3].strip().startswith(f"{100 * right:.1f} ±")
    assert out.count("- scene probe, ") == 1 and "chance 25.0" in out
    report = json.loads((bench.path / "runs/sdn/evaluate.json").read_text())
    assert report["row"]["probe"] == about and report["checkpoint"]["figures"]["adversary"] == 100 * right
    with np.load(bench.path / "runs/sdn/evaluate.npz") as saved:
        assert (saved["scene_probe/logits"].argmax(1) == saved["val/scenes"]).all()
        assert (saved["val/scenes"] == val).all()


def test_probe_sees_the_centre_clip_however_many_are_tested(bench, monkeypatch):
    clips, original = {}, evaluate.predict
    monkeypatch.setattr(evaluate, "predict", lambda run, name, videos, orders, args, *more, **call: (
        clips.setdefault(name, args.clips), original(run, name, videos, orders, args, *more, **call))[1])
    run(bench.save("plain"), test=bench.list, shuffles=0, clips=3, **bench.probe)
    assert clips == {"test": 3, "train": 1, "val": 1}


def test_videos_without_labels_or_unreadable_take_no_part_in_the_probe(bench):
    with np.load(bench.path / "scenes.npz") as old:
        arrays = {k: old[k][3:] if k != "categories" else old[k] for k in old}
    common.save_arrays(bench.path / "scenes.npz", **arrays)
    (bench.path / "v/v47").rename(bench.path / "gone")
    row, = run(bench.save("plain"), test=bench.list, shuffles=0, **bench.probe)
    assert row["probe"]["videos"] == [17, 27] and row["probe"]["unreadable"] == [[], ["v/v47"]]
    assert row["mean"]["scene_probe"] == 100


@pytest.mark.parametrize("change,message", [
    (dict(scenes=()), "--train: the scene probe needs --scenes, --train and --val"),
    (dict(train=""), "--scenes: the scene probe needs"), (dict(scenes=(), train=""), "--val: the scene probe needs"),
    (dict(scenes=("list.txt",)), "list.txt"), (dict(val="gone.txt"), "gone.txt"),
    (dict(train="other.txt"), "labels of 0"), (dict(val="list.txt"), "20 of its videos are in --train too"),
    (dict(humans=("gone.npz",)), "gone.npz"), (dict(humans=("other.txt",)), "no boxes of the test list's videos"),
    (dict(humans=("few.txt",)), "no test clip has a box in half of its frames"),
    (dict(head=True, scenes=("five.npz",)), "its scene head knows other scenes than the 5")])
def test_bad_flags(bench, monkeypatch, capsys, change, message):
    monkeypatch.chdir(bench.path)
    Path("other.txt").write_text("elsewhere/a 0 0 0 1 1\n")
    Path("few.txt").write_text("v/v00 0 0 0 1 1\n")
    with np.load("scenes.npz") as old:
        common.save_arrays(Path("five.npz"), paths=old["paths"], categories=np.array(list("abcde")),
                           probabilities=np.full((48, 5), 0.2, np.float16))
    if change.get("train") == "other.txt":
        Path("other.txt").write_text("elsewhere/a 0\n")
    folder, flags = bench.save("run", head=change.pop("head", False)), dict(test=bench.list) | bench.probe | change
    assert message in fails(capsys, [folder, *argv({k: v for k, v in flags.items() if v})])


# ---- Fairness: SMAD Sec. 3 and 6.2 ---------------------------------------------------------------------------------
def information(a, b):
    """I(A;B) and the mean of both entropies in nats, from the definition."""
    joint = {(x, y): np.mean((a == x) & (b == y)) for x in set(a.tolist()) for y in set(b.tolist())}
    total = sum(p * math.log(p / np.mean(a == x) / np.mean(b == y)) for (x, y), p in joint.items() if p)
    return total, -sum(np.mean(c == x) * math.log(np.mean(c == x)) for c in (a, b) for x in set(c.tolist())) / 2


def test_table_4_against_the_definition():
    rng = np.random.default_rng(0)
    y, s = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
    s = np.where(rng.random(300) < 0.5, y, s)
    predicted = np.where(rng.random(300) < 0.7, y, s % 4)
    got = evaluate.fairness(y, predicted, s, 0)

    def given(a, b, c):
        parts = [[np.mean(c == k) * v for v in information(a[c == k], b[c == k])] for k in set(c.tolist())]
        i, h = np.sum(parts, 0)
        return i / h
    want = dict(independence=np.divide(*information(predicted, s)), oracle=np.divide(*information(y, s)),
                separation=given(predicted, s, y), sufficiency=given(y, s, predicted))
    assert {name: got[name] for name in want} == pytest.approx(want)
    of = dict(independence=(predicted, s), oracle=(y, s), separation=(predicted, s, y), sufficiency=(y, s, predicted))
    for name, columns in of.items():
        floor = common.nmi_floor(*columns)
        assert floor > 0 and got[f"{name}_less_floor"] == pytest.approx(got[name] - floor)
    assert got["amplified"] == pytest.approx(got["independence"] - got["oracle"])
    fair = evaluate.fairness(y, np.where(rng.random(300) < 0.7, y, (y + 1) % 4), s, 0)    # errors that no scene causes
    assert abs(fair["separation_less_floor"]) < 0.02 < 0.05 < got["separation_less_floor"]
    assert evaluate.fairness(y, y, s, 0)["separation"] == 0 == evaluate.fairness(y, y, s, 0)["amplified"]


def test_equalised_odds():
    rng = np.random.default_rng(0)
    labels, scenes = np.repeat([0, 1], 4000), np.tile(np.repeat(np.arange(4), 1000), 2)
    chance = np.array([[0.9, 0.7, 0.5, 0.3], [0.8, 0.8, 0.8, 0.8]])[labels, scenes]
    spread = (np.var([0.9, 0.7, 0.5, 0.3], ddof=1) / 2) ** 0.5
    assert evaluate.equalised_odds(rng.random(8000) < chance, labels, scenes) == pytest.approx(spread, rel=0.05)
    few = [evaluate.equalised_odds(rng.random(40) < 0.7, np.zeros(40), np.arange(40) % 8) ** 2 for _ in range(400)]
    raw = 0.7 * 0.3 / 5                                          # what the binomial alone would show with 5 videos each
    assert np.mean(few) < 0.4 * raw                               # half of the draws are below 0, and count as 0
    right, pairs = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0]), np.array([0] * 5 + [1] * 5 + [2] * 2)
    assert evaluate.equalised_odds(right, np.zeros(12), pairs) == pytest.approx(0.5 ** 0.5)    # the third is too small
    assert math.isnan(evaluate.equalised_odds(right, np.zeros(12), pairs, least=6))
    assert math.isnan(evaluate.equalised_odds(right, np.arange(12), pairs))


def test_fairness_of_runs(bench, capsys):
    """Two seeds that are always right, on videos whose last ten have no scene label."""
    with np.load(bench.path / "scenes.npz") as old:
        arrays = {k: old[k][:38] if k != "categories" else old[k] for k in old}
    common.save_arrays(bench.path / "scenes.npz", **arrays)
    scenes = bench.probe["scenes"]
    rows = run(bench.save("one"), bench.save("two", seed=1), test=bench.list, scenes=scenes, shuffles=0)
    want = evaluate.fairness(bench.actions[:38], bench.actions[:38], bench.scenes[:38], 0)
    assert len(rows) == 1 and rows[0]["fair"] == [38, 48] and "probe" in rows[0] and rows[0]["probe"] is None
    assert {k: rows[0]["mean"][k] for k in want} == pytest.approx(want)
    out = capsys.readouterr().out
    assert "38 of 48 test videos" in out and "I(Y';S) → I(Y;S)" in out and "equalised odds ↓" not in out
    widths = {line.count("|") for line in out.splitlines() if line.startswith("|")}
    assert len(widths) == 2                                       # a | inside a cell would break the table
    with np.load(bench.path / "runs/one/evaluate.npz") as saved:
        assert saved["test/scenes"].tolist() == [*bench.scenes[:38], *[-1] * 10]
    row, = run(bench.save("alone"), test=bench.list, scenes=scenes, shuffles=0)
    assert f"{row['mean']['oracle']:.3f} " in capsys.readouterr().out and "oracle" not in row["plus_minus"]


def test_scenes_of_other_videos(bench, capsys):
    common.save_arrays(bench.path / "other.npz", paths=np.array(["x"]), probabilities=np.full((1, 2), 0.5, np.float16),
                       categories=np.array(["a", "b"]))
    words = [bench.save("one"), "--test", bench.list, "--scenes", bench.path / "other.npz"]
    assert "--scenes: no labels of the test list's videos, such as v/v00" in fails(capsys, words)


# ---- What the method says of testing -------------------------------------------------------------------------------
def smad_run(world, folder, monkeypatch, **change):
    """A checkpoint of smad.py with random weights, on the embedded benchmark."""
    args = smad.Args(**smad.TOY | dict(data=str(folder)) | change)
    monkeypatch.setattr(common, "toy", lambda *_: world)
    torch.manual_seed(0)
    net = smad.build_model(args, 8)
    net.add_adversaries(dict(scene=24, object=8))
    if net.saar:
        torch.nn.init.normal_(net.saar.score.weight)
    (folder / "run").mkdir()
    torch.save(dict(method="smad", args=vars(args), classes=list(common.ACTIONS), epoch=1, step=1, list_sha1="",
                    model=net.state_dict()), folder / "run/last.pt")
    return folder / "run", net.eval()


@pytest.mark.parametrize("clips,views", [(0, 3), (2, 2)])
def test_clips_are_the_methods_own_or_the_flags(world, tmp_path, monkeypatch, clips, views):
    folder, _ = smad_run(world, tmp_path, monkeypatch, test_clips=3)
    row, = run(str(folder), clips=clips, shuffles=1)
    with np.load(folder / "evaluate.npz") as saved:
        assert saved["test/logits"].shape == (20, views, 8) and saved["shuffled-0/order"].shape == (20, views, 8)
    assert f"mean softmax of {views} clips of 8 frames" in row["protocol"] and "adversary" in row["mean"]


@pytest.mark.parametrize("clips,frames", [(0, 5), (4, 4)])
def test_a_tsn_is_tested_on_single_frames_spread_evenly(world, tmp_path, monkeypatch, clips, frames):
    """Their softmax is averaged; no order of theirs matters; SCUFO repeats one of them."""
    folder, net = smad_run(world, tmp_path, monkeypatch, model="tsn_tiny", frames=3, test_clips=5)
    row, = run(str(folder), clips=clips, shuffles=2)
    videos = common.read_list(world / "test.txt", part="test")
    at = [(2 * k + 1) * common.LENGTH // (2 * frames) for k in range(frames)]
    clip = common.test_transform(32, 36)(common.read_clip(videos.full(0), at).permute(0, 3, 1, 2))
    x = common.normalise(clip.transpose(0, 1)[None], smad.Args.mean, smad.Args.std)
    with torch.no_grad():
        each = torch.cat([net(x[:, :, [t]]) for t in range(frames)])
    with np.load(folder / "evaluate.npz") as saved:
        assert torch.allclose(torch.from_numpy(saved["test/logits"][0]), each, atol=1e-5)
        assert saved["test/logits"].shape == (20, frames, 8)
        still = saved["scufo-photo/logits"]
        assert np.allclose(still, still[:, :1], atol=1e-6) and saved["scufo-photo/order"].shape == (20, 1, frames)
    assert row["mean"]["log_ratio"] == 0 and row["protocol"].startswith(f"mean softmax of {frames} frames, short side")


@pytest.mark.parametrize("model,frames", [("tiny", 8), ("tsn_tiny", 3)])
def test_maps_and_masks_of_smad(world, tmp_path, monkeypatch, capsys, model, frames):
    folder, net = smad_run(world, tmp_path, monkeypatch, model=model, frames=frames)
    tables = {}
    for kind in ("cam", "actionness"):
        command("cam", folder, "--map", kind, "--videos", 1, "--out", tmp_path / kind)
        tables[kind], = json.loads((tmp_path / kind / "cam.json").read_text())["table"]
        assert len(list((tmp_path / kind).glob("*.mp4"))) == 1
    cam, mask = tables.values()
    assert cam["inside"] != mask["inside"] and cam["area"] == mask["area"]
    ran, x = evaluate.load_run(folder), torch.randn(2, 3, frames, 32, 32)
    with torch.no_grad():
        z, mask = evaluate.actionness(ran, x)
        assert mask.shape == (2, frames, 32, 32) and torch.equal(z, net(x))
        assert mask.mean((2, 3)) == pytest.approx(torch.ones(2, frames), abs=0.2) and mask.std() > 0.01
        z, maps = evaluate.last_maps(ran, x)
        assert maps.shape[:2] == (2, 64) and (model == "tiny" or maps.shape[2] == 3)


def test_masks_of_a_run_that_has_none(looking, capsys):
    line = fails(capsys, ["cam", looking.save("actor"), *looking.flags, "--map", "actionness"])
    assert "it has no actionness masks" in line


# ---- B_scene -------------------------------------------------------------------------------------------------------

def test_equation_1_on_the_papers_numbers():
    bias = evaluate.scene_representation_bias
    assert round(float(bias(0.597, 0.01)), 2) == 4.09 and bias(0.01, 0.01) == 0
    assert bias(np.array([0.5, 0.25]), 0.25).tolist() == pytest.approx([math.log(2), 0])
    assert bias.__doc__.startswith("Eq. (1)  B_scene = ln(M(D, phi_scene) / M_rand)")


def test_linear_classifier_is_at_its_minimum():
    """A closed value, then a general case: the objective is convex, so a gradient of zero is the minimum."""
    w, b = evaluate.linear_classifier(torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([0, 1]), 2, c=2.0)
    v = float(w[0, 0])                      # w = (v, -v): the least 2 ln(1 + e^-2v) + v^2 / 2, where v = 4 / (1 + e^2v)
    assert v == pytest.approx(4 / (1 + math.exp(2 * v))) and v > 0.5 and float(w.sum()) == pytest.approx(0, abs=1e-7)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(90, 5, generator=rng).double()
    y = torch.randint(0, 4, (90,), generator=rng)
    w, b = (some.requires_grad_() for some in evaluate.linear_classifier(x, y, 4))
    (nn.functional.cross_entropy(x @ w.T + b, y, reduction="sum") + w.square().sum() / 2).backward()
    assert w.grad.abs().max() < 1e-4 and b.grad.abs().max() < 1e-4


def data_set(path, name, counts, seed=0):
    """A list with counts[scene][action] videos, in a random order. -> their scenes"""
    pairs = [(s, a) for s, row in enumerate(counts) for a, n in enumerate(row) for _ in range(n)]
    pairs = np.random.default_rng(seed).permutation(pairs)
    (path / f"{name}.txt").write_text("".join(f"{name}/{i} {a}\n" for i, (_, a) in enumerate(pairs)))
    return [f"{name}/{i}" for i in range(len(pairs))], pairs[:, 0]


def scene_file(path, features, *sets):
    paths, scenes = zip(*sets, strict=True)
    scenes = np.concatenate(scenes)
    more = dict(features=np.eye(4, dtype=np.float16)[scenes]) if features else {}
    common.save_arrays(path / "scenes.npz", paths=np.array(sum(paths, [])), categories=np.array(list("wxyz")),
                       probabilities=np.eye(4, dtype=np.float16)[scenes], **more)
    return str(path / "scenes.npz")


def cells(out):
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


BIASED = np.full((4, 4), 4) + 24 * np.eye(4, dtype=int)                 # 28 of 40 videos have the action of their scene


@pytest.mark.parametrize("features,kind", [(True, "features (4)"), (False, "log-probabilities (4)")])
def test_b_scene_of_a_known_data_set(tmp_path, capsys, features, kind):
    sets = [data_set(tmp_path, name, BIASED, seed) for seed, name in enumerate(("train", "test"))]
    file = scene_file(tmp_path, features, *sets)
    command("bias", "--scenes", file, "--train", tmp_path / "train.txt", "--test", tmp_path / "test.txt")
    row, = cells(capsys.readouterr().out)
    assert (row["phi_scene"], row["videos"], row["accuracy"]) == (kind, "160 to 160", "70.0")
    assert (row["1/K"], row["most frequent"]) == ("25.0", "25.0")
    value, error = map(float, row["B_scene"].split(" ±"))
    assert value == pytest.approx(math.log(0.7 / 0.25), abs=0.005)
    assert error == pytest.approx((0.3 / 0.7 / 160) ** 0.5, rel=0.15)                           # of ln p: sqrt(q / pn)


def test_b_scene_of_an_unbiased_set_is_zero(tmp_path, capsys):
    sets = [data_set(tmp_path, name, np.full((4, 4), 10), seed) for seed, name in enumerate(("train", "test"))]
    file = scene_file(tmp_path, True, *sets)
    command("bias", "--scenes", file, "--train", tmp_path / "train.txt", "--test", tmp_path / "test.txt")
    assert re.match(r"-?0\.00 ±", cells(capsys.readouterr().out)[0]["B_scene"])


def test_log_probabilities_where_there_are_no_features(tmp_path):
    p = np.array([[0.25, 0.75, 0], [0.5, 0.25, 0.25]], np.float16)
    for name, more in (("a", {}), ("b", dict(features=np.ones((2, 5))))):
        common.save_arrays(tmp_path / f"{name}.npz", paths=np.array([f"{name}0", f"{name}1"]), probabilities=p, **more)
    (tmp_path / "list.txt").write_text("a1 0\nelsewhere 1\nb0 1\na0 1\n")
    listed = common.read_list(tmp_path / "list.txt")
    x, videos, kind = evaluate.scene_features([tmp_path / "a.npz", tmp_path / "b.npz"], listed)
    assert kind == "probabilities" and videos.paths == ["a1", "b0", "a0"] and videos.labels == [0, 1, 1]
    assert torch.allclose(x, torch.tensor(np.maximum(p[[1, 0, 0]].astype(float), 6e-8)).log())
    x, videos, kind = evaluate.scene_features([tmp_path / "b.npz"], listed)
    assert kind == "features" and videos.paths == ["b0"] and x.tolist() == [[1.0] * 5]


def test_b_scene_of_an_unbalanced_test_list_is_against_its_most_frequent_action(tmp_path, capsys):
    counts = BIASED * np.array([1, 1, 1, 5])
    sets = [data_set(tmp_path, name, counts, seed) for seed, name in enumerate(("train", "test"))]
    file = scene_file(tmp_path, True, *sets)
    command("bias", "--scenes", file, "--train", tmp_path / "train.txt", "--test", tmp_path / "test.txt")
    row, = cells(capsys.readouterr().out)
    right = sum(max(some) for some in counts) / counts.sum()                   # each scene's most frequent action
    assert (row["1/K"], row["most frequent"], row["accuracy"]) == ("25.0", "62.5", f"{100 * right:.1f}")
    assert float(row["B_scene"].split()[0]) == pytest.approx(math.log(right / 0.625), abs=0.005)


def test_b_scene_of_halves(tmp_path, capsys, monkeypatch):
    one = data_set(tmp_path, "train", BIASED * 3)
    file, seen, original = scene_file(tmp_path, True, one), [], evaluate.scene_features
    monkeypatch.setattr(evaluate, "scene_features",
                        lambda files, videos: (seen.append(videos), original(files, videos))[1])
    for seed in (0, 0, 1):
        command("bias", "--scenes", file, "--train", tmp_path / "train.txt", "--seed", seed)
        row, = cells(capsys.readouterr().out)
        assert (row["videos"], row["most frequent"]) == ("240 to 240", "25.0") and 60 < float(row["accuracy"]) < 80
    assert not set(seen[0].paths) & set(seen[1].paths) and sorted(seen[0].paths + seen[1].paths) == sorted(one[0])
    assert all(np.bincount(half.labels).tolist() == [60] * 4 for half in seen)
    assert set(seen[1].paths) == set(seen[3].paths) != set(seen[5].paths)


def test_b_scene_of_the_embedded_benchmark(world, monkeypatch, capsys):
    monkeypatch.setattr(common, "toy", lambda *_: world)
    command("bias")
    rows = cells(capsys.readouterr().out)
    assert [Path(row["data set"].split()[0]).stem for row in rows] == ["train", "pretrain", "novel"]
    assert [row["videos"] for row in rows] == ["80 to 20", "50 to 50", "12 to 12"]
    assert {row["phi_scene"] for row in rows} == {"log-probabilities (24)"}


def test_bad_input_to_bias(tmp_path, capsys):
    file = scene_file(tmp_path, False, data_set(tmp_path, "train", BIASED))
    data_set(tmp_path, "other", BIASED)
    train, other = tmp_path / "train.txt", tmp_path / "other.txt"
    assert "--test without --train" in fails(capsys, ["bias", "--test", train])
    assert "--train without --scenes" in fails(capsys, ["bias", "--train", train])
    assert "none of the list's videos" in fails(capsys, ["bias", "--train", train, "--scenes", file, "--test", other])
    assert "train.txt" in fails(capsys, ["bias", "--train", train, "--scenes", train])
    common.save_arrays(tmp_path / "five.npz", paths=np.array(["other/0"]), features=np.ones((1, 5)))
    common.save_arrays(tmp_path / "six.npz", paths=np.array(["other/1"]), features=np.ones((1, 6)))
    two = [tmp_path / "five.npz", tmp_path / "six.npz"]
    assert "features of two networks" in fails(capsys, ["bias", "--train", other, "--test", train, "--scenes", *two])
    assert "are in --train too" in fails(capsys, ["bias", "--train", train, "--test", train, "--scenes", file])
    assert "no such file" in fails(capsys, ["bias", "--train", train, "--scenes", "gone.npz"]).lower()


# ---- Class activation maps -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,frames,size", [("tiny", 4, 16), ("r3d_18", 4, 32), ("swin3d_t", 4, 64)])
def test_mean_of_the_map_and_bias_are_the_logits(name, frames, size):
    torch.manual_seed(0)
    model = albar.build_model(SimpleNamespace(model=name), 5).eval()
    with torch.inference_mode():
        clip = torch.randn(2, 3, frames, size, size)
        z, maps = evaluate.last_maps(SimpleNamespace(model=model, path=""), clip)
        assert torch.equal(z, model(clip)) and maps.shape[:2] == (2, model.head.in_features)
        assert np.prod(maps.shape[2:]) > 1 and maps.std((2, 3, 4)).max() > 0
        assert not nn.modules.module._global_forward_hooks
        for c in range(5):
            cam = evaluate.class_activation_map(maps, model.head.weight, torch.tensor([c, c]), maps.shape[2:])
            assert (cam.mean((1, 2, 3)) + model.head.bias[c]).tolist() == pytest.approx(z[:, c].tolist(), abs=1e-4)
            large = evaluate.class_activation_map(maps, model.head.weight, torch.tensor([c, c]), clip.shape[2:])
            assert large.shape == (2, frames, size, size)
            assert large.amin() >= cam.amin() - 1e-6 and large.amax() <= cam.amax() + 1e-6            # interpolated


class Planted(nn.Module):
    """Its last map is the clip itself, its logits the head of the mean colour. pooled: of the greatest instead."""

    def __init__(self, weight, pooled="mean"):
        super().__init__()
        self.conv, self.head, self.pooled = nn.Conv3d(3, 3, 1), nn.Linear(3, len(weight)), pooled
        self.conv.weight.data, self.conv.bias.data = torch.eye(3)[:, :, None, None, None], torch.zeros(3)
        self.head.weight.data, self.head.bias.data = torch.tensor(weight), torch.zeros(len(weight))

    def forward(self, clip):
        maps = self.conv(clip)
        return self.head(getattr(maps.flatten(2), "mean" if self.pooled == "mean" else "amax")(2))


def test_planted_map_is_exact():
    weight = [[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]]
    clip = torch.rand(2, 3, 4, 6, 6)
    with torch.inference_mode():
        z, maps = evaluate.last_maps(SimpleNamespace(model=Planted(weight), path=""), clip)
        cam = evaluate.class_activation_map(maps, torch.tensor(weight), torch.tensor([0, 1]), (4, 6, 6))
    want = clip[0, 0] - 2 * clip[0, 1] + 0.5 * clip[0, 2], 3 * clip[1, 1]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(cam, want, strict=True))


def test_maps_are_enlarged_linearly_in_time_and_space():
    ramp = torch.tensor([0.0, 1])
    for axis in range(3):
        maps = ramp.view([1, 1, *(2 if i == axis else 1 for i in range(3))]).expand(1, 1, 2, 2, 2)
        cam = evaluate.class_activation_map(maps, torch.ones(1, 1), torch.tensor([0]), (4, 4, 4))[0].movedim(axis, 0)
        assert (cam == torch.tensor([0, 0.25, 0.75, 1])[:, None, None]).all()


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4 * 4 * 6 * 6, 2)

    def forward(self, clip):
        return self.head(self.conv(clip).flatten(1))


@pytest.mark.parametrize("model", [Vgg(), Planted([[1.0, 0, 0], [0, 1, 0]], "greatest")])
def test_a_network_without_a_map(model):
    with pytest.raises(UserError, match="^runs/x: no class activation map") as error, torch.inference_mode():
        evaluate.last_maps(SimpleNamespace(model=model, path="runs/x"), torch.rand(1, 3, 4, 6, 6))
    assert "\n" not in str(error.value) and not nn.modules.module._global_forward_hooks


def test_share_inside_a_hand_made_box():
    cam, inside = torch.zeros(4, 2, 4, 4), torch.zeros(4, 2, 4, 4)
    inside[:3, 0, :2, :2] = 1                                           # a quarter of the first frame; the second: none
    cam[0, 0, 0, 0], cam[0, 0, 3, 3], cam[0, 0, 2, 2], cam[0, 1] = 3, 1, -9, 50
    cam[1, 0] = 2.0
    cam[2, 0], cam[3] = -1, 1                                            # nothing positive; no box
    share, area = evaluate.share_inside(cam, inside)
    assert share[:2].tolist() == [0.75, 0.25] and share[2:].isnan().all()
    assert area[:3].tolist() == [0.25] * 3 and area[3].isnan()


def test_boxes_go_through_the_transform_with_the_frames():
    def boxes(path, at):
        return [np.array([[2.5, -3, 6.2, 3.1]]), np.zeros((0, 4))]
    frames = 255 * torch.randint(0, 2, (2, 8, 10, 3), dtype=torch.uint8)
    out, at, more = evaluate.with_boxes(frames, "v", np.array([[3, 4]]), boxes)
    assert out.shape == (4, 8, 10, 3) and at.tolist() == [[[3, 4]], [[3, 4]]] and torch.equal(out[:2], frames)
    want = torch.zeros(8, 10, 3, dtype=torch.uint8)
    want[0:4, 2:7] = 255
    assert torch.equal(out[2], want) and not out[3].any()
    masked, *_ = common.mask_humans(frames, "v", np.array([3, 4]), boxes)     # fills the very same pixels
    assert torch.equal(masked[2:] != frames, out[2:] > 0)


def frames_of(file):
    with av.open(str(file)) as video:
        stream = video.streams.video[0]
        return stream.codec_context.name, [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]


@pytest.mark.parametrize("size,side", [(15, 120), (16, 112), (40, 120), (113, 226), (128, 128)])
def test_pictures(tmp_path, size, side):
    clip = torch.randint(0, 256, (3, 5, size, size), dtype=torch.uint8)
    heat = torch.zeros(5, size, size)
    heat[:, 0, 0], heat[:, 1, 1] = 4, -3
    evaluate.draw(tmp_path / "x", clip, [heat, torch.zeros(5, size, size)])
    _, (strip,) = frames_of(tmp_path / "x.png")
    assert strip.shape == (3 * side, 5 * side, 3)
    k, image = side // size, clip.permute(1, 2, 3, 0).numpy()
    for t in range(5):
        column = strip[:, t * side:(t + 1) * side].reshape(3, size, k, size, k, 3)
        assert (column == column[:, :, :1, :, :1]).all()
        plain, hot, cold = column[:, :, 0, :, 0].astype(int)
        assert (plain == image[t]).all()
        tint = (2 * hot - image[t]).round()
        assert np.abs(tint[0, 0] - (255, 0, 0)).max() <= 1.5                                # the greatest: red
        assert np.abs(tint[1, 1] - (0, 0, 255)).max() <= 1.5 and np.abs(tint[0, 1] - (0, 0, 255)).max() <= 1.5
        assert np.abs(2 * cold - image[t] - (0, 0, 255)).max() <= 1.5                       # nothing positive: all blue
    codec, shown = frames_of(tmp_path / "x.mp4")
    assert codec == "h264" and len(shown) == 5 and {f.shape for f in shown} == {(side, 3 * side, 3)}


@pytest.fixture
def looking(bench, monkeypatch):
    """Runs of a network that looks at green (the actor), at blue (the corner) and at both alike, on bench's videos."""
    colours = {"actor": [0.0, 1, 0], "corner": [0.0, 0, 1], "both": [0.0, 1, 1], "greatest": [0.0, 1, 0]}

    def build(args, classes):
        return Planted([[0.0] * 3, colours[args.sees], [0.0] * 3], "greatest" if args.sees == "greatest" else "mean")
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(Args=FakeArgs, build_model=build))

    def save(name, **args):
        folder, args = bench.path / "runs" / name, FakeArgs(**dict(sees=name) | args)
        folder.mkdir(parents=True)
        torch.save(dict(method="fake", args=vars(args), classes=["a", "b", "c"], epoch=1, step=1, list_sha1="",
                        model=build(args, 3).state_dict()), folder / "last.pt")
        return str(folder)
    return SimpleNamespace(save=save, path=bench.path, flags=["--test", bench.list, "--out", bench.path / "cam"],
                           humans=["--humans", *bench.humans["humans"]], actions=bench.actions)


def test_maps_inside_the_boxes(looking, capsys):
    runs = [looking.save(name) for name in ("actor", "corner", "both")]
    command("cam", *runs, *looking.flags, *looking.humans, "--videos", 2, "--batch-size", 7)
    out, report = capsys.readouterr().out, json.loads((looking.path / "cam/cam.json").read_text())
    inside = [row["inside"] for row in report["table"]]
    green = 64 * (100 + 50 * looking.actions)
    blue = 4 * (100 + 50 * looking.actions)
    assert inside == pytest.approx([100, 0, 100 * np.mean(green / (green + blue))], abs=0.01)
    assert [row["area"] for row in report["table"]] == pytest.approx([25] * 3)
    assert {row["videos"] for row in report["table"]} == {48} and report["table"][0]["plus_minus"] == pytest.approx(0)
    assert re.search(r"\| actor +\| 100.0 ±0.0 +\| 25.0 +\| 48 ", out)
    lines = [line for line in out.splitlines() if line.startswith("- ")]
    assert lines == ["- v/v00: a; actor b, corner b, both b", "- v/v01: b; actor b, corner b, both b"]
    assert report["videos"]["v/v02"] == ["c", "b", "b", "b"] and len(report["videos"]) == 48
    assert sorted(f.name for f in (looking.path / "cam").iterdir()) == [
        "000-v00.mp4", "000-v00.png", "001-v01.mp4", "001-v01.png", "cam.json"]
    _, (strip,) = frames_of(looking.path / "cam/001-v01.png")
    assert strip.shape == (4 * 112, 4 * 112, 3)
    codec, shown = frames_of(looking.path / "cam/001-v01.mp4")
    assert codec == "h264" and len(shown) == 4 and shown[0].shape == (112, 4 * 112, 3)
    assert strip[112 + 56, 56].tolist() == [127, 75, 0]              # half of green 150, half of red: the actor
    assert strip[112 + 56, 20].tolist() == [0, 0, 127] and strip[2 * 112 + 5, 5].tolist() == [127, 0, 75]


def test_pictures_without_boxes_and_without_a_broken_video(looking, capsys):
    (looking.path / "v/v01").rename(looking.path / "gone")
    command("cam", looking.save("actor"), *looking.flags, "--videos", 3)
    out, report = capsys.readouterr(), json.loads((looking.path / "cam/cam.json").read_text())
    assert report["table"] == [] and "|" not in out.out and list(report["videos"]) == ["v/v00", "v/v02"]
    assert "cannot be read: v/v01" in out.err and not list((looking.path / "cam").glob("001*"))
    assert len(list((looking.path / "cam").glob("*.png"))) == 2


def test_bad_input_to_cam(looking, capsys):
    one, flags = looking.save("actor"), looking.flags
    (looking.path / "other.txt").write_text("elsewhere/a 0 0 0 1 1\n")
    assert "name one run" in fails(capsys, ["cam", *flags])
    assert "see the same clips" in fails(capsys, ["cam", one, looking.save("long", sees="actor", frames=3), *flags])
    assert "no class activation map" in fails(capsys, ["cam", looking.save("greatest"), *flags])
    assert "--test" in fails(capsys, ["cam", one])
    assert "no boxes of the test list" in fails(capsys, ["cam", one, *flags, "--humans", looking.path / "other.txt"])
    assert not (looking.path / "cam").exists()


def test_maps_on_the_embedded_benchmark(world, tmp_path, monkeypatch, capsys):
    """A run that needs no lists; of one with other lists, the lists must be named."""
    args = albar.Args(**albar.TOY | dict(data=str(tmp_path)))
    monkeypatch.setattr(common, "toy", lambda *_: world)
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    torch.save(dict(method="albar", args=vars(args), classes=list(common.ACTIONS), epoch=1, step=1, list_sha1="",
                    model=albar.build_model(args, 8).state_dict()), tmp_path / "run/last.pt")
    command("cam", tmp_path / "run", "--videos", 1, "--out", tmp_path / "cam")
    row, = json.loads((tmp_path / "cam/cam.json").read_text())["table"]
    boxes = [common.Boxes([world / "humans.npz"])(path, np.arange(2, 18, 2))                  # frames 2, 4 ... 16 of 20
             for path in common.read_list(world / "test.txt").paths]
    assert row["videos"] == 20 and 0 < row["inside"] < 100 and row["plus_minus"] > 0
    area = [((some[:, 2:] * 0.9 - 2).clip(0, 32) - (some[:, :2] * 0.9 - 2).clip(0, 32)).prod(-1).sum() / 32 ** 2
            for video in boxes for some in video]                                  # to 36 pixels, the middle 32 of them
    assert row["area"] == pytest.approx(100 * np.mean(area), abs=0.05)  # cut pixels
    (tmp_path / "list.txt").write_text("gone 0\n" + "".join((world / "test.txt").read_text().splitlines(True)[:3]))
    command("cam", tmp_path / "run", "--test", tmp_path / "list.txt", "--root", world, "--humans", world / "humans.npz",
            "--out", tmp_path / "cam")
    report = json.loads((tmp_path / "cam/cam.json").read_text())
    assert report["table"][0]["videos"] == len(report["videos"]) == 3 and "read: gone" in capsys.readouterr().err
