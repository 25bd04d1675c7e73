"""Bad input gets one clear line, and never a traceback: lists, labels, boxes, videos and weights,
changed at random in thousands of seeded ways, are read, or refused by a UserError."""

import copy
import io
import json
import shutil
import traceback
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import ROOT

import albar
import common
import evaluate
import omnidebias
import sdn
import smad

# numpy and torch warn of much on the way to a refusal.
pytestmark = pytest.mark.filterwarnings("ignore")


# ---- Trials and mutations ------------------------------------------------------------------------
class Trials:
    """What became of a series of inputs. All of them are tried before the test fails, so that one
    fault does not hide another."""

    def __init__(self):
        self.accepted = 0
        self.refused = 0
        self.faults = {}  # {place and type: message, seed and input of the first}

    @contextmanager
    def trial(self, seed, given):
        """What reads an input goes inside, and then what must be true of what it has read."""
        try:
            yield
            self.accepted += 1
        except common.UserError:
            self.refused += 1
        except Exception as error:
            self.keep_fault(type(error).__name__, error, seed, given)

    def keep_fault(self, what, error, seed, given):
        # The last line of ours on the way to it, lest one fault counts as many.
        place = "nowhere"
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(ROOT):
                place = f"{Path(frame.filename).name}:{frame.lineno}"
        fault = f"{place}: {what}"
        text = f"{str(error)[:160]!r}\n    seed {seed}: {repr(given)[:300]}"
        self.faults.setdefault(fault, text)

    def check(self):
        lines = [f"{fault}: {first}" for fault, first in self.faults.items()]
        assert not lines, "\n".join([f"{len(lines)} faults", *lines])
        # Neither is every input refused, nor does every one pass.
        assert self.accepted > 0
        assert self.refused > 0


def pick(rng, items):
    """One of them; not rng.choice, which makes an array of them."""
    return items[int(rng.integers(len(items)))]


BYTES = (b"", b"\0", b"\xff", b"\n", b"\r", b" ", b"\0" * 16, b"\xff" * 8, b"\xed\xa0\x80")


def mutate_bytes(rng, data, most=3):
    """Flip, cut, insert, double or zero some bytes, at up to `most` places."""
    for _ in range(rng.integers(1, most + 1)):
        start = int(rng.integers(len(data) + 1))
        end = min(len(data), start + int(2 ** rng.uniform(0, 7)))
        part = data[start:end]
        change = pick(rng, ("flip", "cut", "insert", "double", "zero", "remove"))
        if change == "cut":
            data = data[:start]
            continue
        if change == "flip":
            part = bytes([byte ^ (1 << int(rng.integers(8))) for byte in part[:1]]) + part[1:]
        elif change == "insert":
            part = pick(rng, BYTES) + part
        elif change == "double":
            part = part + part
        elif change == "zero":
            part = bytes(len(part))
        else:
            part = b""
        data = data[:start] + part + data[end:]
    return data


WORDS = (
    *("", "-1", "0", "1", "2", "3", "00", "1.5", "nan", "inf", "1e999", "999999", "1000000"),
    *("9" * 20, "9" * 5000, "²", "١", "./a", "../..", "/", "//", "a,b", '"a"', "|", ",", "%s", "#"),
    *("{}", "[]", "null", "[" * 100000, "\0", "a\0b", "\ufeff", "\u2028", "\x85", "\ud800"),
    *("é", "x" * 70000, "a " * 2000),
)


def mutate_text(rng, text):
    """Change words or lines of a text. -> bytes"""
    lines = text.split("\n")
    for _ in range(rng.integers(1, 4)):
        here = int(rng.integers(len(lines)))
        there = int(rng.integers(len(lines)))
        words = lines[here].split(" ")
        word = int(rng.integers(len(words)))
        change = int(rng.integers(8))
        if change == 0:
            lines[here] = lines[there]
        elif change == 1:
            lines[here], lines[there] = lines[there], lines[here]
        elif change == 2:
            lines.insert(here, pick(rng, WORDS))
        elif change == 3 and len(lines) > 1:
            del lines[here]
        else:
            if change == 4:
                words.insert(word, pick(rng, WORDS))
            elif change == 5:
                words.insert(word, words[word])
            elif change == 6:
                del words[word]
            else:
                words[word] = pick(rng, WORDS)
            lines[here] = " ".join(words)
    # Lone surrogates are no UTF-8: the reader must say so.
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        data = mutate_bytes(rng, data)
    return data


def all_places(value):
    """[(container, key)] of all that a nest of dicts and lists holds"""
    keys = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    places = []
    for key in keys:
        places.append((value, key))
        places += all_places(value[key])
    return places


