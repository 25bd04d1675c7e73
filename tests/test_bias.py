"""evaluate.py's figures of SDN and SMAD (masked clips, scene probe, fairness, B_scene, maps)
against closed forms."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import FakeArgs, fails, here, read_tables, run, save_run, use_script
from torch import nn

import albar
import common
import evaluate
import smad


def write_labels(folder, paths, labels, categories, features=None):
    """A folder as `sdn.py scenes` writes it. -> the folder"""
    folder.mkdir(exist_ok=True)
    (folder / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    (folder / "categories.txt").write_text("".join(f"{name}\n" for name in categories))
    np.save(folder / "labels.npy", np.asarray(labels, np.float16))
    if features is not None:
        np.save(folder / "features.npy", np.asarray(features, np.float16))
    return str(folder)


def write_boxes(file, boxes):
    """{path: frames that have the box 4 4 12 12} -> a file as `sdn.py humans` writes it"""
    lines = [json.dumps({"made": {}})]
    for path, frames in boxes.items():
        video = dict(path=path, every=1, frames=frames, boxes=[[4, 4, 12, 12]] * len(frames))
        lines.append(json.dumps(video))
    file.write_text("\n".join(lines))
    return str(file)


def write_list(file, paths, labels):
    lines = [f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)]
    file.write_text("".join(lines))
    return str(file)


# ---- The scene probe -----------------------------------------------------------------------------
def probe_accuracy(x, scenes, x_test, test_scenes):
    """Share of the test scenes that a probe of features (n, D) names right."""
    x = torch.as_tensor(x, dtype=torch.float32)
    x, x_test = evaluate.standardise(x, torch.as_tensor(x_test, dtype=torch.float32))
    p = nn.functional.one_hot(torch.as_tensor(scenes)).float()
    probe = evaluate.train_probe(x, p, seed=0)
    with torch.no_grad():
        return float((probe(x_test).argmax(1).numpy() == test_scenes).mean())


def test_standardise():
    x = torch.tensor([[1.0, 5, 1e6], [3, 5, 1e6], [5, 5, 1e6]])
    standard, other = evaluate.standardise(x, x + 2)
    assert standard[:, 0].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert (other - standard)[:, 0].tolist() == pytest.approx([2 / (8 / 3) ** 0.5] * 3)
    # What is constant is only shifted.
    assert not standard[:, 1:].any()
    assert (other[:, 1:] == 2).all()


def test_probe_reaches_the_bayes_accuracy():
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 6, 1000)
    test_scenes = rng.integers(0, 6, 3000)
    x = np.eye(6)[scenes] + 0.4 * rng.standard_normal((1000, 6))
    x_test = np.eye(6)[test_scenes] + 0.4 * rng.standard_normal((3000, 6))
    # With equal priors and noise the best is the nearest corner.
    best = (x_test.argmax(1) == test_scenes).mean()
    assert 0.7 < best < 0.9
    assert probe_accuracy(x, scenes, x_test, test_scenes) == pytest.approx(best, abs=0.025)


def test_scene_floors_against_brute_force():
    rng = np.random.default_rng(5)
    actions, scenes, test_actions, test_scenes = rng.integers(0, (6, 5, 7, 5), (200, 4)).T
    usual = np.bincount(scenes).argmax()
    right = 0
    for action, scene in zip(test_actions, test_scenes, strict=True):
        guess = usual
        if action < 6:  # there is no action 6 in training
            guess = np.bincount(scenes[actions == action]).argmax()
        right += guess == scene
    want = (np.mean(test_scenes == usual), right / 200)
    assert evaluate.scene_floors(actions, scenes, test_actions, test_scenes) == pytest.approx(want)


def test_probe_depends_on_its_seed_alone():
    torch.manual_seed(7)
    x = torch.randn(120, 8)
    p = torch.rand(120, 3)
    state = torch.get_rng_state()
    probe = evaluate.train_probe(x, p, 0, patience=3)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change
    torch.manual_seed(8)
    again = evaluate.train_probe(x, p, 0, patience=3)
    other = evaluate.train_probe(x, p, 1, patience=3)
    for first, second in zip(probe.parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(probe[0].weight, other[0].weight)
    shapes = [tuple(w.shape) for w in probe.parameters() if w.ndim == 2]
    assert shapes == [(512, 8), (512, 512), (512, 512), (3, 512)]


def test_probe_is_what_it_was_at_its_best():
    # Labels without a rule: the loss on the held-out tenth is least at once, and what follows
    # learns the list by heart.
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    p = torch.eye(4)[torch.arange(300) % 4]
    logits = evaluate.train_probe(x, p, 0)(x).detach()
    assert float((logits.argmax(1) == p.argmax(1)).float().mean()) < 0.6
    assert float(nn.functional.cross_entropy(logits, p)) > 1.1  # ln 4 is 1.39


# ---- Networks that look at known places ----------------------------------------------------------
# A frame of 16 x 16: the actor is the middle quarter, whose green says its action; nothing else is
# green. In the corner blue says the action too, red one of four scenes. A network reads the
# middle's green or the corner's blue.
@dataclass
class LookArgs(FakeArgs):
    sees: str = "actor"
    size: int = 16
    resize: int = 16
    adversary: bool = False


class Look(nn.Module):
    def __init__(self, args, num_classes):
        super().__init__()
        self.sees = args.sees
        self.head = nn.Linear(4, num_classes)
        self.scene_head = None
        if args.adversary:
            # It takes scenes 2 and 3 for 0, which with standardised features it would not.
            self.scene_head = nn.Linear(4, 4)
            self.scene_head.weight.data = torch.diag(torch.tensor([0, 0.6, 0.4, 0.4]))
            self.scene_head.bias.data = torch.tensor([0.5, 0, 0, 0])

    def forward(self, clip):
        _, green, blue = (clip[:, :, 0] * 255).unbind(1)  # of the first frame
        level = green[:, 8, 8] if self.sees == "actor" else blue[:, 0, 0]
        label = ((level - 100) / 50).round().long()  # of 100, 150, 200; without an actor below 0
        known = nn.functional.one_hot(label.clamp_min(0), 3) * (label >= 0)[:, None]
        return 9.0 * known

    def features(self, clip):
        return torch.eye(4)[(clip[:, 0, 0, 0, 0] * 255 / 60).round().long()]  # one-hot scenes


# 48 videos, every action in every scene.
NAMES = [f"v/v{i:02d}" for i in range(48)]
ACTIONS = np.arange(48) % 3
SCENES = np.arange(48) // 3 % 4
SOFT = np.eye(4)[SCENES] * 0.6 + 0.1


@pytest.fixture
def look(tmp_path, monkeypatch):
    """The videos, as folders of 5 frames, their lists, scenes and boxes, and a maker of runs."""
    use_script(monkeypatch, LookArgs, Look)
    for name, action, scene in zip(NAMES, ACTIONS, SCENES, strict=True):
        (tmp_path / name).mkdir(parents=True)
        for t in range(5):
            frame = np.zeros((16, 16, 3), np.uint8)
            frame[4:12, 4:12, 1] = 100 + 50 * action
            frame[:2, :2] = (60 * scene, 0, 100 + 50 * action)
            Image.fromarray(frame).save(tmp_path / name / f"{t}.png")
    # The centre clip is frames 0 to 3. Of v00 to v09 its last frame has a box, of the others the
    # first two or more.
    boxes = {name: list(range(2 + i % 3)) for i, name in enumerate(NAMES)}
    boxes |= {name: [3] for name in NAMES[:10]}

    def save(name, **args):
        args = LookArgs(**dict(train=str(tmp_path / "train.txt")) | args)
        return save_run(tmp_path / "runs" / name, args, Look(args, 3))

    scenes = write_labels(tmp_path / "scenes", NAMES, SOFT, "abcd")
    train = write_list(tmp_path / "train.txt", NAMES[:20], ACTIONS[:20])
    val = write_list(tmp_path / "val.txt", NAMES[20:], ACTIONS[20:])
    return SimpleNamespace(
        path=tmp_path,
        save=save,
        list=write_list(tmp_path / "list.txt", NAMES, ACTIONS),
        humans=(write_boxes(tmp_path / "humans.jsonl", boxes),),
        scenes=(scenes,),
        probe=dict(scenes=(scenes,), train=train, val=val),
    )


def test_masked_clips(look, capsys):
    """Of a network that looks at the box and of one that does not."""
    runs = [look.save("actor"), look.save("corner", sees="corner")]
    actor, corner = run(*runs, test=look.list, humans=look.humans)
    assert actor["masked"] == corner["masked"] == [38, 48]
    assert "38 of 48 test clips" in capsys.readouterr().out
    assert actor["mean"]["iid"] == corner["mean"]["iid"] == corner["mean"]["masked"] == 100
    sure = math.log(2 + math.exp(9)) - 9 * math.exp(9) / (2 + math.exp(9))
    assert corner["mean"]["masked_entropy"] == pytest.approx(sure, abs=1e-6)
    # Without an actor all classes are equal, and the first is taken.
    share = (ACTIONS[10:] == 0).mean()
    assert actor["mean"]["masked"] == pytest.approx(100 * share)
    assert actor["mean"]["masked_entropy"] == pytest.approx(math.log(3))
    error = 100 * (share * (1 - share) / 38) ** 0.5
    assert actor["plus_minus"]["masked"] == pytest.approx(error, rel=0.1)
    with np.load(look.path / "runs/actor/evaluate.npz") as saved:
        shares = [0.25] * 10 + [(2 + i % 3) / 4 for i in range(10, 48)]
        assert saved["masked/humans"].tolist() == shares


def test_videos_are_read_once_and_the_probe_sees_centre_clips(look, monkeypatch):
    read = []
    original = common.read_clip

    def read_clip(path, indices):
        if Path(path).is_dir():
            read.append((str(path), len(indices)))
        return original(path, indices)

    monkeypatch.setattr(common, "read_clip", read_clip)
    run(look.save("actor"), test=look.list, clips=2, humans=look.humans, **look.probe)
    paths = [str(look.path / name) for name in NAMES]
    # Two clips of each, which serve masks and shuffles too; then one of each for the probe.
    assert read == [(path, 8) for path in paths] + [(path, 4) for path in paths]


def test_scene_figures_of_known_features(look, capsys):
    runs = [look.save("plain"), look.save("sdn", adversary=True)]
    plain, sdn = run(*runs, test=look.list, shuffles=0, **look.probe)
    assert plain["mean"]["scene_probe"] == sdn["mean"]["scene_probe"] == 100
    assert "adversary" not in plain["mean"]
    right = (SCENES[20:] < 2).mean()
    assert sdn["mean"]["adversary"] == pytest.approx(100 * right)
    error = 100 * (right * (1 - right) / 28) ** 0.5
    assert sdn["plus_minus"]["adversary"] == pytest.approx(error, rel=0.1)
    floors = evaluate.scene_floors(ACTIONS[:20], SCENES[:20], ACTIONS[20:], SCENES[20:])
    about = plain["probe"]
    assert [about["most_frequent"], about["from_action"]] == pytest.approx(100 * np.array(floors))
    assert (about["videos"], about["scenes"], about["chance"]) == ([20, 28], 4, 25)
    printed = capsys.readouterr().out
    (table,) = read_tables(printed)
    assert ["adversary", "-", f"{100 * right:.1f} ±{sdn['plus_minus']['adversary']:.1f}"] in table
    assert printed.count("- scene probe, ") == 1
    with np.load(look.path / "runs/sdn/evaluate.npz") as saved:
        assert (saved["scene_probe/logits"].argmax(1) == SCENES[20:]).all()
        assert (saved["val/scenes"] == SCENES[20:]).all()


def test_videos_without_labels_or_unreadable_take_no_part_in_the_probe(look):
    write_labels(look.path / "scenes", NAMES[3:], SOFT[3:], "abcd")
    (look.path / NAMES[47]).rename(look.path / "gone")
    (row,) = run(look.save("plain"), test=look.list, shuffles=0, **look.probe)
    assert row["probe"]["videos"] == [17, 27]
    assert row["probe"]["unreadable"] == [[], [NAMES[47]]]
    assert row["mean"]["scene_probe"] == 100


def test_labels_and_boxes_of_benchmark_json(look):
    folder = look.save("actor")
    benchmark = dict(test="list.txt", scenes=["scenes"], humans=["humans.jsonl"])
    benchmark |= dict(train="train.txt", val="val.txt")
    (look.path / "benchmark.json").write_text(json.dumps(benchmark))
    (row,) = run(folder, shuffles=0)
    assert row["masked"] == [38, 48]
    assert row["fair"] == [48, 48]
    assert row["probe"]["videos"] == [20, 28]
    # A flag takes the place of what the file says of it, and of nothing else.
    few = write_boxes(look.path / "few.jsonl", {name: [0, 1] for name in NAMES[:3]})
    (row,) = run(folder, shuffles=0, humans=(few,))
    assert row["masked"] == [3, 48]
    assert row["fair"] == [48, 48]


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--train train.txt --val val.txt", "--train: the scene probe needs --scenes, --train and"),
        ("--scenes scenes --val val.txt", "--scenes: the scene probe needs"),
        ("--scenes list.txt", "list.txt: not a folder of labels"),
        ("--scenes other", "--scenes: no labels of the test list's videos, such as v/v00"),
        ("--scenes scenes --train train.txt --val gone.txt", "gone.txt"),
        ("--scenes scenes --train other.txt --val val.txt", "labels of 0"),
        ("--scenes scenes --train train.txt --val list.txt", "20 of its videos are in --train too"),
        ("--scenes five --train train.txt --val val.txt", "knows other scenes than the 5"),
        ("--humans gone.jsonl", "gone.jsonl"),
        ("--humans other.jsonl", "no boxes of the test list's videos, such as v/v00"),
        ("--humans few.jsonl", "no test clip has a box in half of its frames"),
    ],
)
def test_bad_flags(look, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(look.path)
    write_labels(Path("other"), ["elsewhere/a"], [[0.5, 0.5]], "ab")
    write_labels(Path("five"), NAMES, np.full((48, 5), 0.2), "abcde")
    write_list(Path("other.txt"), ["elsewhere/a"], [0])
    write_boxes(Path("other.jsonl"), {"elsewhere/a": [0]})
    write_boxes(Path("few.jsonl"), {NAMES[0]: [0]})
    words = [look.save("run", adversary=True), "--test", look.list, *flags.split()]
    assert message in fails(capsys, *words)


# ---- Fairness: SMAD Sec. 3 and 6.2 ---------------------------------------------------------------
def information(a, b):
    """-> I(A;B), the mean of both entropies, in nats, from the definition"""
    mutual = 0.0
    entropies = 0.0
    for x in set(a.tolist()):
        entropies -= np.mean(a == x) * math.log(np.mean(a == x))
        for y in set(b.tolist()):
            p = np.mean((a == x) & (b == y))
            if p:
                mutual += p * math.log(p / np.mean(a == x) / np.mean(b == y))
    for y in set(b.tolist()):
        entropies -= np.mean(b == y) * math.log(np.mean(b == y))
    return np.array([mutual, entropies / 2])


def normalised(a, b, given):
    """I(A;B|C) over the mean of H(A|C) and H(B|C)."""
    sums = np.zeros(2)
    for c in set(given.tolist()):
        sums += np.mean(given == c) * information(a[given == c], b[given == c])
    return sums[0] / sums[1]


def test_table_4_against_the_definition():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    s = np.where(rng.random(300) < 0.5, y, rng.integers(0, 5, 300))
    predicted = np.where(rng.random(300) < 0.7, y, s % 4)
    of = {
        "independence": (predicted, s, np.zeros(300)),
        "oracle": (y, s, np.zeros(300)),
        "separation": (predicted, s, y),
        "sufficiency": (y, s, predicted),
    }
    figures = evaluate.fairness(y, predicted, s, 0)
    for name, (a, b, given) in of.items():
        assert figures[name] == pytest.approx(normalised(a, b, given))
        floor = evaluate.nmi_floor(a, b, given)
        assert floor > 0
        assert figures[f"{name}_less_floor"] == pytest.approx(figures[name] - floor)
    difference = figures["independence"] - figures["oracle"]
    assert figures["amplified"] == pytest.approx(difference)
    # Errors that no scene causes, and no errors.
    wrong = np.where(rng.random(300) < 0.7, y, (y + 1) % 4)
    assert abs(evaluate.fairness(y, wrong, s, 0)["separation_less_floor"]) < 0.02
    assert figures["separation_less_floor"] > 0.05
    assert evaluate.fairness(y, y, s, 0)["separation"] == pytest.approx(0, abs=1e-12)


def test_floor_of_the_information_is_what_chance_gives():
    """Columns that are independent given a third are above 0 by chance, by the floor alone."""
    rng = np.random.default_rng(1)
    values = []
    for seed in range(20):
        a, b, given = rng.integers(0, (5, 6, 3), (150, 3)).T
        b += 6 * given  # it may be dealt within each value of `given` alone
        assert common.nmi(a, b, given) > 0.05
        values.append(common.nmi(a, b, given) - evaluate.nmi_floor(a, b, given, seed, draws=50))
    assert np.mean(values) == pytest.approx(0, abs=0.01)


def test_fairness_of_runs(look, capsys):
    """Two seeds that are always right, on videos whose last ten have no scene label."""
    write_labels(look.path / "scenes", NAMES[:38], SOFT[:38], "abcd")
    runs = [look.save("one"), look.save("two", seed=1)]
    (row,) = run(*runs, test=look.list, scenes=look.scenes, shuffles=0)
    want = evaluate.fairness(ACTIONS[:38], ACTIONS[:38], SCENES[:38], 0)
    assert {name: row["mean"][name] for name in want} == pytest.approx(want)
    assert row["fair"] == [38, 48] and row["probe"] is None
    printed = capsys.readouterr().out
    assert "38 of 48 test videos" in printed
    (table,) = read_tables(printed)
    assert {len(line) for line in table} == {2}  # a | inside a cell would break the table
    labels = [line[0] for line in table]
    assert "I(Y';S) → I(Y;S)" in labels
    with np.load(look.path / "runs/one/evaluate.npz") as saved:
        assert saved["test/scenes"].tolist() == [*SCENES[:38], *[-1] * 10]
    (row,) = run(runs[0], test=look.list, scenes=look.scenes, shuffles=0)
    assert "oracle" not in row["plus_minus"]


# ---- What the method says of testing -------------------------------------------------------------
def smad_run(world, folder, **change):
    """A run of smad.py with random weights. -> its folder, the network"""
    args = smad.Args(**smad.TOY | dict(train=f"{world}/train.txt") | change)
    classes = (world / "classes.txt").read_text().split()
    heads = {"scene": 24, "object": 8}
    torch.manual_seed(0)
    net = smad.build_model(args, len(classes), heads)
    if net.saar is not None:
        nn.init.normal_(net.saar.score.weight)
    about = dict(method="smad", classes=classes, heads=heads)
    return save_run(folder / "run", args, net, about), net.eval()


def test_number_of_clips_is_the_methods_own(world, tmp_path):
    folder, _ = smad_run(world, tmp_path, test_clips=3)
    (row,) = run(folder, test=f"{world}/test.txt", shuffles=1)
    assert row["protocol"].startswith("mean softmax of 3 clips of 8 frames x stride 2")
    with np.load(f"{folder}/evaluate.npz") as saved:
        assert saved["test/logits"].shape == saved["shuffled-0/order"].shape == (20, 3, 8)


def test_a_tsn_is_tested_on_single_frames_spread_evenly(world, tmp_path):
    """Their softmax is averaged; no order of theirs matters, none is tried; SCUFO repeats one."""
    folder, net = smad_run(world, tmp_path, model="tsn_tiny", frames=3, test_clips=5)
    scuba = (f"photo={world}/scuba-photo.txt",)
    (row,) = run(folder, test=f"{world}/test.txt", scuba=scuba, shuffles=2)
    assert "shuffled" not in row["mean"] and "log_ratio" not in row["mean"]
    assert row["protocol"].startswith("mean softmax of 5 frames, short side")
    videos = common.read_list(world / "test.txt")
    # The middles of five equal parts of 20 frames.
    frames = common.read_clip(videos.full(0), [2, 6, 10, 14, 18]).permute(0, 3, 1, 2)
    clip = common.test_transform(32, 36)(frames).transpose(0, 1)[None]
    clip = common.normalise(clip, smad.Args.mean, smad.Args.std)
    with torch.no_grad():
        logits = torch.cat([net(clip[:, :, [t]]) for t in range(5)]).numpy()
    with np.load(f"{folder}/evaluate.npz") as saved:
        assert saved["test/logits"].shape == (20, 5, 8)
        assert np.allclose(saved["test/logits"][0], logits, atol=1e-5)
        still = saved["scufo-photo/logits"]
        assert np.allclose(still, still[:, :1], atol=1e-6)
        assert saved["scufo-photo/order"].shape == (20, 1, 5)


@pytest.mark.parametrize("model,frames", [("tiny", 8), ("tsn_tiny", 3)])
def test_maps_and_masks_of_smad(world, tmp_path, model, frames):
    """On the list and the boxes that the embedded data set's benchmark.json names."""
    folder, net = smad_run(world, tmp_path, model=model, frames=frames)
    columns = []
    for kind in ("cam", "actionness"):
        out = tmp_path / kind
        here("cam", folder, "--map", kind, "--videos", 1, "--out", out)
        columns += json.loads((out / "cam.json").read_text())["table"]
        assert len(list(out.glob("*.mp4"))) == 1
    assert [column["videos"] for column in columns] == [20, 20]
    assert columns[0]["inside"] != columns[1]["inside"]
    if model == "tiny":
        # Frames 2, 4 ... 16 of 40 pixels come to 36, of which the middle 32 are seen.
        boxes = common.Boxes([world / "humans.jsonl"])
        means = []
        for path in common.read_list(world / "test.txt").paths:
            areas = []
            for frame_boxes in boxes(path, np.arange(2, 18, 2)):
                low, high = np.split((frame_boxes * 0.9 - 2).clip(0, 32), 2, axis=1)
                areas.append((high - low).prod(1).sum() / 32**2)
            means.append(np.mean([area for area in areas if area]))  # of frames with a human
        assert columns[0]["area"] == pytest.approx(100 * np.mean(means), abs=0.05)
    checkpoint = evaluate.load_run(folder)
    clip = torch.randn(2, 3, frames, 32, 32)
    with torch.no_grad():
        logits, mask = evaluate.actionness(checkpoint, clip)
        assert torch.equal(logits, net(clip))
        assert mask.shape == (2, frames, 32, 32)
        # Eq. (5)'s weights are 1 in the mean.
        assert mask.mean((2, 3)) == pytest.approx(torch.ones(2, frames), abs=0.2)
        assert mask.std() > 0.01
        _, maps = evaluate.last_maps(checkpoint, clip)
        assert maps.shape[:2] == (2, 64)


