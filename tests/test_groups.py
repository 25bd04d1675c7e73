"""Waterbirds' metadata.csv as a list, and the accuracy of groups in the classes: ALBAR App. C."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import FakeArgs, fails, read_tables, run, save_run, use_script
from test_mutations import Trials, mutate_text, pick

import albar
import common
import evaluate
import toy

HEADER = "img_id,img_filename,y,split,place,place_filename"
# As the real file has them.
LINES = (
    "1,001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg,1,0,1,/o/ocean/00002980.jpg",
    "2,001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg,1,0,0,/b/bamboo/00000131.jpg",
    "3,014.Indigo_Bunting/Indigo_Bunting_0001_12469.jpg,0,1,1,/l/lake/natural/00000065.jpg",
    "4,014.Indigo_Bunting/Indigo_Bunting_0002_12163.jpg,0,2,0,/f/forest/00000009.jpg",
)
REAL = "\n".join([HEADER, *LINES]) + "\n"


# ---- The list ------------------------------------------------------------------------------------
def test_parts_of_metadata(tmp_path):
    file = tmp_path / "metadata.csv"
    file.write_text(REAL)
    train = common.read_list(file)
    assert (train.kind, train.classes) == ("Waterbirds", ["landbird", "waterbird"])
    assert train.labels == [1, 1]
    assert train.full(1) == tmp_path / LINES[1].split(",")[1]
    val = common.read_list(file, root="/birds", part="val", classes=train.classes)
    assert val.labels == [0]
    assert val.full(0) == Path("/birds") / LINES[2].split(",")[1]
    assert common.read_list(file, part="test").paths == [LINES[3].split(",")[1]]
    with pytest.raises(common.UserError, match="its classes are not the training run's"):
        common.read_list(file, part="test", classes=["cat", "dog"])


def test_one_file_is_the_list_to_train_on_and_to_validate_with(tmp_path):
    file = tmp_path / "metadata.csv"
    file.write_text(REAL)
    for line in LINES:
        path = tmp_path / line.split(",")[1]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    flags = dict(train=file, val=file, root="", split=1, max_bad=0.0, size=8, resize=8)
    train, val = common.read_lists(SimpleNamespace(**flags))
    assert (len(train), len(val)) == (2, 1)
    # Steps that label videos look at all of them.
    assert len(common.listed_once(SimpleNamespace(lists=[file], **flags))) == 4


@pytest.mark.parametrize(
    "line",
    [
        "5,a.jpg,2,0,0,b.jpg",
        "5,a.jpg,1,3,0,b.jpg",
        "5,a.jpg,1,0,water,b.jpg",
        "5,,1,0,0,b.jpg",
        "5,a.jpg,1,0",
        "5,a,b.jpg,1,0,0,c.jpg",
    ],
)
def test_malformed_lines(tmp_path, line):
    file = tmp_path / "metadata.csv"
    file.write_text(f"{REAL}{line}\n")
    with pytest.raises(common.UserError) as caught:
        common.read_list(file, part="test")
    expected = f"{HEADER}, y and place 0 or 1, split 0 to 2: {line!r}"
    assert str(caught.value) == f"{file}:6: expected {expected}"


def test_any_file_is_read_or_refused_in_one_line(tmp_path):
    trials = Trials()
    metadata = tmp_path / "metadata.csv"
    for seed in range(300):
        rng = np.random.default_rng(seed)
        metadata.write_bytes(mutate_text(rng, REAL))
        with trials.trial(seed, metadata.read_bytes()):
            videos = common.read_list(metadata, part=pick(rng, ("train", "val", "test")))
            assert set(videos.labels) <= {0, 1}
            if videos.kind == "Waterbirds":
                assert len(evaluate.read_groups(metadata, videos)) == len(videos)
    trials.check()


# ---- Groups --------------------------------------------------------------------------------------
def test_group_hits_against_brute_force():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 2, 3))
    labels = rng.integers(0, 3, 60)
    groups = np.array(["land", "water"])[rng.integers(0, 2, 60)]
    groups[labels == 2] = "land"  # no third class on water
    right = {}
    for i in range(60):
        p = np.exp(logits[i]) / np.exp(logits[i]).sum(1, keepdims=True)
        hit = p.mean(0).argmax() == labels[i]
        right.setdefault((labels[i], groups[i]), []).append(hit)
    hits = evaluate.group_hits(logits, labels, groups)
    assert len(hits) == 5
    for key, (places, outcome) in hits.items():
        assert outcome.tolist() == right[key]
        assert (labels[places] == key[0]).all() and (groups[places] == key[1]).all()
    mean = {f"group-{label}-{group}": np.mean(hit) for (label, group), hit in right.items()}
    figures = evaluate.columns(mean | {"test": 0.5}, 60, 3)
    assert figures["worst-group"] == 100 * min(mean.values())
    # Of resamples the least of each.
    pair = {"test": np.ones(2), "group-a": np.array([0.1, 0.9]), "group-b": np.array([0.5, 0.5])}
    assert evaluate.columns(pair, 60, 3)["worst-group"].tolist() == [10, 50]


class Red(torch.nn.Module):
    """It takes red images for waterbirds."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))

    def forward(self, clip):
        is_red = (clip[:, 0].mean((1, 2, 3)) > 0.5).long()
        return torch.nn.functional.one_hot(is_red, 2) * self.scale


