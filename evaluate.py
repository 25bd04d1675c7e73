"""Evaluate: every benchmark of the papers, over any checkpoint of the method scripts, in one table.

    python evaluate.py runs/albar-baseline runs/albar             # lists of its benchmark.json
    python evaluate.py runs/albar-s0 runs/albar-s1 runs/albar-s2  # seeds: one column
    python evaluate.py runs/hmdb --test LIST --root VIDEOS --conflfg LIST --rare LIST \\
        --scuba places365=LIST vqgan-clip=LIST sinusoid=LIST      # lists of your own
    python evaluate.py runs/sdn --test LIST --humans humans.jsonl --scenes scenes \\
        --train LIST --val LIST
    python evaluate.py runs/birds --test waterbirds/metadata.csv  # and the accuracy of its groups
    python evaluate.py runs/sdn --windows 16 --test LIST              # other views than its own
    torchrun --nproc-per-node 8 evaluate.py runs/sdn --test LIST      # the videos shared out
    python evaluate.py list FILE --root VIDEOS > train.txt  # another data set's list, made plain
    python evaluate.py check LIST --root VIDEOS             # can its videos be trained on?
    python evaluate.py bias --scenes scenes --train LIST --test LIST  # do scenes tell its actions?
    python evaluate.py cam runs/albar-baseline runs/albar             # where they look: PNG and MP4
    python evaluate.py features runs/sdn-s* --test LIST --out f/test  # f/test/sdn-s0.npz, ...
    python evaluate.py svm --train f/train/*.npz --test f/test/*.npz  # on frozen features
    python evaluate.py fewshot --test f/test/*.npz                    # 5-way, 1 and 5 shots
    python evaluate.py features runs/sdn --test LIST --windows 16 --out f  # f/sdn/VIDEO.npy
    python evaluate.py bias --scenes scenes --train LIST --test LIST --out bias/hmdb51
    python evaluate.py transfer hmdb51:BASELINE.json:DEBIASED.json:bias/hmdb51/bias.json ...

Without --test, benchmark.json beside the run's training list says what the lists and labels are:
    {"test": LIST, "scuba": {NAME: LIST, ...}, "conflfg": LIST, "rare": LIST,
     "train": LIST, "val": LIST, "scenes": [FOLDER, ...], "humans": [FILE, ...]}
Names are relative to its folder; all but "test" may be missing.

Seeds share a column. So do runs that differ in --split alone, the official splits of UCF101 and
HMDB51: means over the splits first, then over seeds (SDN Table 1, SMAD Table 6). Each takes the
list of its own split: --test HMDB51_FOLDER, --test 'ucf101/testlist0{split}.txt'.

One Markdown table goes to stdout. Beside each checkpoint, or in --out: evaluate.json (the table,
this checkpoint's own figures, its unreadable videos) and evaluate.npz (logits, labels, paths of
every split, the order of frames where it was changed), so that a metric added later needs no second
pass.

Metric map
  metric          better  definition                              paper       function
  IID             up    top-1 on the test list                    ALBAR 4.1   top1
  SCUBA           up    top-1, the actors over other backgrounds  ALBAR 4.1   top1
  SCUFO           down  top-1 on one frame of SCUBA, held still   ALBAR 4.1   static_orders
  abs(SCUFO-1/K)  down  to chance; below it is anti-learning      ours        columns
  Confl-FG        up    SCUBA and a still actor of another class  ALBAR 4.4   top1
  contrasted      up    right on SCUBA and wrong on its SCUFO     ALBAR 4.4   contrasted
  rare            up    top-1 on actions in rare scenes (ARAS)    SMAD 4.1    top1
  worst group     up    the least top-1 of a class in a group     ALBAR T. 9  columns
  - CLASS-GROUP   up    top-1 of each: of waterbirds on land      ALBAR T. 9  group_hits
  shuffled        -     top-1 on the test clips, frames shuffled  Hara 3.2    shuffled_orders
  log ratio       up    ln(IID / shuffled); large: order matters  Hara (1)    log_ratio
  masked          1/K   top-1 on the test clips, humans filled    SDN 3.3     top1
  masked entropy  up    of the action there, nats; ln K at most   SDN 3.3     entropy
  scene probe     down  a new MLP names scenes from the features  SDN 4.3     train_probe
  adversary       -     the run's scene head; low: or it lags     SDN 4.3     measure_scenes
  B_scene         -     `bias`: ln(action by scene / chance)   SDN (1)  scene_representation_bias
  inside          up    `cam`: share of the map in human boxes    SDN 4.7     share_inside
                        or, by --map actionness, of SAAR's mask   SMAD Fig. 7 share_inside
                        or of integrated gradients, --map ig    ALBAR Fig. 3 integrated_gradients
  linear SVM      up    `svm`: top-1, frozen features         SMAD Table 5    svm_hits
  shots           up    `fewshot`: top-1 of episodes          SMAD Table 5    episode_accuracies
  Pearson's r     -     `transfer`: B_scene, relative gain      SDN Fig. 4    pearson
  I(Y';S)         to I(Y;S)  independence; its oracle             SMAD 6.2    fairness
  I(Y';S|Y)       down  separation: within an action              SMAD 6.2    fairness
  I(Y;S|Y')       down  sufficiency: within a predicted action    SMAD 6.2    fairness

Accuracies are percent of videos; means over backgrounds are unweighted. +- is the standard
deviation over seeds (n - 1), or for one checkpoint the standard error by bootstrap over videos; a
line below the table says which. Videos that cannot be read are left out, counted and named. Nothing
here chooses a checkpoint.

SILENT in the papers
  The bootstrap draws lines of a list: of SCUBA lists with several backgrounds a video its error is
      too small.
  SCUFO's frame: one of a SCUBA video's, of all that its clips show, drawn by the video's path
      (StillMix: at random, not seeded); one clip of it, whatever --clips says.
  Hara's shuffle: inside the sampled clip, never the identity, accuracy averaged over --shuffles.
  SDN's scene accuracy, of which classifier: a new one of the adversary's shape (Adam, 5e-4, batch
      128), on standardised features of centre clips; a tenth of the training list says when to
      stop.
  SDN's Eq. (1): L2 with C = 1; chance is 1/K, as the paper's own figure has it (Sec. 1); beside it
      the same over the share of the test list's most frequent action.
  SDN's maps: of the class that the run predicts; their positive part.
  SMAD's I: mutual information over the arithmetic mean of the two entropies (scikit-learn's
      default), all given Y or Y' where it is conditional; of hard predictions and scenes. Chance
      alone gives much of it on few videos: `less floor` takes off its mean over 200 deals of the
      scenes at random (within each Y or Y').
  SMAD's averages are of softmax.
  SMAD's features (Table 5): each video's, its clips end to end, is scaled to length 1, for both.
  SMAD's SVM: as LinearSVC of scikit-learn, one class against the rest, squared hinge; C, of five
      powers of ten, by a held-out fifth of each class, then on all. Related videos (a group of
      UCF101) may be on both sides of that fifth.
  SMAD's few shots: the greatest cosine with the mean of a class's shots; 15 queries a class, which
      are other videos; of classes that have enough; 95 % interval over episodes, 1.96 deviations.
  SDN's Fig. 4: two-sided t test of r, of however many targets; splits of one data set count as
      several, as in the paper, though they are not independent.
  Windows (SDN's code; its Table 2, ALBAR Table 5): the last is the first that reaches the end, and
      repeats its own frames.
"""

import csv
import importlib
import json
import math
import os
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import common
from common import UserError, arg

# The scripts that a checkpoint may name; nothing else is imported.
METHODS = ("sdn", "smad", "omnidebias", "albar")

# Fields of a method's Args that say where, how fast or from which random numbers a run went, not
# what it trained: runs that differ in nothing else are seeds of one configuration.
NOT_CONFIG = (
    "seed out resume overwrite root workers cache compile channels_last log_every tensorboard "
    "max_bad watch".split()
)

RESAMPLES = 1000  # of the bootstrap


@dataclass
class Args:
    runs: tuple = arg(
        (), "runs to evaluate: folders (their last.pt) or checkpoint files", positional=True
    )
    test: str = arg(
        "",
        "IID test list, {split} in it is the run's own; none: lists and labels of its "
        "benchmark.json",
    )
    scuba: tuple = arg((), "SCUBA lists, NAME=LIST for each background")
    conflfg: str = arg("", "Confl-FG list")
    rare: str = arg("", "list of actions in rare scenes, as ARAS")
    humans: tuple = arg((), "boxes, files of `sdn.py humans`; for the masked test clips")
    scenes: tuple = arg(
        (), "folders of `sdn.py scenes`: of --test for fairness, of --train and --val for the probe"
    )
    train: str = arg("", "list that the scene probe learns from: the run's training list")
    val: str = arg("", "list that the scene probe is tested on; SDN Sec. 4.3: validation")
    root: str = arg("", "folder of the lists' videos; default: each list's own folder")
    split: int = arg(
        0, "official split of HMDB51's folder of lists; 0: the run's own", choices=(0, 1, 2, 3)
    )
    allow_trained: bool = arg(False, "test on videos that the run was trained on, too")
    clips: int = arg(
        0,
        "clips of a video (frames of a TSN), spread evenly; 0: the run's own, SMAD Sec. 6.1: 10 "
        "(25), else one, centred (ALBAR App. B)",
        low=0,
    )
    windows: int = arg(
        0,
        "in place of --clips a clip each so many frames, over the whole video; SDN's code: 16, "
        "Hara et al. Sec. 3.4: 16",
        low=0,
    )
    shuffles: int = arg(
        3,
        "random orders of each test clip, 0 for none, as of a TSN; Hara et al. give no number",
        low=0,
    )
    model: str = arg("", "your own MODULE:FUNCTION that the runs were trained with")
    seed: int = arg(0, "seed of the SCUFO frames, the shuffles, the probe and the bootstrap", low=0)
    out: str = arg("", "folder of the .json and .npz files; default: beside each checkpoint")
    batch_size: int = arg(32, "clips in a forward pass", low=1)
    workers: int = arg(0, "loader processes; 0 reads in this one", low=0)
    amp: str = arg("none", "mixed precision", choices=("none", "bf16", "fp16"))


# ---- Checkpoints ---------------------------------------------------------------------------------
@dataclass
class Checkpoint:
    path: Path  # its file
    method: str
    args: dict  # every field of the method's Args
    classes: list[str]
    epoch: int
    step: int
    list_sha1: str  # of the training list
    trained_on: set  # hashes of the paths of its training videos
    root: str  # their folder
    model: nn.Module  # in eval mode
    share: tuple = (0, 1)  # which part of the videos this process reads, of how many

    @property
    def name(self):
        """The run's folder; with the file where it is not last.pt."""
        folder = self.path.absolute().parent.name
        if self.path.name == "last.pt":
            return folder
        return f"{folder}/{self.path.name}"

    @property
    def tsn(self):
        return getattr(self.model, "tsn", False)

    def views(self, clips):
        """-> V clips of a video, of T frames; for --clips 0 its method's own number.

        A TSN sees one clip of single frames."""
        clips = clips or self.args.get("test_clips", 1)
        if self.tsn:
            return 1, clips
        return clips, self.args["frames"]

    def protocol(self, args, fusion="mean softmax"):
        """How a video is shown and its outputs are put together, in words."""
        clips, frames = self.views(args.clips)
        one_clip = f"{frames} frames x stride {self.args['stride']}"
        if self.tsn:
            shown = f"{fusion} of {frames} frames"
        elif args.windows:
            shown = f"{fusion} of clips of {one_clip}, one each {args.windows} frames"
        elif clips > 1:
            shown = f"{fusion} of {clips} clips of {one_clip}"
        else:
            shown = f"1 centre clip of {one_clip}"
        return f"{shown}, short side {self.args['resize']}, centre crop {self.args['size']}"

    @property
    def config(self):
        """A text that is the same for two runs which differ in nothing but the seed, at the same
        point of training."""
        return repr((self.any_split, self.args.get("split"), self.list_sha1))

    @property
    def any_split(self):
        """A text that is the same for two runs which differ in nothing but the seed and the
        official split."""
        point = (self.epoch, self.step)
        if self.path.name == "best.pt":
            point = "best"
        flags = {}
        for name, value in sorted(self.args.items()):
            if name in ("init", "weights"):
                # Each seed may start from its own first stage: runs/plain-s3/last.pt of seed 3.
                value = re.sub(rf"[-_.](seed|s){self.args['seed']}(?=/|$)", "", value)
            if name in ("train", "val"):
                # UCF101's trainlist02.txt of split 2.
                value = value.replace(f"list0{self.args.get('split')}.", "list.")
            if name not in NOT_CONFIG and name != "split":
                flags[name] = value
        return repr((self.method, point, self.classes, flags))

    def about(self):
        """What is said of the run beside its figures, as plain values."""
        return dict(
            checkpoint=str(self.path),
            name=self.name,
            method=self.method,
            config=self.config,
            any_split=self.any_split,
            split=self.args["split"],
            seed=self.args["seed"],
            epochs=[self.epoch, self.args["epochs"]],
        )


def load_run(path, model=""):
    """The Checkpoint of a file, or of a run's folder (its last.pt), on the CPU.

    The script that it names builds its model again; where that is a person's own code, only if
    `model` names it too. UserError where that fails."""
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; name a run's folder or a checkpoint file")
    saved = common.load_checkpoint(path)
    script = import_method(saved["method"], path)
    args = common.checkpoint_args(script.Args, saved, path, model)
    sizes = [len(saved["classes"])]
    if saved["heads"]:
        sizes.append(saved["heads"])
    model = script.build_model(args, *sizes).eval()
    common.restore(model, saved["model"], path)
    trained_on = set()  # of an older checkpoint it is not known
    if "train_paths" in saved:
        trained_on = set(saved["train_paths"].flatten().tolist())
    return Checkpoint(
        path=path,
        method=saved["method"],
        args=saved["args"] | asdict(args),
        classes=saved["classes"],
        epoch=saved["epoch"],
        step=saved["step"],
        list_sha1=saved.get("list_sha1", ""),
        trained_on=trained_on,
        root=str(saved.get("root")),
        model=model,
    )


def import_method(method, path):
    """The module of a method script, which must be beside this file."""
    if method not in METHODS:
        raise UserError(f"{path}: made by {method!r}, which is none of {', '.join(METHODS)}")
    try:
        return importlib.import_module(method)
    except ModuleNotFoundError as error:
        if error.name != method:  # the script is here, something that it needs is not
            raise
        message = f"{path}: {method}.py, which made it, is not beside evaluate.py"
        raise UserError(message) from None


def use_device(what):
    """A model, moved in place, or a tensor's copy, on the GPU if there is one"""
    return what.to("cuda" if torch.cuda.is_available() else "cpu")


# ---- Lists and labels ----------------------------------------------------------------------------
@dataclass
class Sources:
    """The files that a run is tested with: of the flags, or of its benchmark.json."""

    tests: dict  # {"test": list file, "scuba-NAME": ..., "conflfg": ..., "rare": ...}
    humans: tuple = ()
    scenes: tuple = ()
    train: str = ""
    val: str = ""

    @property
    def for_probe(self):
        """Whether they are all there that the scene probe needs."""
        return bool(self.scenes and self.train and self.val)