# ---- B_scene -------------------------------------------------------------------------------------
def test_linear_classifier_is_at_its_minimum():
    """The objective is convex, so where its gradient is zero is the minimum."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(90, 5, generator=rng).double()
    y = torch.randint(0, 4, (90,), generator=rng)
    w, b = evaluate.linear_classifier(x, y, 4, c=0.5)
    logits = x @ w.requires_grad_().T + b.requires_grad_()
    (nn.functional.cross_entropy(logits, y, reduction="sum") + w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4
    assert b.grad.abs().max() < 1e-4


# Videos by scene and action: 28 of 40 have the action of their scene; a half, and the last action
# is five times as frequent; no bias.
BIASED = np.full((4, 4), 4) + 24 * np.eye(4, dtype=int)
SKEWED = (np.full((4, 4), 4) + 8 * np.eye(4, dtype=int)) * np.array([1, 1, 1, 5])
EVEN = np.full((4, 4), 10)


def data_set(folder, features=False, **lists):
    """Lists of counts[scene][action] videos, in a random order, and their labels in "scenes"."""
    paths = []
    scenes = []
    for seed, (name, counts) in enumerate(lists.items()):
        pairs = np.argwhere(counts > -1).repeat(counts.ravel(), 0)
        pairs = np.random.default_rng(seed).permutation(pairs)  # (n, 2): scene, action
        listed = [f"{name}/{i}" for i in range(len(pairs))]
        write_list(folder / f"{name}.txt", listed, pairs[:, 1])
        paths += listed
        scenes += pairs[:, 0].tolist()
    one_hot = np.eye(4)[scenes]
    write_labels(folder / "scenes", paths, one_hot, "wxyz", one_hot if features else None)


def bias_table(capsys, *words):
    """`evaluate.py bias` of a data_set -> {line of the table: cell}"""
    here("bias", "--scenes", "scenes", "--train", "train.txt", *words)
    (table,) = read_tables(capsys.readouterr().out)
    return dict(table)


@pytest.mark.parametrize(
    "train,test,features,right,chance",
    [
        (BIASED, BIASED, True, 0.7, 0.25),
        (BIASED, BIASED, False, 0.7, 0.25),
        (BIASED, SKEWED, True, 0.5, 0.625),
        (EVEN, EVEN, True, 0.25, 0.25),
    ],
)
def test_b_scene_of_known_lists(
    tmp_path, monkeypatch, capsys, train, test, features, right, chance
):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, features, train=train, test=test)
    table = bias_table(capsys, "--test", "test.txt")
    assert table["phi_scene"] == ("features (4)" if features else "log-probabilities (4)")
    n = test.sum()
    assert table["videos"] == f"{train.sum()} to {n}"
    # Each scene is taken for its action. The paper's chance is 1/K.
    assert table["accuracy"] == f"{100 * right:.1f}"
    assert table["1/K"] == "25.0"
    assert table["most frequent"] == f"{100 * chance:.1f}"
    value, error = map(float, table["B_scene"].split(" ±"))
    assert value == pytest.approx(math.log(right / 0.25), abs=0.005)
    over_most_frequent = float(table["- over most frequent"])
    assert over_most_frequent == pytest.approx(math.log(right / chance), abs=0.005)
    assert error == pytest.approx(((1 - right) / right / n) ** 0.5, rel=0.15)  # of ln p


def test_b_scene_of_halves(tmp_path, monkeypatch, capsys):
    """Without a test list: half of each action's videos, drawn by the seed."""
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, train=BIASED * 3)
    table = bias_table(capsys)
    assert (table["videos"], table["most frequent"]) == ("240 to 240", "25.0")
    assert 60 < float(table["accuracy"]) < 80
    tested = []
    for seed in (0, 0, 1):
        learn, test = evaluate.read_bias_lists(evaluate.BiasArgs(train="train.txt", seed=seed))
        listed = [f"train/{i}" for i in range(480)]
        assert sorted(learn.paths + test.paths) == sorted(listed)
        assert np.bincount(test.labels).tolist() == [60] * 4
        tested.append(set(test.paths))
    assert tested[0] == tested[1] != tested[2]
    # A video that is listed twice is in one half.
    Path("train.txt").write_text(Path("train.txt").read_text() * 2)
    learn, test = evaluate.read_bias_lists(evaluate.BiasArgs(train="train.txt"))
    assert sorted(learn.paths + test.paths) == sorted(listed)


