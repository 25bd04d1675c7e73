"""evaluate.py: metrics against brute force and closed values, whole runs whose figures are known,
the lists that a run is tested on, the table, and bad input."""

import json
import math
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import command
from PIL import Image

import albar
import common
import evaluate


# ---- Metrics -------------------------------------------------------------------------------------
def test_metric_map_names_functions():
    rows = evaluate.__doc__.split("Metric map")[1].split("Accuracies are")[0].strip().splitlines()
    assert len(rows) > 20
    for row in rows[1:]:
        assert callable(getattr(evaluate, row.split()[-1])), row


def test_top1_against_brute_force():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4, 5)).astype(np.float32)
    labels = np.arange(50) % 5
    right = []
    for video, label in zip(logits.tolist(), labels, strict=True):
        shares = np.zeros(5)
        for clip in video:
            powers = np.array([math.exp(z) for z in clip])
            shares += powers / powers.sum()
        right.append(shares.tolist().index(max(shares)) == label)
    assert evaluate.top1(logits, labels).tolist() == right
    assert 0 < sum(right) < 50
    equal = evaluate.top1(np.zeros((2, 1, 3)), np.array([0, 1]))
    assert equal.tolist() == [True, False]
    large = np.full((1, 1, 3), 3e4) + [0, 1, 0]
    assert evaluate.top1(large, np.array([1])).all()


@pytest.mark.parametrize("seed", range(3))
def test_contrasted_against_brute_force_and_its_bounds(seed):
    rng = np.random.default_rng(seed)
    scuba = rng.random(200) < 0.6
    scufo = rng.random(200) < 0.3 * seed
    both = evaluate.contrasted(scuba, scufo)
    assert both.tolist() == [scuba[i] and not scufo[i] for i in range(200)]
    assert both.mean() >= scuba.mean() - scufo.mean() - 1e-12
    assert both.mean() <= min(scuba.mean(), 1 - scufo.mean()) + 1e-12


def test_log_ratio_of_hara_table_1():
    # The ratios that the paper prints come from accuracies before rounding: some differ by 0.01.
    for original, shuffled, ratio in ((64.3, 32.7, 0.68), (33.4, 29.6, 0.12), (44.3, 2.3, 2.95)):
        value = evaluate.log_ratio(original / 100, shuffled / 100, 10**6)
        assert value == pytest.approx(ratio, abs=0.0105)
    assert evaluate.log_ratio(0.5, 0.0, 100) == pytest.approx(math.log(0.5 / 0.005))
    assert evaluate.log_ratio(0.0, 0.0, 100) == 0


def test_columns():
    mean = {"test": 0.9, "scuba-a": 0.6, "scuba-b": 0.8, "scufo-a": 0.1, "scufo-b": 0.0}
    mean |= {"contrasted-a": 0.55, "contrasted-b": 0.8, "shuffled": 0.3, "masked_entropy": 1.5}
    want = {"iid": 90, "scuba-a": 60, "scuba-b": 80, "scufo-a": 10, "scufo-b": 0}
    want |= {"contrasted-a": 55, "contrasted-b": 80, "shuffled": 30, "masked_entropy": 1.5}
    # Over the backgrounds; to chance with eight classes.
    want |= {"scuba": 70, "scufo": 5, "contrasted": 67.5, "off_chance": 7.5}
    assert evaluate.columns(mean, 100, 8) == pytest.approx(want | {"log_ratio": math.log(3)})


def test_bootstrap_against_the_binomial_error():
    rng = np.random.default_rng(0)
    names = np.array([f"v{i:03d}" for i in range(400)])
    hits = rng.random(400) < 0.3
    share = hits.mean()
    means = evaluate.bootstrap(hits, names, 0)
    assert means.mean() == pytest.approx(share, abs=0.003)
    assert means.std(ddof=1) == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.08)
    # The same videos are drawn, however they are listed, and whatever became of them.
    order = rng.permutation(400)
    assert (evaluate.bootstrap(hits[order], names[order], 0) == means).all()
    assert evaluate.bootstrap(~hits, names, 0) + means == pytest.approx(1)
    assert (evaluate.bootstrap(hits, names, 1) != means).any()


