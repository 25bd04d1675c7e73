"""The offline steps of sdn.py: pseudo scene labels and human boxes of videos, how they resume and
share work, what they read (weights of 2017), and that boxes stay where the humans are until the
clip is cropped."""

import io
import json
import os
import pickle
import re
from functools import partial
from hashlib import sha1
from pathlib import Path

import av
import common
import numpy as np
import pytest
import sdn
import torch
import torchvision
from common import (
    Boxes,
    UserError,
    Videos,
    mask_humans,
    open_labels,
    read_clip,
    read_labels,
    read_list,
)
from conftest import ROOT, argv, ended, two, use_labeller
from torchvision.models import get_model
from torchvision.transforms import v2

REAL = ROOT.parent / "shared/assets/videos"
SMALL = dict(size=32, resize=36, workers=0, max_bad=1.0)  # of scenes
LIGHT = dict(model="ssdlite320_mobilenet_v3_large", workers=0, max_bad=1.0)  # of humans


def run(word, flags, *lists):
    """The command line of a step, here."""
    words = [word, *map(str, lists), *argv(flags)]
    common.cli(sdn.Args, sdn.train, steps=sdn.STEPS, argv=words)


def read_humans(file):
    """-> the first line, {path: its line}"""
    first, *rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return first["made"], {row["path"]: row for row in rows}


def refused(capsys, word, flags, *lists):
    """One line on stderr, exit code 2, nothing written. -> the line"""
    with pytest.raises(SystemExit) as stopped:
        run(word, flags, *lists)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert not Path(flags["out"]).exists()
    return error[0]


@pytest.fixture
def clips(world, tmp_path):
    """List of clips of the embedded world: one line is twice there, two videos cannot be read."""
    lines = (world / "val.txt").read_text().splitlines()[:6]
    (tmp_path / "val").mkdir()
    for line in lines:
        (tmp_path / line.split()[0]).symlink_to(world / line.split()[0])
    (tmp_path / "broken.mp4").write_bytes(b"no video " * 99)
    rows = [lines[3], "broken.mp4 0", *lines, "gone.mp4 1"]
    (tmp_path / "clips.txt").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.txt"


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A network, its weights as Places365's owners publish theirs, and the file of its
    categories."""
    folder = tmp_path_factory.mktemp("places")
    names = ["airfield", "bow_window/indoor", "bow_window/outdoor", "attic"]
    torch.manual_seed(3)
    net = get_model("resnet18", weights=None, num_classes=len(names)).eval()
    # Statistics and sharp outputs, as trained networks have them.
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    net.fc.weight.data.normal_(0, 0.5)
    state = {f"module.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    content = dict(epoch=90, arch="resnet18", state_dict=state, best_prec1=np.float64(54.738))
    torch.save(content, folder / "places.pth.tar", _use_new_zipfile_serialization=False)
    (folder / "python2.pth.tar").write_bytes(python2(content))
    lines = [f"/{name[0]}/{name} {i}\n" for i, name in enumerate(names)]
    (folder / "categories.txt").write_text("".join(lines))
    return net, folder, names


def python2(content):
    """The bytes that torch 0.2 on Python 2 with a GPU wrote: text and bytes alike are strings of
    bytes, tensors come from _rebuild_tensor and torch.cuda.FloatStorage."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save(self, thing, **more):
            if torch.is_tensor(thing):
                parts = (
                    thing._typed_storage(),
                    thing.storage_offset(),
                    tuple(thing.shape),
                    thing.stride(),
                )
                return self.save_reduce(torch._utils._rebuild_tensor, parts, obj=thing)
            return super().save(thing, **more)

        def save_string(self, text):
            data = text if isinstance(text, bytes) else text.replace("cpu", "cuda:0").encode()
            short = len(data) < 256
            self.write(
                (b"U" if short else b"T") + len(data).to_bytes(1 if short else 4, "little") + data
            )
            self.memoize(text)

        dispatch[str] = dispatch[bytes] = save_string

    class Module:  # in place of `pickle`
        def dump(thing, file, protocol):
            Pickler(file, protocol).dump(thing)

    Module.Pickler, file = Pickler, io.BytesIO()
    torch.save(
        content, file, pickle_module=Module, pickle_protocol=2, _use_new_zipfile_serialization=False
    )
    return file.getvalue().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")