JSON_VALUES = (
    *(None, True, False, -1, 0, 1, 2.5, -0.0, 1e6, 10**9, 10**30, 10**400),
    *(float("nan"), float("inf"), "", "x", "a\0b", "a\nb", "\ud800", "9" * 5000),
    *([], [[]], [1, 2], [[0, 0, 4, 4]], {}, {"a": 1}, {"made": 1}),
)


def mutate_nest(rng, value, values):
    """Replace, remove, double or rename what is at one or two places. -> the new nest, what was
    done"""
    value = copy.deepcopy(value)
    done = []
    for _ in range(rng.integers(1, 3)):
        places = all_places(value)
        if not places:
            break
        container, key = pick(rng, places)
        new = copy.deepcopy(pick(rng, values))
        change = int(rng.integers(6))
        if change == 0:
            del container[key]
            new = "nothing"
        elif change == 1 and isinstance(container, list):
            container.insert(key, new)
        elif change == 1:
            container[pick(rng, ("x", 1, "a\nb", ""))] = new
        else:
            container[key] = new
        done.append(f"{key}: {common.one_line(new)[:60]}")
    return value, done


def mutate_json(rng, value):
    """-> bytes of JSON, of NaN and Infinity too"""
    if rng.random() < 0.3:
        return mutate_text(rng, json.dumps(value))
    text = json.dumps(mutate_nest(rng, value, JSON_VALUES)[0])
    return text.replace("Infinity", pick(rng, ("1e999", "Infinity"))).encode()


# ---- Lists ---------------------------------------------------------------------------------------
def write_files(folder, files):
    """{name: bytes} in a new folder"""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


NUMBERED = "".join(
    f"Jump/v_Jump_g01_c{i:02}.avi 1\nRun/v_Run_g01_c{i:02}.avi 2\n" for i in range(4)
)
LISTS = {
    "plain": {"list.txt": "Jump/a b.avi 0\nRun/c.avi 1\nJump/d.avi 0\n./Run/e.avi 1\n"},
    "named": {"list.txt": "x/a.avi 0\ny/c.avi 1\n", "classes.txt": "Jump high\nRun\n"},
    "ucf101": {"list.txt": NUMBERED, "classInd.txt": "1 Jump\n2 Run\n"},
    "hmdb51": {
        "jump_test_split1.txt": "a.avi 1\nb.avi 2\nc.avi 0\n",
        "run_test_split1.txt": "d.avi 1\ne.avi 2\n",
    },
    "frames": {"list.txt": "Jump/a 3 0\nRun/b 2 1\n"},
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists(kind, tmp_path):
    trials = Trials()
    clean = LISTS[kind]
    folder = tmp_path / "lists"
    videos = tmp_path / "videos"
    for name in ("Jump/a/1.jpg", "Run/b/1.jpg", "Run/c.avi", "Jump/v_Jump_g01_c00.avi"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        files = {name: text.encode() for name, text in clean.items()}
        changed = pick(rng, list(clean))
        files[changed] = mutate_text(rng, clean[changed])
        write_files(folder, files)
        part = pick(rng, ("train", "test"))
        classes = pick(rng, (None, None, ["Jump", "Run"], ["0", "1"]))
        path = folder if kind == "hmdb51" else folder / "list.txt"
        with trials.trial(seed, (part, classes, changed, files[changed])):
            listed = common.read_list(path, videos, part, 1, classes)
            assert len(listed.labels) == len(listed.paths) > 0
            assert set(listed.labels) <= set(range(len(listed.classes)))
            listed = common.each_once(listed, path)
            assert len(set(listed.paths)) == len(listed)
            with trials.trial(seed, ("existing", changed, files[changed])):
                common.existing(listed, 1.0)
            kept, held_out = common.split_list(listed, 0.5, seed)
            assert len(kept) + len(held_out) == len(listed)
    trials.check()


# ---- Boxes ---------------------------------------------------------------------------------------
BOXES_LINES = [
    {"made": {"model": "x"}},
    {"path": "a", "every": 4, "frames": [0, 0, 8], "boxes": [[0, 1, 9, 8.5]] * 3, "scores": [0.5]},
    {"path": "b", "every": 1, "frames": [], "boxes": []},
]


def test_boxes(tmp_path):
    trials = Trials()
    file = tmp_path / "humans.jsonl"
    for seed in range(800):
        rng = np.random.default_rng(seed)
        lines = [json.dumps(line).encode() for line in BOXES_LINES]
        place = int(rng.integers(len(lines)))
        lines[place] = mutate_json(rng, BOXES_LINES[place])
        file.write_bytes(b"\n".join(lines))
        with trials.trial(seed, lines[place]):
            boxes = common.Boxes([file])
            for path in (*boxes.videos, "unknown"):
                for frame_boxes in boxes(path, np.arange(20)):
                    assert frame_boxes.shape == (len(frame_boxes), 4)
                    assert np.isfinite(frame_boxes).all()
                    image = torch.zeros(6, 8, 3, dtype=torch.uint8)
                    common.fill_boxes(image, frame_boxes, torch.ones(3, dtype=torch.uint8))
    trials.check()


# ---- Label folders -------------------------------------------------------------------------------
def saved_array(array, save=np.save):
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [np.nan] * 3, [0.1, 0.2, 0.7]], np.float16)
LABELS = {
    "labels.npy": saved_array(PROBABILITIES),
    "features.npy": saved_array(np.ones((4, 5), np.float16)),
    "paths.txt": b"a.avi\nb.avi\nc d.avi\ne.avi\n",
    "categories.txt": b"kitchen\nfield\nroom\n",
}
# What an array's header says, and what it may say instead.
HEADER = {
    "(4, 3)": ("(3, 4)", "(4, 9)", "(-4, 3)", "(4., 3)", "(10**9, 3)", "4", "()", "None", "'x'"),
    "(4, 5)": ("(5, 4)", "(4, 0)", "(-1, 5)", "(1000000000, 5)", "(4, '5')", "(True, 5)", "(4, 5"),
    "'<f2'": ("'>f2'", "'<f4'", "'|O'", "'<i2'", "'<c8'", "'|V2'", "'x'", "2", "[('a', '<f2')]"),
    "False": ("True", "None", "'x'"),
    "NUMPY": ("NUMPI", "NUM\0Y"),
}


