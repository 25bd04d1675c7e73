"""evaluate.py's figures of other tasks (features, svm, fewshot, transfer) and of official splits
against closed forms and brute force."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_bias import BIASED, data_set
from test_evaluate import (
    FakeArgs,
    checkpoint,
    fails,
    here,
    read_tables,
    report,
    save_run,
    use_script,
)
from torch import nn

import common
import evaluate
from common import UserError


# ---- Features ------------------------------------------------------------------------------------
class Colours(nn.Module):
    """Its features are the mean colour of the clip, in grey levels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, clip):
        return clip.mean((2, 3, 4)) * 255 * self.scale


LENGTHS = (4, 7, 9)  # frames of the videos


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Three videos whose frame t is of red 20 t and green 40 i, a broken one; a maker of runs."""
    use_script(monkeypatch, FakeArgs, lambda args, num_classes: Colours())
    common.warn.cache_clear()  # it says the same only once
    monkeypatch.chdir(tmp_path)
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            file = Path(f"films/{'jump' if i else 'run'}/v{i}/img_{t:05d}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * t, 40 * i, 7)).save(file)
    Path("list.txt").write_text("run/v0 0\njump/v1 1\njump/gone 1\njump/v2 1\n")

    def save(name, **args):
        return save_run(Path("runs") / name, FakeArgs(**args), Colours())

    return save


def test_features_of_clips_end_to_end(films, capsys):
    runs = [films("a-s0"), films("a-s1", seed=1)]
    here("features", *runs, "--test", "list.txt", "--root", "films", "--clips", 3, "--out", "f")
    printed = capsys.readouterr()
    (table,) = read_tables(printed.out)
    assert table[1] == ["a-s0", "3 of 4", "3 x 9", "f/a-s0.npz"]
    assert "a-s0 features: 1 videos cannot be read: jump/gone" in printed.err
    assert {file.name for file in Path("f").iterdir()} == {"a-s0.npz", "a-s1.npz", "features.json"}
    saved = np.load("f/a-s0.npz")
    assert saved["features"].dtype == np.float32
    assert saved["paths"].tolist() == ["run/v0", "jump/v1", "jump/v2"]
    assert saved["labels"].tolist() == [0, 1, 1]
    # The list's own classes, not the three that the run was trained on.
    assert saved["classes"].tolist() == ["run", "jump"]
    for i, length in enumerate(LENGTHS):
        frames = common.uniform_clips(length, 4, 1, 3)
        clips = saved["features"][i].reshape(3, 3)
        assert clips[:, 0] == pytest.approx(20 * frames.mean(1), abs=1e-3)
        assert clips[:, 1] == pytest.approx([40 * i] * 3, abs=1e-3)
    read = evaluate.read_features("f/a-s1.npz")
    assert np.linalg.norm(read.x, axis=1) == pytest.approx(np.ones(3))
    assert (read.about["seed"], read.about["broken"]) == (1, ["jump/gone"])
    assert read.about["protocol"].startswith("features of 3 clips of 4 frames x stride 1")


def test_window_places():
    # The last window is the first that reaches the end; it repeats its own frames.
    assert evaluate.window_places(10, 4, 1, 4).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 8, 9],
    ]
    assert evaluate.window_places(8, 4, 1, 2).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert evaluate.window_places(3, 4, 1, 4).tolist() == [[0, 1, 2, 0]]
    assert evaluate.window_places(7, 3, 2, 4).tolist() == [[0, 2, 4], [4, 6, 5]]
    assert evaluate.window_places(5, 2, 1, 9).tolist() == [[0, 1]]
    for n in range(1, 40):
        places = evaluate.window_places(n, 4, 1, 3)
        assert set(places.ravel()) == set(range(n))


@pytest.mark.parametrize("batch_size", [1, 32])
def test_features_of_windows(films, capsys, batch_size):
    words = ["--test", "list.txt", "--root", "films", "--out", "f", "--batch-size", batch_size]
    here("features", films("a"), *words, "--windows", 3)
    assert "1 videos cannot be read: jump/gone" in capsys.readouterr().err
    for i, length in enumerate(LENGTHS):
        values = np.load(f"f/a/v{i}.npy")
        red = 20 * evaluate.window_places(length, 4, 1, 3).mean(1)
        assert values[:, 0] == pytest.approx(red, abs=1e-3)
        assert values[:, 1] == pytest.approx(np.full(len(red), 40 * i), abs=1e-3)
    content = json.loads(Path("f/a/windows.json").read_text())
    assert content["unreadable"] == ["jump/gone"]
    assert [video["frames"] for video in content["videos"]] == list(LENGTHS)
    assert [video["windows"] for video in content["videos"]] == [1, 2, 3]


def test_bad_input_to_features(films, capsys):
    run = films("a")
    flags = ["--test", "list.txt", "--out", "f"]
    assert "name runs, a list and a folder" in fails(capsys, "features", run, "--out", "f")
    assert "name runs, a list and a folder" in fails(capsys, "features", *flags)
    assert "can be read, first gone/run/v0" in fails(
        capsys, "features", run, *flags, "--root", "gone"
    )
    twin = save_run(Path("others/a"), FakeArgs(), Colours())
    assert "another run's features are a too" in fails(capsys, "features", run, twin, *flags)
    assert not list(Path("f").glob("*"))


# ---- Files of features ---------------------------------------------------------------------------
def write_features(file, x, labels, name, seed=0, split=1, prefix="v", classes="abc"):
    """A file as `features` writes it. -> its name"""
    about = dict(
        checkpoint=f"runs/{name}-s{seed}-{split}/last.pt",
        name=f"{name}-s{seed}",
        method="albar",
        config=f"{name} {split}",
        any_split=name,
        split=split,
        seed=seed,
        epochs=[1, 1],
        protocol="features of 1 clips",
        videos=[len(x), len(x)],
        list=["list.txt", "1"],
    )
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        features=np.asarray(x, np.float32),
        labels=np.asarray(labels),
        paths=np.array([f"{prefix}{i}" for i in range(len(x))]),
        classes=np.array(list(classes)),
        about=np.array(json.dumps(about)),
    )
    return str(file)


# ---- The support vector machine ------------------------------------------------------------------
def svm_objective(w, x, sign, c):
    violation = np.maximum(0, 1 - sign * (x @ w[:-1] + w[-1]))
    return w @ w / 2 + c * (violation**2).sum()


def newton_svm(x, sign, c):
    """The same objective for one class, by Newton's method on the videos that are inside the
    margin: exact once these do not change."""
    x = np.c_[x, np.ones(len(x))]
    w = np.zeros(x.shape[1])
    for _ in range(100):
        inside = sign * (x @ w) < 1
        a = x[inside]
        w_next = np.linalg.solve(a.T @ a + np.eye(len(w)) / (2 * c), a.T @ sign[inside])
        if np.allclose(w_next, w, atol=1e-13):
            return w
        w = w_next
    raise AssertionError("Newton's method went in circles")


@pytest.mark.parametrize("n, width", [(60, 5), (12, 40)])
def test_linear_svm_against_newtons_method(n, width):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    # Of a long common axis, as features are that are never negative.
    x = 3 + rng.standard_normal((n, width)) + np.eye(3, width)[y]
    costs = (0.01, 1.0, 10.0)
    weights = evaluate.linear_svm(torch.from_numpy(x), torch.from_numpy(y), 3, costs)
    assert weights.shape == (3, 3, width + 1)
    for w, c in zip(weights.numpy(), costs, strict=True):
        for label in range(3):
            sign = np.where(y == label, 1.0, -1.0)
            want = newton_svm(x, sign, c)
            assert w[label] == pytest.approx(want, abs=0.01 * np.abs(want).max())
            least = svm_objective(want, x, sign, c)
            assert svm_objective(w[label], x, sign, c) == pytest.approx(least, rel=1e-4)


def test_cost_is_the_least_of_the_best():
    rng = np.random.default_rng(0)
    y = torch.arange(90) % 3
    x = torch.eye(3, dtype=torch.float64)[y]
    # Whatever it is, all is right.
    assert evaluate.choose_cost(x, y, 3, 0) == min(evaluate.COSTS)
    # The class lies in a small difference beside large noise.
    x = torch.cat([0.1 * x, torch.from_numpy(rng.standard_normal((90, 3)))], 1)
    assert evaluate.choose_cost(x, y, 3, 0) > min(evaluate.COSTS)


def labelled(right, n=30):
    """Features of n videos that say the class, and for all but a share `right` another one."""
    labels = np.arange(n) % 3
    shown = labels.copy()
    wrong = np.arange(n) >= round(right * n)
    shown[wrong] = (labels[wrong] + 1) % 3
    return np.eye(3)[shown], labels


def test_svm_of_splits_and_seeds(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shares = {(0, 1): 1.0, (0, 2): 0.8, (1, 1): 0.6, (1, 2): 0.8}
    train = []
    test = []
    for (seed, split), right in shares.items():
        name = f"s{seed}-{split}.npz"
        train.append(write_features(f"train/{name}", *labelled(1), "x", seed, split))
        test.append(write_features(f"test/{name}", *labelled(right), "x", seed, split, "t"))
    here("svm", "--train", *train, "--test", *test)
    printed = " ".join(capsys.readouterr().out.split())
    # Of seed 0 90, of seed 1 70: the mean over the splits first.
    assert f"| linear SVM ↑ | 80.0 ±{200**0.5:.1f} |" in printed
    assert "2 seed(s): 0, 1, of each the mean over the official splits [1, 2]" in printed
    content = json.loads(Path("test/s1-1-svm.json").read_text())
    assert content["row"]["each"]["svm"] == pytest.approx([90, 70])
    assert content["checkpoint"]["figures"]["svm"] == pytest.approx(60)
    assert len(content["row"]["checkpoints"]) == 4
    # One file: the bootstrap over videos.
    here("svm", "--train", train[1], "--test", test[1])
    assert "| linear SVM ↑ | 80.0 ±7." in " ".join(capsys.readouterr().out.split())


def test_bad_input_to_svm(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, labels = labelled(1)
    a = write_features("a.npz", x, labels, "a")
    b = write_features("b.npz", x, labels, "b", prefix="t")
    other = write_features("other.npz", x, labels, "a", prefix="t", classes="abd")
    Path("text.npz").write_text("no")
    np.savez("empty.npz", labels=labels)
    np.save("array.npy", x)
    assert "name a pair each" in fails(capsys, "svm", "--train", a)
    assert "in the same order" in fails(capsys, "svm", "--train", a, "--test", b)
    assert "its classes are not" in fails(capsys, "svm", "--train", a, "--test", other)
    assert "30 videos are in a.npz too: v0" in fails(capsys, "svm", "--train", a, "--test", a)
    for file in ("text.npz", "empty.npz", "array.npy"):
        line = fails(capsys, "svm", "--train", file, "--test", a)
        assert f"{file}: no features of videos" in line
    assert "gone.npz" in fails(capsys, "svm", "--train", "gone.npz", "--test", a)
    assert not list(tmp_path.glob("*.json"))


# ---- Few shots -----------------------------------------------------------------------------------
@pytest.mark.parametrize("shots", [1, 3])
def test_episodes_against_brute_force(shots):
    rng = np.random.default_rng(shots)
    labels = rng.integers(0, 7, 120)
    x = rng.standard_normal((120, 6)) + np.eye(7, 6)[labels]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    places = evaluate.draw_episodes(labels, 4, shots + 2, 30, rng)
    got = evaluate.episode_accuracies(x @ x.T, places, shots)
    for episode, accuracy in zip(places, got, strict=True):
        means = [x[videos[:shots]].mean(0) for videos in episode]
        right = 0
        for way, videos in enumerate(episode):
            for query in videos[shots:]:
                cosines = [m @ x[query] / np.linalg.norm(m) for m in means]
                right += int(np.argmax(cosines)) == way
        assert accuracy == pytest.approx(right / 8)
    assert 0.25 < got.mean() < 0.95


def test_draws_of_episodes():
    labels = np.repeat([0, 1, 2, 3, 4], [9, 3, 6, 6, 2])
    rng = np.random.default_rng(0)
    places = evaluate.draw_episodes(labels, 3, 3, 4000, rng)
    drawn = labels[places]
    assert (drawn == drawn[..., :1]).all()
    assert 4 not in drawn  # it has too few videos
    assert (np.diff(np.sort(drawn[..., 0], 1), axis=1) > 0).all()
    assert (np.diff(np.sort(places, 2), axis=2) > 0).all()
    # All classes are drawn alike, and all videos of a class in each place.
    assert np.bincount(drawn[..., 0].ravel())[:4] / 12000 == pytest.approx([0.25] * 4, abs=0.015)
    of_first = places[drawn[..., 0] == 0]
    for column in of_first.T:
        assert np.bincount(column, minlength=9) / len(column) == pytest.approx(
            [1 / 9] * 9, abs=0.025
        )
    with pytest.raises(UserError, match="2 classes have 7 videos or more.*--ways 3"):
        evaluate.draw_episodes(np.repeat([0, 1, 2], [7, 9, 6]), 3, 7, 1, rng)


def test_few_shot_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(150) % 6
    sure = write_features("sure.npz", np.eye(6)[labels], labels, "sure", classes="abcdef")
    noise = np.random.default_rng(0).standard_normal((150, 400))
    none = write_features("none.npz", noise, labels, "none", classes="abcdef")
    here("fewshot", "--test", sure, none, "--episodes", 600)
    lines = {line[0]: line[1:] for line in read_tables(capsys.readouterr().out)[0]}
    assert lines["shots: 1 ↑"][0] == lines["shots: 5 ↑"][0] == "100.0 ±0.0"
    for shots in (1, 5):
        value, half = map(float, lines[f"shots: {shots} ↑"][1].split(" ±"))
        assert value == pytest.approx(20, abs=4)
        assert 0.2 < half < 0.8
    content = json.loads(Path("none-fewshot.json").read_text())
    test = evaluate.read_features(none)
    accuracies = evaluate.few_shot(test, 5, evaluate.FewShotArgs(episodes=600))
    assert content["row"]["mean"]["shots5"] == pytest.approx(100 * accuracies.mean())
    half = 196 * accuracies.std(ddof=1) / 600**0.5
    assert content["row"]["plus_minus"]["shots5"] == pytest.approx(half)
    assert content["row"]["plus_minus_is"] == "95 % interval over 600 episodes"
    assert "name files" in fails(capsys, "fewshot")
    assert "as none.npz: name one list" in fails(capsys, "fewshot", "--test", none, none)
    other = write_features("other.npz", noise, labels, "x", classes="uvwxyz")
    assert "of one data set" in fails(capsys, "fewshot", "--test", none, other)
    assert "--ways 7: lower it or" in fails(capsys, "fewshot", "--test", none, "--ways", 7)


# ---- Gain and bias -------------------------------------------------------------------------------
def test_pearson():
    # With two degrees of freedom p is 1 - |r|, with one 1 - 2 asin(|r|) / pi.
    assert evaluate.pearson([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((0.8, 0.2))
    assert evaluate.pearson([1, 2, 3, 4], [-1, -3, -2, -4]) == pytest.approx((-0.8, 0.2))
    assert evaluate.pearson([1, 2, 3], [1, 3, 2]) == pytest.approx((0.5, 2 / 3))
    assert evaluate.pearson([1, 2, 5], [3, 5, 11]) == pytest.approx((1, 0), abs=1e-7)
    assert math.isnan(evaluate.pearson([1, 1, 1], [1, 2, 3])[0])
    # SDN Fig. 4: r -0.896 of seven splits has p 0.006.
    x = np.array([-3.0, -2, -1, 0, 1, 2, 3])
    noise = np.array([1.0, -1, 0, 0, 0, -1, 1])
    noise -= x * (x @ noise) / (x @ x) + noise.mean()
    across = (1 / 0.896**2 - 1) ** 0.5 * np.linalg.norm(x) / np.linalg.norm(noise)
    r, p = evaluate.pearson(x, -x + across * noise)
    assert (r, round(p, 3)) == (pytest.approx(-0.896), 0.006)
    assert r == pytest.approx(np.corrcoef(x, -x + across * noise)[0, 1])


def test_transfer(tmp_path, capsys, monkeypatch):
    """SDN's Table 1: 53.6 to 56.7, 83.5 to 84.5, 18.0 to 20.5."""
    monkeypatch.chdir(tmp_path)
    targets = []
    known = {"hmdb": (53.6, 56.7, 3.0), "ucf": (83.5, 84.5, 4.09), "diving": (18.0, 20.5, 1.26)}
    for name, (baseline, debiased, b_scene) in known.items():
        files = [f"{name}-{kind}.json" for kind in ("a", "b", "bias")]
        for file, value in zip(files, (baseline, debiased), strict=False):
            Path(file).write_text(json.dumps({"row": {"mean": {"iid": value}}}))
        Path(files[2]).write_text(json.dumps({"b_scene": b_scene}))
        targets.append(":".join([name, *files]))
    here("transfer", *targets)
    printed = capsys.readouterr().out
    (table,) = read_tables(printed)
    assert table[1:] == [
        ["hmdb", "53.6", "56.7", "+5.8", "3.00"],
        ["ucf", "83.5", "84.5", "+1.2", "4.09"],
        ["diving", "18.0", "20.5", "+13.9", "1.26"],
    ]
    content = json.loads(Path("transfer/transfer.json").read_text())
    gains = [100 * (b - a) / a for a, b, _ in known.values()]
    r = np.corrcoef(gains, [3.0, 4.09, 1.26])[0, 1]
    assert content["r"] == pytest.approx(r)
    assert content["p"] == pytest.approx(1 - 2 / math.pi * math.asin(-r))
    assert f"Pearson's r of gain and B_scene: {r:.3f}" in printed
    assert "2 targets are too few" in fails(capsys, "transfer", *targets[:2])
    assert "x:y: give NAME:" in fails(capsys, "transfer", *targets[:2], "x:y")
    assert "no figure row mean svm" in fails(capsys, "transfer", *targets, "--metric", "svm")
    same = [targets[0]] * 3
    assert "there is no correlation" in fails(capsys, "transfer", *same)
    Path("hmdb-a.json").write_text('{"row": {"mean": {"iid": 0}}}')
    assert "no gain is relative to it" in fails(capsys, "transfer", *targets)


