"""evaluate.py: the metrics against brute force and closed values, and whole runs whose figures are known."""

import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import common
import evaluate
from common import UserError

ROOT = Path(evaluate.__file__).parent


# ---- Metrics -----------------------------------------------------------------------------------------------

def test_metric_map_names_functions():
    rows = evaluate.__doc__.split("Metric map")[1].split("Accuracies are")[0].strip().splitlines()
    assert len(rows) == 21 and all(callable(getattr(evaluate, row.split()[-1])) for row in rows[1:])


def test_top1_against_brute_force():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4, 5)).astype(np.float32)
    labels = np.arange(50) % 5
    hits = []
    for video, label in zip(logits.tolist(), labels, strict=True):
        share = [sum(math.exp(c[k]) / sum(map(math.exp, c)) for c in video) / 4 for k in range(5)]
        hits.append(share.index(max(share)) == label)
    assert evaluate.top1(logits, labels).tolist() == hits and 0 < sum(hits) < 50
    assert evaluate.fuse(logits).sum(-1) == pytest.approx(1)
    assert evaluate.top1(np.zeros((2, 1, 3)), np.array([0, 1])).tolist() == [True, False]  # ties
    assert evaluate.top1(np.full((1, 1, 3), 3e4) + [0, 1, 0], np.array([1])).all()          # no overflow


@pytest.mark.parametrize("seed", range(5))
def test_contrasted_against_brute_force_and_its_bounds(seed):
    rng = np.random.default_rng(seed)
    n, classes = 200, 4
    labels, moving, still = (rng.integers(0, classes, n) for _ in range(3))
    moving[: n // 2] = labels[: n // 2]
    still[: 40 * seed] = labels[: 40 * seed]
    paths = [f"v{i}.avi" for i in range(n)]
    hits = evaluate.contrasted(moving == labels, still == labels, paths, paths)
    assert hits.tolist() == [moving[i] == labels[i] and still[i] != labels[i] for i in range(n)]
    scuba, scufo, both = (moving == labels).mean(), (still == labels).mean(), hits.mean()
    assert max(0, scuba - scufo) - 1e-12 <= both <= min(scuba, 1 - scufo) + 1e-12            # PAPERS.md B.5


def test_contrasted_pairs_by_video():
    rng = np.random.default_rng(0)
    scuba, scufo, order = rng.random(30) < 0.6, rng.random(30) < 0.4, rng.permutation(30)
    paths = np.array([f"v{i}" for i in range(30)])
    want = evaluate.contrasted(scuba, scufo, paths, paths)
    assert (evaluate.contrasted(scuba, scufo[order], paths, paths[order]) == want).all()
    assert (evaluate.contrasted(scuba[order], scufo, paths[order], paths) == want[order]).all()
    assert (scuba & ~scufo[order] != want).any()  # by place: another result
    with pytest.raises(ValueError, match="no pair of SCUBA and SCUFO for v29"):
        evaluate.contrasted(scuba, scufo[:29], paths, paths[:29])


@pytest.mark.parametrize("original,shuffled,ratio", [  # Hara et al. Table 1
    (64.3, 32.7, 0.68), (27.1, 14.2, 0.65), (33.4, 29.6, 0.12), (45.3, 32.0, 0.35), (19.4, 11.0, 0.56),
    (44.3, 2.3, 2.95), (92.0, 20.1, 1.52), (71.7, 3.9, 2.92), (15.1, 4.2, 1.29)])
def test_log_ratio_of_hara_table_1(original, shuffled, ratio):
    # the paper's ratios come from unrounded accuracies: some differ by 0.01 from those of the printed ones
    assert evaluate.log_ratio(original / 100, shuffled / 100, 10 ** 6) == pytest.approx(ratio, abs=0.0105)


def test_log_ratio_without_a_hit():
    assert evaluate.log_ratio(0.5, 0.0, 100) == pytest.approx(math.log(0.5 / 0.005))
    assert evaluate.log_ratio(0.0, 0.0, 100) == 0
    assert evaluate.log_ratio(np.array([.5, .2]), np.array([.5, .1]), 9) == pytest.approx([0, math.log(2)])


def test_columns():
    mean = {"test": 0.9, "scuba-a": 0.6, "scuba-b": 0.8, "scufo-a": 0.1, "scufo-b": 0.0, "contrasted-a": 0.55,
            "contrasted-b": 0.8, "conflfg": 0.5, "rare": 0.4, "shuffled": 0.3, "masked": 0.2, "masked_entropy": 1.5,
            "scene_probe": 0.1, "adversary": 0.0}
    got = evaluate.columns(mean, 100, 8)
    assert got == pytest.approx({
        "iid": 90, "scuba": 70, "scuba-a": 60, "scuba-b": 80, "scufo": 5, "scufo-a": 10, "scufo-b": 0,
        "contrasted": 67.5, "contrasted-a": 55, "contrasted-b": 80, "off_chance": 7.5, "conflfg": 50,
        "rare": 40, "shuffled": 30, "log_ratio": math.log(3), "masked": 20, "masked_entropy": 1.5, "scene_probe": 10,
        "adversary": 0})
    arrays = evaluate.columns({k: np.full(4, v) for k, v in mean.items()}, 100, 8)  # the bootstrap's form
    assert arrays.keys() == got.keys()
    assert all(v.tolist() == pytest.approx([got[k]] * 4) for k, v in arrays.items())
    assert evaluate.columns({"test": 0.5}, 10, 8) == {"iid": 50}
    assert set(evaluate.HEADS) == {k for k in got if "-" not in k}


def test_bootstrap_against_the_binomial_error():
    rng, names = np.random.default_rng(0), [f"v{i:03d}" for i in range(400)]
    hits = rng.random(400) < 0.3
    means = evaluate.bootstrap(hits, names, 0)
    p = hits.mean()
    assert means.shape == (evaluate.RESAMPLES,) and means.mean() == pytest.approx(p, abs=0.003)
    assert means.std(ddof=1) == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.08)
    order = rng.permutation(400)  # the same videos are drawn, however they are listed
    assert (evaluate.bootstrap(hits[order], np.array(names)[order], 0) == means).all()
    assert evaluate.bootstrap(~hits, names, 0) + means == pytest.approx(1)  # and drawn together
    assert (evaluate.bootstrap(hits, names, 1) != means).any()


