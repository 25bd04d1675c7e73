"""The offline steps of sdn.py: pseudo scene labels and human boxes of videos, how they resume and share work, what they
read (weights of 2017, boxes of others), and that boxes stay where the humans are until the clip is cropped."""

import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import time
from contextlib import nullcontext
from functools import partial
from hashlib import sha1
from pathlib import Path

import av
import numpy as np
import pytest
import sdn
import torch
import torchvision
from conftest import ROOT, argv, ended, two
from torchvision.models import get_model
from torchvision.transforms import v2

import common
from common import Boxes, UserError, Videos, mask_humans, read_clip, read_labels, read_list

SHARED = ROOT.parent / "shared"
REAL = SHARED / "assets/videos"
SMALL = dict(size=32, resize=36, workers=0, max_bad=1.0)                    # of scenes
LIGHT = dict(model="ssdlite320_mobilenet_v3_large", workers=0, max_bad=1.0)                             # of humans


def run(word, flags, *lists):
    """The command line of a step, here."""
    common.cli(common.LabelArgs, None, argv=[word, *map(str, lists), *argv(flags)], steps=sdn.STEPS)
    return arrays(flags["out"])


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def same_arrays(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape, key
        if a[key].dtype.kind == "f":
            assert np.abs(a[key].astype(float) - b[key]).max(initial=0) <= tolerance, key
        else:
            assert (a[key] == b[key]).all(), key


def refused(capsys, word, flags, *lists):
    """One line on stderr, exit code 2, nothing written. -> the line"""
    with pytest.raises(SystemExit) as stopped:
        run(word, flags, *lists)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and error[0].startswith("error: "), error
    assert not list(Path(flags["out"]).parent.glob(f"{Path(flags['out']).name}*"))
    return error[0]


@pytest.fixture
def clips(world, tmp_path):
    """List of clips of the embedded benchmark: one line is twice there, two videos cannot be read."""
    lines = (world / "val.txt").read_text().splitlines()[:6]
    (tmp_path / "broken.mp4").write_bytes(b"no video " * 99)
    for line in lines:
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / line.split()[0]).symlink_to(world / line.split()[0])
    (tmp_path / "clips.txt").write_text("\n".join([lines[3], "broken.mp4 0", *lines, "gone.mp4 1"]) + "\n")
    return tmp_path / "clips.txt"


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A network, its weights as Places365's owners publish theirs, and the file of its categories."""
    folder, names = tmp_path_factory.mktemp("places"), ["airfield", "bow_window/indoor", "bow_window/outdoor", "attic"]
    torch.manual_seed(3)
    net = get_model("resnet18", weights=None, num_classes=len(names)).eval()
    for layer in net.modules():                        # statistics and sharp outputs, as trained networks have them
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    net.fc.weight.data.normal_(0, 0.5)
    state = {f"module.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    content = dict(epoch=90, arch="resnet18", state_dict=state, best_prec1=np.float64(54.738))
    torch.save(content, folder / "places.pth.tar", _use_new_zipfile_serialization=False)
    (folder / "python2.pth.tar").write_bytes(python2(content))
    (folder / "categories.txt").write_text("".join(f"/{n[0]}/{n} {i}\n" for i, n in enumerate(names)))
    return net, folder, names


def python2(content):
    """The bytes that torch 0.2 on Python 2 with a GPU wrote: text and bytes alike are strings of bytes, tensors come
    from _rebuild_tensor and torch.cuda.FloatStorage."""
    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save(self, thing, **more):
            if torch.is_tensor(thing):
                parts = thing._typed_storage(), thing.storage_offset(), tuple(thing.shape), thing.stride()
                return self.save_reduce(torch._utils._rebuild_tensor, parts, obj=thing)
            return super().save(thing, **more)

        def save_string(self, text):
            data = text if isinstance(text, bytes) else text.replace("cpu", "cuda:0").encode()
            short = len(data) < 256
            self.write((b"U" if short else b"T") + len(data).to_bytes(1 if short else 4, "little") + data)
            self.memoize(text)

        dispatch[str] = dispatch[bytes] = save_string

    class Module:                                                                        # in place of `pickle`
        def dump(thing, file, protocol):
            Pickler(file, protocol).dump(thing)

    Module.Pickler, file = Pickler, io.BytesIO()
    torch.save(content, file, pickle_module=Module, pickle_protocol=2, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")


def by_hand(net, path, frames, size=32, resize=36):
    """(T, M) softmax vectors, (T, D) penultimate features of single frames, slowly."""
    n = common.num_frames(path)
    kept, out, mean, std = [], [], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for k in range(frames):
        image = read_clip(path, [(2 * k + 1) * n // (2 * frames)])[0].permute(2, 0, 1)        # middles of equal parts
        image = v2.CenterCrop(size)(v2.Resize(resize, antialias=True)(image)).float() / 255
        image = torch.stack([(c - m) / s for c, m, s in zip(image, mean, std, strict=True)])
        hook = net.fc.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0][0]))
        with torch.no_grad():
            z = net(image[None])[0].double()
        hook.remove()
        out.append(z.exp() / z.exp().sum())
    return torch.stack(out), torch.stack(kept)


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """Weights of a small detector, random but for seeing persons everywhere."""
    torch.manual_seed(4)
    state = get_model(LIGHT["model"], weights=None, weights_backbone=None).state_dict()
    for key, value in state.items():
        if re.search("classification_head.*bias", key) and len(value) % 91 == 0:
            value.view(-1, 91)[:, 1] += 4
    torch.save(state, file := tmp_path_factory.mktemp("people") / "people.pth")
    return str(file)


# ---- Scenes ---------------------------------------------------------------------------------------------------------
def labels_of(places, file="places.pth.tar"):
    return SMALL | dict(model="resnet18", weights=str(places[1] / file), categories=str(places[1] / "categories.txt"))


@pytest.mark.parametrize("file", ["places.pth.tar", "python2.pth.tar"])
def test_soft_labels_are_the_mean_of_the_frames_softmax(places, clips, tmp_path, file):
    """Of weights as Places365's owners publish them, whichever Python pickled them."""
    net, folder, names = places
    raw = (folder / file).read_bytes()
    assert b"numpy" in raw and b"module.conv1" in raw and not raw.startswith(b"PK")
    old = [b"torch.cuda\nFloatStorage" in raw, b"_rebuild_tensor\n" in raw, b"_codecs" not in raw]
    assert old == [file == "python2.pth.tar"] * 3
    flags = labels_of(places, file) | dict(out=str(tmp_path / "s.npz"), frames=7, features=True, batch_size=4)
    found = run("scenes", flags, clips)
    assert found["paths"].tolist() == list(dict.fromkeys(p for p in read_list(clips).paths if p.startswith("val")))
    assert found["unreadable"].tolist() == ["broken.mp4", "gone.mp4"] and found["categories"].tolist() == names
    assert found["probabilities"].shape == (6, 4) and found["features"].shape == (6, 512)
    assert found["probabilities"].dtype == found["features"].dtype == np.float16
    for path, row, features in zip(found["paths"], found["probabilities"], found["features"], strict=True):
        p, kept = by_hand(net, tmp_path / path, 7)
        assert np.abs(row - p.mean(0).numpy()).max() < 1e-3 and abs(row.astype(float).sum() - 1) < 2e-3
        assert np.abs(features - kept.mean(0).numpy()).max() < 2e-3 * float(kept.abs().max())
    spread = found["probabilities"].astype(float).std(0).max(), (p.std(0).max())
    assert min(spread) > 0.01                                         # else any of them would have passed for another
    made = json.loads(str(found["made"]))
    assert made["sha1"] == sha1(raw).hexdigest() and made["weights"] == file and made["frames"] == 7
    assert not list(tmp_path.glob("*.part*"))


def test_labels_in_the_order_of_a_list(places, clips, tmp_path):
    out = str(tmp_path / "s.npz")
    found = run("scenes", labels_of(places) | dict(out=out, frames=2), clips, clips)               # a list given twice
    assert "features" not in found and len(found["paths"]) == 6
    order = [*found["paths"][::-1], "gone.mp4", found["paths"][0]]
    soft, names = read_labels([out], order)
    assert names == places[2] and soft.shape == (8, 4) and soft.dtype == torch.float32
    assert torch.equal(soft[:6].half(), torch.from_numpy(found["probabilities"][::-1].copy()))
    assert (soft[6] == 0).all() and torch.equal(soft[7], soft[5])
    with pytest.raises(UserError, match="no labels of 1 of 8 videos, first gone.mp4"):
        read_labels([out], order, 0.1)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused(places, clips, tmp_path, capsys):
    saved = dict(arch="resnet18", state_dict={}, best_prec1=Evil(tmp_path / "ran"))
    torch.save(saved, tmp_path / "evil.pth.tar", _use_new_zipfile_serialization=False)
    flags = labels_of(places) | dict(weights=str(tmp_path / "evil.pth.tar"), out=str(tmp_path / "out/s.npz"))
    error = refused(capsys, "scenes", flags, clips)
    assert f"its pickle asks for {os.system.__module__}.system" in error and not (tmp_path / "ran").exists()


def test_bad_input_to_scenes(places, clips, tmp_path, capsys):
    good = labels_of(places) | dict(out=str(tmp_path / "out/s.npz"))
    (tmp_path / "five.txt").write_text("a\nb\nroute 66\nc\nd\n")
    (tmp_path / "twice.txt").write_text("a\nb\nb\nc\n")
    (tmp_path / "list").mkdir()
    (tmp_path / "list/other.txt").write_text("a.mp4 0\n")
    for change, lists, message in (
            ({}, (), "name one list"), ({}, [tmp_path / "no.txt"], "no.txt: cannot read it: No such file"),
            ({}, [clips, tmp_path / "list/other.txt"], "all in the same folder or in --root"),
            (dict(model="r3d_18"), [clips], "--model r3d_18: not one of alexnet"),
            (dict(categories=str(tmp_path / "five.txt")), [clips], "places.pth.tar.*categories.*4, 512.*5, 512"),
            (dict(categories=str(tmp_path / "twice.txt")), [clips], "twice.txt: 4 names, 3 of them different"),
            (dict(categories=""), [clips], "give --weights and --categories"),
            (dict(weights=""), [clips], "give --weights and --categories"),
            (dict(weights=str(tmp_path / "no.pth")), [clips], "no.pth: no such file, nor resnet18's in torchvision"),
            (dict(categories=str(tmp_path / "no")), [clips], "no: cannot read it"),
            (dict(model="resnet34"), [clips], "does not fit --model resnet34.*Missing"),
            (dict(max_bad=0.1), [clips], "1 of 8 videos do not exist, first .*gone.mp4: check --root"),
            (dict(root=str(tmp_path / "list")), [clips], "8 of 8 videos do not exist.*check --root"),
            (dict(size=40), [clips], "--resize 36 is less than --size 40"),
            (dict(model="vit_b_32", weights="none"), [clips], "--model vit_b_32 takes no --size 32"),
            (dict(amp="fp16"), [clips], "--amp fp16 is for CUDA")):
        assert re.search(message, refused(capsys, "scenes", good | change, *lists)), message


def test_hmdb51s_folder_means_both_parts_of_a_split(places, world, tmp_path):
    clips = [line.split()[0] for line in (world / "val.txt").read_text().splitlines()]
    for name, (a, b, c) in (("wave", clips[:3]), ("dive", clips[3:6])):
        (tmp_path / name).mkdir()
        for clip, path in zip("abc", (a, b, c), strict=True):
            (tmp_path / name / f"{clip}.mp4").symlink_to(world / path)
        for split in (1, 2):
            (tmp_path / f"{name}_test_split{split}.txt").write_text(f"a.mp4 {3 - split}\nb.mp4 {split}\nc.mp4 0\n")
    found = run("scenes", labels_of(places) | dict(frames=1, split=2, out=str(tmp_path / "s.npz")), tmp_path)
    assert sorted(found["paths"]) == ["dive/a.mp4", "dive/b.mp4", "wave/a.mp4", "wave/b.mp4"]


def test_categories(places, tmp_path):
    def names(text, **change):
        (tmp_path / "c.txt").write_text(text)
        flags = dict(weights="none", categories=str(tmp_path / "c.txt")) | change
        return common.category_names(common.LabelArgs(**flags))
    assert names("/a/airfield 0\n/b/bow_window/indoor 62\n") == ["airfield", "bow_window/indoor"]
    assert names("\ufefflounge\n\nroute 66\n/mnt\n") == ["lounge", "route 66", "/mnt"]
    assert len(common.category_names(common.LabelArgs(weights="IMAGENET1K_V2"))) == 1000
    if (file := SHARED / "assets/annotations/places365/categories_places365.txt").exists():
        real = names(file.read_text())
        assert len(real) == len(set(real)) == 365 and real[63] == "bow_window/indoor" and real[-1] == "zen_garden"


# ---- Humans ---------------------------------------------------------------------------------------------------------
SIDES = (60, 80)                                                                         # height, width
EDGES = [(4, 6, 24, 30), (10, 30, 44, 52), (-9, 20, 20, 70), (50, 0, 80, 60)]      # the person's box in four places


def person(t, block):
    """The person's box in frame t: a block of frames in each place, then nobody."""
    return np.clip(EDGES[t // block], 0, [80, 60, 80, 60]) if t < 4 * block else None


@pytest.fixture
def walk(tmp_path):
    """Three videos of 23 frames: noise, and a white rectangle that moves every 4 frames, every frame or not at all;
    as images, so that the pixels are exact. And for each one a video that is white where the rectangle is."""
    rng = np.random.default_rng(0)
    for name, block in (("blocks", 4), ("quick", 1), ("nobody", 0)):
        for t in range(23):
            image, mark = rng.integers(0, 150, (*SIDES, 3), np.uint8), np.zeros((*SIDES, 3), np.uint8)
            if (box := person(t, block)) is not None:
                x0, y0, x1, y1 = box
                image[y0:y1, x0:x1] = mark[y0:y1, x0:x1] = 255
            for folder, picture in ((name, image), (f"mark/{name}", mark)):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                av.VideoFrame.from_ndarray(picture, "rgb24").save(str(tmp_path / folder / f"{t}.png"))
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
        return [self.one(image) for image in images]

    def one(self, image):
        assert image.dtype == torch.float32 and image.shape == (3, *SIDES) and 0 <= image.min() and image.max() <= 1
        white = (image.min(0).values == 1).nonzero().flip(1).float()
        found = [torch.cat([white.min(0).values, white.max(0).values + 1])] if len(white) else []
        boxes = torch.stack([torch.tensor([0.0, 0, 9, 9])] * 2 + found)
        return dict(boxes=boxes, labels=torch.tensor([2, 1, 1][:len(boxes)]),
                    scores=torch.tensor([0.9, 0.29, 0.3][:len(boxes)]))


@pytest.fixture
def detector(monkeypatch):
    model = Detector()
    monkeypatch.setattr(common, "labeller", lambda args, module, **how: (
        model, torch.device("cpu"), nullcontext(), dict(model="fake", every=args.every)))
    return model


@pytest.mark.parametrize("every, workers", [(1, 0), (4, 2)])
def test_boxes_of_a_detector(walk, detector, tmp_path, every, workers):
    flags = dict(out=str(tmp_path / "h.npz"), every=every, batch_size=4, workers=workers)
    found = run("humans", flags, walk)
    assert {k: v.dtype.str[1:2] for k, v in found.items()} == dict(
        paths="U", counts="i", every="i", frames="i", boxes="f", scores="f", made="U", unreadable="U")
    assert found["every"] == every and sorted(found["paths"]) == ["blocks", "nobody", "quick"]
    expected = {name: [(t, *person(t, block)) for t in range(0, 4 * block, every)]
                for name, block in (("blocks", 4), ("quick", 1), ("nobody", 0))}
    assert found["counts"].tolist() == [len(expected[path]) for path in found["paths"]]
    rows = [row for path in found["paths"] for row in expected[path]]
    assert np.array_equal(np.column_stack([found["frames"], found["boxes"]]), rows)
    assert found["scores"].dtype == np.float16 and (found["scores"] == np.float16(0.3)).all()
    assert sorted(detector.seen) == {1: 3 * [3] + 15 * [4], 4: 3 * [2] + 3 * [4]}[every]         # never more at once


@pytest.mark.parametrize("name, every", [("blocks", 1), ("blocks", 4), ("quick", 1), ("nobody", 1)])
def test_what_is_filled_after_cropping_is_the_person(walk, detector, tmp_path, name, every):
    """Detector, file, Boxes, masking, then random resized crop and flip: the filled pixels are the rectangle's, in
    every frame that has it, with its frame's mean colour."""
    run("humans", dict(out=str(tmp_path / "h.npz"), every=every, workers=0), walk)
    change = partial(mask_humans, boxes=Boxes([tmp_path / "h.npz"]))
    sample = partial(common.random_clip, frames=8, stride=3)                       # loops: later frames come first
    videos, crops = read_list(walk), common.train_transform(24, (0.2, 1.0), 0.5)
    index, filled = videos.paths.index(name), 0
    for epoch in range(6):
        item = Videos(videos, sample, crops, seed=5, change=change)[epoch * 3 + index]
        marks = read_list(walk, tmp_path / "mark")
        mark = Videos(marks, sample, crops, seed=5)[epoch * 3 + index]["clip"][0]                        # the same crop
        clip, masked = item["clip"].int()                                                    # (3, T, 24, 24) each
        times = sample(23, rng=np.random.default_rng([5, epoch, index]))
        has = [person(t, {"blocks": 4, "quick": 1, "nobody": 0}[name]) is not None for t in times]
        assert item["humans"] == sum(has) / 8
        for t, there in enumerate(has):
            inside, outside = mark[t] == 255, mark[t] == 0
            assert there or outside.all()
            colour = read_clip(tmp_path / name, [times[t]])[0].double().mean((0, 1)).round().int()
            assert (masked[:, t, inside] == colour[:, None]).all() and (clip[:, t, inside] == 255).all()
            between = every > 1                            # there the box of the next seen frame is filled as well
            assert between or not outside.any() or (masked[:, t, outside] - clip[:, t, outside]).abs().max() <= 1
            filled += int(inside.sum())
    assert (filled > 500) == (name != "nobody")


def test_bad_input_to_humans(clips, tmp_path, capsys, monkeypatch):
    good = LIGHT | dict(weights="none", out=str(tmp_path / "out/h.npz"))
    named = torchvision.models.get_model_weights(good["model"])["COCO_V1"]
    monkeypatch.setattr(type(named), "get_state_dict", lambda self, **k: (_ for _ in ()).throw(OSError("no network")))
    torch.save(dict(state_dict={"a.weight": torch.zeros(3)}), tmp_path / "other.pth")
    for change, lists, message in (
            ({}, [], "name one list"), (dict(model="resnet50"), [clips], "--model resnet50: not one of fasterrcnn"),
            (dict(weights="COCO_V1"), [clips], "--weights COCO_V1: cannot download .*no network.*give a file"),
            (dict(weights="COCO_V2"), [clips], "COCO_V2: no such file, nor ssdlite320_mobilenet_v3_large's"),
            (dict(weights=str(tmp_path / "other.pth")), [clips], "other.pth: does not fit --model"),
            (dict(every=0), [clips], "--every 0: must be at least 1"), (dict(score=2.0), [clips], "--score 2.0: must"),
            (dict(max_bad=0.0), [clips], "1 of 8 videos do not exist"), (dict(amp="bf16"), [clips], "is for CUDA")):
        assert re.search(message, refused(capsys, "humans", good | change, *lists)), message


def old_names(keys):
    """What the layers of detectors and of DenseNet were called in torchvision's older files."""
    def old(key):
        key = re.sub(r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
        key = re.sub(r"((?:inner|layer)_blocks\.\d)\.0\.(?=weight|bias)", r"\1.", key)
        return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", key)
    return [old(key) for key in keys]


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1"])
def test_old_names_of_layers(name, tmp_path):
    """Most of torchvision's weights are years old; DenseNet's layers had names with a dot. Of AlexNet and VGG (here a
    smaller network), Places365's authors gave DataParallel the features alone."""
    torch.manual_seed(0)
    state = get_model(name, weights=None, num_classes=2).state_dict()
    old = old_names(re.sub(r"^features\.", "features.module.", key) for key in state)
    assert "densenet" not in name or "features.module.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(dict(state_dict=dict(zip(old, state.values(), strict=True))), tmp_path / "old.pth")
    args = common.LabelArgs(model=name, weights=str(tmp_path / "old.pth"))
    net = common.labeller(args, torchvision.models, num_classes=2)[0]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_mask_rcnn_is_torchvisions(walk, tmp_path, monkeypatch):
    """Masks left out, old names and the batch norm that these weights alone need included: the same boxes."""
    name = "maskrcnn_resnet50_fpn"
    named = torchvision.models.get_model_weights(name)["COCO_V1"]
    with torch.device("meta"):
        keys = get_model(name, weights=None, weights_backbone=None).state_dict()
    torch.manual_seed(0)
    state = {k: torch.randn(v.shape) * (2 / v[0].numel()) ** 0.5 if v.ndim > 1 else torch.zeros(v.shape)
             for k, v in zip(old_names(keys), keys.values(), strict=True) if "num_batches" not in k}
    for key, value in state.items():
        if "running_var" in key:
            value.fill_(1e-4)                                                        # so that the epsilon, 1e-5, shows
        if re.search(r"\.(bn\d|downsample\.1)\.weight", key):
            value.fill_(0.005)
    state["roi_heads.box_predictor.cls_score.bias"][1:3] = 4.6
    state["roi_heads.box_predictor.cls_score.weight"] *= 0.2
    state["roi_heads.box_predictor.bbox_pred.weight"] *= 0.2
    monkeypatch.setattr(type(named), "get_state_dict", lambda self, **k: dict(state))
    torch.save(state, file := tmp_path / named.url.rsplit("/", 1)[1])
    image = read_clip(tmp_path / "blocks", [0])[0].permute(2, 0, 1) / 255
    theirs = get_model(name, weights="COCO_V1").eval()
    theirs.transform.min_size, real, ours = (64,), common.labeller, []

    def smaller(*given, **more):
        model, *rest = real(*given, **more)
        model.transform.min_size = (64,)
        ours.append(model)
        return model, *rest

    monkeypatch.setattr(common, "labeller", smaller)
    found = run("humans", dict(weights=str(file), score=0.4, every=99, workers=0, out=str(tmp_path / "h.npz")), walk)
    with torch.inference_mode():
        one = theirs([image])[0]
    boxes = one["boxes"][(one["labels"] == 1) & (one["scores"] >= 0.4)]
    assert 5 < len(boxes) < 90 and set(one["labels"].tolist()) == {1, 2} and one["scores"].min() < 0.4
    assert "masks" in one and not ours[0].roi_heads.has_mask()                       # they take most of the time
    assert found["counts"][0] == len(boxes) and np.allclose(found["boxes"][:len(boxes)], boxes, atol=0.01)


# ---- Real clips -----------------------------------------------------------------------------------------------------
CLIPS = ("hmdb51/cartwheel.avi", "ucf101/PushUps/v_PushUps_g16_c04.avi", "kinetics/ta_chi.mp4",
         "decord_tests/video_90.mov", "torchcodec/testsrc2_odd_height_and_width_vp9.mp4", "ssv2/166766.mp4")


@pytest.mark.skipif(not REAL.exists(), reason="no real clips here")
@pytest.mark.parametrize("word", ["scenes", "humans"])
def test_real_clips(word, people, tmp_path):
    """Also a portrait one that is stored lying, odd sizes, one that breaks off and one that is none."""
    paths = [REAL / name for name in CLIPS]
    (tmp_path / "cut.mp4").write_bytes(paths[2].read_bytes()[:3000])
    listed = [tmp_path / "cut.mp4", *paths, REAL.parent / "README.md"]
    (tmp_path / "list.txt").write_text("".join(f"{path} 0\n" for path in listed))
    flags = dict(out=str(tmp_path / "out.npz"), workers=2, batch_size=4)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    flags |= (dict(model="squeezenet1_1", weights="none", categories=str(tmp_path / "names.txt"), size=64, resize=72,
                   frames=3, features=True) if word == "scenes" else LIGHT | dict(weights=people, every=40))
    found = run(word, flags, tmp_path / "list.txt")
    assert found["paths"].tolist() == list(map(str, paths))
    assert found["unreadable"].tolist() == [str(tmp_path / "cut.mp4"), str(REAL.parent / "README.md")]
    if word == "scenes":
        assert found["probabilities"].shape == (6, 3) and found["features"].shape == (6, 512)
        assert np.allclose(found["probabilities"].astype(float).sum(1), 1, atol=2e-3)
        return
    ends = np.cumsum(found["counts"])
    assert ends[-1] == len(found["frames"]) == len(found["boxes"]) == len(found["scores"]) > 20
    for path, frames, boxes in zip(paths, np.split(found["frames"], ends[:-1]), np.split(found["boxes"], ends[:-1]),
                                   strict=True):
        height, width = read_clip(path, [0]).shape[1:3]
        assert (frames % 40 == 0).all() and (np.diff(frames) >= 0).all() and frames.max() < common.num_frames(path)
        assert set(frames) == set(range(0, common.num_frames(path), 40))
        assert (0 <= boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
        assert (boxes[:, 2] <= width + 1e-3).all() and (boxes[:, 3] <= height + 1e-3).all()
        assert boxes[:, 2].max() > 0.5 * width and boxes[:, 3].max() > 0.5 * height             # and not in the resized
    height, width = read_clip(paths[3], [0]).shape[1:3]
    assert height > width


# ---- Stop and go on -------------------------------------------------------------------------------------------------
@pytest.fixture(params=["scenes", "humans"])
def step(request, places, people, tmp_path):
    """A step's name, and flags that write in tmp_path/out.npz."""
    flags = (labels_of(places) | dict(frames=3, features=True, batch_size=2) if request.param == "scenes" else
             LIGHT | dict(weights=people, every=7, batch_size=2))
    return request.param, flags | dict(out=str(tmp_path / "out.npz"))


def seen(monkeypatch):
    """The videos that are read from now on."""
    paths = set()
    monkeypatch.setattr(common, "_open", lambda path, real=common._open: (paths.add(Path(path).name), real(path))[1])
    for cached in (common._index, common._folder):
        cached.cache_clear()
    return paths


def killed(word, flags, clips):
    """Runs in a process of its own, which is killed in the middle of saving its fourth part."""
    save, saved = common.save_arrays, []

    def save_and_die(path, **parts):
        saved.append(path)
        if len(saved) == 4:
            Path(f"{path}.part").write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, **parts)

    common.PART_SECONDS, common.save_arrays = 0, save_and_die
    run(word, flags, clips)


def test_killed_and_started_again_is_never_killed(step, clips, tmp_path, monkeypatch):
    """With loader processes. What was done is not done again; the result is that of one run."""
    word, flags = step
    process = multiprocessing.get_context("fork").Process(target=killed, args=(word, flags | dict(workers=2), clips))
    process.start()
    until = time.time() + 60
    while process.exitcode is None and time.time() < until:    # join would wait for its loader processes too
        time.sleep(0.01)
    assert process.exitcode == -signal.SIGKILL
    parts, done = list((tmp_path / "out.npz.parts").glob("*.npz")), set()
    assert len(parts) == 3 and len(list((tmp_path / "out.npz.parts").glob("*.part"))) == 1
    for part in map(arrays, parts):
        done |= {Path(path).name for path, n in zip(part["paths"].tolist(), part["counts"], strict=True) if n >= 0}
    assert done and not (tmp_path / "out.npz").exists()
    with monkeypatch.context() as patch:
        opened = seen(patch)
        again = run(word, flags, clips)
    assert opened - {"broken.mp4"} == {Path(p).name for p in again["paths"].tolist()} - done != set()
    assert not list(tmp_path.glob("out.npz?*"))
    same_arrays(again, run(word, flags | dict(out=str(tmp_path / "whole.npz")), clips), 1e-3)


def test_a_signal_ends_it_in_order(step, clips, tmp_path, monkeypatch):
    word, flags = step
    save = common.save_arrays

    def strike(path, **parts):
        save(path, **parts)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(common, "PART_SECONDS", 0)
        patch.setattr(common, "save_arrays", strike)
        run(word, flags, clips)
    assert stopped.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert len(list((tmp_path / "out.npz.parts").iterdir())) == 1 and not (tmp_path / "out.npz").exists()
    same_arrays(run(word, flags, clips), run(word, flags | dict(out=str(tmp_path / "whole.npz")), clips), 1e-3)


def test_what_could_not_be_read_is_tried_again(step, clips, tmp_path, monkeypatch):
    """The disk may have been away."""
    word, flags = step
    (tmp_path / "val").rename(tmp_path / "away")
    save = common.save_arrays
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(common, "save_arrays", lambda *path, **parts: save(*path, **parts) or (_ for _ in ()).throw(
            MemoryError))
        run(word, flags, clips)
    assert (arrays(next((tmp_path / "out.npz.parts").iterdir()))["counts"] == -1).all()
    (tmp_path / "away").rename(tmp_path / "val")
    assert len(run(word, flags, clips)["paths"]) == 6


def test_what_is_begun_is_not_mixed_with_other_settings(step, clips, tmp_path, monkeypatch, capsys):
    word, flags = step
    save = common.save_arrays
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(common, "PART_SECONDS", 0)
        patch.setattr(common, "save_arrays", lambda *path, **parts: save(*path, **parts) or (_ for _ in ()).throw(
            MemoryError))
        run(word, flags, clips)
    change = dict(frames=4) if word == "scenes" else dict(every=9)
    with pytest.raises(SystemExit) as stopped:
        run(word, flags | change, clips)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and "begun with other settings" in error and "repeat them, or remove it" in error
    before = run(word, flags | dict(batch_size=3), clips)                           # changes nothing of the result
    with pytest.raises(SystemExit):
        run(word, flags, clips)
    assert "out.npz exists: remove it, or name another file with --out" in capsys.readouterr().err
    same_arrays(before, arrays(tmp_path / "out.npz"))


def both_steps(words, note):
    """Runs command lines one after the other, as one of torchrun's processes; notes which videos it opened."""
    opened, real = set(), common._open
    common._open = lambda path: (opened.add(Path(path).name), real(path))[1]
    for line in words:
        common.cli(common.LabelArgs, None, argv=line, steps=sdn.STEPS)
        (note / f"{line[0]}{os.environ['RANK']}").write_text(" ".join(opened))
        opened.clear()
        common._index.cache_clear()


def test_two_processes_share_the_videos(places, people, clips, tmp_path):
    """Random weights are the same in both."""
    flags = {"scenes": labels_of(places) | dict(weights="none", frames=2, batch_size=2),
             "humans": LIGHT | dict(weights=people, every=7)}
    words = [[word, str(clips), *argv(some), "--out", str(tmp_path / f"{word}-two.npz")]
             for word, some in flags.items()]
    with ended(*two(both_steps, words, tmp_path)) as said:
        assert all("Error" not in error for _, error in said), said
        assert sum(out.count("6 videos, 2 unreadable") for out, _ in said) == 2                  # one of them speaks
    for word, some in flags.items():
        one = run(word, some | dict(out=str(tmp_path / f"{word}.npz")), clips)
        same_arrays(arrays(tmp_path / f"{word}-two.npz"), one, 1e-3)
        read = [set((tmp_path / f"{word}{rank}").read_text().split()) for rank in range(2)]
        assert [len(some) for some in read] == [4, 3] and len(read[0] | read[1]) == 7
        assert len(one["paths"]) == 6 and len(one.get("boxes", [0] * 99)) > 20


# ---- Boxes and masks ------------------------------------------------------------------------------------------------
def boxes_file(tmp_path, every, **videos):
    """An .npz of boxes: {path: [(frame, x0, y0, x1, y1)]}"""
    rows = np.concatenate([np.reshape(v, (-1, 5)) for v in videos.values()]).astype(float)
    common.save_arrays(tmp_path / f"boxes{every}.npz", paths=np.array(list(videos)), every=np.array(every),
                       counts=np.array([len(v) for v in videos.values()]), frames=rows[:, 0].astype(int),
                       boxes=rows[:, 1:])
    return tmp_path / f"boxes{every}.npz"


def test_boxes_are_carried_between_the_frames_that_a_detector_saw(tmp_path):
    file = boxes_file(tmp_path, 4, a=[(0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (8, 9, 9, 9.5, 10)], none=[],
                      z=[(4, 0, 0, 2, 2)])
    found = Boxes([file])
    assert [len(some) for some in found("a", np.arange(14))] == [2, 2, 2, 2, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert [some.tolist() for some in found("a", [9, 3])] == [[[9, 9, 9.5, 10]], [[1, 2, 3, 4], [5, 6, 7, 8]]]
    assert [len(some) for some in found("z", [3, 4, 7, 8, 5, 0])] == [1, 1, 1, 0, 1, 0]
    assert all(some.shape == (0, 4) for path in ("none", "unheard of") for some in found(path, [0, 4]))
    both = Boxes([file, boxes_file(tmp_path, 1, z=[(4, 0, 0, 1, 1)], new=[(0, 0, 0, 1, 1)])])         # the last counts
    assert [len(some) for some in both("z", [4, 5])] == [1, 0] and len(both("a", [3])[0]) == 2
    with pytest.raises(UserError, match="it lacks paths or counts or frames or boxes or every"):
        np.savez(tmp_path / "other.npz", paths=np.array(["a"]))
        Boxes([tmp_path / "other.npz"])


def test_boxes_that_others_made(tmp_path):
    (tmp_path / "boxes.txt").write_bytes(b"\xef\xbb\xbfmy clips/b 2.avi 7 1 2 30.5 4\r\na.mp4 0 0 0 9 9\n\n"
                                         b"a.mp4 3 1 1 1 1\nmy clips/b 2.avi 0 -5 2 3 4\n")
    found = Boxes([tmp_path / "boxes.txt"])
    some = [boxes.tolist() for boxes in found("my clips/b 2.avi", [0, 1, 7, 8])]
    assert some == [[[-5, 2, 3, 4]], [], [[1, 2, 30.5, 4]], []]
    assert [len(some) for some in found("a.mp4", range(4))] == [1, 0, 0, 1]
    for line in ("a.mp4 0 0 0 9", "a.mp4 -1 0 0 9 9", "a.mp4 0.5 0 0 9 9", "a.mp4 0 9 0 1 9", "a.mp4 0 0 9 9 1",
                 "0 0 0 9 9", "a.mp4 0 0 0 9 x", "a.mp4 0 nan 0 9 9"):
        (tmp_path / "bad.txt").write_text(f"a.mp4 0 0 0 9 9\n\n{line}\n")
        with pytest.raises(UserError, match=r"bad.txt:3: expected `path frame x0 y0 x1 y1`"):
            Boxes([tmp_path / "bad.txt"])
    with pytest.raises(UserError, match="cannot read it"):
        Boxes([tmp_path / "no.txt"])


def test_masks_have_the_mean_colour_of_the_frame_before_any_box(tmp_path):
    rng = np.random.default_rng(1)
    frames = torch.from_numpy(rng.integers(0, 256, (4, 10, 12, 3), np.uint8))
    file = boxes_file(tmp_path, 1, v=[(5, 0, 0, 6, 10), (5, 5, 2, 12, 4), (6, -4, -4, 2.5, 1.2), (9, 11, 9, 40, 40)])
    both, at, more = mask_humans(frames, "v", np.array([5, 6, 7, 9]), Boxes([file]))
    assert both.dtype == torch.uint8 and torch.equal(both[:4], frames) and more == {"humans": 0.75}
    assert at.tolist() == [[5, 6, 7, 9]] * 2
    expected = frames.clone()
    for t, rows, columns in ((0, slice(10), slice(6)), (0, slice(2, 4), slice(5, 12)), (1, slice(2), slice(3)),
                             (3, slice(9, 10), slice(11, 12))):
        expected[t, rows, columns] = torch.from_numpy(np.rint(frames[t].numpy().mean((0, 1)))).to(torch.uint8)
    assert torch.equal(both[4:], expected)
    nobody = mask_humans(frames, "w", np.array([[5, 6], [7, 9]]), Boxes([file]))
    assert torch.equal(nobody[0][4:], frames) and nobody[2] == {"humans": 0} and nobody[1].shape == (2, 2, 2)
    outside = Boxes([boxes_file(tmp_path, 2, v=[(0, -9, 0, -1, 5), (0, 12, 0, 20, 5), (0, 3, 3, 3, 3)])])
    assert torch.equal(mask_humans(frames, "v", np.zeros(4, int), outside)[0][4:], frames)


# ---- The embedded benchmark -----------------------------------------------------------------------------------------
def test_both_steps_on_the_embedded_benchmark(world, people, tmp_path):
    """Small random networks, to test the path; what the benchmark comes with has the same form."""
    names = tmp_path / "names.txt"
    names.write_text("".join(f"scene{i}\n" for i in range(common.SCENES)))
    lists = [world / "val.txt", world / "web.txt", world / "conflfg.txt"]                          # images among them
    found = run("scenes", SMALL | dict(model="squeezenet1_1", weights="none", categories=str(names), frames=2,
                                       out=str(tmp_path / "s.npz")), *lists)
    theirs, paths = arrays(world / "scenes.npz"), sum((read_list(file).paths for file in lists), [])
    assert found["paths"].tolist() == paths and len(set(paths)) == 100
    assert found["probabilities"].dtype == theirs["probabilities"].dtype == np.float16
    assert {k: (v.dtype.kind, v.ndim) for k, v in found.items()} == {
        k: (v.dtype.kind, v.ndim) for k, v in theirs.items()}
    found = run("humans", LIGHT | dict(weights=people, every=10, out=str(tmp_path / "h.npz")), world / "val.txt")
    assert {k: (v.dtype.kind, v.ndim) for k, v in found.items()} == {
        k: (v.dtype.kind if k != "boxes" else "f", v.ndim) for k, v in arrays(world / "humans.npz").items()}
    assert (found["counts"] > 0).all() and set(found["frames"]) == {0, 10}
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= common.SIDE + 1e-3).all()
    boxes, frames = Boxes([tmp_path / "h.npz"]), torch.zeros(3, 40, 40, 3, dtype=torch.uint8)
    assert {mask_humans(frames, path, np.array([0, 9, 19]), boxes)[2]["humans"] for path in found["paths"]} == {1.0}


def test_the_benchmarks_own_labels_and_boxes(world):
    truth, humans, tags = (arrays(world / name) for name in ("truth.npz", "humans.npz", "tags.npz"))
    splits = [split for split, rule in common.SPLITS.items() if len(rule) > 1]
    paths = sum((read_list(world / f"{split}.txt").paths for split in splits), [])
    for kind, count, low, high in (("scene", 24, 0.55, 0.8), ("object", 8, 0.68, 0.88)):
        labels, known = arrays(world / f"{kind}s.npz"), np.concatenate([truth[f"{split}/{kind}"] for split in splits])
        soft, names = read_labels([world / f"{kind}s.npz"], paths)
        p = soft.double().numpy()
        assert labels["paths"].tolist() == paths and names == [f"{kind}{i}" for i in range(count)]
        assert np.allclose(p.sum(1), 1, atol=2e-3)
        right = p.argmax(1) == known
        assert low < right.mean() < high and abs(right.mean() - p.max(1).mean()) < 0.06               # calibrated
        assert abs(p[range(len(p)), known].mean() - (p ** 2).sum(1).mean()) < 0.06
    assert tags["paths"].tolist() == paths and tags["categories"].tolist() == list(common.TAGS)
    assert (tags["tags"] == np.concatenate([truth[f"{split}/tags"] for split in splits])).all()
    boxes = Boxes([world / "humans.npz"])
    for split in common.SPLITS:
        for i in (0, 7):
            path = read_list(world / f"{split}.txt").paths[i]
            masks = np.unpackbits(truth[f"{split}/masks"][i]).reshape(20, 40, 40).astype(bool)
            for mask, some, whole in zip(masks, boxes(path, range(20)), truth[f"{split}/boxes"][i], strict=True):
                assert [*some[:, :2].min(0), *some[:, 2:].max(0)] == whole.tolist()     # the actor, from edge to edge
                filled = np.zeros((40, 40), int)
                for x0, y0, x1, y1 in some:                     # up to four where the actor crosses the border, apart
                    filled[y0:y1, x0:x1] += 1
                assert filled.max() == 1 and (filled[mask] == 1).all() and filled.mean() < 0.35
                assert (filled.any(0) == mask.any(0)).all() and (filled.any(1) == mask.any(1)).all()
    assert humans["every"] == 1 and humans["counts"].min() >= 20 and json.loads(str(humans["made"]))