def by_hand(net, path, frames, size=32, resize=36):
    """(T, M) softmax vectors, (T, D) penultimate features of single frames, slowly."""
    n = common.num_frames(path)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    body = torch.nn.Sequential(*list(net.children())[:-1], torch.nn.Flatten())
    softmax = []
    features = []
    for k in range(frames):
        # The middles of equal parts.
        image = read_clip(path, [(2 * k + 1) * n // (2 * frames)])[0].permute(2, 0, 1)
        image = v2.CenterCrop(size)(v2.Resize(resize, antialias=True)(image)).float() / 255
        with torch.no_grad():
            feature = body((image - mean)[None] / std)
            z = net.fc(feature)[0].double()
        features.append(feature[0])
        softmax.append(z.exp() / z.exp().sum())
    return torch.stack(softmax), torch.stack(features)


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """Weights of a small detector, random but for seeing persons everywhere."""
    torch.manual_seed(4)
    state = get_model(LIGHT["model"], weights=None, weights_backbone=None).state_dict()
    for key, value in state.items():
        if re.search("classification_head.*bias", key) and len(value) % 91 == 0:
            value.view(-1, 91)[:, 1] += 4
    file = tmp_path_factory.mktemp("people") / "people.pth"
    torch.save(state, file)
    return str(file)


# ---- Scenes --------------------------------------------------------------------------------------
def of_places(places, file="places.pth.tar"):
    """Flags of a labelling with these weights."""
    _, folder, _ = places
    categories = str(folder / "categories.txt")
    return SMALL | dict(model="resnet18", weights=str(folder / file), categories=categories)


@pytest.mark.parametrize("file", ["places.pth.tar", "python2.pth.tar"])
def test_soft_labels_are_the_mean_of_the_frames_softmax(places, clips, tmp_path, file):
    """Of weights as Places365's owners publish them, whichever Python pickled them."""
    net, folder, names = places
    raw = (folder / file).read_bytes()
    assert (b"torch.cuda\nFloatStorage" in raw) == (file == "python2.pth.tar")
    out = tmp_path / "scenes"
    flags = of_places(places, file) | dict(out=str(out), frames=7, features=True, batch_size=4)
    run("scenes", flags, clips)
    part = open_labels(out)
    assert part.paths == list(dict.fromkeys(read_list(clips).paths)) and part.categories == names
    assert part.labels.shape == (8, 4) and part.features.shape == (8, 512)
    assert part.labels.dtype == part.features.dtype == np.float16
    for path, row, features in zip(part.paths, part.labels, part.features, strict=True):
        if path in ("broken.mp4", "gone.mp4"):
            assert np.isnan(row).all() and np.isnan(features).all()
            continue
        p, expected = by_hand(net, tmp_path / path, 7)
        assert np.abs(row - p.mean(0).numpy()).max() < 1e-3
        scale = float(expected.abs().max())
        assert np.abs(features - expected.mean(0).numpy()).max() < 2e-3 * scale
    made = json.loads((out / "made.json").read_text())
    assert made["sha1"] == sha1(raw).hexdigest() and made["weights"] == file
    assert made["frames"] == 7 and not list(tmp_path.glob("*.part*"))


def test_labels_in_the_order_of_a_list(places, clips, tmp_path):
    out = tmp_path / "scenes"
    run("scenes", of_places(places) | dict(out=str(out), frames=2), clips, clips)
    part = open_labels(out)
    assert part.features is None and len(part.paths) == 8
    order = [*reversed(part.paths), "other.mp4", part.paths[0]]
    soft, names = read_labels([out], order)
    assert names == places[2] and soft.shape == (10, 4) and soft.dtype == torch.float32
    for path, row in zip(order, soft, strict=True):
        if path in ("broken.mp4", "gone.mp4", "other.mp4"):
            assert (row == 0).all()
        else:
            assert torch.equal(row.half(), torch.tensor(part.labels[part.paths.index(path)]))
    with pytest.raises(UserError, match="no labels of 3 of 10 videos, first gone.mp4"):
        read_labels([out], order, 0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": np.full((2, 3), 0.5, np.float16)}, "the labels of a do not sum to 1"),
        (
            {"labels": np.zeros((3, 3), np.float16)},
            r"labels.npy: is float16 \(3, 3\), not a number for each of the 2 lines of paths.txt",
        ),
        ({"labels": np.zeros((2, 3), np.int64)}, "labels.npy: is int64"),
        ({"labels": b"no array"}, "labels.npy: cannot read it"),
        ({"categories": "x\ny\nw\n"}, "its categories are not those of"),
        ({"labels": np.eye(3, dtype=np.float16)[1:]}, "a has other labels in a folder before it"),
    ],
)
def test_folders_that_are_no_labels(tmp_path, change, message):
    good = {"labels": np.eye(3, dtype=np.float16)[:2], "paths": "a\nb\n", "categories": "x\ny\nz\n"}
    for name, content in (("good", good), ("bad", good | change)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "paths.txt").write_text(content["paths"])
        (folder / "categories.txt").write_text(content["categories"])
        if isinstance(content["labels"], bytes):
            (folder / "labels.npy").write_bytes(content["labels"])
        else:
            np.save(folder / "labels.npy", content["labels"])
    with pytest.raises(UserError, match=message) as error:
        read_labels([tmp_path / "good", tmp_path / "bad"], ["a", "b"])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="not a folder of labels"):
        read_labels([tmp_path], ["a"])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused(places, clips, tmp_path, capsys):
    saved = dict(arch="resnet18", state_dict={}, best_prec1=Evil(tmp_path / "ran"))
    file = tmp_path / "evil.pth.tar"
    torch.save(saved, file, _use_new_zipfile_serialization=False)
    flags = of_places(places) | dict(weights=str(file), out=str(tmp_path / "scenes"))
    error = refused(capsys, "scenes", flags, clips)
    assert "nothing in it was run" in error and not (tmp_path / "ran").exists()