def test_features_of_scenes_or_log_probabilities(tmp_path):
    p = np.array([[0.25, 0.75, 0], [0.5, 0.25, 0.25], [np.nan] * 3])
    a = write_labels(tmp_path / "a", ["a0", "a1", "a2"], p, "xyz")
    b = write_labels(tmp_path / "b", ["b0", "b1", "b2"], p, "xyz", np.ones((3, 5)))
    listed = common.read_list(
        write_list(tmp_path / "list.txt", ["a1", "c", "b0", "a0", "a2"], "01112")
    )
    # One folder has no features: log-probabilities of both. What is not labelled is left out.
    x, videos, kind = evaluate.scene_features([a, b], listed)
    assert (kind, videos.paths, videos.labels) == ("probabilities", ["a1", "b0", "a0"], [0, 1, 1])
    want = torch.from_numpy(np.maximum(p[[1, 0, 0]], 6e-8)).log()
    assert torch.allclose(x, want)
    x, videos, kind = evaluate.scene_features([b], listed)
    assert (kind, videos.paths, x.tolist()) == ("features", ["b0"], [[1.0] * 5])


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--scenes scenes --test train.txt", "--train LIST"),
        ("--train train.txt", "--train without --scenes"),
        ("--train train.txt --scenes train.txt", "train.txt: not a folder of labels"),
        ("--train train.txt --scenes gone", "gone"),
        ("--train train.txt --scenes scenes --test other.txt", "none of the list's videos"),
        ("--train other.txt --scenes five six --test train.txt", "features are not as many"),
        ("--train other.txt --scenes five names --test train.txt", "names: its categories are not"),
        ("--train train.txt --scenes scenes --test train.txt", "are in --train too"),
    ],
)
def test_bad_input_to_bias(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, train=BIASED)
    write_list(Path("other.txt"), ["other/0", "other/1"], [0, 3])
    write_labels(Path("five"), ["other/0"], [[1]], "a", np.ones((1, 5)))
    write_labels(Path("six"), ["other/1"], [[1]], "a", np.ones((1, 6)))
    write_labels(Path("names"), ["other/1"], [[1]], "b", np.ones((1, 5)))
    assert message in fails(capsys, "bias", *flags.split())