def test_bias_writes_what_transfer_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, train=BIASED, test=BIASED)
    lists = dict(scenes=("scenes",), train="train.txt", test="test.txt")
    figures = evaluate.bias(evaluate.BiasArgs(**lists, out="bias"))
    assert evaluate.read_figure("bias/bias.json", "b_scene") == figures["b_scene"]


# ---- Official splits -----------------------------------------------------------------------------
def of_split(seed, split, iid):
    run = report(f"x-split{split}-s{seed}", seed, iid, f"x{split}")
    return run | dict(any_split="x", split=split, masked=[split, 10], classes=2)


def test_splits_are_averaged_before_seeds():
    values = {(0, 1): 50.0, (0, 2): 60.0, (0, 3): 70.0, (1, 1): 52.0, (1, 2): 66.0, (1, 3): 74.0}
    # In any order.
    reports = [of_split(seed, split, values[seed, split]) for split in (2, 3, 1) for seed in (1, 0)]
    other = report("other", 0, 9.0, "b") | dict(any_split="y", split=1)
    row, alone = evaluate.merge([*reports, other])
    assert row["name"] == "x"
    assert sorted(zip(row["seeds"], row["each"]["iid"], strict=True)) == [(0, 60), (1, 64)]
    assert row["mean"]["iid"] == pytest.approx(62)
    assert row["plus_minus"]["iid"] == pytest.approx(8**0.5)
    assert row["splits"] == [1, 2, 3]
    assert row["videos"] == [42, 45]  # of the three splits
    assert row["masked"] == [6, 30]
    assert len(row["checkpoints"]) == 6
    assert alone["splits"] is None and alone["plus_minus"]["iid"] == 2.5
    text = " ".join(evaluate.markdown([row, alone]).split())
    assert "of each the mean over the official splits [1, 2, 3]" in text
    # One seed: the splits are no error of it.
    (row,) = evaluate.merge([of_split(0, 1, 50.0), of_split(0, 2, 60.0)])
    assert (row["mean"]["iid"], row["plus_minus"]) == (55, {})
    # A split is counted once.
    rows = evaluate.merge([of_split(0, 1, 50.0), of_split(0, 1, 60.0)])
    assert [row["mean"]["iid"] for row in rows] == [50, 60]