def test_one_view_stands_for_all():
    logits = np.random.default_rng(0).normal(size=(5, 4, 3), scale=3).astype(np.float32)
    fused = evaluate.fuse(logits)
    np.testing.assert_allclose(evaluate.fuse(evaluate.one_view(logits)), fused)
    of_logits = evaluate.fuse(logits.mean(1)[:, None])
    assert abs(of_logits - fused).max() > 0.01


@pytest.mark.parametrize(
    "n,stride,step,starts",
    [
        (32, 1, 16, [0, 16]),  # SDN: clips side by side
        (33, 1, 16, [0, 16, 32]),
        (33, 1, 8, [0, 8, 16, 24]),  # Hara et al.: by half a clip
        (10, 1, 16, [0]),
        (33, 2, 4, [0, 4]),  # a clip spans 31 frames
    ],
)
def test_windows_cover_the_video_and_the_last_loops(n, stride, step, starts):
    indices = evaluate.window_places(n, 16, stride, step)
    # The last repeats its own frames.
    expected = [[start + stride * t % (n - start) for t in range(16)] for start in starts]
    assert indices.tolist() == expected


# ---- Still and shuffled clips --------------------------------------------------------------------
PATHS = [f"class/v{i}.mp4" for i in range(40)]


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_shuffles_are_seeded_and_never_the_identity(frames):
    orders = evaluate.shuffled_orders(PATHS, 3, frames, 0, 0)
    assert orders.shape == (40, 3, frames)
    assert (np.sort(orders, -1) == np.arange(frames)).all()
    assert (orders != np.arange(frames)).any(-1).all()
    # They follow from the path, not from the place in the list.
    assert (evaluate.shuffled_orders(PATHS[::-1], 3, frames, 0, 0) == orders[::-1]).all()
    if frames > 2:
        assert (evaluate.shuffled_orders(PATHS, 3, frames, 0, 1) != orders).any()
        assert (evaluate.shuffled_orders(PATHS, 3, frames, 1, 0) != orders).any()


def test_static_clip_is_one_frame_of_the_video_whatever_the_clips():
    orders = evaluate.static_orders(PATHS, 2, 8, 0)
    assert orders.shape == (40, 1, 8)
    assert (orders == orders[..., :1]).all()
    assert set(orders[..., 0].ravel()) <= set(range(16)) > set(range(8))
    assert orders.max() > 7  # of the second clip too
    assert (evaluate.static_orders(PATHS[::-1], 2, 8, 0) == orders[::-1]).all()
    shuffled = evaluate.shuffled_orders(PATHS, 2, 8, 0, 0)
    clip = torch.randint(0, 256, (40, 2, 3, 8, 5, 4), dtype=torch.uint8)
    moved = evaluate.reorder(clip, torch.from_numpy(shuffled))
    still = evaluate.reorder(clip, torch.from_numpy(orders))
    assert still.shape == (40, 1, 3, 8, 5, 4)
    for i in range(40):
        assert torch.equal(moved[i, 1], clip[i, 1][:, shuffled[i, 1]])
        place, t = divmod(orders[i, 0, 0], 8)
        for shown in still[i, 0].unbind(1):
            assert torch.equal(shown, clip[i, place, :, t])


# ---- Columns of the table ------------------------------------------------------------------------
def report(name, seed, iid, config="a"):
    """What `measure` gives of one checkpoint."""
    return dict(
        checkpoint=f"runs/{name}/last.pt",
        name=name,
        method="albar",
        config=config,
        seed=seed,
        epochs=[3, 3],
        protocol="1 centre clip",
        figures={"iid": iid, "log_ratio": iid / 10},
        bootstrap={"iid": 2.5, "log_ratio": 0.5},
        videos={"test": [9, 10], "rare": [5, 5]},
        lists={"test": ["test.txt", "1"], "rare": ["rare.txt", "2"]},
    )