def test_video_names():
    assert evaluate.video_names(["scuba-photo/1.mp4", "scuba-photo/2.mp4"]) == ["1", "2"]
    assert evaluate.video_names(["run/1.mp4", "walk/1.mp4"]) == ["run/1.mp4", "walk/1.mp4"]


# ---- Still and shuffled clips ------------------------------------------------------------------------------

PATHS = [f"class/v{i}.mp4" for i in range(40)]


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_shuffles_are_seeded_and_never_the_identity(frames):
    orders = evaluate.shuffled_orders(PATHS, 3, frames, 0, 0)
    assert orders.shape == (40, 3, frames)
    assert (np.sort(orders, -1) == np.arange(frames)).all() and (orders != np.arange(frames)).any(-1).all()
    assert (evaluate.shuffled_orders(PATHS, 3, frames, 0, 0) == orders).all()
    assert (evaluate.shuffled_orders(PATHS[::-1], 3, frames, 0, 0) == orders[::-1]).all()  # by path
    if frames > 2:  # two have one other order
        assert (evaluate.shuffled_orders(PATHS, 3, frames, 0, 1) != orders).any()
        assert (evaluate.shuffled_orders(PATHS, 3, frames, 1, 0) != orders).any()


def test_one_frame_cannot_be_shuffled():
    with pytest.raises(ValueError, match="no other order"):
        evaluate.shuffled_orders(PATHS, 1, 1, 0, 0)