# ---- Class activation maps -----------------------------------------------------------------------
class Planted(nn.Module):
    """Its last map is the clip itself, its logits the head of the mean colour; or of the greatest,
    which is no mean of the map."""

    def __init__(self, weight, sees):
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)
        self.conv.weight.data = torch.eye(3)[:, :, None, None, None]
        self.conv.bias.data = torch.zeros(3)
        self.head = nn.Linear(3, len(weight))
        self.head.weight.data = torch.tensor(weight)
        self.head.bias.data = torch.zeros(len(weight))
        self.sees = sees

    def forward(self, clip):
        maps = self.conv(clip).flatten(2)
        if self.sees == "greatest":
            return self.head(maps.amax(2))
        return self.head(maps.mean(2))


@pytest.mark.parametrize(
    "name,frames,size", [("tiny", 4, 16), ("r3d_18", 4, 32), ("swin3d_t", 4, 64)]
)
def test_mean_of_the_map_and_bias_are_the_logits(name, frames, size):
    torch.manual_seed(0)
    model = albar.build_model(albar.Args(model=name), 5).eval()
    clip = torch.randn(2, 3, frames, size, size)
    weight = model.head.weight
    with torch.inference_mode():
        logits, maps = evaluate.last_maps(SimpleNamespace(model=model, path=""), clip)
        assert torch.equal(logits, model(clip))
        assert np.prod(maps.shape[2:]) > 1 and maps.std((2, 3, 4)).max() > 0
        for c in range(5):
            chosen = torch.tensor([c, c])
            cam = evaluate.class_activation_map(maps, weight, chosen, maps.shape[2:])
            assert torch.allclose(cam.mean((1, 2, 3)) + model.head.bias[c], logits[:, c], atol=1e-4)
            large = evaluate.class_activation_map(maps, weight, chosen, clip.shape[2:])
            assert large.shape == (2, frames, size, size)
            assert large.amin() >= cam.amin() - 1e-6
            assert large.amax() <= cam.amax() + 1e-6
    assert not nn.modules.module._global_forward_hooks