def test_seeds_of_one_configuration_share_a_column():
    values = [70.0, 74.0, 81.0]
    seeds = [report(f"albar-s{seed}", seed, value) for seed, value in enumerate(values)]
    rows = evaluate.merge([*seeds, report("plain", 0, 50.0, "b")])
    assert [row["name"] for row in rows] == ["albar", "plain"]
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [0]]
    assert rows[0]["mean"]["iid"] == pytest.approx(75)
    assert rows[0]["plus_minus"]["iid"] == pytest.approx(np.std(values, ddof=1))
    assert rows[1]["plus_minus"]["iid"] == 2.5
    text = " ".join(evaluate.markdown(rows).split())
    assert "| IID ↑ | 75.0 ±5.6 | 50.0 ±2.5 |" in text
    assert "14 of 15 videos used, of test.txt, rare.txt; 3 seed(s): 0, 1, 2; ±: standard" in text
    assert "1 seed(s): 0; ±: standard error by bootstrap over videos" in text
    # A seed is counted once.
    rows = evaluate.merge([report("x", 0, 1.0), report("y", 0, 2.0), report("x", 1, 3.0)])
    assert [row["seeds"] for row in rows] == [[0, 1], [0]]
    rows = evaluate.merge([report("x", 0, 1.0), report("x", 0, 2.0)])
    assert rows[0]["name"] != rows[1]["name"]


def checkpoint(list_sha1="", **args):
    return evaluate.Checkpoint(
        path=Path("a/last.pt"),
        method="albar",
        args=args,
        classes=["a"],
        epoch=3,
        step=30,
        list_sha1=list_sha1,
        trained_on=set(),
        root="",
        model=None,
    )


def test_configuration_of_a_run():
    base = checkpoint(lr=1, seed=0, out="x", weights="none")

    def config(path="a/last.pt", step=30, **change):
        return replace(base, path=Path(path), step=step, args=base.args | change).config

    assert config() == config(seed=1, out="y", workers=3)
    assert len({config(), config(lr=2), config(step=25), config("a/best.pt")}) == 4
    # Whichever epoch was best.
    assert config("a/best.pt", 20) == config("b/best.pt", 30)
    # Each seed from its own first stage, which differs in nothing but the seed.
    from_seed = config(weights="runs/plain-s1/last.pt", seed=1)
    assert from_seed == config(weights="runs/plain-s2/last.pt", seed=2)
    assert from_seed != config(weights="runs/other-s2/last.pt", seed=2)
    assert from_seed != config(weights="runs/plain-s1/last.pt", seed=2)
    for name in ("runs/lam1-s{}/last.pt", "runs/w-0.{}/last.pt", "runs/e{}/last.pt"):
        first, second = (config(weights=name.format(seed), seed=seed) for seed in (1, 2))
        assert (first == second) == ("-s" in name)
    assert config(weights="runs/lam1-s1/a", seed=1) != config(weights="runs/lam2-s2/a", seed=2)


def test_name_of_a_column():
    assert evaluate.row_name(["albar-s0", "albar-s1"]) == "albar"
    assert evaluate.row_name(["albar-seed10", "albar-seed11"]) == "albar"
    assert evaluate.row_name(["gp10", "gp10-1"]) == "gp10"
    assert evaluate.row_name(["w0.5-s1", "w0.5-s2"]) == "w0.5"
    assert evaluate.row_name(["x", "y"]) == "x"
    assert evaluate.row_name(["albar-s1", "albar-s10"]) == "albar"
    assert evaluate.row_name(["albar-s1"]) == "albar-s1"


def test_t_interval_of_any_number_of_seeds():
    """Against the tables."""
    known = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 10: 2.2281, 11: 2.2010}
    known |= {15: 2.1314, 19: 2.0930, 24: 2.0639, 29: 2.0452, 60: 2.0003, 99: 1.9842}
    for freedom, t in known.items():
        assert evaluate.t95(freedom) == pytest.approx(t, abs=1e-4)