def test_static_clip_is_a_frame_of_its_own_clip():
    orders = evaluate.static_orders(PATHS, 2, 8, 0)
    assert orders.shape == (40, 2, 8) and (orders == orders[..., :1]).all()
    assert set(orders[..., 0].ravel()) == set(range(8))  # every place is drawn
    assert (evaluate.static_orders(PATHS[::-1], 2, 8, 0) == orders[::-1]).all()
    clip = torch.randint(0, 256, (40, 2, 3, 8, 5, 4), dtype=torch.uint8)
    still = evaluate.reorder(clip, torch.from_numpy(orders))
    assert still.shape == clip.shape and still.dtype == torch.uint8
    for i in range(40):
        for v in range(2):
            for t in range(8):
                assert torch.equal(still[i, v, :, t], clip[i, v, :, orders[i, v, 0]])
    shuffled = evaluate.shuffled_orders(PATHS, 2, 8, 0, 0)
    moved = evaluate.reorder(clip, torch.from_numpy(shuffled))
    assert all(torch.equal(moved[i, v], clip[i, v][:, shuffled[i, v]]) for i in range(40) for v in range(2))


# ---- Rows --------------------------------------------------------------------------------------------------

def one(name, seed, iid, config="a"):
    return dict(checkpoint=f"runs/{name}/last.pt", name=name, method="albar", config=config, seed=seed,
                epochs=[3, 3], protocol="1 centre clip", figures={"iid": iid, "log_ratio": iid / 10},
                bootstrap={"iid": 2.5, "log_ratio": 0.5}, shuffles=[],
                videos={"test": [9, 10], "rare": [5, 5]}, broken={})


def test_seeds_of_one_configuration_share_a_row():
    values = [70.0, 74.0, 81.0]
    seeds = [one(f"albar-s{i}", i, v) for i, v in enumerate(values)]
    rows = evaluate.merge(seeds + [one("plain", 0, 50.0, "b")])
    assert [r["name"] for r in rows] == ["albar", "plain"] and [r["seeds"] for r in rows] == [[0, 1, 2], [0]]
    assert rows[0]["mean"]["iid"] == pytest.approx(np.mean(values))
    assert rows[0]["plus_minus"]["iid"] == pytest.approx(np.std(values, ddof=1))
    assert "n - 1" in rows[0]["plus_minus_is"] and "bootstrap" in rows[1]["plus_minus_is"]
    assert rows[1]["plus_minus"]["iid"] == 2.5 and rows[0]["videos"] == [14, 15]
    text = evaluate.markdown(rows)
    assert "75.0 ±5.6" in text and "3 seed(s): 0, 1, 2" in text and "14 of 15 videos used" in text


def test_a_seed_is_counted_once():
    rows = evaluate.merge([one("x", 0, 1.0), one("y", 0, 2.0), one("x", 1, 3.0)])
    assert [r["seeds"] for r in rows] == [[0, 1], [0]]
    assert len({r["name"] for r in evaluate.merge([one("x", 0, 1.0), one("x", 0, 2.0)])}) == 2