def test_bad_input_to_scenes(places, clips, tmp_path, capsys):
    good = of_places(places) | dict(out=str(tmp_path / "out"))
    (tmp_path / "five.txt").write_text("a\nb\nroute 66\nc\nd\n")
    (tmp_path / "twice.txt").write_text("a\nb\nb\nc\n")
    (tmp_path / "list").mkdir()
    (tmp_path / "list/other.txt").write_text("a.mp4 0\n")
    other = tmp_path / "list/other.txt"
    five = str(tmp_path / "five.txt")
    twice = str(tmp_path / "twice.txt")
    for change, lists, message in (
        ({}, (), "name one list"),
        ({}, [clips, other], "all in the same folder or in --root"),
        (dict(model="r3d_18"), [clips], "--model r3d_18: not one of alexnet"),
        (
            dict(categories=five),
            [clips],
            r"places.pth.tar.*categories.*fc.weight \(\[4, 512\], not \[5, 512\]\)",
        ),
        (dict(categories=twice), [clips], "twice.txt: 4 names, 3 of them different"),
        (dict(categories=""), [clips], "give --weights and --categories"),
        (dict(weights=""), [clips], "give --weights and --categories"),
        (dict(weights="no.pth"), [clips], "no.pth: no such file, nor resnet18's in torchvision"),
        (dict(model="resnet34"), [clips], "is of resnet18, not of --model resnet34"),
        (dict(max_bad=0.1), [clips], "1 of 8 videos do not exist, first .*gone.mp4: check --root"),
        (dict(size=40), [clips], "--resize 36 is less than --size 40"),
        (dict(model="vit_b_32", weights="none"), [clips], "--model vit_b_32 takes no --size 32"),
        (dict(amp="fp16"), [clips], "--amp fp16 is for CUDA"),
    ):
        assert re.search(message, refused(capsys, "scenes", good | change, *lists)), message