def test_paired_differences():
    """Mean and 95 % t interval over the seeds that both have, against figures worked by hand."""
    # The differences are 2, 3 and 7; t(0.975, 2) is 4.303.
    mean, half = evaluate.paired_difference([3.0, 5.0, 10.0], [1.0, 2.0, 3.0])
    assert mean == pytest.approx(4)
    assert half == pytest.approx(4.303 * 7**0.5 / 3**0.5, rel=1e-3)
    values = {"x": {0: 1.0, 1: 2.0, 2: 3.0}, "y": {2: 9.0, 0: 2.0, 7: 50.0}, "z": {5: 1.0}}
    reports = []
    for name, of_seeds in values.items():
        reports += [report(f"{name}-s{seed}", seed, v, name) for seed, v in of_seeds.items()]
    text = evaluate.markdown(evaluate.merge(reports)).split("Minus x, paired by seed")[1]
    # Of y the seeds 0 and 2, 2 - 1 and 9 - 3; of z none.
    assert re.search(r"IID ↑ +\| \+3.5 \[-28.3, \+35.3\] +\| - +\|", text)
    # Of other lists there is no difference, be they IID or another kind that both have.
    usual = reports[0]["lists"]
    for lists, differ in (
        ({"test": ["other.txt", "3"]}, True),
        (usual | {"rare": ["rare.txt", "3"]}, True),
        (usual | {"conflfg": ["conflfg.txt", "3"]}, False),
    ):
        reports[3]["lists"] = reports[4]["lists"] = lists
        text = " ".join(evaluate.markdown(evaluate.merge(reports)).split())
        assert ("different lists: their figures are not to be compared" in text) == differ
        assert (re.search(r"IID ↑ +\| \+3.5", text) is None) == differ
    # Nor of means over other backgrounds.
    for i, run in enumerate(reports):
        run["figures"]["scuba-places"] = run["bootstrap"]["scuba-places"] = 1.0
        if i in (3, 4, 5):
            run["figures"]["scuba-stripes"] = run["bootstrap"]["scuba-stripes"] = 1.0
    text = " ".join(evaluate.markdown(evaluate.merge(reports)).split())
    assert "different lists: their figures are not to be compared" in text


# ---- A network whose figures are known -----------------------------------------------------------
# A frame is one colour: red says the time, green the class. The network tells the class if red
# grows all the way, and else another: it is right on every clip as it is and wrong on still and
# shuffled ones. It takes the first frame's time from all logits, which changes no prediction.
@dataclass
class FakeArgs:
    frames: int = 4
    stride: int = 1
    size: int = 8
    resize: int = 8
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    train: str = "train.txt"
    split: int = 1
    seed: int = 0
    flip: bool = False
    epochs: int = 1


class Fake(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(num_classes))

    def forward(self, clip):
        assert not self.training
        red, green, _ = (clip.mean((3, 4)) * 255).unbind(1)  # (N, T)
        label = (green.mean(1) / 20).round().long()
        in_order = (red.diff(dim=1) > 1).all(1)
        label = torch.where(in_order, label, (label + 1) % len(self.scale))
        return torch.nn.functional.one_hot(label, len(self.scale)) * self.scale - red[:, :1]


def use_script(monkeypatch, Args, build_model):
    """Let checkpoints name a method script "fake"."""
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(Args=Args, build_model=build_model))
    monkeypatch.setattr(evaluate, "METHODS", (*evaluate.METHODS, "fake"))