def mutate_labels(rng, files):
    """-> {name: bytes} of a folder of labels, the name of what is changed"""
    name = pick(rng, list(files))
    data = files[name]
    change = int(rng.integers(5))
    if name.endswith(".txt"):
        data = mutate_text(rng, data.decode())
    elif change == 0:
        data = mutate_bytes(rng, data)
    elif change == 1:
        old = pick(rng, [part for part in HEADER if part.encode() in data])
        data = data.replace(old.encode(), pick(rng, HEADER[old]).encode())
    elif change == 2:
        dtype = pick(rng, ("f2", "f4", "f8", "i8", "u1", "?", "c8", "O", "U3", "M8[s]"))
        shape = pick(rng, ((4, 3), (3, 4), (4,), (), (0, 3), (4, 3, 1), (4, 0)))
        data = saved_array(np.full(shape, 1 / 3).astype(dtype))
    elif change == 3:
        array = PROBABILITIES.astype(pick(rng, ("f2", "f4", "f8")))
        array[rng.integers(4), rng.integers(3)] = pick(
            rng, (np.nan, np.inf, -np.inf, -0.5, 1.01, 6e4, 0.3)
        )
        data = saved_array(array)
    else:
        data = pick(rng, (b"", data[:50], saved_array(PROBABILITIES, np.savez), b"\x93NUMPY\1\0"))
    return files | {name: data}, name


def test_label_folders(tmp_path):
    trials = Trials()
    paths = ["e.avi", "b.avi", "unknown.avi"]
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        files, changed = mutate_labels(rng, LABELS)
        # A folder of its own: an open array would change with its file.
        folder = tmp_path / str(seed)
        write_files(folder, files)
        given = (changed, files[changed])
        with trials.trial(seed, given):
            labels, categories = common.read_labels([folder], paths)
            assert labels.shape == (3, len(categories))
            sums = labels.sum(1)
            assert ((labels == 0).all(1) | (abs(sums - 1) < 0.02)).all() and (labels >= 0).all()
        with trials.trial(seed, given):
            hard, probabilities = common.read_hard_labels([folder], paths)
            assert (hard >= -1).all() and (hard < 10).all()
            assert ((probabilities >= 0) & (probabilities < 1.02)).all()
        with trials.trial(seed, given):
            opened = common.open_labels(folder)
            assert len(opened.labels) == len(opened.paths)
        shutil.rmtree(folder)
    trials.check()


# ---- Checkpoints ---------------------------------------------------------------------------------
def test_checkpoints_that_were_cut_short(tmp_path):
    path = tmp_path / "last.pt"
    net = albar.build_model(albar.Args(**albar.TOY), 3)
    common.save_checkpoint(path, method="albar", model=net.state_dict())
    data = path.read_bytes()
    for length in np.random.default_rng(0).integers(0, len(data), 50):
        path.write_bytes(data[:length])
        for read in (evaluate.load_run, partial(common.load_weights, net, arch="tiny")):
            with pytest.raises(common.UserError, match="last.pt: "):
                read(str(path))