@dataclass
class SceneList:
    """The videos of a list that have scene labels."""

    file: str
    videos: common.VideoList
    scenes: torch.Tensor  # (n, M) soft labels


@dataclass
class Data:
    """What is in a run's Sources."""

    splits: dict  # {"test": VideoList, "scuba-NAME": ..., "conflfg": ..., "rare": ...}
    files: dict  # of the same names: their list files
    groups: np.ndarray | None  # (n,) names of the test videos' groups
    boxes: common.Boxes | None  # of the humans in the test list's videos
    scenes: np.ndarray | None  # (n,) the scene of each test video, -1 for none
    probe: dict  # {"train": SceneList, "val": SceneList}, or {}


# What JSON has for the keys of benchmark.json that are read here.
BENCHMARK = {
    "test": str,
    "scuba": dict,
    "conflfg": str,
    "rare": str,
    "train": str,
    "val": str,
    "scenes": list,
    "humans": list,
}


def read_benchmark(run):
    """-> Sources of the benchmark.json beside the list that the run was trained on"""
    file = Path(run.args["train"]).parent / "benchmark.json"
    try:
        benchmark = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{run.path}: no {file}: name its test list with --test LIST") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot read it: {error}") from None
    if not isinstance(benchmark, dict) or "test" not in benchmark:
        raise UserError(f'{file}: expected an object with at least a "test" list')
    for name, kind in BENCHMARK.items():
        if not isinstance(benchmark.get(name, kind()), kind):
            raise UserError(f'{file}: "{name}" is no {kind.__name__}')

    def beside(name):
        if not isinstance(name, str):
            raise UserError(f"{file}: {name!r} is no path")
        return str(file.parent / name)

    tests = {"test": beside(benchmark["test"])}
    for background, path in benchmark.get("scuba", {}).items():
        tests[f"scuba-{background}"] = beside(path)
    for name in ("conflfg", "rare"):
        if benchmark.get(name):
            tests[name] = beside(benchmark[name])
    sources = Sources(tests)
    sources.humans = tuple(beside(path) for path in benchmark.get("humans", []))
    sources.scenes = tuple(beside(path) for path in benchmark.get("scenes", []))
    for name in ("train", "val"):
        if benchmark.get(name):
            setattr(sources, name, beside(benchmark[name]))
    return sources


def find_sources(run, args):
    """-> Sources of the flags; with no list among them of the run's benchmark.json"""
    tests = {"test": args.test}
    for item in args.scuba:
        name, _, path = item.partition("=")
        if not name or not path or f"scuba-{name}" in tests:
            raise UserError(f"--scuba {item}: give NAME=LIST, another NAME for each background")
        tests[f"scuba-{name}"] = path
    tests["conflfg"] = args.conflfg
    tests["rare"] = args.rare
    tests = {name: path for name, path in tests.items() if path}
    if tests and not args.test:
        flag = next(iter(tests)).split("-")[0]
        raise UserError(f"--{flag} without --test: name the IID test list too")
    sources = Sources(tests) if tests else read_benchmark(run)
    for name in ("humans", "scenes", "train", "val"):
        if getattr(args, name):
            setattr(sources, name, getattr(args, name))
    given = [name for name in ("scenes", "train", "val") if getattr(args, name)]
    if given and given != ["scenes"] and not sources.for_probe:
        raise UserError(
            f"--{given[0]}: the scene probe needs --scenes, --train and --val, all three"
        )
    return sources


def read_data(run, args):
    sources = find_sources(run, args)
    splits = {}
    for name, path in sources.tests.items():
        made = name == "conflfg" or name.startswith("scuba-")
        splits[name] = read_test_list(run, path, args, made=made)
    return Data(
        splits=splits,
        files={name: of_split(run, path, args) for name, path in sources.tests.items()},
        groups=read_groups(of_split(run, sources.tests["test"], args), splits["test"]),
        boxes=read_boxes(sources, splits["test"]),
        scenes=read_scenes(sources, splits["test"]),
        probe=read_probe_lists(run, sources, args),
    )


def read_test_list(run, path, args, part="test", made=False):
    """-> VideoList; made: whether it is a SCUBA or Confl-FG list. UserError where the run was
    trained on one of its videos, unless --allow-trained"""
    split = args.split or run.args["split"]
    path = of_split(run, path, args)
    read = common.read_made_list if made else common.read_list
    videos = read(path, args.root, part, split, run.classes)
    if part != "train" and not args.allow_trained:
        trained_on = find_trained(run, videos)
        if trained_on:
            raise UserError(
                f"{path}: {run.path} was trained on {len(trained_on)} of its {len(videos)} videos: "
                f"{common.shortened(trained_on)}: name another list, or --allow-trained"
            )
    return videos


def of_split(run, path, args):
    """The path with the number of the official split for {split}"""
    return str(path).replace("{split}", str(args.split or run.args["split"]))


def find_trained(run, videos):
    """The paths of the videos that the run was trained on: its checkpoint knows their hashes"""
    found = []
    for path, number in zip(videos.paths, common.hash_paths(videos.paths).tolist(), strict=True):
        if number in run.trained_on:
            # Another file may have the same name in another folder.
            theirs = Path(run.root) / path
            ours = videos.root / path
            both = theirs.exists() and ours.exists()
            if not both or theirs.samefile(ours):
                found.append(path)
    return found


def read_groups(file, test):
    """-> (n,) the background of each image of the VideoList test; None of a list that is not
    Waterbirds' metadata.csv"""
    if test.kind != "Waterbirds":
        return None
    rows = common.read_waterbirds(common.read_lines(file))
    background_of = {os.path.normpath(row.path): row.background for row in rows}
    return np.array([background_of[path] for path in test.paths])


def read_boxes(sources, test):
    """-> Boxes of the humans in the VideoList test, or None"""
    if not sources.humans:
        return None
    boxes = common.Boxes(sources.humans)
    if not any(path in boxes for path in test.paths):
        raise UserError(f"--humans: no boxes of the test list's videos, such as {test.paths[0]}")
    return boxes


def read_scenes(sources, test):
    """-> (n,) the scene of each video of the VideoList test, -1 for none; or None"""
    if not sources.scenes:
        return None
    labels, _ = common.read_labels(sources.scenes, test.paths)
    if labels.any():
        return torch.where(labels.any(1), labels.argmax(1), -1).numpy()
    # They may be labels of the probe's lists alone.
    if not sources.for_probe:
        raise UserError(f"--scenes: no labels of the test list's videos, such as {test.paths[0]}")
    return None


def read_probe_lists(run, sources, args):
    """-> {"train": SceneList, "val": SceneList}; {} where the sources are not for a probe"""
    if not sources.for_probe:
        return {}
    train = read_scene_list(run, sources, sources.train, "train", args)
    val = read_scene_list(run, sources, sources.val, "val", args)
    shared = set(train.videos.paths) & set(val.videos.paths)
    if shared:
        raise UserError(
            f"--val: {len(shared)} of its videos are in --train too, first {min(shared)}"
        )
    head = getattr(run.model, "scene_head", None)
    num_scenes = train.scenes.shape[1]
    if head is not None and len(list(head.parameters())[-1]) != num_scenes:
        raise UserError(
            f"{run.path}: its scene head knows other scenes than the {num_scenes} of --scenes"
        )
    return {"train": train, "val": val}


def read_scene_list(run, sources, file, part, args):
    videos = read_test_list(run, file, args, part)
    scenes, _ = common.read_labels(sources.scenes, videos.paths)
    labelled = scenes.sum(1).nonzero()[:, 0].tolist()
    if len(labelled) < 2:
        raise UserError(
            f"--scenes: labels of {len(labelled)} of the {len(videos)} videos of {file}, too few"
        )
    return SceneList(str(file), common.subset(videos, labelled), scenes[labelled])


# ---- Predict: every video is read once -----------------------------------------------------------
def _rng(seed, path, draw):
    """Random numbers of one video: the same in any list, at any place in it, in batches of any
    size. draw: 0 for SCUFO's frame, 1 + k for shuffle k"""
    return np.random.default_rng([seed, zlib.crc32(path.encode()), draw])


def static_orders(paths, clips, frames, seed):
    """SCUFO: one frame of the video, drawn by its path from all that its clips show, repeated.

    -> (n, 1, T) places in the clips put end to end"""
    chosen = np.stack([_rng(seed, path, 0).integers(0, clips * frames, 1) for path in paths])
    return np.repeat(chosen[..., None], frames, -1)


def shuffled_orders(paths, clips, frames, seed, draw):
    """Hara et al.: a random order of the clip's frames, never their own.

    -> (n, V, T) places in the clip"""
    if frames < 2:
        raise ValueError("a clip of one frame has no other order")
    orders = np.empty((len(paths), clips, frames), np.int64)
    for i, path in enumerate(paths):
        rng = _rng(seed, path, 1 + draw)
        for clip in range(clips):
            orders[i, clip] = np.arange(frames)
            while (orders[i, clip] == np.arange(frames)).all():
                orders[i, clip] = rng.permutation(frames)
    return orders


def reorder(clip, order):
    """clip (N, V, 3, T, H, W), order (N, V, T) -> the clips with frame order[..., t] at time t;
    order (N, 1, T): one clip, of the frames of all V put end to end"""
    if order.shape[1] == 1:
        clip = clip.transpose(1, 2).flatten(2, 3)[:, None]  # (N, 1, 3, V T, H, W)
    return torch.take_along_dim(clip, order[:, :, None, :, None, None], dim=3)


def clip_orders(run, split, args, masked):
    """-> {variant: function(paths, V, T) of the order of the clips' frames, or None for their own}
    of a split

    The variants: the split as it is, "masked" where that is asked for, "scufo-NAME" of
    "scuba-NAME", "shuffled-0" and so on of "test"."""
    orders = {split: None}
    if masked:
        orders["masked"] = None
    if split.startswith("scuba-"):
        background = split.removeprefix("scuba-")
        orders[f"scufo-{background}"] = partial(static_orders, seed=args.seed)
    _, frames = run.views(args.clips)
    # A TSN averages over single frames, in whatever order.
    if split == "test" and frames > 1 and not run.tsn:
        for draw in range(args.shuffles):
            orders[f"shuffled-{draw}"] = partial(shuffled_orders, seed=args.seed, draw=draw)
    return orders


def clip_frames(n, rng, views, stride, tsn, windows):
    """(V, T) of n frames, as Videos asks for them; nothing is random, rng stays unused."""
    clips, frames = views
    if tsn:
        return common.tsn_segments(n, frames)[None]
    if windows:
        return window_places(n, frames, stride, windows)
    return common.uniform_clips(n, frames, stride, clips)


def window_places(n, frames, stride, step):
    """(W, T) indices of windows of T frames that cover n frames, one each `step` frames; the last,
    the first that reaches the video's end, repeats its own frames from its own first."""
    span = (frames - 1) * stride + 1
    count = 1 + math.ceil(max(n - span, 0) / step)
    starts = np.arange(count)[:, None] * step
    # With steps longer than a window the last start may be past the end.
    starts = starts[starts[:, 0] < n]
    offsets = (np.arange(frames) * stride) % (n - starts)
    return starts + offsets


def batches(run, name, videos, args, change=None):
    """This process's batches of a split, "clip" (N, V, 3, T, H, W) uint8 on the run's device,
    with a progress bar.

    Where `change` gives several clips of each, "clip" has one more dimension, behind N."""
    device = next(run.model.parameters()).device
    sample = partial(
        clip_frames,
        views=run.views(args.clips),
        stride=run.args["stride"],
        tsn=run.tsn,
        windows=args.windows,
    )
    transform = common.test_transform(run.args["size"], run.args["resize"])
    dataset = common.Videos(videos, sample, transform, change=change)
    # Whole batches are shared out, so that each is the same one on any number of processes. The
    # videos of one batch must have equally many clips.
    all_batches = torch.arange(len(videos)).split(1 if args.windows else args.batch_size)
    rank, processes = run.share
    batches_here = [part.tolist() for part in all_batches[rank::processes]]
    bar = tqdm(
        total=sum(len(part) for part in batches_here),
        desc=f"{run.name} {name}",
        unit="video",
        leave=False,
        disable=None if rank == 0 else True,
    )
    with bar:
        for batch in common.make_loader(dataset, args, device, batch_sampler=batches_here):
            batch["clip"] = batch["clip"].to(device)
            yield batch
            bar.update(len(batch["index"]))


def name_unreadable(run, name, videos, used):
    """Say which of the videos could not be read; UserError where none could."""
    unreadable = [path for path, good in zip(videos.paths, used, strict=True) if not good]
    if len(unreadable) == len(videos):
        raise UserError(
            f"{name}: none of {len(videos)} videos can be read, first {videos.full(0)}; --root?"
        )
    if unreadable:
        names = common.shortened(unreadable)
        common.warn(f"{run.name} {name}: {len(unreadable)} videos cannot be read: {names}")


class Predictions(NamedTuple):
    logits: dict  # {variant: (n, V, K)}, or (n, 1, K) where they are averaged already
    orders: dict  # {variant: (n, V, T)} of those that have one; not of --windows
    used: np.ndarray  # (n,) bool: could the video be read
    humans: np.ndarray  # (n,) share of its frames that have a human box


def predict(run, name, videos, orders, args, boxes=None, call=None):
    """One pass over a split, of all processes together. -> Predictions, the same in each

    orders: as clip_orders gives them; with "masked" among them, boxes. call: what takes the clips
    in the model's place, such as its features; its outputs (n, V, D) then stand for logits."""
    change = None
    if boxes is not None:
        change = partial(common.mask_humans, boxes=boxes)
    parts = []  # of each batch the arrays that are then joined
    for batch in batches(run, name, videos, args, change):
        index = batch["index"].numpy()
        part = {"index": index, "used": batch["bad"].numpy() == 0, "humans": np.zeros(len(index))}
        clip = batch["clip"]
        if boxes is not None:
            part["humans"] = batch["humans"].numpy()
            clip, masked = clip.unbind(1)
        paths = [videos.paths[i] for i in index]
        for variant, draw_order in orders.items():
            shown = masked if variant == "masked" else clip
            if draw_order:
                order = draw_order(paths, clip.shape[1], clip.shape[3])
                shown = reorder(shown, torch.from_numpy(order).to(shown.device))
                if not args.windows:
                    part[f"order of {variant}"] = order
            output = forward(run, shown, args, call or run.model)
            if call is None and args.windows:
                output = one_view(output)
            part[variant] = output
        parts.append(part)
    parts = sorted(sum(common.gather(parts), []), key=lambda part: part["index"][0])
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    name_unreadable(run, name, videos, arrays["used"])
    logits = {variant: arrays[variant] for variant in orders}
    for values in logits.values():
        check_finite(run, name, values)
    drawn = {}
    for variant in orders:
        if f"order of {variant}" in arrays:
            drawn[variant] = arrays[f"order of {variant}"]
    return Predictions(logits, drawn, arrays["used"], arrays["humans"])