def test_maps_are_enlarged_linearly_in_time_and_space():
    for axis in range(3):
        maps = torch.zeros(1, 2, 2, 2)
        maps.select(axis + 1, 1).fill_(1)
        large = evaluate.enlarge(maps, (4, 4, 4))[0].movedim(axis, 0)
        assert (large == torch.tensor([0, 0.25, 0.75, 1])[:, None, None]).all()


def test_share_inside_a_hand_made_box():
    inside = torch.zeros(4, 2, 4, 4)
    inside[:3, 0, :2, :2] = 1  # a quarter of the first frame; the second frame has no box
    cam = torch.zeros(4, 2, 4, 4)
    cam[0, 0, 0, 0] = 3
    cam[0, 0, 3, 3] = 1
    cam[0, 0, 2, 2] = -9
    cam[0, 1] = 50
    cam[1, 0] = 2
    cam[2, 0] = -1  # nothing positive
    cam[3] = 1  # no box
    share, area = evaluate.share_inside(cam, inside)
    assert share[:2].tolist() == [0.75, 0.25]
    assert share[2:].isnan().all()
    assert area[:3].tolist() == [0.25] * 3
    assert area[3].isnan()


def frames_of(file):
    """-> codec, frames (H, W, 3) of a picture or a film"""
    with av.open(str(file)) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        return stream.codec_context.name, frames