def test_each_seed_has_the_same_splits():
    reports = [of_split(0, 1, 1.0), of_split(1, 1, 2.0), of_split(0, 2, 3.0)]
    with pytest.raises(UserError, match=r"split 1: \[0, 1\]; split 2: \[0\]"):
        evaluate.merge(reports)


def test_other_seeds_of_a_split_are_told_before_a_video_is_read(films, capsys):
    runs = [films("a-s0"), films("a-s1", seed=1), films("a-split2-s0", split=2)]
    line = fails(capsys, *runs, "--test", "list.txt", "--root", "films")
    assert "have other seeds (split 1: [0, 1]; split 2: [0])" in line


def test_configuration_of_splits():
    first = checkpoint("1", seed=0, split=1, train="ucf/trainlist01.txt", lr=1)

    def changed(list_sha1="2", **args):
        return replace(first, list_sha1=list_sha1, args=first.args | args)

    second = changed(split=2, train="ucf/trainlist02.txt")
    assert second.any_split == first.any_split
    assert second.config != first.config
    assert changed(split=2, lr=2).any_split != first.any_split
    # Another list of the same split is another configuration.
    assert changed(train="ucf/trainlist02.txt").any_split != first.any_split
    assert changed().config != first.config


def test_a_list_for_each_split(films, capsys):
    run = evaluate.load_run(films("a", split=2))
    Path("films/testlist02.txt").write_text("run/v0 0\n")
    videos = evaluate.read_test_list(run, "films/testlist0{split}.txt", evaluate.Args())
    assert videos.paths == ["run/v0"]