# Right, and of how many, in each group of the test part.
COUNTS = {("waterbird", "land"): (1, 4), ("waterbird", "water"): (5, 5)}
COUNTS |= {("landbird", "land"): (3, 3), ("landbird", "water"): (4, 6)}


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """A folder of COUNTS images and their metadata.csv, and a run of Red that was trained on others
    of that list."""
    use_script(monkeypatch, FakeArgs, lambda args, num_classes: Red())
    monkeypatch.chdir(tmp_path)
    lines = [HEADER, "0,trained.png,0,0,0,x"]
    for (name, background), (right, count) in COUNTS.items():
        y = int(name == "waterbird")
        for i in range(count):
            path = f"{name}-{background}-{i}.png"
            is_red = y if i < right else 1 - y
            Image.new("RGB", (8, 8), (255 * is_red, 0, 0)).save(path)
            lines.append(f"{len(lines)},{path},{y},2,{int(background == 'water')},x")
    Path("metadata.csv").write_text("\n".join(lines) + "\n")
    args = FakeArgs(frames=1, train="metadata.csv")
    about = dict(classes=["landbird", "waterbird"], root=str(tmp_path))
    about["train_paths"] = common.hash_paths(["trained.png"])
    return save_run(tmp_path / "runs/red", args, Red(), about)


EXPECTED = {"iid": 100 * 13 / 18, "worst-group": 25, "group-waterbird-land": 25}
EXPECTED |= {"group-waterbird-water": 100, "group-landbird-land": 100}
EXPECTED |= {"group-landbird-water": 100 * 4 / 6}


def test_groups_of_metadata(birds, capsys):
    (row,) = run(birds, test="metadata.csv")
    assert row["mean"] == pytest.approx(EXPECTED)
    error = 100 * (0.25 * 0.75 / 4) ** 0.5
    assert row["plus_minus"]["group-waterbird-land"] == pytest.approx(error, rel=0.1)
    (table,) = read_tables(capsys.readouterr().out)
    labels = [line[0] for line in table]
    assert labels[2:4] == ["IID ↑", "worst group ↑"]
    assert labels[4] == "- landbird-land" and labels[7] == "- waterbird-water"
    error = row["plus_minus"]["group-waterbird-land"]
    assert table[6] == ["- waterbird-land", f"25.0 ±{error:.1f}"]
    with np.load("runs/red/evaluate.npz") as saved:
        hits = evaluate.group_hits(saved["test/logits"], saved["test/labels"], saved["test/groups"])
    assert hits[1, "land"][1].tolist() == [True, False, False, False]
    Path("benchmark.json").write_text(json.dumps(dict(test="metadata.csv")))
    (row,) = run(birds)
    assert row["mean"] == pytest.approx(EXPECTED)


def test_an_unreadable_image_is_in_no_groups_accuracy(birds, capsys):
    Path("waterbird-land-3.png").write_bytes(b"broken")
    (row,) = run(birds, test="metadata.csv")
    changed = {"iid": 100 * 13 / 17, "worst-group": 100 / 3, "group-waterbird-land": 100 / 3}
    assert row["mean"] == pytest.approx(EXPECTED | changed)


def test_a_run_is_not_tested_on_what_it_was_trained_on(birds, capsys):
    text = Path("metadata.csv").read_text().replace("trained.png,0,0", "trained.png,0,2")
    Path("metadata.csv").write_text(text)
    line = fails(capsys, birds, "--test", "metadata.csv")
    assert "trained on 1 of its 19 videos: trained.png" in line


def test_a_run_of_albar_on_embedded_birds(tmp_path, monkeypatch):
    """One file is its list to train on, to validate with and to be tested on."""
    monkeypatch.setattr(toy, "BIRDS", {"train": 40, "val": 8, "test": 16})
    folder = tmp_path / "toy0/birds"
    toy.make_birds(folder)
    file = f"{folder}/metadata.csv"
    settings = albar.TOY | albar.BASELINE | dict(train=file, val=file, weights="none")
    settings |= dict(frames=1, epochs=1, batch_size=8, out=f"{tmp_path}/run")
    albar.train(albar.Args(**settings))
    (row,) = run(f"{tmp_path}/run")
    assert row["videos"] == [16, 16]
    groups = [row["mean"][f"group-{name}"] for name in evaluate.endings([row], "group-")]
    assert len(groups) == 4
    assert row["mean"]["worst-group"] == min(groups)
    assert row["mean"]["iid"] == pytest.approx(np.mean(groups))  # they are of one size