@pytest.mark.parametrize("size,side", [(15, 120), (113, 226)])
def test_pictures(tmp_path, size, side):
    """Of clips enlarged to even sides, as H.264 has them."""
    clip = torch.randint(0, 256, (3, 5, size, size), dtype=torch.uint8)
    heat = torch.zeros(5, size, size)
    heat[:, 0, 0] = 4
    heat[:, 1, 1] = -3
    evaluate.draw(tmp_path / "x", clip, [heat])
    _, (strip,) = frames_of(tmp_path / "x.png")
    assert strip.shape == (2 * side, 5 * side, 3)
    zoom = side // size
    tiles = strip.reshape(2, size, zoom, 5, size, zoom, 3)
    assert (tiles == tiles[:, :, :1, :, :, :1]).all()
    plain, tinted = tiles[:, :, 0, :, :, 0].swapaxes(1, 2).astype(int)  # (T, S, S, 3)
    image = clip.permute(1, 2, 3, 0).numpy()
    assert (plain == image).all()
    colour = 2 * tinted - image
    assert np.abs(colour[:, 0, 0] - (255, 0, 0)).max() <= 1.5  # the greatest is red
    assert np.abs(colour[:, 1] - (0, 0, 255)).max() <= 1.5  # what is not positive blue
    codec, shown = frames_of(tmp_path / "x.mp4")
    assert codec == "h264"
    assert [frame.shape for frame in shown] == [(side, 2 * side, 3)] * 5