# ---- Other texts ---------------------------------------------------------------------------------
OMNISOURCE = [
    {"video_dir": "a/b", "label": 3, "num_clips": 4, "positive_clip_inds": [0, 2]},
    {"video_dir": "c", "label": 0, "num_clips": 1, "positive_clip_inds": []},
]


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_omnisource_lists(ending, tmp_path, capsys):
    trials = Trials()
    file = tmp_path / f"list.{ending}"
    out = tmp_path / "web.txt"
    for seed in range(500):
        rng = np.random.default_rng(seed)
        data = mutate_text(rng, "a/b 3 4 0 2\nc 0 1\nd 1 2 1\n")
        if ending == "json":
            data = mutate_json(rng, OMNISOURCE)
        file.write_bytes(data)
        with trials.trial(seed, data):
            omnidebias.clips(omnidebias.ClipsArgs(list=str(file), out=str(out)))
        out.unlink(missing_ok=True)
    # Its hundreds of lines would hide the faults.
    capsys.readouterr()
    trials.check()


HVU = {
    "hvu.csv": "Tags,id,start,end\nbeach|run,abc,0.0,10.0\nkitchen|dog,d-e,3.5,13.5\n",
    "HVU_Tags_Categories_V1.0.csv": "Tag,Category\nbeach,scene\nkitchen,scene\nrun,action\n"
    "dog,object\n",
}


def test_hvu_tags(tmp_path):
    trials = Trials()
    paths = ["x/abc.mp4", "d-e_000003_000013.mp4", "none.mp4"]
    for seed in range(500):
        rng = np.random.default_rng(seed)
        files = {name: text.encode() for name, text in HVU.items()}
        changed = pick(rng, list(HVU))
        # Their words are between commas and bars.
        text = HVU[changed].replace(",", " , ").replace("|", " | ")
        files[changed] = mutate_text(rng, text).replace(b" , ", b",").replace(b" | ", b"|")
        write_files(tmp_path / "hvu", files)
        category = pick(rng, ("scene", "object", "event"))
        with trials.trial(seed, (category, changed, files[changed])):
            rows, names = smad.read_hvu(tmp_path / "hvu" / "hvu.csv", category, paths)
            for row in rows.values():
                assert row.shape == (len(names),)
                assert set(row) <= {0, 1}
    trials.check()


def test_categories(tmp_path):
    trials = Trials()
    file = tmp_path / "categories.txt"
    args = sdn.ScenesArgs(weights="none", categories=str(file))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        data = mutate_text(rng, "/a/airfield 0\n/b/bow_window/indoor 1\nkitchen\nliving room\n")
        file.write_bytes(data)
        with trials.trial(seed, data):
            names = sdn.read_categories(args)
            assert len(set(names)) == len(names) > 0
    trials.check()


BENCHMARK = {
    "test": "test.txt",
    "scuba": {"places": "places.txt", "b": "b.txt"},
    "conflfg": "c.txt",
    "rare": "",
    "train": "train.txt",
    "val": "val.txt",
    "scenes": ["scenes"],
    "humans": ["humans.jsonl", "more.jsonl"],
}


def test_benchmark_json(tmp_path):
    trials = Trials()
    file = tmp_path / "benchmark.json"
    run = SimpleNamespace(args={"train": str(tmp_path / "train.txt")}, path="last.pt")
    for seed in range(500):
        rng = np.random.default_rng(seed)
        data = mutate_json(rng, BENCHMARK)
        file.write_bytes(data)
        with trials.trial(seed, data):
            sources = evaluate.read_benchmark(run)
            paths = [*sources.tests.values(), *sources.humans, *sources.scenes]
            assert all(isinstance(path, str) for path in [*paths, sources.train, sources.val])
    trials.check()


# ---- Videos --------------------------------------------------------------------------------------
CODECS = {"a.mp4": "libx264", "a.avi": "mpeg4"}


def write_video(path, codec):
    """12 frames of 32 x 32, with B-frames"""
    options = {"g": "6", "bf": "2", "threads": "1"}
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width = 32
        stream.height = 32
        stream.pix_fmt = "yuv420p"
        for t in range(12):
            image = np.full((32, 32, 3), 20 * t, np.uint8)
            image[t : t + 9] = 200
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("name", CODECS)
def test_videos(name, tmp_path):
    trials = Trials()
    clean = write_video(tmp_path / name, CODECS[name])
    for seed in range(250):
        rng = np.random.default_rng(seed)
        data = mutate_bytes(rng, clean, most=2)
        # A name of its own, lest what is known of another file of this size is taken for it.
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(data)
        with trials.trial(seed, len(data)):
            assert common.num_frames(path) > 0
        with trials.trial(seed, len(data)):
            clip = common.read_clip(path, [0, 3, 100])
            assert clip.ndim == 4
            assert clip.dtype == torch.uint8
            assert (clip.shape[0], clip.shape[3]) == (3, 3)
        path.unlink()
    trials.check()