def check_finite(run, name, output):
    if not np.isfinite(output).all():
        raise UserError(f"{run.path}: its outputs on {name} are not finite, the training diverged")


def forward(run, clip, args, call):
    """clip (N, V, 3, T, H, W) uint8 -> (N, V, K) outputs; of a TSN, where V is 1, (N, T, K)"""
    if run.tsn:
        clip = clip.transpose(2, 3).flatten(1, 2).unsqueeze(3)  # each frame is a clip of its own
    outputs = []
    with torch.inference_mode(), common.autocast(clip.device, args.amp):
        for part in clip.flatten(0, 1).split(args.batch_size):
            part = common.normalise(part, run.args["mean"], run.args["std"])
            outputs.append(call(part).float().cpu())
    return torch.cat(outputs).unflatten(0, (len(clip), -1)).numpy()


# ---- Metrics: arrays in, arrays out; n videos, V clips, K classes, R resamples -------------------
def fuse(logits):
    """(n, V, K) logits -> (n, K) softmax averaged over a video's clips, float64"""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).mean(1)


def one_view(logits):
    """(n, V, K) logits -> (n, 1, K), of one clip that has the mean softmax"""
    return np.log(np.maximum(fuse(logits), 1e-300))[:, None]


def top1(logits, labels):
    """(n, V, K), (n,) labels -> (n,) bool: is it the most probable class (the first of equals)"""
    return fuse(logits).argmax(-1) == labels


def group_hits(logits, labels, groups):
    """top1 split by (class, group), for every pair that occurs

    (n, V, K), (n,), (n,) names -> {(label, group): (places among the n, (m,) bool)}"""
    right = top1(logits, labels)
    hits = {}
    for label, group in sorted(set(zip(labels.tolist(), groups.tolist(), strict=True))):
        places = np.flatnonzero((labels == label) & (groups == group))
        hits[label, group] = (places, right[places])
    return hits


def contrasted(scuba, scufo):
    """(n,) bool: right on the SCUBA video and wrong on its SCUFO video (ALBAR Sec. 4.4). scuba,
    scufo (n,) bool, of the same videos: named right or not"""
    return scuba & ~scufo


def log_ratio(original, shuffled, n):
    """Hara et al. Eq. (1): B_D = ln(A_original / A_shuffled), accuracies in [0, 1], any shape.

    Large: the order of the frames matters. Over n videos accuracies below 1/(2n) count as 1/(2n):
    ln 0 is no number."""
    return np.log(np.maximum(original, 0.5 / n) / np.maximum(shuffled, 0.5 / n))


def entropy(logits):
    """(n, V, K) logits -> (n,) entropy in nats of what `fuse` gives; ln K if uniform"""
    p = fuse(logits)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def columns(mean, n_test, num_classes):
    """The table's figures from shares of videos in [0, 1]: scalars, or (R,) for the bootstrap.

    mean: {"test", "scuba-NAME", "scufo-NAME", "contrasted-NAME", "conflfg", "rare",
    "group-CLASS-GROUP", "shuffled", "masked", "masked_entropy" in nats, "scene_probe",
    "adversary"}, or fewer."""
    figures = {"iid": 100 * mean["test"]}
    for kind in ("scuba", "scufo", "contrasted"):
        each = {}
        for name, share in mean.items():
            if name.startswith(f"{kind}-"):
                each[name] = 100 * share
        figures |= each
        if each:
            figures[kind] = sum(each.values()) / len(each)
    of_groups = {}
    for name, share in mean.items():
        if name.startswith("group-"):
            of_groups[name] = 100 * share
    figures |= of_groups
    if of_groups:
        figures["worst-group"] = np.min(list(of_groups.values()), 0)
    if "scufo" in figures:
        figures["off_chance"] = abs(figures["scufo"] - 100 / num_classes)
    for name in ("conflfg", "rare", "shuffled", "masked", "scene_probe", "adversary"):
        if name in mean:
            figures[name] = 100 * mean[name]
    if "masked_entropy" in mean:
        figures["masked_entropy"] = mean["masked_entropy"]
    if "shuffled" in mean:
        figures["log_ratio"] = log_ratio(mean["test"], mean["shuffled"], n_test)
    return figures