COLOURS = {"actor": [0.0, 1, 0], "corner": [0.0, 0, 1], "both": [0.0, 1, 1]}
COLOURS["greatest"] = COLOURS["actor"]


@pytest.fixture
def planted(look, monkeypatch):
    """A maker of runs of a network that looks at green (the actor), at blue (the corner), at both
    alike, or at the greatest green, on look's videos."""

    def build(args, num_classes):
        weight = [[0.0] * 3, COLOURS[args.sees], [0.0] * 3]
        return Planted(weight, args.sees)

    def save(name, **args):
        args = LookArgs(**dict(sees=name) | args)
        return save_run(look.path / "runs" / name, args, build(args, 3))

    use_script(monkeypatch, LookArgs, build)
    monkeypatch.chdir(look.path)
    return save


def test_maps_inside_the_boxes(planted, capsys):
    runs = [planted(name) for name in ("actor", "corner", "both")]
    words = "--test list.txt --humans humans.jsonl --videos 2 --batch-size 7".split()
    here("cam", *runs, *words)
    printed = capsys.readouterr().out
    content = json.loads(Path("cam/cam.json").read_text())
    table = content["table"]
    green = 64 * (100 + 50 * ACTIONS)
    blue = 4 * (100 + 50 * ACTIONS)
    shares = [column["inside"] for column in table]
    assert shares == pytest.approx([100, 0, 100 * np.mean(green / (green + blue))], abs=0.01)
    assert [column["area"] for column in table] == pytest.approx([25] * 3)
    assert [column["videos"] for column in table] == [48] * 3
    (lines,) = read_tables(printed)
    assert lines[0] == ["", "actor", "corner", "both"]
    assert lines[1][1:3] == ["100.0 ±0.0", "0.0 ±0.0"]
    assert "- v/v01: b; actor b, corner b, both b\n" in printed
    assert content["videos"]["v/v02"] == ["c", "b", "b", "b"]
    assert len(content["videos"]) == 48
    files = ["000-v00.mp4", "000-v00.png", "001-v01.mp4", "001-v01.png", "cam.json"]
    assert sorted(file.name for file in Path("cam").iterdir()) == files
    _, (strip,) = frames_of("cam/001-v01.png")
    assert strip.shape == (4 * 112, 4 * 112, 3)
    # The actor is half of its green, 150, and half of the map's red; all else is blue.
    assert strip[112 + 56, 56].tolist() == [127, 75, 0]
    assert strip[112 + 56, 20].tolist() == [0, 0, 127]
    assert strip[2 * 112 + 5, 5].tolist() == [127, 0, 75]