def test_hmdb51s_folder_means_both_parts_of_a_split(places, world, tmp_path):
    clips = [line.split()[0] for line in (world / "val.txt").read_text().splitlines()]
    for name, paths in (("wave", clips[:3]), ("dive", clips[3:6])):
        (tmp_path / name).mkdir()
        for clip, path in zip("abc", paths, strict=True):
            (tmp_path / name / f"{clip}.mp4").symlink_to(world / path)
        (tmp_path / f"{name}_test_split2.txt").write_text("a.mp4 1\nb.mp4 2\nc.mp4 0\n")
    flags = of_places(places) | dict(frames=1, split=2, out=str(tmp_path / "scenes"))
    run("scenes", flags, tmp_path)
    paths = open_labels(tmp_path / "scenes").paths
    assert sorted(paths) == ["dive/a.mp4", "dive/b.mp4", "wave/a.mp4", "wave/b.mp4"]


def test_categories(tmp_path):
    def names(text):
        (tmp_path / "c.txt").write_text(text)
        args = sdn.ScenesArgs(weights="none", categories=str(tmp_path / "c.txt"))
        return sdn.read_categories(args)

    places = "/a/airfield 0\n/b/bow_window/indoor 62\n"
    assert names(places) == ["airfield", "bow_window/indoor"]
    assert names("\ufefflounge\n\nroute 66\n/mnt\n") == ["lounge", "route 66", "/mnt"]
    assert len(sdn.read_categories(sdn.ScenesArgs(weights="IMAGENET1K_V2"))) == 1000
    file = REAL.parent / "annotations/places365/categories_places365.txt"
    if file.exists():
        real = names(file.read_text())
        assert len(set(real)) == 365 and real[63] == "bow_window/indoor"


# ---- Humans --------------------------------------------------------------------------------------
BLOCK = {"blocks": 4, "quick": 1, "nobody": 0}  # frames in each place
SIDES = (60, 80)  # height, width
EDGES = [
    (4, 6, 24, 30),
    (10, 30, 44, 52),
    (-9, 20, 20, 70),
    (50, 0, 80, 60),
]  # the person's box in four places