def bootstrap(hits, keys, seed):
    """(n,) outcomes, (n,) names of the videos -> (R,) means of n videos drawn with replacement.

    The draws follow from the sorted names, so that the same videos (shuffled or not, SCUBA or
    SCUFO, on any background) are drawn together: this gives means, differences and ratios over
    splits their right error."""
    n = len(keys)
    hits = np.asarray(hits, np.float64)[np.argsort(keys, kind="stable")]
    rng = np.random.default_rng([seed, zlib.crc32("\n".join(sorted(keys)).encode())])
    means = []
    for _ in range(RESAMPLES // 50):
        means.append(hits[rng.integers(0, n, (50, n))].mean(1))
    return np.concatenate(means)


def video_names(paths):
    """What a video is called in every split: its file's stem where all differ, else its path."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return list(paths)


# ---- Scenes in the features: SDN Sec. 4.3 --------------------------------------------------------
def standardise(x, other):
    """Tensors (n, D), (m, D), both with the first's mean and standard deviation (1 for 0)."""
    mean = x.mean(0)
    std = x.std(0, correction=0)
    std[std < 1e-6 * mean.abs() + 1e-12] = 1
    return (x - mean) / std, (other - mean) / std


def train_probe(x, p, seed, patience=20):
    """A new MLP of three hidden layers of 512 (Sec. 4.2), of features (n, D), soft labels (n, M).

    It stops when the loss on a seeded tenth has not fallen (by 1e-4) for `patience` epochs, and is
    what it was at its best."""
    rng = np.random.default_rng([seed, len(x)])
    order = torch.from_numpy(rng.permutation(len(x)))
    held_out, trained_on = order.tensor_split([max(1, len(x) // 10)])
    widths = (x.shape[1], 512, 512, 512, p.shape[1])
    layers = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).to(x.device)
    adam = torch.optim.Adam(net.parameters(), 5e-4)
    p = p / p.sum(1, keepdim=True)  # float16 rows sum to 1 nearly
    least = math.inf
    epochs_since = 0
    while epochs_since < patience:
        shuffled = trained_on[torch.from_numpy(rng.permutation(len(trained_on)))]
        for part in shuffled.split(128):
            adam.zero_grad()
            F.cross_entropy(net(x[part]), p[part]).backward()
            adam.step()
        with torch.no_grad():
            loss = float(F.cross_entropy(net(x[held_out]), p[held_out]))
        epochs_since += 1
        if loss < least - 1e-4:
            least = loss
            epochs_since = 0
            best = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best)
    return net


def scene_floors(actions, scenes, test_actions, test_scenes):
    """Accuracies on the test scenes (m,) of two guesses: the most frequent scene in training (n,),
    and the most frequent there of the true action, of which a probe of features that keep the
    action alone comes near. It can be below that: much of wide features it learns by heart."""
    usual = np.bincount(scenes).argmax()
    of_action = {}
    for action in np.unique(actions):
        of_action[action] = np.bincount(scenes[actions == action]).argmax()
    guesses = np.array([of_action.get(action, usual) for action in test_actions])
    return float((test_scenes == usual).mean()), float((test_scenes == guesses).mean())


@dataclass
class Features:
    """The videos of a SceneList that could be read, n of them."""

    x: torch.Tensor  # (n, D) of the frozen network, on its device
    p: torch.Tensor  # (n, M) soft labels of the scenes
    scenes: np.ndarray  # (n,) hard ones
    labels: np.ndarray  # (n,) actions
    paths: np.ndarray
    unreadable: list  # paths of the others


def frozen_features(run, name, listed, args):
    """-> Features of the centre clips of a SceneList's videos; of a TSN means over its frames"""
    videos = listed.videos
    args = replace(args, clips=run.args["frames"] if run.tsn else 1, windows=0)
    predictions = predict(run, name, videos, {name: None}, args, call=run.model.features)
    used = predictions.used
    device = next(run.model.parameters()).device
    paths = np.array(videos.paths)
    p = listed.scenes[used]
    return Features(
        x=torch.from_numpy(predictions.logits[name][used].mean(1)).to(device),
        p=p,
        scenes=p.argmax(1).numpy(),
        labels=np.array(videos.labels)[used],
        paths=paths[used],
        unreadable=sorted(set(videos.paths) - set(paths[used])),
    )


@dataclass
class SceneOutcomes:
    hits: dict  # {"scene_probe", "adversary": (m,) bool}: is a validation video's scene named right
    names: list  # of these m videos
    about: dict  # what is said of the data set
    arrays: dict  # to save


def measure_scenes(run, lists, args):
    """Is the scene of each validation video named right by a probe of the frozen features, and by
    the run's own head? -> SceneOutcomes"""
    train = frozen_features(run, "train", lists["train"], args)
    val = frozen_features(run, "val", lists["val"], args)
    x_train, x_val = standardise(train.x, val.x)
    probe = train_probe(x_train, train.p.to(x_train.device), args.seed)
    head = getattr(run.model, "scene_head", None)
    logits = {}
    with torch.inference_mode():
        logits["scene_probe"] = probe(x_val).cpu().numpy()
        if head is not None:
            logits["adversary"] = head(val.x).cpu().numpy()
    most_frequent, from_action = scene_floors(train.labels, train.scenes, val.labels, val.scenes)
    num_scenes = train.p.shape[1]
    about = dict(
        lists=[lists["train"].file, lists["val"].file],
        videos=[len(train.paths), len(val.paths)],
        unreadable=[train.unreadable, val.unreadable],
        scenes=num_scenes,
        chance=100 / num_scenes,
        most_frequent=100 * most_frequent,
        from_action=100 * from_action,
    )
    arrays = {f"{name}/logits": values for name, values in logits.items()}
    arrays["val/paths"] = val.paths
    arrays["val/scenes"] = val.scenes
    hits = {name: values.argmax(1) == val.scenes for name, values in logits.items()}
    return SceneOutcomes(hits, video_names(val.paths), about, arrays)


# ---- Scenes in the predictions: SMAD Sec. 3 and 6.2 ----------------------------------------------
def nmi_floor(a, b, given=None, seed=0, draws=200):
    """What common.nmi gives, in the mean, where B is dealt out at random (within each value of
    `given`)."""
    b = np.asarray(b)
    group = np.zeros(len(a), int)
    if given is not None:
        group = np.asarray(given)
    rng = np.random.default_rng([seed, len(a)])
    place = np.argsort(group, kind="stable")
    values = []
    for _ in range(draws):
        dealt = np.empty_like(b)
        dealt[place] = b[np.lexsort((rng.random(len(b)), group))]
        values.append(common.nmi(a, dealt, given))
    return float(np.mean(values))


def fairness(labels, predicted, scenes, seed):
    """Table 4 of (n,) actions Y, predictions Y', scenes S -> {"independence", "oracle",
    "separation", "sufficiency" and these "_less_floor"; "amplified": independence less oracle}"""
    information = {
        "independence": (predicted, scenes),
        "oracle": (labels, scenes),
        "separation": (predicted, scenes, labels),
        "sufficiency": (labels, scenes, predicted),
    }
    figures = {name: common.nmi(*of) for name, of in information.items()}
    for name, of in information.items():
        figures[f"{name}_less_floor"] = figures[name] - nmi_floor(*of, seed=seed)
    for floor in ("", "_less_floor"):
        difference = figures[f"independence{floor}"] - figures[f"oracle{floor}"]
        figures[f"amplified{floor}"] = difference
    return figures


# ---- One checkpoint ------------------------------------------------------------------------------
@dataclass
class Outcomes:
    """What became of each video, by the share ("test", "scufo-NAME", ...) that is a mean of it."""

    hits: dict = field(default_factory=dict)  # {share: (n,) right or not; in nats "masked_entropy"}
    names: dict = field(default_factory=dict)  # {share: the n videos' names}
    unreadable: dict = field(default_factory=dict)  # {split: paths}
    arrays: dict = field(default_factory=dict)  # to save

    def add(self, share, hits, names):
        self.hits[share] = hits
        self.names[share] = names

    def means(self, n_test, num_classes):
        means = {share: hits.mean() for share, hits in self.hits.items()}
        return columns(means, n_test, num_classes)

    def errors(self, n_test, num_classes, seed):
        """Standard errors by bootstrap over videos of what `means` gives."""
        resampled = {}
        for share, hits in self.hits.items():
            resampled[share] = bootstrap(hits, self.names[share], seed)
        figures = columns(resampled, n_test, num_classes)
        return {name: float(values.std(ddof=1)) for name, values in figures.items()}


def add_split(outcomes, split, videos, predictions):
    """Add the Predictions on a split to the Outcomes."""
    logits, orders, used, humans = predictions
    paths = np.array(videos.paths)
    labels = np.array(videos.labels)
    outcomes.unreadable[split] = paths[~used].tolist()
    outcomes.arrays[f"{split}/paths"] = paths
    outcomes.arrays[f"{split}/labels"] = labels
    outcomes.arrays[f"{split}/used"] = used
    for variant, values in logits.items():
        outcomes.arrays[f"{variant}/logits"] = values
        if variant in orders:
            outcomes.arrays[f"{variant}/order"] = orders[variant]
        if variant != "masked":
            right = top1(values, labels)[used]
            outcomes.add(variant, right, video_names(paths[used]))
    if "masked" in logits:
        masked = used & (humans >= 0.5)  # as the clips of SDN's Eq. (6)
        if not masked.any():
            raise UserError(
                "--humans: no test clip has a box in half of its frames, so none can be masked"
            )
        names = video_names(paths[masked])
        outcomes.add("masked", top1(logits["masked"], labels)[masked], names)
        outcomes.add("masked_entropy", entropy(logits["masked"])[masked], names)
        outcomes.arrays["masked/humans"] = humans
    if split.startswith("scuba-"):
        background = split.removeprefix("scuba-")
        scufo = outcomes.hits[f"scufo-{background}"]
        both = contrasted(outcomes.hits[split], scufo)
        outcomes.add(f"contrasted-{background}", both, outcomes.names[split])


def add_groups(outcomes, groups, classes):
    """Add the test videos' outcomes by class and group, of (n,) names."""
    arrays = outcomes.arrays
    arrays["test/groups"] = groups
    used = arrays["test/used"]
    names = np.array(outcomes.names["test"])
    hits = group_hits(arrays["test/logits"][used], arrays["test/labels"][used], groups[used])
    for (label, group), (places, right) in hits.items():
        outcomes.add(f"group-{classes[label]}-{group}", right, names[places].tolist())


def add_scenes(outcomes, scene_outcomes):
    """Add SceneOutcomes to the Outcomes."""
    for name, hits in scene_outcomes.hits.items():
        outcomes.add(name, hits, scene_outcomes.names)
    outcomes.arrays |= scene_outcomes.arrays


def add_shuffles(outcomes):
    """Put the mean of the shuffles in their place. -> the accuracy in each of them"""
    shuffles = []
    for share in list(outcomes.hits):
        if share.startswith("shuffled-"):
            shuffles.append(outcomes.hits.pop(share))
    if shuffles:
        outcomes.add("shuffled", np.mean(shuffles, 0), outcomes.names["test"])
    return [100 * float(hits.mean()) for hits in shuffles]


def measure_fairness(outcomes, scenes, seed):
    """fairness of the test videos that have a scene and could be read, and how many of all"""
    arrays = outcomes.arrays
    known = arrays["test/used"] & (scenes >= 0)
    if not known.any():
        return {}, None
    arrays["test/scenes"] = scenes
    predicted = fuse(arrays["test/logits"]).argmax(-1)
    figures = fairness(arrays["test/labels"][known], predicted[known], scenes[known], seed)
    return figures, [int(known.sum()), len(known)]


def measure(run, args, stem):
    """All figures of one checkpoint, as plain values; what they follow from goes to STEM.npz.

    -> Checkpoint.about with protocol, lists {split: [file, sha1]}, figures and bootstrap {metric:
    value}, videos {split: [used, listed]}, and what `notes` says of them"""
    use_device(run.model)
    data = read_data(run, args)
    outcomes = Outcomes()
    for split, videos in data.splits.items():
        boxes = data.boxes if split == "test" else None
        orders = clip_orders(run, split, args, masked=boxes is not None)
        predictions = predict(run, split, videos, orders, args, boxes)
        add_split(outcomes, split, videos, predictions)
    if data.groups is not None:
        add_groups(outcomes, data.groups, run.classes)
    fair_figures = {}
    fair = None
    masked = None
    probe = None
    if data.scenes is not None:
        fair_figures, fair = measure_fairness(outcomes, data.scenes, args.seed)
    if data.boxes is not None:
        masked = [len(outcomes.hits["masked"]), len(data.splits["test"])]
    if data.probe:
        scene_outcomes = measure_scenes(run, data.probe, args)
        add_scenes(outcomes, scene_outcomes)
        probe = scene_outcomes.about
    shuffles = add_shuffles(outcomes)
    n_test = len(outcomes.hits["test"])
    num_classes = len(run.classes)
    figures = outcomes.means(n_test, num_classes)
    counts = {}  # used, listed
    for split, videos in data.splits.items():
        counts[split] = [len(videos) - len(outcomes.unreadable[split]), len(videos)]
    if run.share[0] == 0:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with common.whole(f"{stem}.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, classes=np.array(run.classes), **outcomes.arrays)
    return run.about() | dict(
        protocol=run.protocol(args),
        lists={name: [data.files[name], videos.sha1] for name, videos in data.splits.items()},
        figures={name: float(value) for name, value in figures.items()} | fair_figures,
        bootstrap=outcomes.errors(n_test, num_classes, args.seed),
        shuffles=shuffles,
        videos=counts,
        broken=outcomes.unreadable,
        fair=fair,
        probe=probe,
        masked=masked,
        classes=num_classes,
    )


# ---- The table -----------------------------------------------------------------------------------
class Metric(NamedTuple):
    key: str  # in a row's figures
    label: str  # with an arrow to where it is better
    digits: int = 1


GROUPS = {
    "accuracy": [
        Metric("iid", "IID ↑"),
        Metric("scuba", "SCUBA ↑"),
        Metric("conflfg", "Confl-FG ↑"),
        Metric("rare", "rare ↑"),
        Metric("worst-group", "worst group ↑"),
    ],
    "static bias": [
        Metric("scufo", "SCUFO ↓"),
        Metric("off_chance", "abs(SCUFO-1/K) ↓"),
        Metric("contrasted", "contrasted ↑"),
    ],
    "scene bias": [
        Metric("masked", "masked → 1/K"),
        Metric("masked_entropy", "masked entropy ↑", 2),
        Metric("scene_probe", "scene probe ↓"),
        Metric("adversary", "adversary"),
    ],
    # A | would end the cell: I(Y';S|Y) is written in words.
    "fairness": [
        Metric("independence", "I(Y';S) → I(Y;S)", 3),
        Metric("independence_less_floor", "- less floor", 3),
        Metric("oracle", "I(Y;S)", 3),
        Metric("oracle_less_floor", "- less floor", 3),
        Metric("amplified", "I(Y';S) - I(Y;S)", 3),
        Metric("amplified_less_floor", "- less floors", 3),
        Metric("separation", "I(Y';S given Y) ↓", 3),
        Metric("separation_less_floor", "- less floor", 3),
        Metric("sufficiency", "I(Y;S given Y') ↓", 3),
        Metric("sufficiency_less_floor", "- less floor", 3),
    ],
    "time": [Metric("shuffled", "shuffled"), Metric("log_ratio", "log ratio ↑", 2)],
}


def row_name(names):
    """What the runs of a row share: albar-s0, albar-s1 -> albar. One run keeps its name."""
    if len(names) == 1:
        return names[0]
    shared = os.path.commonprefix(names)
    if shared in names:  # of gp10, gp10-1; of albar-s1, albar-s10
        return re.sub(r"[-_.]+(seed|split|s)\d+$", "", shared)
    return re.sub(r"([-_.]+(seed|split|s)?)?[-_.]*\d*$", "", shared) or names[0]


def group_seeds(measured):
    """What `measure` gives of each checkpoint -> lists of the seeds of one configuration"""
    groups = []
    for report in measured:
        for group in groups:
            seeds = [other["seed"] for other in group]
            if group[0]["config"] == report["config"] and report["seed"] not in seeds:
                group.append(report)
                break
        else:
            groups.append([report])
    return groups


def group_splits(groups):
    """What group_seeds gives -> lists of those of its groups that differ in the official split
    alone, by split. UserError where these have other seeds."""
    lists = []
    for group in groups:
        # Without any_split, a configuration of its own.
        configuration = group[0].get("any_split", group[0]["config"])
        split = group[0].get("split")
        for of_splits in lists:
            first = of_splits[0][0]
            splits = [other[0].get("split") for other in of_splits]
            if first.get("any_split") == configuration and split not in splits:
                of_splits.append(group)
                break
        else:
            lists.append([group])
    for of_splits in lists:
        of_splits.sort(key=lambda group: group[0].get("split", 0))
        seeds_of = {}
        for group in of_splits:
            seeds_of[group[0].get("split")] = sorted(report["seed"] for report in group)
        seeds_of_first = seeds_of[of_splits[0][0].get("split")]
        if any(seeds != seeds_of_first for seeds in seeds_of.values()):
            told = "; ".join(f"split {split}: {seeds}" for split, seeds in seeds_of.items())
            raise UserError(
                f"{of_splits[0][0]['checkpoint']}: the official splits of this configuration have "
                f"other seeds ({told}): name the same of each"
            )
    return lists


def average_splits(of_splits):
    """A list of group_splits -> a report for each seed: means over the splits, sums of videos.

    A bootstrap of several splits is not given: some of their videos are the same."""
    if len(of_splits) == 1:
        return of_splits[0]
    averaged = []
    for first in of_splits[0]:
        reports = []
        for group in of_splits:
            reports += [report for report in group if report["seed"] == first["seed"]]
        figures = {}
        for key in first["figures"]:
            values = [report["figures"].get(key) for report in reports]
            if None not in values:
                figures[key] = float(np.mean(values))
        report = first | dict(figures=figures, bootstrap={}, plus_minus_is="none of one seed")
        report["splits"] = [other["split"] for other in reports]
        for key in ("masked", "fair"):
            if all(other.get(key) for other in reports):
                report[key] = np.sum([other[key] for other in reports], 0).tolist()
        report["videos"] = {}
        report["lists"] = {}
        for other in reports:
            for name, counts in other["videos"].items():
                report["videos"][f"{name} {other['split']}"] = counts
                report["lists"][f"{name} {other['split']}"] = other["lists"][name]
        averaged.append(report)
    return averaged


def merge(measured):
    """What `measure` gives of each checkpoint -> rows; seeds of one configuration share a row. Of
    official splits these are seeds of means over the splits.

    A row is what evaluate.json holds of a column of the table."""
    rows = []
    for of_splits in group_splits(group_seeds(measured)):
        every = [report for group in of_splits for report in group]
        group = average_splits(of_splits)
        first = group[0]
        values = {}
        for key in first["figures"]:
            values[key] = np.array([report["figures"][key] for report in group])
        plus_minus = first["bootstrap"]
        plus_minus_is = first.get("plus_minus_is", "standard error by bootstrap over videos")
        if len(group) > 1:
            plus_minus = {key: float(each.std(ddof=1)) for key, each in values.items()}
            plus_minus_is = "standard deviation over seeds, n - 1"
        name = row_name([report["name"] for report in every])
        same_name = sum(row["name"].split(" (")[0] == name for row in rows)
        if same_name:
            name = f"{name} ({same_name + 1})"
        row = dict(
            name=name,
            method=first["method"],
            epochs=first["epochs"],
            protocol=first["protocol"],
            lists=first["lists"],
            checkpoints=[report["checkpoint"] for report in every],
            splits=first.get("splits"),
            seeds=[report["seed"] for report in group],
            videos=np.sum(list(first["videos"].values()), 0).tolist(),  # used, listed
            mean={key: float(each.mean()) for key, each in values.items()},
            plus_minus=plus_minus,
            each={key: each.tolist() for key, each in values.items()},  # of each seed
            plus_minus_is=plus_minus_is,
        )
        for key in ("probe", "masked", "classes", "fair"):
            row[key] = first.get(key)
        rows.append(row)
    return rows


def figure(row, metric):
    """The cell of one figure with its +-"""
    if metric.key not in row["mean"]:
        return "-"
    text = f"{row['mean'][metric.key]:.{metric.digits}f}"
    if metric.key in row["plus_minus"]:
        text += f" ±{row['plus_minus'][metric.key]:.{metric.digits}f}"
    return text


def t_share(t, freedom):
    """P(-t < T < t) of Student's T: for whole degrees of freedom a finite sum (Abramowitz and
    Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / freedom**0.5)
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    if odd:
        return (angle + total) * 2 / math.pi
    return total


def t95(freedom):
    """Student's t for a two-sided 95 % interval, by bisection"""
    low, high = 1.0, 20.0
    while high - low > 1e-9:
        t = (low + high) / 2
        if t_share(t, freedom) < 0.95:
            low = t
        else:
            high = t
    return low


def paired_difference(a, b):
    """(S,) figures of two configurations at the same S >= 2 seeds -> mean of a - b, half its 95 % t
    interval"""
    d = np.asarray(a) - np.asarray(b)
    half = t95(len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    return float(d.mean()), float(half)


def difference(row, metric, first):
    """The cell of one figure: row minus first by the seeds that both have, "-" where these are
    fewer than two, or the lists are not the same"""
    seeds = [seed for seed in first["seeds"] if seed in row["seeds"]]
    if not same_lists(row, first):
        return "-"
    if len(seeds) < 2 or metric.key not in row["each"] or metric.key not in first["each"]:
        return "-"
    figures = [row["each"][metric.key][row["seeds"].index(seed)] for seed in seeds]
    of_first = [first["each"][metric.key][first["seeds"].index(seed)] for seed in seeds]
    mean, half = paired_difference(figures, of_first)
    low = f"{mean - half:+.{metric.digits}f}"
    high = f"{mean + half:+.{metric.digits}f}"
    return f"{mean:+.{metric.digits}f} [{low}, {high}]"


def with_parts(metrics, rows):
    """The metrics, and below SCUBA and SCUFO one for each background that a row has, below the
    worst group one for each"""
    listed = []
    for metric in metrics:
        listed.append(metric)
        if metric.key in ("scuba", "scufo"):
            for background in backgrounds(rows):
                listed.append(Metric(f"{metric.key}-{background}", f"- {background}"))
        if metric.key == "worst-group":
            for group in endings(rows, "group-"):
                listed.append(Metric(f"group-{group}", f"- {group}"))
    return listed


def backgrounds(rows):
    return endings(rows, "scuba-")


def endings(rows, start):
    """How the figures of rows go on whose names begin so"""
    names = []
    for row in rows:
        for key in row["mean"]:
            name = key.removeprefix(start)
            if key.startswith(start) and name not in names:
                names.append(name)
    return names


def table_by_groups(corner, rows, cell, groups=GROUPS):
    """Lines of a Markdown table, a line a metric and a column a row; [] where no row has any.

    cell(row, metric) -> text, "-" where a row has no such figure."""
    table = [[corner, *(row["name"] for row in rows)]]
    for group, metrics in groups.items():
        lines = []
        for metric in with_parts(metrics, rows):
            cells = [cell(row, metric) for row in rows]
            if any(text != "-" for text in cells):
                lines.append([metric.label, *cells])
        if lines:
            table += [[f"**{group}**", *([""] * len(rows))], *lines]
    if len(table) == 1:
        return []
    return layout(table)


def same_lists(row, first):
    """Have two rows the same test lists, and of SCUBA and the others, where both have one, too?"""
    for name in row["lists"].keys() | first["lists"].keys():
        if name in row["lists"] and name in first["lists"]:
            if row["lists"][name][1] != first["lists"][name][1]:
                return False
        elif name.startswith("test"):
            return False
    # A mean over other backgrounds is another figure.
    places = set(backgrounds([row]))
    places_of_first = set(backgrounds([first]))
    return places == places_of_first or not places or not places_of_first


def layout(table):
    """Lines of cells, the first the head -> lines of a Markdown table"""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * width for width in widths]
    lines = []
    for cells in [table[0], rule, *table[1:]]:
        lines.append("| " + " | ".join(map(str.ljust, cells, widths)) + " |")
    return lines


def notes(rows):
    """What is said below the table: what each row is, and what some of its figures are."""
    lines = []
    for row in rows:
        epoch, epochs = row["epochs"]
        used, listed = row["videos"]
        files = [str(file) for file, _ in row["lists"].values()]
        seeds = ", ".join(map(str, row["seeds"]))
        if row["splits"]:
            seeds += f", of each the mean over the official splits {row['splits']}"
        lines.append(
            f"{row['name']}: {', '.join(row['checkpoints'])}; {row['method']}.py, epoch {epoch} of "
            f"{epochs}; {row['protocol']}; {used} of {listed} videos used, of "
            f"{common.shortened(files)}; {len(row['seeds'])} seed(s): {seeds}; ±: "
            f"{row['plus_minus_is']}."
        )
    if not all(same_lists(row, rows[0]) for row in rows):
        lines.append("The rows are of different lists: their figures are not to be compared.")
    if backgrounds(rows):
        lines.append(
            f"SCUBA, SCUFO, contrasted: means over the backgrounds {', '.join(backgrounds(rows))}."
        )
    for row in rows:
        if row["masked"]:
            used, listed = row["masked"]
            num_classes = row["classes"]
            lines.append(
                f"masked: {used} of {listed} test clips, those with a human box in half of their "
                f"frames or more; 1/K {100 / num_classes:.1f}, ln K {math.log(num_classes):.2f}."
            )
    for row in rows:
        if row["probe"]:
            lines.append(
                "scene probe, {lists[0]} to {lists[1]} ({videos[0]} to {videos[1]} videos, "
                "{scenes} scenes): chance {chance:.1f}; the most frequent scene "
                "{most_frequent:.1f}; the scene that is most frequent with the true action "
                "{from_action:.1f}.".format(**row["probe"])
            )
    for row in rows:
        if row["fair"]:
            known, listed = row["fair"]
            lines.append(
                f"scenes S of {known} of {listed} test videos; I: mutual information over the mean "
                "of both entropies; floor: its mean over 200 deals of the scenes at random."
            )
    # What several rows share is said once.
    return [f"- {line}" for line in dict.fromkeys(lines)]


def markdown(rows, groups=GROUPS):
    """The Markdown table, a column for each row; what each is; paired differences."""
    lines = [*table_by_groups("", rows, figure, groups), "", *notes(rows)]
    differences = table_by_groups("", rows[1:], partial(difference, first=rows[0]), groups)
    if differences:
        heading = f"Minus {rows[0]['name']}, paired by seed: the mean and its 95 % t interval."
        lines += ["", heading, "", *differences]
    return "\n".join(lines)


def output_stem(path, args):
    """Where the figures of a checkpoint go, without .json or .npz.

    runs/albar/evaluate; of another file than last.pt runs/albar/evaluate-best. In --out, where
    there are several, OUT/evaluate-albar and OUT/evaluate-albar-best."""
    folder = path.parent
    words = ["evaluate"]
    if args.out:
        folder = Path(args.out)
        if len(args.runs) > 1:
            words.append(path.absolute().parent.name)
    if path.stem != "last":
        words.append(path.stem)
    return folder / "-".join(words)


def check_out(stem, run, args):
    """UserError where the file of --out is another run's."""
    file = Path(f"{stem}.json")
    if not args.out or not file.exists():
        return
    try:
        other = json.loads(file.read_text())["checkpoint"]["checkpoint"]
    except (ValueError, KeyError, TypeError):
        other = "another program"
    if Path(other).resolve() != run.path.resolve():
        raise UserError(f"{file} holds the figures of {other}: name another --out for {run.path}")


def evaluate(args):
    """Measure every checkpoint, print the table, write the JSON files. -> the rows

    torchrun's processes share the videos of each list, and then each has all that came of them."""
    if not args.runs:
        raise UserError("no run to evaluate: python evaluate.py runs/albar")
    if args.windows and args.clips:
        raise UserError("--windows takes all clips of a video: leave --clips out")
    share = (0, 1)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        rank, processes, _ = common.start(args.seed)
        share = (rank, processes)
    # All that is wrong with the input is said before a video is read.
    paths = {}
    stems = {}
    named = []
    for path in args.runs:
        run = load_run(path, args.model)
        if run.tsn and args.windows:
            raise UserError(f"{path}: --windows are clips, and a TSN sees frames: leave it out")
        read_data(run, args)
        file = run.path.resolve()  # a checkpoint named twice is one
        stem = output_stem(run.path, args)
        if stems.setdefault(stem, file) != file:
            raise UserError(
                f"--out {args.out}: {stems[stem]} and {file} would both be {stem.name}: "
                "evaluate them one by one, or without --out"
            )
        check_out(stem, run, args)
        if file not in paths:
            named.append(run.about())
        paths[file] = path
    group_splits(group_seeds(named))
    measured = []
    for path in paths.values():
        run = load_run(path, args.model)
        run.share = share
        measured.append(measure(run, args, output_stem(run.path, args)))
    rows = merge(measured)
    if share[0] > 0:
        return rows
    for report in measured:
        row = next(row for row in rows if report["checkpoint"] in row["checkpoints"])
        content = dict(row=row, checkpoint=report, table=rows, args=asdict(args))
        stem = output_stem(Path(report["checkpoint"]), args)
        write_json(f"{stem}.json", content)
    print(markdown(rows))
    return rows


def write_json(file, content):
    with common.whole(file) as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


# ---- `list`, `check`: lists of other data sets ---------------------------------------------------
@dataclass
class ListArgs:
    file: str = arg("", "list of another data set, or one that --train takes", positional=True)
    root: str = arg("", "folder of the videos: where each lies is looked up there")
    labels: str = arg("", "file of all class names, which gives their labels")
    subset: str = arg("", "of a file that holds several, such as training and validation")
    split: int = arg(1, "official split of HMDB51's folder of lists", choices=(1, 2, 3))


@dataclass
class Record:
    """A video in a data set's own list."""

    path: str  # in the layout that the data set is mostly kept in
    action: str | int  # its class by name, or its label from 0; "": left out
    subset: str = ""
    left_out: str = ""  # why


@dataclass
class Annotations:
    """A data set's own list."""

    kind: str  # what it was taken for
    read: Callable  # item -> Record; an error of Python's where the item is malformed
    items: list  # [(place, a line's text or a JSON value)]
    names: list = ()  # of the classes in order, where the file has them
    needs_names: bool = False  # its labels are those of a file of names that comes with it


def cells_of(text):
    return next(csv.reader([text]))


def read_table(text, header):
    """A line below a header: Kinetics', whose files are named by their seconds, or of any files."""
    row = dict(zip(header, cells_of(text), strict=True))
    path = row.get("filename") or row.get("clip")
    if not path:
        start, end = int(row["time_start"]), int(row["time_end"])
        path = f"{row['label']}/{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
    return Record(path, row["label"], row.get("split") or row.get("subset", ""))


def read_moments(text):
    """Version 1: `label/name.mp4,label,yes,no`; made of it and in use: `name,label,frames`"""
    path, action, *counts = cells_of(text)
    if len(counts) == 1:
        path = f"{action}/{path}.mp4"
    return Record(path, action)


def read_jester(text):
    """A video is a folder of frames."""
    folder, action = text.split(";")
    return Record(folder, action)


def read_finegym(text):
    """A video is a sub-action, cut out and named by its times."""
    clip, label = text.split()
    return Record(f"{clip}.mp4", label)


def read_in_folder(text):
    path = text if os.path.splitext(text)[1] else f"{text}.avi"
    return Record(path, text.split("/")[-2])


def read_something(video):
    """The class is the template less its brackets; "label" is what the volunteer did."""
    action = video["template"].replace("[", "").replace("]", "")
    return Record(f"{video['id']}.webm", action)


def read_diving48(video):
    """start_frame and end_frame are the whole clip."""
    return Record(f"{video['vid_name']}.mp4", video["label"])


def read_entry(item):
    """(video, {"subset", "annotations"}): one annotation, as 3D-ResNets has it for clips in class
    folders; or a list, as ActivityNet has it for the segments of whole videos."""
    name, video = item
    annotations = video["annotations"]
    is_clip = isinstance(annotations, dict)
    if is_clip:
        annotations = [annotations] if annotations else []
    record = Record(f"{name}.mp4", "", str(video.get("subset", "")))
    actions = {annotation["label"] for annotation in annotations}
    if not actions:
        record.left_out = "without annotations, as test sets"
    elif len(actions) > 1:
        record.left_out = "of several classes"
    else:
        (record.action,) = actions
        if is_clip:
            record.path = f"{record.action}/{name}.avi"
    return record


def recognise(file):
    """Annotations of a data set's own list, told by what is in it; None of a list that looks as
    common.read_list takes it."""
    lines = [] if Path(file).is_dir() else common.read_lines(file)
    first = lines[0][1] if lines else ""
    clip, *rest = first.split() or [""]
    if "_E_" in clip and "_A_" in clip and "." not in clip and len(rest) == 1:
        return Annotations("FineGym's list", read_finegym, lines)
    if not lines or rest and rest[-1].isdecimal() or common.is_waterbirds(file, lines):
        return None
    header = cells_of(first)
    if first[0] in "{[":
        annotations = recognise_json(file)
        if annotations:
            return annotations
    elif {"youtube_id", "filename", "clip"} & set(header):
        kind = "Kinetics' CSV" if "youtube_id" in header else "a CSV of files"
        return Annotations(kind, partial(read_table, header=header), lines[1:])
    elif first.partition(";")[0].isdecimal() and ";" in first:
        return Annotations("Jester's CSV", read_jester, lines, needs_names=True)
    elif len(header) in (3, 4) and all(cell.isdecimal() for cell in header[2:]):
        return Annotations("Moments in Time's CSV", read_moments, lines)
    elif all("/" in text for _, text in lines):
        # UCF101's test lists have no label, but its classInd.txt, which common reads.
        if Path(file).with_name("classInd.txt").exists():
            return None
        return Annotations("files in class folders", read_in_folder, lines, needs_names=True)
    raise UserError(
        f"{file}: no list of videos and their classes in a known form (list --help names them); it "
        f"begins {first[:70]!r}"
    )


def recognise_json(file):
    content = read_json(file)
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and ("id" in first or "vid_name" in first):
        items = [(f"{file}: record {i}", video) for i, video in enumerate(content)]
        if "vid_name" in first:
            return Annotations("Diving48's JSON", read_diving48, items)
        return Annotations("Something-Something v2's JSON", read_something, items, needs_names=True)
    database = content.get("database", content) if isinstance(content, dict) else None
    if not isinstance(database, dict):
        return None
    items = [(f"{file}: {item[0]!r}", item) for item in database.items()]
    names = content.get("labels", ())
    if "database" in content and isinstance(names, list):
        return Annotations("3D-ResNets' JSON", read_entry, items, names)
    video = next(iter(database.values()), None)
    if isinstance(video, dict) and "annotations" in video:
        return Annotations("ActivityNet's JSON", read_entry, items)
    return None


def read_json(file):
    try:
        return json.loads("\n".join(text for _, text in common.read_lines(file)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: it begins as JSON and is none: {error}") from None


def read_records(annotations):
    """-> {place: Record}"""
    records = {}
    for place, item in annotations.items:
        try:
            record = annotations.read(item)
            if not isinstance(record.action, str | int):
                raise TypeError
            if record.action == "" and not record.left_out:
                raise ValueError
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise UserError(
                f"{place}: no video or no class as {annotations.kind} has it (lists of test videos "
                f"have none), mend or remove it: {str(item)[:70]!r}"
            ) from None
        records[place] = record
    return records


def choose_records(file, records, subset):
    """-> {place: Record} of those of the subset that have a class; {why not: how many}"""
    sizes = Counter(record.subset for record in records.values())
    if not subset and len(sizes) == 1:
        (subset,) = sizes
    elif not subset or subset not in sizes:
        held = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in sizes.items())
        raise UserError(f"{file}: name one of its subsets with --subset: {held}")
    chosen = {}
    left_out = Counter()
    for place, record in records.items():
        if record.subset != subset:
            left_out["of other subsets"] += 1
        elif record.left_out:
            left_out[record.left_out] += 1
        else:
            chosen[place] = record
    if not chosen:
        raise UserError(f"{file}: no video in it has a class")
    return chosen, left_out


def read_names(file):
    """Class names in the order of their labels: of JSON, {name: label} or a list, or of lines
    `name`, `label name` or `name,label`. Labels may begin with 1, as UCF101's do."""
    texts = [text for _, text in common.read_lines(file)]
    if texts and texts[0][0] in "{[":
        content = read_json(file)
        pairs = [(name, label) for label, name in enumerate(content)]
        if isinstance(content, dict):
            pairs = content.items()
    elif all(len(text.split()) > 1 and text.split()[0].isdecimal() for text in texts):
        pairs = [reversed(text.split(maxsplit=1)) for text in texts]
    elif all(text.rpartition(",")[2].isdecimal() for text in texts):
        pairs = [text.rsplit(",", 1) for text in texts]
    else:
        # ActivityNet's action_name.csv has a header.
        if texts[0] == "action":
            texts = texts[1:]
        pairs = [(name, label) for label, name in enumerate(texts)]
    name_of = {str(label): str(name) for name, label in pairs}
    first = 0 if "0" in name_of else 1
    names = [name_of.get(str(first + i)) for i in range(len(name_of))]
    if not names or None in names:
        raise UserError(f"{file}: its labels are not 0, 1, 2, ..., each with a name: mend it")
    return names


def find_labels(args, annotations, records):
    """-> Rows of {place: Record}, the names of the classes or [], where the labels are from"""
    names = list(annotations.names)
    origin = "labels as in the file"
    if args.labels:
        names = read_names(args.labels)
        origin = f"labels of {args.labels}"
    actions = {str(record.action) for record in records.values()}
    if not names and not any(action.isdecimal() for action in actions):
        if annotations.needs_names:
            raise UserError(
                f"{args.file}: {annotations.kind}: it names classes and has no labels: give the "
                "file of all class names in order, --labels FILE"
            )
        names = sorted(actions)
        origin = "labels by the sorted names in it (for all lists of a data set: --labels FILE)"
    label_of = {name.replace("_", " ").lower(): label for label, name in enumerate(names)}
    rows = []
    for place, record in records.items():
        action = str(record.action)
        label = label_of.get(action.replace("_", " ").lower())
        if label is None:
            if not action.isdecimal():
                raise UserError(
                    f"{place}: {action!r} is no class of {args.labels or args.file}: give the file "
                    "of all class names with --labels FILE"
                )
            label = int(action)
        rows.append(common.Row(place, record.path, label))
    common.check_labels(rows, names)
    return rows, names, origin


def on_disk(path, root):
    """Where below root the video `path` lies: its class folder may have `_` for spaces, or be none,
    ActivityNet's `v_` may be there or not, and it has any ending, none being a folder of frames.
    None: nowhere."""
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    for place in dict.fromkeys([folder, folder.replace(" ", "_"), ""]):
        for start in dict.fromkeys([stem, f"v_{stem}", stem.removeprefix("v_")]):
            for end in dict.fromkeys([ending, ".mp4", ".webm", ".mkv", ".avi", ""]):
                found = os.path.join(place, start + end)
                if os.path.exists(os.path.join(root, found)):
                    return found
    return None


def read_any_list(args):
    """-> Rows of the list args.file, and in words what it was taken for and what was left out"""
    annotations = recognise(args.file)
    if annotations is None:
        part = args.subset or "train"
        parts = common.parts_of(args.file)
        if args.subset and (len(parts) == 1 or part not in parts):
            raise UserError(
                f"--subset {part}: HMDB51's folder has train and test, Waterbirds' metadata.csv "
                "has val too, a list has none"
            )
        classes = read_names(args.labels) if args.labels else None
        videos = common.read_list(args.file, args.root, part, args.split, classes)
        rows = [common.Row("", *pair) for pair in zip(videos.paths, videos.labels, strict=True)]
        return rows, f"{videos.kind} list, {len(rows)} videos of {len(set(videos.labels))} classes"
    records, left_out = choose_records(args.file, read_records(annotations), args.subset)
    rows, names, origin = find_labels(args, annotations, records)
    text = f"{annotations.kind}, {len(rows)} videos of {len({row.label for row in rows})}"
    if names:
        text += f" of {len(names)}"
    text += f" classes, {origin}"
    for why, count in left_out.items():
        text += f"; left out: {count} {why}"
    return rows, text


def list_videos(args):
    """Print another data set's list as a plain one: `path label` a line, labels from 0. What FILE
    was taken for and what was left out goes to stderr. The kind is told by what is in it:

      Kinetics: CSV. Of Mini-Kinetics-200: its header and what `grep -F -f IDS` leaves of it
      Something-Something v2, Diving48: JSON
      ActivityNet: JSON, official or BMN's; whole videos of one class
      UCF101, HMDB51: JSON of 3D-ResNets; their own lists; `class/name` a line
      Waterbirds: metadata.csv
      Moments in Time: CSV (and other CSV files with columns filename, label)
      Jester: CSV, `id;label`
      FineGym: text
      all that --train takes

    With --root each video is looked for. What is not found is told on stderr, and listed."""
    if not args.file:
        raise UserError("name a list: python evaluate.py list FILE --root VIDEOS")
    if args.root and not Path(args.root).is_dir():
        raise UserError(f"--root {args.root}: no such folder")
    rows, text = read_any_list(args)
    missing = []
    if args.root:
        for row in rows:
            found = on_disk(row.path, args.root)
            if found is None:
                missing.append(row.path)
            row.path = found or row.path
    if missing:
        text += (
            f"; listed all the same: {len(missing)} that are not in {args.root}: "
            f"{common.shortened(missing)}"
        )
    print("".join(f"{row.path} {row.label}\n" for row in rows), end="")
    print(f"{args.file}: {text}", file=sys.stderr)


@dataclass
class CheckArgs:
    file: str = arg("", "list, as --train takes it, with all of its parts", positional=True)
    root: str = arg("", "folder of the videos; default: the list's own folder")
    split: int = arg(1, "official split of HMDB51's folder of lists", choices=(1, 2, 3))
    frames: int = arg(16, "frames of a clip: videos of fewer would loop", low=1)
    workers: int = arg(4, "loader processes; 0 reads in this one", low=0)


@dataclass
class Looks(torch.utils.data.Dataset):
    """A first look at each video: its place in the list, its frames or 0, what is wrong with it."""

    videos: common.VideoList

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, i):
        path = self.videos.full(i)
        if not os.path.exists(path):
            return i, 0, "missing"
        try:
            frames = common.num_frames(path)
            common.read_clip(path, [0, frames // 2])
        except UserError as error:
            return i, 0, str(error)
        return i, frames, ""


def check(args):
    """Before training: read the first and the middle frame of each video of a list. Says which
    videos are missing, unreadable or short, and which classes are small or empty; damage elsewhere
    in a video is not seen. Exit code 1: fewer than two classes have a readable video."""
    if not args.file:
        raise UserError("name a list: python evaluate.py check LIST --root VIDEOS")
    videos = common.read_list(args.file, args.root, "train", args.split)
    for part in common.parts_of(args.file)[1:]:
        more = common.read_list(args.file, args.root, part, args.split)
        both = dict(paths=videos.paths + more.paths, labels=videos.labels + more.labels)
        videos = replace(videos, **both)
    videos = common.each_once(videos, args.file)
    loader = common.make_loader(Looks(videos), args, torch.device("cpu"), batch_size=None)
    missing = []
    unreadable = []
    short = []
    sizes = Counter()  # of the classes, by label, in readable videos
    for i, frames, fault in tqdm(loader, total=len(videos), unit="video", disable=None):
        if fault == "missing":
            missing.append(videos.paths[i])
        elif fault:
            unreadable.append(fault)
        else:
            sizes[videos.labels[i]] += 1
        if 0 < frames < args.frames:
            short.append(f"{videos.paths[i]} ({frames})")
    by_size = [f"{videos.classes[label]} ({count})" for label, count in sizes.most_common()]
    empty = [name for label, name in enumerate(videos.classes) if label not in sizes]
    print(f"{args.file}: {videos.kind} list, {len(videos)} videos in {videos.root}")
    print(f"{sizes.total()} readable, of {len(by_size)} of {len(videos.classes)} classes")
    if by_size:
        print(f"largest class: {by_size[0]}; smallest: {by_size[-1]}")
    found = {"missing": missing, "unreadable": unreadable}
    found[f"shorter than {args.frames} frames, which would loop"] = short
    found["classes without a readable video"] = empty
    for what, names in found.items():
        if names:
            print(f"{len(names)} {what}: {common.shortened(names)}")
    if len(by_size) < 2:
        print("Nothing to train on: fewer than two classes have a readable video.")
        raise SystemExit(1)


# ---- `bias`: scene representation bias of a data set, SDN Eq. (1) --------------------------------
@dataclass
class BiasArgs:
    scenes: tuple = arg((), "folders of `sdn.py scenes`, best with its --features")
    train: str = arg("", "training list")
    test: str = arg("", "test list; none: a seeded half of each action in --train")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists", choices=(1, 2, 3))
    seed: int = arg(0, "seed of the halves and of the bootstrap", low=0)
    out: str = arg("", "folder of bias.json, for `transfer`; default: none is written")


BIAS_TOY = dict(
    scenes=("data/toy0/scenes",), train="data/toy0/train.txt", test="data/toy0/test.txt"
)


def scene_representation_bias(accuracy, chance):
    """Eq. (1)  B_scene = ln(M(D, phi_scene) / M_rand)

    accuracies in [0, 1], any shape; 0: no bias, large: much"""
    return np.log(accuracy / chance)


def minimise(objective, parameters, tolerance=1e-8):
    """Move the tensors to where objective() is least, by LBFGS until no entry of the gradient is
    above the tolerance."""
    lbfgs = torch.optim.LBFGS(
        parameters,
        max_iter=5000,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss():
        lbfgs.zero_grad()
        value = objective()
        value.backward()
        return value

    lbfgs.step(loss)


def linear_classifier(x, y, k, c=1.0):
    """Multinomial logistic regression, x (n, D), y (n,) labels below k -> W (k, D), b (k,): the
    least sum of cross-entropies + |W|^2 / 2c."""
    w = torch.zeros((k, x.shape[1]), dtype=x.dtype, requires_grad=True)
    b = torch.zeros(k, dtype=x.dtype, requires_grad=True)
    minimise(lambda: F.cross_entropy(x @ w.T + b, y) + w.square().sum() / (2 * c * len(x)), [w, b])
    return w.detach(), b.detach()


def scene_features(folders, videos):
    """phi_scene: the folders' features where each holds some, else log-probabilities.

    -> (n, D) float64 of the videos that are in the folders, these videos, which of the two"""
    parts = [common.open_labels(folder) for folder in folders]
    kind = "features"
    if any(part.features is None for part in parts):
        kind = "probabilities"
    for folder, part in zip(folders, parts, strict=True):
        if part.categories != parts[0].categories:
            raise UserError(f"{folder}: its categories are not those of {folders[0]}")
        if kind == "features" and part.features.shape[1] != parts[0].features.shape[1]:
            raise UserError(f"{folder}: its features are not as many as those of {folders[0]}")
    wanted = set(videos.paths)
    rows = {}
    for part in parts:
        values = part.features if kind == "features" else part.labels
        for place, path in enumerate(part.paths):
            if path in wanted and not np.isnan(part.labels[place]).any():
                rows[path] = values[place]
    videos = common.subset(videos, [i for i, path in enumerate(videos.paths) if path in rows])
    if not len(videos):
        raise UserError(f"{', '.join(map(str, folders))}: none of the list's videos")
    x = torch.from_numpy(np.stack([rows[path] for path in videos.paths])).double()
    if kind == "probabilities":
        x = x.clamp_min(6e-8).log()  # float16's least number
    return x, videos, kind


def read_bias_lists(args):
    """-> the VideoList to learn from, the VideoList to be tested on"""
    train = common.read_list(args.train, part="train", split=args.split)
    if args.test:
        test = common.read_list(args.test, part="test", split=args.split, classes=train.classes)
        shared = set(train.paths) & set(test.paths)
        if shared:
            raise UserError(
                f"--test: {len(shared)} of its videos are in --train too, first {min(shared)}"
            )
        return train, test
    train = common.each_once(train, args.train)
    # Every second video of each action, in a random order.
    order = np.random.default_rng([args.seed, len(train)]).permutation(len(train))
    order = order[np.argsort(np.array(train.labels)[order], kind="stable")]
    return common.subset(train, order[::2]), common.subset(train, order[1::2])


def bias(args):
    """B_scene (SDN Eq. 1) of a data set: ln(accuracy / chance) of a linear classifier that names
    its actions from frozen features of the scenes alone (`sdn.py scenes --features`), or from their
    log-probabilities. 0: no bias."""
    if not args.train:
        raise UserError("name the list that the classifier learns from: --train LIST")
    if not args.scenes:
        raise UserError("--train without --scenes: label the scenes with sdn.py scenes")
    train, test = read_bias_lists(args)
    x, train, kind = scene_features(args.scenes, train)
    x_test, test, _ = scene_features(args.scenes, test)
    x, x_test = standardise(x, x_test)
    num_classes = len(train.classes)
    w, b = linear_classifier(x, torch.tensor(train.labels), num_classes)
    hits = (x_test @ w.T + b).argmax(1).numpy() == test.labels
    n = len(test)
    most_frequent = np.bincount(test.labels).max() / n
    resampled = bootstrap(hits, video_names(test.paths), args.seed)
    # ln 0 is no number.
    accuracy = max(hits.mean(), 0.5 / n)
    chance = 1 / num_classes
    errors = scene_representation_bias(np.maximum(resampled, 0.5 / n), chance)
    phi = f"{kind} ({x.shape[1]})"
    if kind == "probabilities":
        phi = f"log-{phi}"
    figures = dict(
        phi_scene=phi,
        videos=[len(train), n],
        accuracy=100 * float(hits.mean()),
        chance=100 * chance,
        most_frequent=100 * float(most_frequent),
        b_scene=float(scene_representation_bias(accuracy, chance)),
        b_scene_most_frequent=float(scene_representation_bias(accuracy, most_frequent)),
        plus_minus=float(errors.std(ddof=1)),
    )
    print_bias(figures, f"{args.train} to {args.test or 'its other half'}")
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(args.out) / "bias.json", figures | dict(args=asdict(args)))
    return figures


def print_bias(figures, lists):
    table = [
        ["", lists],
        ["phi_scene", figures["phi_scene"]],
        ["videos", "{} to {}".format(*figures["videos"])],
        ["accuracy", f"{figures['accuracy']:.1f}"],
        ["1/K", f"{figures['chance']:.1f}"],
        ["most frequent", f"{figures['most_frequent']:.1f}"],
        ["B_scene", f"{figures['b_scene']:.2f} ±{figures['plus_minus']:.2f}"],
        ["- over most frequent", f"{figures['b_scene_most_frequent']:.2f}"],
    ]
    print(*layout(table), "", sep="\n")
    print("B_scene = ln(accuracy / (1/K)), and below it ln(accuracy / most frequent);")
    print("±: standard error by bootstrap over test videos.")


# ---- `cam`: class activation maps, SDN Sec. 4.7 --------------------------------------------------
@dataclass
class CamArgs:
    runs: tuple = arg(
        (), "runs to look into: folders (their last.pt) or checkpoint files", positional=True
    )
    map: str = arg(
        "cam",
        "class activation maps; ig: integrated gradients, ALBAR Fig. 3; SAAR's masks, SMAD Fig. 7",
        choices=("cam", "ig", "actionness"),
    )
    test: str = arg("", "list of the videos; none: that of the run's benchmark.json")
    humans: tuple = arg((), "boxes, files of `sdn.py humans`: what share of a map is inside?")
    root: str = arg("", "folder of the list's videos; default: the list's own folder")
    split: int = arg(
        0, "official split of HMDB51's folder of lists; 0: the run's own", choices=(0, 1, 2, 3)
    )
    videos: int = arg(8, "videos to draw, from the beginning of the list", low=1)
    model: str = arg("", "your own MODULE:FUNCTION that the runs were trained with")
    seed: int = arg(0, "seed of the bootstrap", low=0)
    out: str = arg("", "folder of the pictures and of cam.json; none: the name of --map")
    batch_size: int = arg(32, "clips in a forward pass, of ig in a backward pass, too", low=1)
    workers: int = arg(0, "loader processes; 0 reads in this one", low=0)


def last_maps(run, clip):
    """clip (N, 3, T, H, W), normalised -> (N, K) logits, (N, D, t, h, w) the last map of features.

    UserError where the logits are not the head of its mean (VGG, MViT): no class activation map is
    defined there."""
    head = run.model.head
    channels = head.weight.shape[1]
    frame_by_frame = getattr(run.model, "tsn", False)
    candidates = []

    def keep(module, inputs, output):
        """Keep a map of D channels, first or (Swin) last, and several positions."""
        if not torch.is_tensor(output):
            return
        if frame_by_frame and output.ndim > 3:
            shape = (len(clip), clip.shape[2], output.shape[1], *output.shape[-2:])
            output = output.reshape(shape).transpose(1, 2)
        if output.ndim != 5 or output[0].numel() <= channels:
            return
        maps = [m for m in (output, output.movedim(4, 1)) if m.shape[1] == channels]
        if maps:
            candidates[:] = maps

    with nn.modules.module.register_module_forward_hook(keep):
        logits = run.model(clip)
    tolerance = 1e-3 * float(logits.abs().max())
    for maps in candidates:
        again = F.linear(maps.mean((2, 3, 4)), head.weight.flatten(1), head.bias)
        if torch.allclose(again, logits, rtol=1e-3, atol=tolerance):
            return logits, maps
    raise UserError(
        f"{run.path}: no class activation map: its logits are not the head of a last map's mean"
    )


def class_activation_map(maps, weight, chosen, size):
    """M_c(t, h, w) = sum_k W[c, k] f_k(t, h, w), enlarged to size (T, H, W), trilinear

    maps f (N, D, t, h, w), weight W (K, D), classes chosen (N,) -> (N, T, H, W)"""
    cam = torch.einsum("ndthw,nd->nthw", maps, weight.flatten(1)[chosen])
    return enlarge(cam, size)


def enlarge(maps, size):
    """(N, t, h, w) -> (N, T, H, W) of size (T, H, W), trilinear"""
    return F.interpolate(maps[:, None], size, mode="trilinear", align_corners=False)[:, 0]


def actionness(run, clip):
    """clip (N, 3, T, H, W), normalised -> (N, K) logits, (N, T, H, W) SAAR's mask, SMAD Sec. 5.1"""
    if getattr(run.model, "saar", None) is None:
        raise UserError(
            f"{run.path}: it has no actionness masks: name a run of smad.py or omnidebias.py --smad"
        )
    output = run.model(clip, full=True)
    mask = output.mask.squeeze(1).unflatten(0, (len(clip), -1))  # (N, t, h, w)
    return output.logits, enlarge(mask, clip.shape[2:])


def integrated_gradients(model, clip, baseline, steps=32):
    """IG_i = (x_i - b_i) * mean over a of d z_c / d x_i at b + a (x - b), for the class c that the
    model predicts (Sundararajan et al. 2017), at the middles of `steps` equal parts of 0 to 1

    clip x, baseline b (N, 3, T, H, W) -> (N, K) logits, (N, 3, T, H, W), which sums to
    z_c(x) - z_c(b) but for the steps"""
    with torch.no_grad():
        logits = model(clip)
    chosen = logits.argmax(1, keepdim=True)
    gradient = torch.zeros_like(clip)
    for step in range(steps):
        x = torch.lerp(baseline, clip, (step + 0.5) / steps).requires_grad_()
        with torch.enable_grad():
            z = model(x).gather(1, chosen).sum()
        gradient += torch.autograd.grad(z, x)[0] / steps
    return logits, (clip - baseline) * gradient


def share_inside(cam, inside):
    """Maps (N, T, H, W), and 1 inside the human boxes, 0 outside -> (N,) share of the positive mass
    inside, (N,) of the area.

    Only frames that have a box count; NaN where none has, or where nothing there is positive."""
    has_box = (inside.amax((2, 3)) > 0)[..., None, None].expand_as(cam)
    mass = cam.clamp_min(0) * has_box
    share = (mass * inside).sum((1, 2, 3)) / mass.sum((1, 2, 3))
    area = (has_box * inside).sum((1, 2, 3)) / has_box.sum((1, 2, 3))
    return share, area


def with_boxes(frames, path, indices, boxes):
    """For Videos(change): the frames, then white boxes on black for the transform to crop alike."""
    white = torch.zeros_like(frames)
    for image, of_frame in zip(white, boxes(path, indices.ravel()), strict=True):
        common.fill_boxes(image, of_frame, 255)
    return torch.cat([frames, white]), np.stack([indices, indices]), {}


def tint(clip, cam):
    """clip (T, S, S, 3) in [0, 255] under a map (T, S, S), blue (0 or less) to red (the most, but
    for a thousandth, as integrated gradients have peaks)"""
    most = np.quantile(cam.cpu().numpy(), 0.999)
    heat = (cam[..., None] / max(most, 1e-12)).clamp(0, 1)
    peaks = heat.new_tensor([2.5, 1.5, 0.5])  # of red, green and blue, along 3 heat
    colour = (1.5 - (3 * heat - peaks).abs()).clamp(0, 1)
    return clip / 2 + 127.5 * colour


def draw(file, clip, cams):
    """FILE.png: a row of the clip's frames, (3, T, S, S) uint8, and one of them under each map,
    (T, S, S). FILE.mp4: the same frame of all rows, side by side, in time."""
    clip = clip.permute(1, 2, 3, 0).float()
    rows = torch.stack([clip, *(tint(clip, cam) for cam in cams)]).byte()  # (R, T, S, S, 3)
    side = rows.shape[3]
    zoom = math.ceil(112 / side)
    if zoom * side % 2:
        zoom += 1  # H.264 takes even sides
    rows = rows.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).cpu().numpy()
    strip = np.concatenate([np.concatenate(row, 1) for row in rows])
    common.write_picture(f"{file}.png", strip)
    common.write_video(f"{file}.mp4", np.concatenate(rows, 2), rate=4)


@dataclass
class Maps:
    """Where a run looks, in each of n videos."""

    predicted: list  # n names of classes
    unreadable: np.ndarray  # (n,) bool
    share: np.ndarray  # (n,) of the positive map inside the human boxes, NaN where undefined
    area: np.ndarray  # (n,) of these boxes
    drawn: list  # (clip (3, T, S, S) uint8, map (T, S, S)) of the first --videos, or some more


def look(run, videos, boxes, options, args):
    """-> Maps of the class that the run predicts, or with --map actionness of SAAR's mask"""
    use_device(run.model)
    change = partial(with_boxes, boxes=boxes or common.Boxes(()))
    predicted = []
    unreadable = []
    shares = []
    areas = []
    drawn = []  # and their maps
    for batch in batches(run, "cam", videos, options, change):
        clip, white = batch["clip"][:, :, 0].unbind(1)  # (N, 3, T, S, S)
        # Inference mode would leave integrated gradients without gradients.
        with torch.no_grad():
            x = common.normalise(clip, run.args["mean"], run.args["std"])
            if args.map == "actionness":
                logits, heat = actionness(run, x)
                chosen = logits.argmax(1)
            elif args.map == "ig":
                black = torch.zeros_like(clip)
                black = common.normalise(black, run.args["mean"], run.args["std"])
                logits, attribution = integrated_gradients(run.model, x, black)
                chosen = logits.argmax(1)
                heat = attribution.sum(1).abs()
            else:
                logits, maps = last_maps(run, x)
                chosen = logits.argmax(1)
                heat = class_activation_map(maps, run.model.head.weight, chosen, clip.shape[2:])
        share, area = share_inside(heat, white[:, 0] / 255)
        predicted += [run.classes[c] for c in chosen.tolist()]
        unreadable.append(batch["bad"] > 0)
        shares.append(share.cpu())
        areas.append(area.cpu())
        if len(drawn) < args.videos:
            drawn += zip(clip.cpu(), heat.cpu(), strict=True)
    unreadable = torch.cat(unreadable).numpy()
    name_unreadable(run, "cam", videos, ~unreadable)
    return Maps(
        predicted=predicted,
        unreadable=unreadable,
        share=torch.cat(shares).double().numpy(),
        area=torch.cat(areas).double().numpy(),
        drawn=drawn,
    )


def mean_inside(run, videos, maps, args):
    """The figures of one run: means over the videos with a human box and a positive map there."""
    counted = np.flatnonzero(~maps.unreadable & np.isfinite(maps.share))
    if not len(counted):
        raise UserError(
            f"{run.path}: no video has a human box, and a map that is positive where there is one"
        )
    share = maps.share[counted]
    resampled = bootstrap(share, [videos.paths[i] for i in counted], args.seed)
    return dict(
        name=run.name,
        checkpoint=str(run.path),
        seed=run.args["seed"],
        videos=len(counted),
        inside=100 * share.mean(),
        plus_minus=100 * resampled.std(ddof=1),
        area=100 * maps.area[counted].mean(),
    )


def print_inside(table):
    """Print what mean_inside gives of each run."""
    lines = [["", *(column["name"] for column in table)]]
    inside = [f"{column['inside']:.1f} ±{column['plus_minus']:.1f}" for column in table]
    lines.append(["map inside human boxes ↑", *inside])
    lines.append(["area inside", *(f"{column['area']:.1f}" for column in table)])
    lines.append(["videos", *(str(column["videos"]) for column in table)])
    print("", *layout(lines), "", sep="\n")
    print("Percent, means over videos; ±: standard error by bootstrap over them.")


def cam_videos(runs, options):
    """-> the VideoList that all runs look at, its Boxes or None"""
    same_clips = set()
    for run in runs:
        flags = tuple(run.args[name] for name in ("frames", "stride", "size", "resize"))
        same_clips.add((*flags, run.tsn))
    if len(same_clips) != 1:
        raise UserError(
            "name one run, or several that see the same clips: of equal frames, stride, size and "
            "resize"
        )
    lists = []
    for run in runs:
        sources = find_sources(run, options)
        lists.append(read_test_list(run, sources.tests["test"], options))
        if lists[-1].sha1 != lists[0].sha1:
            raise UserError("the runs' benchmarks have several test lists: give one with --test")
        if len(lists) == 1:
            boxes = read_boxes(sources, lists[0])
    return lists[0], boxes


def cam(args):
    """Class activation maps (SDN Sec. 4.7): where each run looks for the class that it predicts;
    or, with --map, integrated gradients (ALBAR Fig. 3; from a black clip in 32 steps, the size of
    their sum over colours) or SAAR's actionness masks (SMAD Fig. 7). An image strip and an MP4 for
    each of the first --videos; over the whole list the share of the positive map that lies in human
    boxes."""
    args = replace(args, out=args.out or args.map)
    runs = [load_run(path, args.model) for path in args.runs]
    options = Args(
        test=args.test,
        humans=args.humans,
        root=args.root,
        split=args.split,
        allow_trained=True,
        clips=1,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    if runs and runs[0].tsn:
        options.clips = runs[0].args["frames"]
    videos, boxes = cam_videos(runs, options)
    if boxes is None:
        videos = common.subset(videos, range(min(args.videos, len(videos))))
    all_maps = []
    table = []
    for run in runs:
        maps = look(run, videos, boxes, options, args)
        all_maps.append(maps)
        if boxes is not None:
            table.append(mean_inside(run, videos, maps, args))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    names = {}  # of a video's action, and of what each run takes it for
    for i, path in enumerate(videos.paths):
        if not all_maps[0].unreadable[i]:
            action = videos.classes[videos.labels[i]]
            names[path] = [action, *(maps.predicted[i] for maps in all_maps)]
    for i, path in enumerate(videos.paths[: args.videos]):
        if path in names:
            clip, _ = all_maps[0].drawn[i]
            heats = [maps.drawn[i][1] for maps in all_maps]
            draw(Path(args.out) / f"{i:03d}-{Path(path).stem}", clip, heats)
            action, *predicted = names[path]
            answers = [f"{run.name} {name}" for run, name in zip(runs, predicted, strict=True)]
            print(f"- {path}: {action}; {', '.join(answers)}")
    if table:
        print_inside(table)
    content = dict(table=table, videos=names, args=asdict(args))
    write_json(Path(args.out) / "cam.json", content)
    return table


# ---- `features`: of the frozen network, for other tasks ------------------------------------------
@dataclass
class FeaturesArgs:
    runs: tuple = arg(
        (), "runs whose features they are: folders (their last.pt) or files", positional=True
    )
    test: str = arg("", "list of the videos, of any classes, training lists too")
    part: str = arg(
        "test",
        "which part of HMDB51's folder of lists or of Waterbirds, its --test",
        choices=("train", "val", "test"),
    )
    root: str = arg("", "folder of the list's videos; default: the list's own folder")
    split: int = arg(
        1,
        "official split of HMDB51's folder of lists, of {split} in --test; averaged over by `svm`",
        choices=(1, 2, 3),
    )
    clips: int = arg(
        10, "clips of a video (frames of a TSN), spread evenly; SMAD Sec. 6.2: 10", low=1
    )
    windows: int = arg(
        0, "in place of clips, windows over the whole video, one each this many frames", low=0
    )
    model: str = arg("", "your own MODULE:FUNCTION that the runs were trained with")
    out: str = arg("", "folder of RUN.npz, or with --windows of RUN/VIDEO.npy; one for each list")
    batch_size: int = arg(32, "clips in a forward pass", low=1)
    workers: int = arg(0, "loader processes; 0 reads in this one", low=0)
    amp: str = arg("none", "mixed precision", choices=("none", "bf16", "fp16"))


def window_features(run, path, args):
    """A video's file -> (W, D) features of its windows, its number of frames; of a TSN means over a
    window's frames"""
    n = common.num_frames(path)
    transform = common.test_transform(run.args["size"], run.args["resize"])
    device = next(run.model.parameters()).device
    frames = run.args["frames"]
    places = window_places(n, frames, run.args["stride"], args.windows)
    parts = []
    # Long videos do not fit into memory at once.
    for first in range(0, len(places), args.batch_size):
        part = places[first : first + args.batch_size]
        images = common.read_clip(path, part.ravel()).permute(0, 3, 1, 2)
        clip = transform(images).unflatten(0, part.shape).transpose(1, 2)  # (N, 3, T, S, S)
        output = forward(run, clip[:, None].to(device), args, run.model.features)
        parts.append(output.mean(1))
    return np.concatenate(parts), n


def save_windows(run, videos, args, folder):
    """A .npy for each video in the folder, and windows.json that says which. -> what of it is for
    the table"""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    used = np.zeros(len(videos), bool)
    names = video_names(videos.paths)
    for i, path in enumerate(tqdm(videos.paths, desc=run.name, unit="video", disable=None)):
        try:
            values, n = window_features(run, videos.full(i), args)
        except UserError:
            continue
        check_finite(run, path, values)
        used[i] = True
        # Where two stems are the same, names are paths: codes want all in one folder.
        file = folder / f"{names[i].strip('/').replace('/', '__')}.npy"
        with common.whole(file) as part, part.open("wb") as opened:
            np.save(opened, values)
        label = videos.classes[videos.labels[i]]
        saved.append(dict(path=path, file=file.name, label=label, frames=n, windows=len(values)))
    name_unreadable(run, "features", videos, used)
    unreadable = np.array(videos.paths)[~used].tolist()
    content = dict(videos=saved, unreadable=unreadable, run=run.about(), args=asdict(args))
    write_json(folder / "windows.json", content)
    count = sum(video["windows"] for video in saved)
    return [len(saved), len(videos)], f"{count} x {values.shape[1]}", folder


def save_features(run, videos, args, file):
    """features (n, V D) float32, labels, paths, classes and what the run is, in the .npz. -> what
    of it is for the table"""
    options = Args(clips=args.clips, batch_size=args.batch_size, workers=args.workers, amp=args.amp)
    predictions = predict(
        run, "features", videos, {"features": None}, options, call=run.model.features
    )
    used = predictions.used
    x = predictions.logits["features"][used].reshape(used.sum(), -1)
    paths = np.array(videos.paths)
    about = run.about() | dict(
        # The split is that of the list, not the one that the run was trained on.
        config=repr((run.config, args.split, videos.sha1)),
        any_split=repr((run.any_split, videos.classes)),
        split=args.split,
        protocol=run.protocol(options, "features"),
        list=[args.test.replace("{split}", str(args.split)), videos.sha1],
        videos=[int(used.sum()), len(videos)],
        broken=paths[~used].tolist(),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with common.whole(file) as part, part.open("wb") as opened:
        np.savez(
            opened,
            features=x.astype(np.float32),
            labels=np.array(videos.labels)[used],
            paths=paths[used],
            classes=np.array(videos.classes),
            about=np.array(json.dumps(about)),
        )
    return about["videos"], f"{x.shape[0]} x {x.shape[1]}", file


def features(args):
    """Features of frozen networks. For `svm` and `fewshot` those of --clips clips of a video, end
    to end (SMAD Sec. 6.2: 10 x 512). With --windows a row for each window of the run's clip length
    over the whole video, in a .npy each: what codes of temporal localisation and of anomalies take
    (SDN Table 2, ALBAR Table 5)."""
    if not args.runs or not args.test or not args.out:
        raise UserError("name runs, a list and a folder: features runs/sdn --test LIST --out DIR")
    stems = {}
    for path in args.runs:
        run = load_run(path, args.model)
        stem = Path(args.out) / run.name.removesuffix(".pt").replace("/", "-")
        if stems.setdefault(stem, run.path.resolve()) != run.path.resolve():
            raise UserError(
                f"{run.path}: another run's features are {stem.name} too: give it another --out"
            )
    file = args.test.replace("{split}", str(args.split))
    # The list may have other classes than those that the run was trained on.
    videos = common.read_list(file, args.root, args.part, args.split)
    videos = common.each_once(videos, file)
    table = [["", "videos", "features", "in"]]
    for stem, path in stems.items():
        run = load_run(path, args.model)
        use_device(run.model)
        if args.windows:
            counts, shape, place = save_windows(run, videos, args, stem)
        else:
            counts, shape, place = save_features(run, videos, args, Path(f"{stem}.npz"))
        table.append([run.name, "{} of {}".format(*counts), shape, str(place)])
    print(*layout(table), sep="\n")
    write_json(Path(args.out) / "features.json", dict(table=table[1:], args=asdict(args)))
    return table


@dataclass
class VideoFeatures:
    """What `features` has written of n videos."""

    file: Path
    x: np.ndarray  # (n, D) float32, each row of length 1
    labels: np.ndarray
    paths: np.ndarray
    classes: list[str]
    about: dict  # the run, the protocol


def read_features(file):
    """-> VideoFeatures of a file of `features`; UserError where it is none"""
    try:
        saved = np.load(file)
        arrays = {}
        for name in ("features", "labels", "paths", "classes", "about"):
            arrays[name] = saved[name]
        about = json.loads(str(arrays["about"]))
        about["list"]
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        message = f"{file}: no features of videos: make them with evaluate.py features"
        raise UserError(message) from None
    x = arrays["features"]
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return VideoFeatures(
        file=Path(file),
        x=x / np.maximum(length, 1e-12),
        labels=arrays["labels"],
        paths=arrays["paths"],
        classes=arrays["classes"].tolist(),
        about=about,
    )


def check_tests(tests):
    """UserError where VideoFeatures are not of one data set, each run once on each split."""
    seen = {}
    for test in tests:
        if test.classes != tests[0].classes:
            raise UserError(
                f"{test.file}: its classes are not those of {tests[0].file}: name the files of one "
                "data set"
            )
        key = (test.about["checkpoint"], test.about["split"])
        if key in seen:
            raise UserError(
                f"{test.file}: features of {key[0]}, split {key[1]}, as {seen[key]}: name one list"
            )
        seen[key] = test.file
    group_splits(group_seeds([test.about for test in tests]))


def report_features(tests, figures, errors, plus_minus_is, step, groups, args):
    """Print the table of the figures {metric: value} of each VideoFeatures and their errors; write
    FILE-STEP.json beside each. -> the rows"""
    reports = []
    for test, values, plus_minus in zip(tests, figures, errors, strict=True):
        report = test.about | dict(figures=values, bootstrap=plus_minus)
        report |= dict(plus_minus_is=plus_minus_is, videos={"test": test.about["videos"]})
        report["lists"] = {"test": test.about["list"]}
        reports.append(report)
    rows = merge(reports)
    for test, report in zip(tests, reports, strict=True):
        row = next(row for row in rows if report["checkpoint"] in row["checkpoints"])
        content = dict(row=row, checkpoint=report, table=rows, args=asdict(args))
        write_json(test.file.with_name(f"{test.file.stem}-{step}.json"), content)
    print(markdown(rows, groups))
    return rows


# ---- `svm`: feature classification, SMAD Table 5 -------------------------------------------------
@dataclass
class SvmArgs:
    train: tuple = arg(
        (), "files of `features` to learn from, one for each of --test, in its order"
    )
    test: tuple = arg((), "files of `features` to be tested on: of seeds, of runs, of splits")
    seed: int = arg(0, "seed of the held-out part that says C, and of the bootstrap", low=0)


COSTS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # the C to choose from


def linear_svm(x, y, k, costs):
    """Linear support vector machines, one class against the rest, x (n, D) float64, y (n,) labels
    below k -> W (C, k, D + 1) for the C costs, the last column for a feature that is 1.

    Each is the least |w|^2 / 2 + c sum_i max(0, 1 - s_i w x_i)^2, s_i = 1 or -1: scikit-learn's
    LinearSVC."""
    n = len(x)
    sign = 2 * F.one_hot(y, k) - 1
    # Features of a network have a few long axes and many short ones: LBFGS would take hundreds of
    # steps. Along the axes themselves, each scaled by its curvature, the minimum is the same.
    u, lengths, axes = torch.linalg.svd(F.pad(x, (0, 1), value=1.0), full_matrices=False)
    weights = []
    for c in costs:
        scale = (lengths.square() / n + 1 / (2 * c * n)).rsqrt()
        z = u * (lengths * scale)
        v = torch.zeros((k, len(scale)), dtype=x.dtype, device=x.device, requires_grad=True)

        def objective(c=c, scale=scale, z=z, v=v):
            violation = (1 - sign * (z @ v.T)).clamp_min(0)
            return (violation.square().sum() + (scale * v).square().sum() / (2 * c)) / n

        minimise(objective, [v], tolerance=1e-5)
        weights.append((v.detach() * scale) @ axes)
    return torch.stack(weights)


def svm_hits(w, x, y):
    """W (k, D + 1), x (n, D), y (n,) -> (n,) bool: is each video's class named right"""
    return ((F.pad(x, (0, 1), value=1.0) @ w.T).argmax(1) == y).cpu().numpy()


def choose_cost(x, y, k, seed):
    """-> the least of COSTS that is best on a fifth of each class, held out"""
    order = np.random.default_rng([seed, len(y)]).permutation(len(y))
    order = torch.from_numpy(order[np.argsort(y.cpu().numpy()[order], kind="stable")])
    held_out = order[::5]
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[held_out] = False
    accuracies = []
    for w in linear_svm(x[kept], y[kept], k, COSTS):
        accuracies.append(svm_hits(w, x[held_out], y[held_out]).mean())
    return COSTS[int(np.argmax(accuracies))]


def on_device(videos):
    """VideoFeatures -> tensors (n, D) float64, (n,) labels"""
    x = use_device(torch.from_numpy(videos.x).double())
    return x, use_device(torch.from_numpy(videos.labels))


def read_pair(train_file, test_file):
    """-> VideoFeatures to learn from and to be tested on: of one run, of other videos"""
    train = read_features(train_file)
    test = read_features(test_file)
    for name in ("checkpoint", "protocol", "split"):
        if train.about[name] != test.about[name]:
            raise UserError(
                f"{train_file} and {test_file}: {name} {train.about[name]}, {test.about[name]}: "
                "name --train and --test in the same order"
            )
    if train.classes != test.classes:
        raise UserError(f"{test_file}: its classes are not those of {train_file}")
    shared = set(train.paths) & set(test.paths)
    if shared:
        raise UserError(f"{test_file}: {len(shared)} videos are in {train_file} too: {min(shared)}")
    return train, test


def svm(args):
    """Feature classification (SMAD Table 5): top-1 of a linear support vector machine, one class
    against the rest, squared hinge, on the features of `features`, each video's of length 1."""
    if not args.test or len(args.train) != len(args.test):
        raise UserError(
            f"--train {len(args.train)} files, --test {len(args.test)}: name a pair each"
        )
    pairs = [read_pair(*files) for files in zip(args.train, args.test, strict=True)]
    tests = [test for _, test in pairs]
    check_tests(tests)
    figures = []
    errors = []
    costs = []
    for train, test in pairs:
        x, y = on_device(train)
        x_test, y_test = on_device(test)
        k = len(train.classes)
        c = choose_cost(x, y, k, args.seed)
        hits = svm_hits(linear_svm(x, y, k, [c])[0], x_test, y_test)
        resampled = bootstrap(hits, video_names(test.paths), args.seed)
        costs.append(c)
        figures.append({"svm": 100 * float(hits.mean()), "svm_c": c})
        errors.append({"svm": 100 * float(resampled.std(ddof=1))})
    groups = {"feature classification": [Metric("svm", "linear SVM ↑")]}
    plus_minus_is = "standard error by bootstrap over videos"
    rows = report_features(tests, figures, errors, plus_minus_is, "svm", groups, args)
    best = ", ".join(map(str, costs))
    print(f"- C of each, the best of {COSTS} on a held-out fifth: {best}.")
    return rows


# ---- `fewshot`: SMAD Table 5 ---------------------------------------------------------------------
SHOTS = (1, 5)  # labelled videos a class; SMAD Sec. 6.2


@dataclass
class FewShotArgs:
    test: tuple = arg((), "files of `features`: of seeds, of runs")
    ways: int = arg(5, "classes of an episode; SMAD Sec. 6.2: 5", low=2)
    queries: int = arg(15, "further videos a class, to be classified", low=1)
    episodes: int = arg(10000, "SMAD Sec. 6.2: 10,000", low=2)
    seed: int = arg(0, "seed of the episodes", low=0)


def draw_episodes(labels, ways, videos, count, rng):
    """(count, ways, videos) places in labels (n,): of different classes, of different videos of
    each; of the classes that have as many."""
    members = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) >= videos:
            members.append(places)
    if len(members) < ways:
        raise UserError(
            f"{len(members)} classes have {videos} videos or more, too few for --ways {ways}: "
            "lower it or --queries"
        )
    most = max(map(len, members))
    padded = np.zeros((len(members), most), np.int64)
    is_padding = np.ones((len(members), most), bool)
    for row, places in enumerate(members):
        padded[row, : len(places)] = places
        is_padding[row, : len(places)] = False
    chosen = rng.random((count, len(members))).argsort(1)[:, :ways]
    # The places of the least of as many random numbers.
    keys = rng.random((count, ways, most))
    keys[is_padding[chosen]] = 2
    drawn = keys.argpartition(videos - 1, 2)[..., :videos]
    return padded[chosen[..., None], drawn]


def episode_accuracies(gram, places, shots):
    """(n, n) inner products of the features, (E, W, shots + Q) places -> (E,) shares of the queries
    whose class has the nearest mean: the greatest cosine with the mean of its shots."""
    support = places[..., :shots]
    query = places[..., shots:]
    within = gram[support[..., :, None], support[..., None, :]]  # (E, W, shots, shots)
    length = np.sqrt(np.maximum(within.sum((2, 3)), 1e-12))  # of the sum of the shots
    inner = gram[query[:, :, :, None, None], support[:, None, None]].sum(-1)  # (E, W, Q, W)
    guessed = (inner / length[:, None, None]).argmax(-1)
    return (guessed == np.arange(places.shape[1])[:, None]).mean((1, 2))


def few_shot(test, shots, args):
    """-> (episodes,) accuracies of VideoFeatures"""
    rng = np.random.default_rng([args.seed, shots])
    gram = test.x @ test.x.T
    accuracies = []
    for first in range(0, args.episodes, 500):
        count = min(500, args.episodes - first)
        places = draw_episodes(test.labels, args.ways, shots + args.queries, count, rng)
        accuracies.append(episode_accuracies(gram, places, shots))
    return np.concatenate(accuracies)


def fewshot(args):
    """Few-shot classification (SMAD Table 5): a query's class is that of the nearest mean of the
    shots by the cosine, of the features of `features`, each video's of length 1."""
    if not args.test:
        raise UserError("name files of evaluate.py features: fewshot --test features/*.npz")
    tests = [read_features(file) for file in args.test]
    check_tests(tests)
    figures = []
    errors = []
    for test in tests:
        figures.append({})
        errors.append({})
        for shots in SHOTS:
            accuracies = 100 * few_shot(test, shots, args)
            error = accuracies.std(ddof=1) / len(accuracies) ** 0.5
            figures[-1][f"shots{shots}"] = float(accuracies.mean())
            errors[-1][f"shots{shots}"] = float(1.96 * error)
    metrics = [Metric(f"shots{shots}", f"shots: {shots} ↑") for shots in SHOTS]
    groups = {f"few-shot, {args.ways} ways": metrics}
    plus_minus_is = f"95 % interval over {args.episodes} episodes"
    return report_features(tests, figures, errors, plus_minus_is, "fewshot", groups, args)


# ---- `transfer`: SDN Fig. 4 ----------------------------------------------------------------------
@dataclass
class TransferArgs:
    targets: tuple = arg(
        (),
        "NAME:BASELINE.json:DEBIASED.json:BIAS.json for each data set: two files of evaluate.py "
        "or of its `svm`, one of its `bias`",
        positional=True,
    )
    metric: str = arg("iid", "which figure of the files: svm, shots5, ...")
    out: str = arg("transfer", "folder of transfer.json")


def read_figure(file, *keys):
    """The number of a JSON file under these keys; UserError where there is none"""
    try:
        value = json.loads(Path(file).read_text())
        for key in keys:
            value = value[key]
        return float(value)
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{file}: it has no figure {' '.join(keys)} of evaluate.py") from None


def pearson(x, y):
    """(n,), (n,) -> Pearson's r and its two-sided p of Student's t, n - 2 degrees of freedom; NaN
    where x or y is constant"""
    dx = np.asarray(x, np.float64) - np.mean(x)
    dy = np.asarray(y, np.float64) - np.mean(y)
    lengths = float(np.sqrt((dx @ dx) * (dy @ dy)))
    if lengths < 1e-12:
        return math.nan, math.nan
    r = float(np.clip(dx @ dy / lengths, -1, 1))
    freedom = len(dx) - 2
    t = abs(r) * (freedom / max(1 - r * r, 1e-300)) ** 0.5
    return r, 1 - t_share(t, freedom)


def transfer(args):
    """Does what is gained by debiasing fall with the target's scene bias (SDN Fig. 4)? The relative
    gain of a run over its baseline on each target, its B_scene, Pearson's r of the two."""
    if len(args.targets) < 3:
        raise UserError(
            f"{len(args.targets)} targets are too few for a correlation: name 3 or more, "
            "NAME:BASELINE.json:DEBIASED.json:BIAS.json"
        )
    rows = []
    for target in args.targets:
        if target.count(":") != 3:
            raise UserError(f"{target}: give NAME:BASELINE.json:DEBIASED.json:BIAS.json")
        name, *files = target.split(":")
        baseline = read_figure(files[0], "row", "mean", args.metric)
        debiased = read_figure(files[1], "row", "mean", args.metric)
        if baseline <= 0:
            raise UserError(
                f"{files[0]}: its {args.metric} is {baseline}: no gain is relative to it"
            )
        row = dict(name=name, baseline=baseline, debiased=debiased, files=files)
        row["gain"] = 100 * (debiased - baseline) / baseline
        row["b_scene"] = read_figure(files[2], "b_scene")
        rows.append(row)
    r, p = pearson([row["b_scene"] for row in rows], [row["gain"] for row in rows])
    if math.isnan(r):
        raise UserError("all targets have one B_scene, or one gain: there is no correlation")
    table = [["", "baseline", "debiased", "relative gain, %", "B_scene"]]
    for row in rows:
        cells = [f"{row[key]:.1f}" for key in ("baseline", "debiased")]
        table.append([row["name"], *cells, f"{row['gain']:+.1f}", f"{row['b_scene']:.2f}"])
    print(*layout(table), "", sep="\n")
    print(f"Pearson's r of gain and B_scene: {r:.3f}, p {p:.3f} (t test, {len(rows)} targets).")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    content = dict(table=rows, r=r, p=p, args=asdict(args))
    write_json(Path(args.out) / "transfer.json", content)
    return content


if __name__ == "__main__":
    steps = {
        "list": (ListArgs, list_videos, {}),
        "check": (CheckArgs, check, {}),
        "bias": (BiasArgs, bias, {"toy": BIAS_TOY}),
        "cam": (CamArgs, cam, {}),
        "features": (FeaturesArgs, features, {}),
        "svm": (SvmArgs, svm, {}),
        "fewshot": (FewShotArgs, fewshot, {}),
        "transfer": (TransferArgs, transfer, {}),
    }
    common.cli(Args, evaluate, steps=steps)