def test_integrated_gradients_of_a_linear_network_are_its_terms():
    torch.manual_seed(0)
    weight = torch.randn(3, 3 * 2 * 4 * 4)
    clip = torch.randn(5, 3, 2, 4, 4)
    baseline = torch.randn(5, 3, 2, 4, 4)
    logits, attribution = evaluate.integrated_gradients(
        lambda x: x.flatten(1) @ weight.T, clip, baseline, steps=3
    )
    assert torch.allclose(logits, clip.flatten(1) @ weight.T)
    terms = weight[logits.argmax(1)].view_as(clip) * (clip - baseline)
    assert torch.allclose(attribution, terms, atol=1e-5)


def test_integrated_gradients_sum_to_the_difference_of_the_logit():
    torch.manual_seed(0)
    model = albar.build_model(albar.Args(model="tiny"), 5).eval()
    clip = torch.randn(4, 3, 4, 16, 16)
    baseline = torch.full_like(clip, -2.0)
    with torch.no_grad():
        logits, attribution = evaluate.integrated_gradients(model, clip, baseline, steps=200)
        chosen = model(clip).argmax(1, keepdim=True)
        expected = (model(clip) - model(baseline)).gather(1, chosen)[:, 0]
        _, few = evaluate.integrated_gradients(model, clip, baseline, steps=2)
    assert torch.allclose(attribution.sum((1, 2, 3, 4)), expected, atol=2e-3)
    assert not torch.allclose(few.sum((1, 2, 3, 4)), expected, atol=2e-3)
    assert all(p.grad is None for p in model.parameters())


def test_integrated_gradients_inside_the_boxes(planted):
    """Of networks that see the actor's colour alone, or the corner's."""
    mean = (-0.3, -0.3, -0.3)  # the path begins at black, whatever the normalisation
    runs = [planted(name, mean=mean) for name in ("actor", "corner")]
    here("cam", *runs, *"--map ig --test list.txt --humans humans.jsonl --videos 1".split())
    actor, corner = json.loads(Path("ig/cam.json").read_text())["table"]
    assert actor["inside"] > 99 and corner["inside"] < 1
    assert len(list(Path("ig").glob("*.png"))) == 1


def test_pictures_without_boxes_and_without_a_broken_video(planted, look, capsys):
    (look.path / NAMES[1]).rename(look.path / "gone")
    here("cam", planted("actor"), "--test", "list.txt", "--videos", 3)
    printed = capsys.readouterr()
    content = json.loads(Path("cam/cam.json").read_text())
    assert content["table"] == [] and "|" not in printed.out
    assert list(content["videos"]) == ["v/v00", "v/v02"]
    assert "1 videos cannot be read: v/v01" in printed.err
    assert len(list(Path("cam").glob("*.png"))) == 2


def test_bad_input_to_cam(planted, look, capsys):
    actor = planted("actor")
    test = ["--test", "list.txt"]
    write_boxes(Path("other.jsonl"), {"elsewhere/a": [0]})
    assert "name one run" in fails(capsys, "cam", *test)
    long = planted("both", frames=3)
    assert "see the same clips" in fails(capsys, "cam", actor, long, *test)
    assert "no class activation map" in fails(capsys, "cam", planted("greatest"), *test)
    line = fails(capsys, "cam", actor, *test, "--map", "actionness")
    assert "it has no actionness masks" in line
    assert "--test" in fails(capsys, "cam", actor)
    line = fails(capsys, "cam", actor, *test, "--humans", "other.jsonl")
    assert "no boxes of the test list" in line
    assert not Path("cam").exists()
    assert not nn.modules.module._global_forward_hooks