def test_configuration_of_a_run():
    def config(path="runs/a/last.pt", step=30, **args):
        args = {"lr": 1, "seed": 0, "out": "x"} | args
        return evaluate.Run(Path(path), "albar", args, ["a"], (step // 10, step), "", None).config
    assert config() == config(seed=1, out="y", workers=3)
    assert len({config(), config(lr=2), config(step=25), config(data_seed=1), config("runs/a/best.pt")}) == 5
    assert config("runs/a/best.pt", 20) == config("runs/b/best.pt", 30)  # whichever epoch was best


@pytest.mark.parametrize("names,want", [
    (["albar-s0", "albar-s1"], "albar"), (["albar-seed10", "albar-seed11"], "albar"), (["x", "y"], "x"),
    (["gp10", "gp10-1"], "gp10"), (["stills_0", "stills_1"], "stills"), (["w0.5-s1", "w0.5-s2"], "w0.5"),
    (["albar"], "albar")])
def test_row_name(names, want):
    assert evaluate.row_name(names) == want


# ---- Whole runs whose figures are known --------------------------------------------------------------------
# A frame is one colour: red says the time, green the class. The network tells the class if red grows all the
# way, and else another, so that it is right on every clip as it is and wrong on still and shuffled ones. It
# takes the first frame's time from all logits, which changes no prediction.

@dataclass
class FakeArgs:
    frames: int = 4
    stride: int = 1
    size: int = 8
    resize: int = 8
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    train: str = "train.txt"
    data: str = "data"
    data_seed: int = 0
    seed: int = 0
    flip: bool = False
    epochs: int = 1


class Fake(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(classes))

    def forward(self, clip):                                                       # (N, 3, T, H, W)
        assert not self.training
        red, green, _ = (clip.float().mean((3, 4)) * 255).unbind(1)                # (N, T)
        label = (green.mean(1) / 20).round().long()
        label = torch.where((red.diff(dim=1) > 1).all(1), label, (label + 1) % len(self.scale))
        logits = torch.nn.functional.one_hot(label, len(self.scale)).float() * self.scale
        return logits - red[:, :1]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two lists of six videos each, folders of frames, and a maker of checkpoints of the network above."""
    script = SimpleNamespace(Args=FakeArgs, build_model=lambda args, k: Fake(k))
    monkeypatch.setitem(sys.modules, "fake", script)
    monkeypatch.setattr(common, "METHODS", (*common.METHODS, "fake"))
    for name in ("test", "places"):
        for i in range(6):
            folder = tmp_path / name / f"v{i}"
            folder.mkdir(parents=True)
            for t in range(4 + i % 3):
                Image.new("RGB", (8, 8), (20 * t, 20 * (i % 3), 7)).save(folder / f"img_{t:05d}.png")
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}/v{i} {i % 3}\n" for i in range(6)))

    def save(name, **change):
        saved = dict(method="fake", args=vars(FakeArgs()) | change.pop("args", {}), classes=["a", "b", "c"],
                     epoch=1, step=1, model={"scale": torch.ones(3)}, optimizer={}, scheduler={}, scaler={},
                     rng={}, extra={}, best=0.0, torch="2.15", list_sha1="") | change
        (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
        torch.save(saved, tmp_path / "runs" / name / "last.pt")
        return str(tmp_path / "runs" / name)
    return SimpleNamespace(path=tmp_path, save=save, test=str(tmp_path / "test.txt"),
                           scuba=(f"places={tmp_path / 'places.txt'}",))


def run(*runs, **flags):
    return evaluate.evaluate(evaluate.Args(runs=runs, **flags))


@pytest.mark.parametrize("clips,batch", [(1, 32), (3, 4)])
def test_figures_of_a_known_network(world, clips, batch):
    row, = run(world.save("known"), test=world.test, scuba=world.scuba, rare=world.test, clips=clips,
               batch_size=batch)
    assert row["mean"] == pytest.approx({
        "iid": 100, "scuba-places": 100, "scuba": 100, "scufo-places": 0, "scufo": 0, "off_chance": 100 / 3,
        "contrasted-places": 100, "contrasted": 100, "rare": 100, "shuffled": 0, "log_ratio": math.log(12)})
    assert row["videos"] == [18, 18] and max(row["plus_minus"].values()) < 1e-9
    with np.load(world.path / "runs/known/evaluate.npz", allow_pickle=False) as saved:
        assert saved["scufo-places/logits"].shape == (6, clips, 3)
        assert saved["shuffled-2/order"].shape == (6, clips, 4)
        assert evaluate.top1(saved["test/logits"], saved["test/labels"]).all() and saved["test/used"].all()
        assert not evaluate.top1(saved["scufo-places/logits"], saved["scuba-places/labels"]).any()
        assert saved["test/paths"][0] == "test/v0"
        for i in range(6):                     # the saved order is that of the frames which the network saw
            frames = common.uniform_clips(4 + i % 3, 4, 1, clips)
            for kind in "scufo-places", "shuffled-0":
                first = [f[o[0]] for f, o in zip(frames, saved[f"{kind}/order"][i], strict=True)]
                assert -saved[f"{kind}/logits"][i].min(1) == pytest.approx(20 * np.array(first), abs=0.01)


def test_json_equals_the_table(world, capsys):
    rows = run(*(world.save(f"known-s{i}", args=dict(seed=i)) for i in range(2)),
               world.save("other", args=dict(flip=True)), test=world.test, scuba=world.scuba)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    heads, *body = [[c.strip() for c in line.strip("|").split("|")] for line in lines if "---" not in line]
    keys = ["name", *({h: k for k, h in evaluate.HEADS.items()}[h] for h in heads[1:])]
    assert [cells[0] for cells in body] == ["known", "other"] and heads[2] == "SCUBA ↑"
    for name, place in (("known-s0", 0), ("known-s1", 0), ("other", 1)):
        report = json.loads((world.path / "runs" / name / "evaluate.json").read_text())
        assert report["table"] == rows and report["row"] == rows[place]
        assert report["checkpoint"]["name"] == name and report["args"]["shuffles"] == 3
        for key, text in list(zip(keys, body[place], strict=True))[1:]:
            mean, spread = re.match(r"(-?[\d.]+) ±([\d.]+)", text).groups()
            assert float(mean) == pytest.approx(report["row"]["mean"][key], abs=0.05)
            assert float(spread) == pytest.approx(report["row"]["plus_minus"][key], abs=0.05)
    assert rows[0]["seeds"] == [0, 1] and len(report["checkpoint"]["shuffles"]) == 3


def test_order_of_a_list_changes_nothing(world):
    folder, figures = world.save("known"), []
    for order in range(6), (4, 0, 5, 2, 1, 3):
        (world.path / "places.txt").write_text("".join(f"places/v{i} {i % 3}\n" for i in order))
        row, = run(folder, test=world.test, scuba=world.scuba)
        with np.load(Path(folder) / "evaluate.npz") as saved:
            frame = dict(zip(saved["scuba-places/paths"], saved["scufo-places/order"][:, 0, 0], strict=True))
        figures.append((row["mean"], row["plus_minus"], frame))
    assert figures[0] == figures[1]


def test_unreadable_videos_are_left_out_and_named(world, capsys):
    (world.path / "test.txt").write_text((world.path / "test.txt").read_text() + "test/gone 0\n")
    row, = run(world.save("known"), test=world.test)
    assert row["mean"]["iid"] == 100 and row["videos"] == [6, 7] and "6 of 7" in capsys.readouterr().out
    report = json.loads((world.path / "runs/known/evaluate.json").read_text())
    assert report["checkpoint"]["broken"] == {"test": ["test/gone"]}
    assert report["checkpoint"]["videos"] == {"test": [6, 7]}


def test_one_frame_has_no_log_ratio(world):
    row, = run(world.save("known", args=dict(frames=1)), test=world.test, scuba=world.scuba)
    assert row["mean"]["scufo"] == row["mean"]["scuba"] == 100 and row["mean"]["contrasted"] == 0
    assert "log_ratio" not in row["mean"]


def test_the_test_part_of_an_official_split(world):
    (world.path / "hmdb").mkdir()
    (world.path / "splits").mkdir()
    for k, name in enumerate("abc"):
        (world.path / "hmdb" / name).symlink_to(world.path / "test")
        lines = f"v{k} 2\n" + f"v{k + 3} 1\n" * (k < 2)
        (world.path / "splits" / f"{name}_test_split2.txt").write_text(lines)
    row, = run(world.save("known"), test=str(world.path / "splits"), root=str(world.path / "hmdb"), split=2)
    assert row["mean"]["iid"] == 100 and row["videos"] == [3, 3]


def test_plus_minus_of_one_checkpoint(world):
    (world.path / "test.txt").write_text("".join(f"test/v{i} {(i + (i < 2)) % 3}\n" for i in range(6)))
    row, = run(world.save("known"), test=world.test)
    assert row["mean"]["iid"] == pytest.approx(200 / 3)
    assert row["plus_minus"]["iid"] == pytest.approx(100 * math.sqrt(2 / 9 / 6), rel=0.1)


def test_one_checkpoint_file_beside_last(world):
    folder = Path(world.save("known"))
    (folder / "last.pt").rename(folder / "best.pt")
    row, = run(str(folder / "best.pt"), str(folder / "best.pt"), test=world.test, shuffles=0)
    assert row["name"] == "known/best.pt" and (folder / "evaluate-best.json").exists()
    assert "shuffled" not in row["mean"] and "log_ratio" not in row["mean"]


# ---- Bad input: one line that says what to do --------------------------------------------------------------

@pytest.mark.parametrize("flags,message", [
    (dict(), "name its test list with --test"),
    (dict(scuba=("a=b.txt",)), "--scuba without --test"), (dict(rare="r.txt"), "--rare without --test"),
    (dict(test="gone.txt"), "gone.txt")])
def test_bad_flags(world, flags, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run(world.save("known"), **flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scuba", ["places.txt", "=places.txt", "a=", "twice"])
def test_bad_scuba(world, scuba):
    with pytest.raises(UserError, match="NAME=LIST"):
        run(world.save("known"), test=world.test, scuba=world.scuba * 2 if scuba == "twice" else (scuba,))


@pytest.mark.parametrize("change,message", [
    (dict(method="other"), "'other', which is none of"), (dict(method="sdn"), "sdn"),
    (dict(model={"scale": torch.ones(4)}), "not weights of fake.py's model"),
    (dict(model={}), "not weights of fake.py's model"),
    (dict(model={"scale": torch.full((3,), math.nan)}), "not finite"),
    (dict(classes=["a", "b"], model={"scale": torch.ones(2)}), "test.txt")])
def test_bad_checkpoints(world, monkeypatch, change, message):
    if change.get("method") == "sdn":
        monkeypatch.setitem(sys.modules, "sdn", None)  # as if the script were not beside evaluate.py
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run(world.save("known", **change), test=world.test)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_checkpoints(world):
    for path in (world.path / "gone", world.path / "test", world.path / "test.txt"):
        with pytest.raises(UserError, match=re.escape(str(path))):
            run(str(path), test=world.test)
    with pytest.raises(UserError, match="no run"):
        run()


def test_nothing_readable(world):
    with pytest.raises(UserError, match="none of 6 videos can be read"):
        run(world.save("known"), test=world.test, root=str(world.path / "runs"))


def test_exit_code():
    line = [sys.executable, ROOT / "evaluate.py", "runs/is-not-there", "--clips", "1"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr
    assert re.search(r"^error: runs/is-not-there: no such checkpoint", done.stderr, re.M)


# ---- A real checkpoint -------------------------------------------------------------------------------------

@pytest.mark.skipif(not (ROOT / "albar.py").exists(), reason="needs albar.py")
def test_albar_on_a_small_embedded_world(tmp_path, monkeypatch):
    import albar
    small = common.toy(0, tmp_path, share=0.02)
    for module in common, albar:
        monkeypatch.setattr(module, "toy", lambda *_: small)
    args = dict(weights="none", epochs=1, cache=False, out=str(tmp_path / "run"), data=str(tmp_path))
    albar.train(albar.Args(**albar.TOY | args))
    row, = run(str(tmp_path / "run"))
    assert set(evaluate.HEADS) - {"adversary"} <= row["mean"].keys() and row["name"] == "run"
    m = row["mean"]
    for b in ("photo", "texture", "sinusoid"):
        low, high = m[f"scuba-{b}"] - m[f"scufo-{b}"], min(m[f"scuba-{b}"], 100 - m[f"scufo-{b}"])
        assert max(0, low) - 1e-9 <= m[f"contrasted-{b}"] <= high + 1e-9
    again, = run(str(tmp_path / "run"), batch_size=5)
    assert again["mean"] == pytest.approx(row["mean"])               # neither the batch nor the run matters


def test_paired_differences_between_configurations():
    """Mean and 95 % t interval over the seeds that both have; against a figure worked by hand."""
    mean, half = evaluate.paired_difference([3.0, 5.0, 10.0], [1.0, 2.0, 3.0])          # differences 2, 3, 7
    assert mean == pytest.approx(4.0)
    assert half == pytest.approx(4.303 * 7 ** 0.5 / 3 ** 0.5, rel=1e-3)                 # t(0.975, 2) s / sqrt(3)
    first = {"seeds": [0, 1, 2], "each": {"iid": [1.0, 2.0, 3.0]}}
    row = {"seeds": [2, 0, 7], "each": {"iid": [9.0, 2.0, 50.0]}}                        # 2 - 1 and 9 - 3
    assert evaluate.difference(row, first, "iid").startswith("+3.5 [")
    assert evaluate.difference(row, first, "rare") == "-"
    assert evaluate.difference({"seeds": [5], "each": {"iid": [1.0]}}, first, "iid") == "-"