def person(t, block):
    """The person's box in frame t: a block of frames in each place, then nobody."""
    return np.clip(EDGES[t // block], 0, [80, 60, 80, 60]) if t < 4 * block else None


@pytest.fixture
def walk(tmp_path):
    """Three videos of 23 frames: noise, and a white rectangle that moves every 4 frames, every
    frame or not at all; as images, so that the pixels are exact. And for each one a video that is
    white where the rectangle is."""
    rng = np.random.default_rng(0)
    for name, block in BLOCK.items():
        for t in range(23):
            image, mark = (
                rng.integers(0, 150, (*SIDES, 3), np.uint8),
                np.zeros((*SIDES, 3), np.uint8),
            )
            if (box := person(t, block)) is not None:
                x0, y0, x1, y1 = box
                image[y0:y1, x0:x1] = mark[y0:y1, x0:x1] = 255
            for folder, picture in ((name, image), (f"mark/{name}", mark)):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                av.VideoFrame.from_ndarray(picture, "rgb24").save(
                    str(tmp_path / folder / f"{t}.png")
                )
    (tmp_path / "walk.txt").write_text("blocks 0\nquick 0\nnobody 0\n")
    return tmp_path / "walk.txt"


class Detector(torch.nn.Module):
    """Finds the white rectangle, as person 0.3; and things that are no person, or unlikely."""

    score_thresh = 0.05

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return [self.find(image) for image in images]

    def find(self, image):
        assert image.dtype == torch.float32 and image.shape == (3, *SIDES)
        white = (image.min(0).values == 1).nonzero().flip(1).float()
        boxes = [torch.tensor([0.0, 0, 9, 9])] * 2
        if len(white):
            boxes.append(torch.cat([white.min(0).values, white.max(0).values + 1]))
        n = len(boxes)
        labels = torch.tensor([2, 1, 1])[:n]
        return dict(
            boxes=torch.stack(boxes), labels=labels, scores=torch.tensor([0.9, 0.29, 0.3])[:n]
        )


@pytest.fixture
def detector(monkeypatch):
    model = Detector()
    use_labeller(monkeypatch, model)
    return model


@pytest.mark.parametrize("every, workers", [(1, 0), (4, 2)])
def test_boxes_of_a_detector(walk, detector, tmp_path, every, workers):
    file = tmp_path / "h.jsonl"
    run("humans", dict(out=str(file), every=every, batch_size=4, workers=workers), walk)
    made, rows = read_humans(file)
    assert made == dict(model="fake", every=every) and list(rows) == ["blocks", "quick", "nobody"]
    for name, row in rows.items():
        frames = [t for t in range(0, 4 * BLOCK[name], every)]
        assert row["every"] == every and row["frames"] == frames
        assert row["boxes"] == [person(t, BLOCK[name]).tolist() for t in frames]
        assert row["scores"] == pytest.approx([0.3] * len(frames))
    # Never more than --batch-size at once.
    assert sorted(detector.seen) == {1: 3 * [3] + 15 * [4], 4: 3 * [2] + 3 * [4]}[every]


@pytest.mark.parametrize("name, every", [("blocks", 1), ("blocks", 4), ("quick", 1), ("nobody", 1)])
def test_what_is_filled_after_cropping_is_the_person(walk, detector, tmp_path, name, every):
    """Detector, file, Boxes, masking, then random resized crop and flip: the filled pixels are the
    rectangle's, in every frame that has it, with its frame's mean colour."""
    run("humans", dict(out=str(tmp_path / "h.jsonl"), every=every, workers=0), walk)
    change = partial(mask_humans, boxes=Boxes([tmp_path / "h.jsonl"]))
    # Clips loop: later frames come first.
    sample = partial(common.random_clip, frames=8, stride=3)
    crops = common.train_transform(24, (0.2, 1.0), 0.5)
    videos = read_list(walk)
    marks = read_list(walk, tmp_path / "mark")
    index = videos.paths.index(name)
    filled = 0
    for epoch in range(6):
        item = Videos(videos, sample, crops, seed=5, change=change)[epoch * 3 + index]
        # The same crop.
        mark = Videos(marks, sample, crops, seed=5)[epoch * 3 + index]["clip"][0]
        clip, masked = item["clip"].int()  # (3, T, 24, 24) each
        times = sample(23, rng=np.random.default_rng([5, epoch, index]))
        has = [person(t, BLOCK[name]) is not None for t in times]
        assert item["humans"] == sum(has) / 8
        for t, there in enumerate(has):
            inside = mark[t] == 255
            outside = mark[t] == 0
            assert there or outside.all()
            frame = read_clip(tmp_path / name, [times[t]])[0]
            colour = frame.double().mean((0, 1)).round().int()
            assert (masked[:, t, inside] == colour[:, None]).all()
            assert (clip[:, t, inside] == 255).all()
            # Between the frames that the detector saw, the next one's box is filled as well.
            if every == 1 and outside.any():
                assert (masked[:, t, outside] - clip[:, t, outside]).abs().max() <= 1
            filled += int(inside.sum())
    assert (filled > 500) == (name != "nobody")


def test_boxes_are_carried_between_the_frames_that_a_detector_saw(tmp_path):
    rows = [
        {"path": "a b.mp4", "every": 4, "frames": [0, 4, 4], "boxes": [[0, 0, 1, 1]] * 3},
        {"path": "none.mp4", "every": 4, "frames": [], "boxes": []},
    ]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    boxes = Boxes([tmp_path / "h.jsonl"])
    counts = [len(frame_boxes) for frame_boxes in boxes("a b.mp4", np.arange(10))]
    # Of the frame before and of the one after; frame 8 was seen, and nobody was there.
    assert counts == [1, 3, 3, 3, 2, 2, 2, 2, 0, 0]
    assert (
        [len(b) for b in boxes("none.mp4", [0, 1])]
        == [0, 0]
        == [len(b) for b in boxes("other.mp4", [0, 1])]
    )
    assert "none.mp4" in boxes and "other.mp4" not in boxes
    for line in ("a.mp4 3 0 0 1 1", "[]", '{"path": "a"}', '{"made": {}'):
        (tmp_path / "bad.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match="bad.jsonl:1: expected a line of `sdn.py humans`"):
            Boxes([tmp_path / "bad.jsonl"])


def test_masks_have_the_mean_colour_of_the_frame_before_any_box(tmp_path):
    """Overlapping boxes, and one beyond the border; every pixel that a box touches."""
    row = {"path": "v", "every": 1, "frames": [1, 1], "boxes": [[-5, 1, 2.2, 3], [2, 2.5, 99, 4.1]]}
    (tmp_path / "h.jsonl").write_text(json.dumps(row) + "\n")
    frames = torch.randint(0, 256, (3, 8, 9, 3), dtype=torch.uint8)
    both, indices, more = mask_humans(frames, "v", np.arange(3), Boxes([tmp_path / "h.jsonl"]))
    assert torch.equal(both[:3], frames) and indices.tolist() == [[0, 1, 2]] * 2
    assert more == {"humans": 1 / 3} and torch.equal(both[[3, 5]], frames[[0, 2]])
    expected = frames[1].clone()
    colour = frames[1].double().mean((0, 1)).round().to(torch.uint8)
    expected[1:3, 0:3] = colour
    expected[2:5, 2:] = colour
    assert torch.equal(both[4], expected)


def test_bad_input_to_humans(clips, tmp_path, capsys, monkeypatch):
    good = LIGHT | dict(weights="none", out=str(tmp_path / "h.jsonl"))
    entry = torchvision.models.get_model_weights(good["model"])["COCO_V1"]

    def fail(self, **how):
        raise OSError("no network")

    monkeypatch.setattr(type(entry), "get_state_dict", fail)
    torch.save(dict(state_dict={"a.weight": torch.zeros(3)}), tmp_path / "other.pth")
    other = str(tmp_path / "other.pth")
    for change, lists, message in (
        ({}, [], "name one list"),
        (dict(model="resnet50"), [clips], "--model resnet50: not one of fasterrcnn"),
        (dict(weights="COCO_V1"), [clips], "COCO_V1: cannot download .*no network.*give a file"),
        (dict(weights=other), [clips], "other.pth with --model .* do not fit the model"),
        (dict(every=0), [clips], "--every 0: must be at least 1"),
        (dict(score=2.0), [clips], "--score 2.0: must"),
        (dict(max_bad=0.0), [clips], "1 of 8 videos do not exist"),
        (dict(amp="bf16"), [clips], "is for CUDA"),
    ):
        assert re.search(message, refused(capsys, "humans", good | change, *lists)), message


def old_name(key):
    """What a layer of detectors or of DenseNet was called in torchvision's older files."""
    key = re.sub(r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
    key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
    key = re.sub(r"((?:inner|layer)_blocks\.\d)\.0\.(?=weight|bias)", r"\1.", key)
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", key)


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1"])
def test_old_names_of_layers(name, tmp_path):
    """Most of torchvision's weights are years old. Of AlexNet and VGG (here a smaller network),
    Places365's authors gave DataParallel the features alone."""
    torch.manual_seed(0)
    state = get_model(name, weights=None, num_classes=2).state_dict()
    old = {}
    for key, value in state.items():
        old[old_name(re.sub(r"^features\.", "features.module.", key))] = value
    torch.save(dict(state_dict=old), tmp_path / "old.pth")
    args = sdn.ScenesArgs(model=name, weights=str(tmp_path / "old.pth"))
    net, _, _ = sdn.load_labeller(args, torchvision.models, num_classes=2)
    assert old.keys() != state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_mask_rcnn_is_torchvisions(walk, tmp_path, monkeypatch):
    """Masks left out, old names and the batch norm that these weights alone need included: the same
    boxes."""
    name = "maskrcnn_resnet50_fpn"
    entry = torchvision.models.get_model_weights(name)["COCO_V1"]
    with torch.device("meta"):
        shapes = get_model(name, weights=None, weights_backbone=None).state_dict()
    torch.manual_seed(0)
    state = {}
    for key, value in shapes.items():
        if "num_batches" in key:
            continue
        state[old_name(key)] = torch.zeros(value.shape)
        if value.ndim > 1:
            state[old_name(key)].normal_().mul_((2 / value[0].numel()) ** 0.5)
    for key, value in state.items():
        if "running_var" in key:
            value.fill_(1e-4)  # so that the epsilon, 1e-5, shows
        if re.search(r"\.(bn\d|downsample\.1)\.weight", key):
            value.fill_(0.005)
    state["roi_heads.box_predictor.cls_score.bias"][1:3] = 4.6
    state["roi_heads.box_predictor.cls_score.weight"] *= 0.2
    state["roi_heads.box_predictor.bbox_pred.weight"] *= 0.2
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, **how: dict(state))
    file = tmp_path / entry.url.rsplit("/", 1)[1]
    torch.save(state, file)
    theirs = get_model(name, weights="COCO_V1").eval()
    theirs.transform.min_size = (64,)
    with torch.inference_mode():
        (expected,) = theirs([read_clip(tmp_path / "blocks", [0])[0].permute(2, 0, 1) / 255])
    kept = (expected["labels"] == 1) & (expected["scores"] >= 0.4)
    boxes = expected["boxes"][kept]
    assert 5 < len(boxes) < 90 and set(expected["labels"].tolist()) == {1, 2}

    real = sdn.load_labeller

    def smaller(*given, **how):
        model, *rest = real(*given, **how)
        model.transform.min_size = (64,)
        return model, *rest

    monkeypatch.setattr(sdn, "load_labeller", smaller)
    out = tmp_path / "h.jsonl"
    run("humans", dict(weights=str(file), score=0.4, every=99, workers=0, out=str(out)), walk)
    _, rows = read_humans(out)
    assert np.allclose(rows["blocks"]["boxes"], boxes, atol=0.01)


# ---- Real clips ----------------------------------------------------------------------------------
CLIPS = (
    "hmdb51/cartwheel.avi",
    "kinetics/ta_chi.mp4",
    "decord_tests/video_90.mov",
    "torchcodec/testsrc2_odd_height_and_width_vp9.mp4",
)


@pytest.mark.skipif(not REAL.exists(), reason="no real clips here")
def test_boxes_of_real_clips(people, tmp_path):
    """Also a portrait one that is stored lying, odd sizes, one that breaks off and one that is
    none."""
    paths = [str(REAL / name) for name in CLIPS]
    (tmp_path / "cut.mp4").write_bytes(Path(paths[1]).read_bytes()[:3000])
    listed = [tmp_path / "cut.mp4", *paths, REAL.parent / "README.md"]
    (tmp_path / "list.txt").write_text("".join(f"{path} 0\n" for path in listed))
    flags = LIGHT | dict(weights=people, every=40, batch_size=4, out=str(tmp_path / "h.jsonl"))
    run("humans", flags, tmp_path / "list.txt")
    _, rows = read_humans(tmp_path / "h.jsonl")
    assert list(rows) == paths
    for path, row in rows.items():
        height, width = read_clip(path, [0]).shape[1:3]
        boxes = np.array(row["boxes"])
        assert set(row["frames"]) == set(range(0, common.num_frames(path), 40))
        assert (0 <= boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
        assert (boxes[:, 2] <= width + 1e-3).all() and (boxes[:, 3] <= height + 1e-3).all()
        # And not in the pixels of the resized frame.
        assert boxes[:, 2].max() > 0.5 * width and boxes[:, 3].max() > 0.5 * height


# ---- Resume, and several processes ---------------------------------------------------------------
@pytest.fixture(params=["scenes", "humans"])
def step(request, places, people, tmp_path):
    """A step's name, and flags that write tmp_path/out."""
    out = dict(out=str(tmp_path / "out"), batch_size=1)
    if request.param == "scenes":
        return "scenes", of_places(places) | out | dict(frames=2, features=True)
    return "humans", LIGHT | out | dict(weights=people, every=20)


def content(word, out):
    """What a step has written, as plain values; of humans in any order."""
    if word == "scenes":
        part = open_labels(out)
        values = (part.labels.astype(np.float32), part.features.astype(np.float32))
        return part.paths, [np.nan_to_num(value, nan=-1).tolist() for value in values]
    return read_humans(out)


def watch(monkeypatch, stop_at=None):
    """The videos that are read from now on; at number stop_at the process would be killed."""
    opened = []
    real = common.read_clip

    def read(path, indices):
        if len(opened) == stop_at:
            raise KeyboardInterrupt
        opened.append(Path(path).name)
        return real(path, indices)

    monkeypatch.setattr(common, "read_clip", read)
    return opened


def test_stopped_and_started_again_is_never_stopped(step, clips, tmp_path, monkeypatch):
    """What was done is not done again; the result is that of one run."""
    word, flags = step
    run(word, flags, clips)
    whole = content(word, flags["out"])
    flags["out"] = str(tmp_path / "again")
    with monkeypatch.context() as patch:
        first = watch(patch, stop_at=3)
        with pytest.raises(SystemExit) as stopped:
            run(word, flags, clips)
        assert stopped.value.code == 130 and len(first) == 3
    if word == "humans":
        # A kill in the middle of a line.
        with open(flags["out"], "a") as file:
            file.write('{"path": "val/00')
    rest = watch(monkeypatch)
    run(word, flags, clips)
    assert len(set(first + rest)) == 6 and not set(first) & set(rest)
    assert content(word, flags["out"]) == whole
    # And once more: only the unreadable are tried again.
    rest.clear()
    run(word, flags, clips)
    assert not rest and content(word, flags["out"]) == whole


def test_what_could_not_be_read_is_tried_again(step, clips, world, tmp_path):
    """The disk may have been away."""
    word, flags = step
    run(word, flags, clips)
    (tmp_path / "broken.mp4").unlink()
    (tmp_path / "broken.mp4").symlink_to(world / "val/0011.mp4")
    run(word, flags, clips)
    if word == "scenes":
        part = open_labels(flags["out"])
        assert not np.isnan(part.labels[part.paths.index("broken.mp4")]).any()
    else:
        assert "broken.mp4" in read_humans(flags["out"])[1]


def test_what_is_begun_is_not_mixed_with_other_settings(step, clips, capsys):
    word, flags = step
    run(word, flags, clips)
    before = content(word, flags["out"])
    change = dict(frames=3) if word == "scenes" else dict(every=19)
    with pytest.raises(SystemExit):
        run(word, flags | change, clips)
    assert "begun with other settings" in capsys.readouterr().err
    assert content(word, flags["out"]) == before


def test_two_processes_share_the_videos(step, clips, tmp_path):
    """Random weights are the same in both."""
    word, flags = step
    flags |= dict(weights="none")
    run(word, flags, clips)
    alone = content(word, flags["out"])
    flags["out"] = str(tmp_path / "shared")
    processes = two(run, word, flags, clips)
    with ended(*processes) as printed:
        assert [process.returncode for process in processes] == [0, 0], printed
    assert content(word, flags["out"]) == alone


def test_nothing_can_be_read(step, tmp_path, capsys):
    word, flags = step
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(SystemExit):
        run(word, flags, tmp_path / "list.txt")
    assert "none of 1 videos can be read, first" in capsys.readouterr().err