def save_run(folder, args, model, change=None):
    """A run's folder with its last.pt. -> the folder"""
    saved = dict(
        method="fake",
        args=asdict(args),
        classes=["a", "b", "c"],
        epoch=1,
        step=1,
        list_sha1="",
        heads={},
        model=model.state_dict(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(saved | (change or {}), folder / "last.pt")
    return str(folder)


def run(*runs, **flags):
    """evaluate.py over these runs. -> the columns of the table"""
    return evaluate.evaluate(evaluate.Args(runs=runs, **flags))


def here(*words):
    """The command line of evaluate.py on the module of this process, which knows the fakes."""
    steps = {
        "bias": (evaluate.BiasArgs, evaluate.bias, {}),
        "cam": (evaluate.CamArgs, evaluate.cam, {}),
        "features": (evaluate.FeaturesArgs, evaluate.features, {}),
        "svm": (evaluate.SvmArgs, evaluate.svm, {}),
        "fewshot": (evaluate.FewShotArgs, evaluate.fewshot, {}),
        "transfer": (evaluate.TransferArgs, evaluate.transfer, {}),
    }
    argv = [str(word) for word in words]
    common.cli(evaluate.Args, evaluate.evaluate, steps=steps, argv=argv)


def fails(capsys, *words):
    """The same, which must end with exit code 2 and one line on stderr. -> that line"""
    with pytest.raises(SystemExit) as stopped:
        here(*words)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Two lists of six videos each, folders of frames, and a maker of runs of the network above."""
    use_script(monkeypatch, FakeArgs, lambda args, num_classes: Fake(num_classes))
    for name in ("test", "places"):
        for i in range(6):
            folder = tmp_path / name / f"v{i}"
            folder.mkdir(parents=True)
            for t in range(4 + i % 3):
                image = Image.new("RGB", (8, 8), (20 * t, 20 * (i % 3), 7))
                image.save(folder / f"img_{t:05d}.png")
        lines = [f"{name}/v{i} {i % 3}\n" for i in range(6)]
        (tmp_path / f"{name}.txt").write_text("".join(lines))

    def save(name, change=None, **args):
        args = FakeArgs(**dict(train=str(tmp_path / "train.txt")) | args)
        return save_run(tmp_path / "runs" / name, args, Fake(3), change)

    return SimpleNamespace(
        path=tmp_path,
        save=save,
        test=str(tmp_path / "test.txt"),
        scuba=(f"places={tmp_path / 'places.txt'}",),
    )


KNOWN = {"iid": 100, "scuba": 100, "scuba-places": 100, "contrasted": 100, "contrasted-places": 100}
KNOWN |= {"scufo": 0, "scufo-places": 0, "off_chance": 100 / 3, "rare": 100}
KNOWN |= {"shuffled": 0, "log_ratio": math.log(12)}


@pytest.mark.parametrize("clips,batch_size", [(1, 32), (3, 4)])
def test_figures_of_a_known_network(known, clips, batch_size):
    flags = dict(test=known.test, scuba=known.scuba, rare=known.test)
    (row,) = run(known.save("known"), clips=clips, batch_size=batch_size, **flags)
    assert row["mean"] == pytest.approx(KNOWN)
    assert row["videos"] == [18, 18]
    assert max(row["plus_minus"].values()) < 1e-9
    with np.load(known.path / "runs/known/evaluate.npz") as saved:
        assert saved["shuffled-2/order"].shape == (6, clips, 4)
        assert saved["test/paths"][0] == "test/v0"
        assert evaluate.top1(saved["test/logits"], saved["test/labels"]).all()
        assert not evaluate.top1(saved["scufo-places/logits"], saved["scuba-places/labels"]).any()
        # The saved order is that of the frames which the network saw.
        for i in range(6):
            frames = common.uniform_clips(4 + i % 3, 4, 1, clips)
            shown = {"scufo-places": frames.reshape(1, -1), "shuffled-0": frames}
            for variant, of_clips in shown.items():
                order = saved[f"{variant}/order"][i]
                first = np.take_along_axis(of_clips, order, 1)[:, 0]
                seen = -saved[f"{variant}/logits"][i].min(1)
                assert seen == pytest.approx(20 * first, abs=0.01)


@pytest.mark.parametrize(
    "views,protocol",
    [
        (dict(windows=1), "mean softmax of clips of 4 frames x stride 1, one each 1 frames, "),
        (
            dict(clips=2),
            "mean softmax of 2 clips of 4 frames x stride 1, short side 8, centre crop",
        ),
    ],
)
def test_other_views_of_a_known_network(known, views, protocol):
    flags = dict(test=known.test, scuba=known.scuba, rare=known.test)
    (row,) = run(known.save("known"), **flags, **views)
    assert row["mean"] == pytest.approx(KNOWN)
    assert row["protocol"].startswith(protocol)
    with np.load(known.path / "runs/known/evaluate.npz") as saved:
        # Windows, of which videos have not equally many, are saved averaged.
        assert saved["test/logits"].shape[1] == views.get("clips", 1)


def test_figures_of_another_run_in_out_are_kept(known, capsys):
    run(known.save("known"), test=known.test, out=str(known.path / "out"))
    run(known.save("known"), test=known.test, out=str(known.path / "out"))  # its own are replaced
    line = fails(capsys, known.save("other"), "--test", known.test, "--out", known.path / "out")
    assert "out/evaluate.json holds the figures of" in line and "name another --out" in line


def test_windows_are_all_clips(known, capsys):
    line = fails(capsys, known.save("known"), "--windows", 2, "--clips", 3, "--test", known.test)
    assert "--windows takes all clips of a video" in line


def test_unreadable_videos_are_left_out_and_named(known, capsys):
    Path(known.test).write_text(Path(known.test).read_text() + "test/gone 0\n")
    (row,) = run(known.save("known"), test=known.test)
    assert row["mean"]["iid"] == 100
    printed = capsys.readouterr()
    assert "6 of 7 videos used" in " ".join(printed.out.split())
    assert "known test: 1 videos cannot be read: test/gone" in printed.err
    content = json.loads((known.path / "runs/known/evaluate.json").read_text())
    assert content["checkpoint"]["broken"] == {"test": ["test/gone"]}
    assert content["checkpoint"]["videos"] == {"test": [6, 7]}


# ---- Where the lists come from and the figures go ------------------------------------------------
def test_lists_of_benchmark_json(known):
    """Of the folder of the run's training list; flags that name lists stand in their place."""
    folder = known.save("known")
    benchmark = {"test": "test.txt", "scuba": {"places": "places.txt"}, "rare": "test.txt"}
    (known.path / "benchmark.json").write_text(json.dumps(benchmark))
    (row,) = run(folder)
    assert row["mean"] == pytest.approx(KNOWN)
    (row,) = run(folder, test=str(known.path / "places.txt"))
    assert row["mean"].keys() == {"iid", "shuffled", "log_ratio"}
    assert row["videos"] == [6, 6]
    (known.path / "benchmark.json").write_text('{"test": "test.txt"}')
    (row,) = run(folder, shuffles=0)
    assert row["mean"] == {"iid": 100}


@pytest.mark.parametrize(
    "content,message",
    [
        ("{", "benchmark.json: cannot read it"),
        ('{"rare": "test.txt"}', 'at least a "test" list'),
        ('{"test": "test.txt", "scuba": "places.txt"}', '"scuba" is no dict'),
        ('{"test": "gone.txt"}', "gone.txt"),
    ],
)
def test_bad_benchmark_json(known, capsys, content, message):
    (known.path / "benchmark.json").write_text(content)
    assert message in fails(capsys, known.save("known"))


def test_the_test_part_of_an_official_split(known):
    folder = known.path / "splits"
    folder.mkdir()
    (known.path / "hmdb").mkdir()
    for label, name in enumerate("abc"):
        (known.path / "hmdb" / name).symlink_to(known.path / "test")
        # Of split 2 the first video of each class is for testing.
        lines = f"v{label} 2\nv{label + 3} 1\n"
        (folder / f"{name}_test_split2.txt").write_text(lines)
        (folder / f"{name}_test_split1.txt").write_text(lines.replace("2", "0"))
    root = str(known.path / "hmdb")
    (row,) = run(known.save("known"), test=str(folder), root=root, split=2)
    assert row["mean"]["iid"] == 100
    with np.load(known.path / "runs/known/evaluate.npz") as saved:
        assert saved["test/paths"].tolist() == ["a/v0", "b/v1", "c/v2"]


def test_figures_go_beside_the_checkpoint_or_to_out(known, capsys):
    one = known.save("one")
    two = known.save("a/two", flip=True)
    # A checkpoint named twice is evaluated once.
    (row,) = run(one, f"{one}/last.pt", test=known.test, shuffles=0)
    assert len(row["checkpoints"]) == 1
    assert row["mean"].keys() == {"iid"}
    Path(f"{one}/last.pt").rename(f"{one}/best.pt")
    (row,) = run(f"{one}/best.pt", test=known.test)
    assert row["name"] == "one/best.pt"
    assert Path(f"{one}/evaluate.npz").exists()
    assert Path(f"{one}/evaluate-best.npz").exists()
    out = known.path / "figures"
    run(two, test=known.test, out=str(out))
    run(f"{one}/best.pt", two, test=known.test, out=str(out))
    names = {file.name for file in out.glob("*.json")}
    assert names == {"evaluate.json", "evaluate-one-best.json", "evaluate-two.json"}
    assert not list(Path(two).glob("evaluate*"))
    other = known.save("b/two", flip=True)
    line = fails(capsys, two, other, "--test", known.test, "--out", known.path / "none")
    assert "would both be evaluate-two" in line
    assert not (known.path / "none").exists()


# ---- The table -----------------------------------------------------------------------------------
LAYOUT = [
    ("", None),
    ("**accuracy**", None),
    ("IID ↑", "iid"),
    ("SCUBA ↑", "scuba"),
    ("- places", "scuba-places"),
    ("**static bias**", None),
    ("SCUFO ↓", "scufo"),
    ("- places", "scufo-places"),
    ("abs(SCUFO-1/K) ↓", "off_chance"),
    ("contrasted ↑", "contrasted"),
    ("**time**", None),
    ("shuffled", "shuffled"),
    ("log ratio ↑", "log_ratio"),
]


def read_tables(text):
    """Markdown -> [lines of cells] of each table, without the rules below the heads"""
    tables = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif not set(line) <= set("|- "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            tables += [] if inside else [[]]
            tables[-1].append(cells)
            inside = True
    return tables


def test_the_table_has_a_line_a_metric_and_a_column_a_run_as_the_json_says(known, capsys):
    runs = [known.save(f"known-s{seed}", seed=seed) for seed in range(2)]
    runs += [known.save(f"other-s{seed}", seed=seed, flip=True) for seed in range(2)]
    runs.append(known.save("alone", frames=1))
    rows = run(*runs, test=known.test, scuba=known.scuba)
    table, differences = read_tables(capsys.readouterr().out)
    assert [line[0] for line in table] == [label for label, _ in LAYOUT]
    assert table[0] == ["", "known", "other", "alone"]
    # One frame tells as much as a clip of it, and has no other order.
    assert rows[2]["mean"]["scufo"] == rows[2]["mean"]["scuba"] == 100
    assert table[-1][3] == "-"
    assert [len(line) for line in table] == [4] * len(table)
    for name, column in (("known-s1", 1), ("alone", 3)):
        content = json.loads((known.path / "runs" / name / "evaluate.json").read_text())
        assert content["table"] == rows
        assert content["row"] == rows[column - 1]
        assert content["checkpoint"]["name"] == name
        assert content["args"]["shuffles"] == 3
        for line, (_, key) in zip(table, LAYOUT, strict=True):
            if key in content["row"]["mean"]:
                mean, spread = map(float, line[column].split(" ±"))
                assert mean == pytest.approx(content["row"]["mean"][key], abs=0.05)
                assert spread == pytest.approx(content["row"]["plus_minus"][key], abs=0.05)
            else:
                assert line[column] in ("", "-", content["row"]["name"])
    assert rows[0]["seeds"] == [0, 1]
    assert differences[0] == ["", "other", "alone"]
    assert ["IID ↑", "+0.0 [+0.0, +0.0]", "-"] in differences


def test_three_runs_fit_a_terminal_of_100_columns():
    metrics = [metric for group in evaluate.GROUPS.values() for metric in group]
    reports = []
    for name in ("omnidebias-baseline", "omnidebias-web", "omnidebias"):
        for seed in range(2):
            run = report(f"{name}-s{seed}", seed, 0.0, name)
            run["figures"] = {metric.key: -99.9 - seed for metric in metrics}
            reports.append(run)
    text = evaluate.markdown(evaluate.merge(reports))
    assert len(read_tables(text)[0]) == 1 + len(evaluate.GROUPS) + len(metrics)
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 100


# ---- Bad input: one line that says what to do ----------------------------------------------------
@pytest.mark.parametrize(
    "flags,message",
    [
        ("", "name its test list with --test"),
        ("--scuba a=b.txt", "--scuba without --test"),
        ("--rare r.txt", "--rare without --test"),
        ("--test gone.txt", "gone.txt"),
        ("--test test.txt --scuba places.txt", "NAME=LIST"),
        ("--test test.txt --scuba =places.txt", "NAME=LIST"),
        ("--test test.txt --scuba a=places.txt a=test.txt", "NAME=LIST"),
        ("--test test.txt --root runs", "none of 6 videos can be read"),
    ],
)
def test_bad_flags(known, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(known.path)
    assert message in fails(capsys, known.save("known"), *flags.split())


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(method="other"), "'other', which is none of"),
        (dict(method="sdn"), "sdn.py, which made it, is not beside evaluate.py"),
        (
            dict(model={"scale": torch.ones(4)}),
            "last.pt: 1 keys do not fit the model: scale ([4], not [3])",
        ),
        (dict(model={}), "last.pt: 1 keys do not fit the model: scale (missing"),
        (dict(model={"scale": torch.full((3,), math.nan)}), "not finite"),
        (dict(classes=["a", "b"], model={"scale": torch.ones(2)}), "test.txt"),
    ],
)
def test_bad_checkpoints(known, monkeypatch, capsys, change, message):
    if change.get("method") == "sdn":
        monkeypatch.setitem(sys.modules, "sdn", None)  # as if there were no such file
    assert message in fails(capsys, known.save("known", change), "--test", known.test)


def test_missing_and_foreign_checkpoints(known, capsys):
    for path in (known.path / "gone", known.path / "test", known.test):
        assert f"error: {path}" in fails(capsys, path, "--test", known.test)
    assert "no run to evaluate" in fails(capsys)
    # The same by the script's own last lines.
    with pytest.raises(SystemExit) as stopped:
        command("evaluate.py", ["runs/is-not-there"])
    assert stopped.value.code == 2
    assert "error: runs/is-not-there: no such checkpoint" in capsys.readouterr().err


# ---- A real checkpoint ---------------------------------------------------------------------------
def test_a_run_of_albar_on_the_embedded_data_set(world, flags):
    albar.train(albar.Args(**flags | dict(epochs=1)))
    (row,) = run(flags["out"])
    assert row["name"] == "run"
    every = {metric.key for group in evaluate.GROUPS.values() for metric in group}
    # It has no scene head and no groups.
    assert row["mean"].keys() >= every - {"adversary", "worst-group"}
    # Neither the batches nor an earlier evaluation matter.
    lists = dict(test=f"{world}/test.txt", scuba=(f"photo={world}/scuba-photo.txt",))
    (again,) = run(flags["out"], batch_size=5, **lists)
    for key in ("iid", "scuba-photo", "scufo-photo", "contrasted-photo", "log_ratio"):
        assert again["mean"][key] == pytest.approx(row["mean"][key])
