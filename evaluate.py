"""Evaluate: every benchmark of the papers, over any checkpoint of the method scripts, in one table.

    python evaluate.py runs/albar-baseline runs/albar             # the embedded benchmark needs no lists
    python evaluate.py runs/albar-s0 runs/albar-s1 runs/albar-s2  # seeds of one configuration: one row
    python evaluate.py runs/hmdb --test LIST --root VIDEOS --conflfg LIST --rare LIST \\
        --scuba places365=LIST vqgan-clip=LIST sinusoid=LIST      # your own lists
    python evaluate.py runs/sdn --test LIST --humans humans.npz --scenes scenes.npz --train LIST --val LIST
    python evaluate.py bias --scenes scenes.npz --train LIST --test LIST     # do a data set's scenes tell its actions?
    python evaluate.py cam runs/albar-baseline runs/albar                    # where two networks look: PNG and MP4

One Markdown table goes to stdout. Beside each checkpoint: evaluate.json (the table, this checkpoint's own
figures, its unreadable videos) and evaluate.npz (logits, labels, paths of every split, the order of frames
where it was changed), so that a metric added later needs no second pass.

Metric map
  metric          better  definition                                           paper         function
  IID             up      top-1 on the test list                               ALBAR 4.1     top1
  SCUBA           up      top-1 on the test actors over other backgrounds      ALBAR 4.1     top1
  SCUFO           down    top-1 on one frame of the SCUBA clip, held still     ALBAR 4.1     static_orders
  abs(SCUFO-1/K)  down    distance to chance; below chance is anti-learning    ours          columns
  Confl-FG        up      SCUBA with a still actor of another class added      ALBAR 4.4     top1
  contrasted      up      right on SCUBA and wrong on SCUFO of the same video  ALBAR 4.4     contrasted
  rare            up      top-1 on actions in rare scenes (ARAS)               SMAD 4.1      top1
  shuffled        -       top-1 on the test clips with shuffled frames         Hara 3.2      shuffled_orders
  log ratio       up      ln(IID / shuffled); large: order of frames matters   Hara Eq. (1)  log_ratio
  masked          to 1/K  top-1 on the test clips whose humans are filled      SDN 3.3       top1
  masked entropy  up      of the action on these clips, nats; ln K at most     SDN 3.3       entropy
  scene probe     down    a fresh MLP names the scene from frozen features     SDN 4.3       train_probe
  adversary       -       the run's own scene head does; low: or it only lags  SDN 4.3       measure_scenes
  B_scene         -       `bias`: ln(action from the scene alone / chance)     SDN Eq. (1)   scene_representation_bias
  inside          up      `cam`: share of positive CAM mass in human boxes     SDN 4.7       share_inside
                          or, with --map actionness, of SAAR's mask            SMAD Fig. 7   share_inside
  I(Y';S)         to I(Y;S)  independence; its oracle: actions and scenes      SMAD 6.2      fairness
  I(Y';S|Y)       down    separation: within an action                         SMAD 6.2      fairness
  I(Y;S|Y')       down    sufficiency: within a predicted action               SMAD 6.2      fairness
  equalised odds  down    spread over scenes of an action's accuracy           SMAD 3        equalised_odds

Accuracies are percent of videos; means over backgrounds are unweighted. A row's +- is the standard deviation
over its seeds (n - 1), or for one checkpoint the standard error by bootstrap over videos; the row says which.
Videos that cannot be read are left out, counted and named. Nothing here chooses a checkpoint.
SILENT  SCUFO's frame: one of the SCUBA clip's, drawn by the video's path (StillMix: at random, not seeded).
SILENT  Hara's shuffle: inside the sampled clip, never the identity, accuracy averaged over --shuffles draws.
SILENT  SDN's scene accuracy, of which classifier: a new one of the adversary's shape (Adam, 5e-4, batch 128), on
        standardised features of centre clips; a tenth of the training list says when to stop.
SILENT  SDN's Eq. (1): L2 with C = 1; chance: the share of the test list's most frequent action, 1/K if it is balanced.
SILENT  SDN's maps: of the class that the run predicts; their positive part.
SILENT  SMAD's I: mutual information over the arithmetic mean of the two entropies (scikit-learn's default), all given Y
        or Y' where it is conditional; of hard predictions and scenes. Chance alone gives much of it on few videos:
        `less floor` takes off its mean over 200 deals of the scenes at random (within each Y or Y').
SILENT  SMAD's averages are of softmax; equalised odds: standard deviation over scenes of 5 videos or more, less chance.
"""

import json
import math
import os
import re
import sys
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import common
from common import UserError, arg

TOY = ("test", "scuba-photo", "scuba-texture", "scuba-sinusoid", "conflfg", "rare")  # embedded benchmark
RESAMPLES = 1000                                  # of the bootstrap


@dataclass
class Args:
    runs: tuple = arg((), "runs to evaluate: folders (their last.pt) or checkpoint files", positional=True)
    test: str = arg("", "IID test list; a run on the embedded benchmark needs none")
    scuba: tuple = arg((), "SCUBA lists, NAME=LIST for each background")
    conflfg: str = arg("", "Confl-FG list")
    rare: str = arg("", "list of actions in rare scenes, as ARAS")
    humans: tuple = arg((), "boxes: .npz of `sdn.py humans`, or text (common.Boxes); for the masked test clips")
    scenes: tuple = arg((), ".npz of `sdn.py scenes`: of --test, for fairness; of --train and --val, for the probe")
    train: str = arg("", "list that the scene probe learns from: the run's training list")
    val: str = arg("", "list that the scene probe is tested on; SDN Sec. 4.3: validation")
    root: str = arg("", "folder of the lists' videos; default: each list's own folder")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists; ALBAR App. A: 1", choices=(1, 2, 3))
    clips: int = arg(0, "clips of a video (frames of a TSN), spread evenly, mean softmax; 0: the run's own, SMAD "
                        "Sec. 6.1: 10 (25), else one, centred (ALBAR App. B)", low=0)
    shuffles: int = arg(3, "random orders of each test clip, 0 for none; Hara et al. give no number", low=0)
    seed: int = arg(0, "seed of the SCUFO frames, the shuffles, the probe and the bootstrap", low=0)
    batch_size: int = arg(32, "clips in a forward pass", low=1)
    workers: int = arg(0, "loader processes; 0 reads in this one", low=0)
    amp: str = arg("none", "mixed precision", choices=("none", "bf16", "fp16"))


# ---- Runs --------------------------------------------------------------------------------------------------

# Fields of a method's Args that say where, how fast or from which random numbers a run went, not what it
# trained: runs that differ in nothing else are seeds of one configuration.
NOT_CONFIG = {"seed", "out", "resume", "overwrite", "root", "data", "workers", "cache", "compile",
              "channels_last", "log_every", "max_bad"}


@dataclass
class Run:
    path: Path                # the checkpoint file
    method: str
    args: dict                # every field of the method's Args
    classes: list[str]
    done: tuple[int, int]     # epoch, step
    list_sha1: str            # of the training list
    model: torch.nn.Module    # on the CPU, in eval mode

    @property
    def name(self):
        """The run's folder; with the file where it is not last.pt."""
        folder = self.path.absolute().parent.name
        return folder if self.path.name == "last.pt" else f"{folder}/{self.path.name}"

    def views(self, clips):
        """-> V clips of a video, of T frames; for --clips 0 its method's own. A TSN sees one clip of single frames."""
        clips = clips or self.args.get("test_clips", 1)
        return (1, clips) if self.tsn else (clips, self.args["frames"])

    @property
    def tsn(self):
        return getattr(self.model, "tsn", False)

    @property
    def config(self):
        """Equal for seeds of one configuration at the same point of training (the step, or best.pt)."""
        stage = "best" if self.path.name == "best.pt" else self.done
        kept = {k: v for k, v in sorted(self.args.items()) if k not in NOT_CONFIG}
        of_seed = re.compile(r"[-_.]?(seed|s)?\d+/")            # each seed may start from its own first stage
        kept |= {k: of_seed.sub("/", kept[k]) for k in ("init", "weights") if k in kept}
        return repr((self.method, stage, self.classes, self.list_sha1, kept))


def load_run(path):
    """Rebuild the model of a checkpoint file, or of a run's folder (its last.pt). UserError if it fails."""
    model, saved = common.trained(path)
    return Run(saved["path"], saved["method"], saved["args"], saved["classes"], (saved["epoch"], saved["step"]),
               saved.get("list_sha1", ""), model)


def find_splits(run, args):
    """The lists that a run is tested on: {"test": VideoList, "scuba-NAME", "conflfg", "rare"}."""
    named = {"test": args.test}
    for item in args.scuba:
        name, _, path = item.partition("=")
        if not name or not path or f"scuba-{name}" in named:
            raise UserError(f"--scuba {item}: give NAME=LIST, another NAME for each background")
        named[f"scuba-{name}"] = path
    named |= {"conflfg": args.conflfg, "rare": args.rare}
    given = [name for name, path in named.items() if path]
    if given and not args.test:
        raise UserError(f"--{given[0].split('-')[0]} without --test: name the IID test list too")
    if not given and run.args["train"]:
        raise UserError(f"{run.path}: trained on {run.args['train']}; name its test list with --test LIST")
    if not given:
        world = common.toy(run.args["data_seed"], run.args["data"])
        named = {name: world / f"{name}.txt" for name in TOY}
    return {name: common.read_list(path, root=args.root, part="test", split=args.split, classes=run.classes)
            for name, path in named.items() if path}


def find_labels(run, args, test):
    """What SDN's and SMAD's figures need: human boxes of the VideoList test, or None; {"train": (VideoList, (n, M) soft
    labels, its name), "val": ...} of the videos that have scene labels, or {}; (n,) scenes of test, -1 for none, or
    None. The embedded benchmark has them all, else flags."""
    world = None if args.test or run.args["train"] else common.toy(run.args["data_seed"], run.args["data"])
    files = {name: getattr(args, name) or (world and (world / f"{name}.npz",)) for name in ("humans", "scenes")}
    files |= {name: getattr(args, name) or (world and world / f"{name}.txt") for name in ("train", "val")}
    boxes, found = common.Boxes(files["humans"]) if files["humans"] else None, {}
    if boxes and not any(path in boxes.videos for path in test.paths):
        raise UserError(f"--humans: no boxes of the test list's videos, such as {test.paths[0]}")
    given = [name for name in ("scenes", "train", "val") if files[name]]
    if given and len(given) < 3 and given != ["scenes"]:
        raise UserError(f"--{given[0]}: the scene probe needs --scenes, --train and --val, all three")
    p = common.read_labels(files["scenes"], test.paths)[0] if files["scenes"] else torch.zeros(1, 1)
    scenes = torch.where(p.any(1), p.argmax(1), -1).numpy() if p.any() else None
    if given == ["scenes"] and scenes is None:
        raise UserError(f"--scenes: no labels of the test list's videos, such as {test.paths[0]}")
    for name in ("train", "val") if len(given) == 3 else ():
        videos = common.read_list(files[name], args.root, "test" if name == "val" else name, args.split, run.classes)
        p, _ = common.read_labels(files["scenes"], videos.paths)
        if len(keep := p.sum(1).nonzero()[:, 0].tolist()) < 2:
            raise UserError(f"--scenes: labels of {len(keep)} of the {len(videos)} videos of {files[name]}, too few")
        found[name] = common.subset(videos, keep), p[keep], str(files[name])
        if name == "val" and (both := {*found["train"][0].paths} & {*videos.paths}):
            raise UserError(f"--val: {len(both)} of its videos are in --train too, first {min(both)}")
        head = getattr(run.model, "scene_head", None)
        if head and len([*head.parameters()][-1]) != p.shape[1]:
            raise UserError(f"{run.path}: its scene head knows other scenes than the {p.shape[1]} of --scenes")
    return boxes, found, scenes


# ---- Predict: every video is read once ---------------------------------------------------------------------

def _rng(seed, path, draw):
    # Random numbers of one video alone: the same in any list, at any place in it, in batches of any size.
    return np.random.default_rng([seed, zlib.crc32(path.encode()), draw])


def static_orders(paths, clips, frames, seed):
    """SCUFO: one frame of the clip, drawn by the video's path, repeated. -> (n, V, T) places in the clip"""
    chosen = np.stack([_rng(seed, path, 0).integers(0, frames, clips) for path in paths])
    return np.repeat(chosen[..., None], frames, -1)


def shuffled_orders(paths, clips, frames, seed, draw):
    """Hara et al.: a random order of the clip's frames, never their own. -> (n, V, T) places in the clip"""
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
    """clip (N, V, 3, T, H, W), order (N, V, T) -> the same clips with frame order[..., t] at time t"""
    return torch.take_along_dim(clip, order[:, :, None, :, None, None], dim=3)


def clip_frames(n, rng, views, stride, tsn):
    """(V, T) frames of a video of n frames, as Videos asks for them; nothing random, so rng stays unused."""
    clips, frames = views
    return common.tsn_segments(n, frames)[None] if tsn else common.uniform_clips(n, frames, stride, clips)


def batches(run, name, videos, args, change=None):
    """Batches of a split, with a progress bar: clip (N, V, 3, T, H, W) uint8 on the run's device (more, where `change`
    makes more of it), places in the list (N,), the batch, the bar. Unreadable videos are named on stderr."""
    a, device, broken = run.args, next(run.model.parameters()).device, []
    sample = partial(clip_frames, views=run.views(args.clips), stride=a["stride"], tsn=run.tsn)
    data = common.Videos(videos, sample, common.test_transform(a["size"], a["resize"]), change=change)
    loader = DataLoader(data, args.batch_size, num_workers=args.workers, pin_memory=device.type == "cuda")
    with tqdm(total=len(videos), desc=f"{run.name} {name}", unit="video", leave=False, disable=None) as bar:
        for batch in loader:
            yield batch["clip"].to(device), batch["index"].numpy(), batch, bar
            broken += [videos.paths[i] for i in batch["index"][batch["bad"] > 0]]
            bar.update(len(batch["index"]))
    if len(broken) == len(videos):
        raise UserError(f"{name}: none of {len(videos)} videos can be read, first {videos.full(0)}; --root?")
    if broken:
        print(f"{run.name} {name}: cannot be read: {', '.join(broken)}", file=sys.stderr)


def predict(run, name, videos, orders, args, boxes=None, call=None):
    """One pass over a split. -> {variant: (n, V, K) logits}, (n,) bool: could the video be read, (n,) share of its
    frames that have a human box

    orders: {variant: (n, V, T) for `reorder`, or None for the clip as it is}; one is named as the split, and "masked"
    is the clip with its humans, of `boxes`, filled. call: what takes the clips in the model's place: its features.
    """
    used, humans, right, out = np.zeros(len(videos), bool), np.zeros(len(videos)), 0, {v: [] for v in orders}
    labels, change = np.array(videos.labels), partial(common.mask_humans, boxes=boxes) if boxes else None
    net, norm = call or run.model, partial(common.normalise, mean=run.args["mean"], std=run.args["std"])
    for clip, index, batch, bar in batches(run, name, videos, args, change):
        clip, masked = clip.unbind(1) if boxes else (clip, None)
        used[index], humans[index] = batch["bad"].numpy() == 0, batch["humans"].numpy() if boxes else 0
        for variant, order in orders.items():
            moved = masked if variant == "masked" else clip
            moved = moved if order is None else reorder(moved, torch.from_numpy(order[index]).to(clip.device))
            moved = moved.transpose(1, 3) if run.tsn else moved                      # each frame is a clip of its own
            with torch.inference_mode(), common.autocast(clip.device, args.amp):
                z = torch.cat([net(norm(part)).float().cpu() for part in moved.flatten(0, 1).split(args.batch_size)])
            if not z.isfinite().all():
                raise UserError(f"{run.path}: its outputs on {name} are not finite, the training diverged")
            out[variant].append(z.unflatten(0, (len(index), -1)).numpy())
        if not call:
            right += (top1(out[name][-1], labels[index]) & used[index]).sum()
            bar.set_postfix(top1=f"{100 * right / max(used.sum(), 1):.1f}")
    return {variant: np.concatenate(parts) for variant, parts in out.items()}, used, humans


# ---- Metrics: arrays in, arrays out; n videos, V clips, K classes, R resamples -----------------------------

def fuse(logits):
    """(n, V, K) logits -> (n, K) softmax averaged over a video's clips, float64"""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).mean(1)


def top1(logits, labels):
    """(n, V, K), (n,) labels -> (n,) bool: is the label the most probable class (the first of equals)"""
    return fuse(logits).argmax(-1) == labels


def contrasted(scuba, scufo, scuba_paths, scufo_paths):
    """Right on the SCUBA video AND wrong on its SCUFO video (ALBAR Sec. 4.4), in any order of the lists.

    scuba, scufo: (n,) bool, right or not. -> (n,) bool in SCUBA's order. ValueError where one has no pair.
    """
    place = {path: i for i, path in enumerate(scufo_paths)}
    alone = sorted(set(place) ^ set(scuba_paths))
    if alone:
        raise ValueError(f"no pair of SCUBA and SCUFO for {alone[0]}")
    return scuba & ~scufo[[place[path] for path in scuba_paths]]


def log_ratio(original, shuffled, n):
    """Hara et al. Eq. (1): B_D = ln(A_original / A_shuffled), accuracies in [0, 1], any shape, over n videos.

    Large: the order of the frames matters. Accuracies below 1/(2n) count as 1/(2n): ln 0 is no number.
    """
    return np.log(np.maximum(original, 0.5 / n) / np.maximum(shuffled, 0.5 / n))


def entropy(logits):
    """(n, V, K) logits -> (n,) entropy in nats of the distribution that `fuse` gives; ln K for a uniform one"""
    p = fuse(logits)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def columns(mean, n_test, num_classes):
    """The table's figures from shares of videos in [0, 1]: scalars, or (R,) for the bootstrap.

    mean: {"test", "scuba-NAME", "scufo-NAME", "contrasted-NAME", "conflfg", "rare", "shuffled", "masked",
    "masked_entropy" in nats, "scene_probe", "adversary"}, or fewer.
    """
    out = {"iid": 100 * mean["test"]}
    for kind in ("scuba", "scufo", "contrasted"):
        each = {k: 100 * v for k, v in mean.items() if k.startswith(f"{kind}-")}
        out |= each | ({kind: sum(each.values()) / len(each)} if each else {})
    if "scufo" in out:
        out["off_chance"] = abs(out["scufo"] - 100 / num_classes)
    shares = ("conflfg", "rare", "shuffled", "masked", "scene_probe", "adversary")
    out |= {k: 100 * mean[k] for k in shares if k in mean} | {k: v for k, v in mean.items() if k == "masked_entropy"}
    if "shuffled" in mean:
        out["log_ratio"] = log_ratio(mean["test"], mean["shuffled"], n_test)
    return out


def bootstrap(hits, keys, seed):
    """(n,) outcomes in [0, 1], (n,) names of the videos -> (R,) means of n videos drawn with replacement.

    The draws follow from the sorted names, so that the same videos (shuffled or not, SCUBA or SCUFO, on any
    background) are drawn together: this gives means, differences and ratios over splits their right error.
    """
    hits, n = np.asarray(hits, np.float64)[np.argsort(keys, kind="stable")], len(keys)
    rng = np.random.default_rng([seed, zlib.crc32("\n".join(sorted(keys)).encode())])
    return np.concatenate([hits[rng.integers(0, n, (50, n))].mean(1) for _ in range(RESAMPLES // 50)])


def video_names(paths):
    """What a video is called in every split: its file's stem where all differ, else its path."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


# ---- Scenes in the features: SDN Sec. 4.3 ------------------------------------------------------------------

def standardise(x, other):
    """Tensors (n, D), (m, D), both with the first's mean and standard deviation (1 for a constant column)."""
    mean, std = x.mean(0), x.std(0, correction=0)
    std[std < 1e-6 * mean.abs() + 1e-12] = 1
    return (x - mean) / std, (other - mean) / std


def train_probe(x, p, seed, patience=20):
    """A new four-layer MLP, three hidden layers of 512 (Sec. 4.2), of features (n, D) and soft labels (n, M). It stops
    when the loss on a seeded tenth has not fallen (by 1e-4) for `patience` epochs, and is what it was at its best."""
    rng, widths = np.random.default_rng([seed, len(x)]), (x.shape[1], 512, 512, 512, p.shape[1])
    held, kept = torch.from_numpy(rng.permutation(len(x))).tensor_split([max(1, len(x) // 10)])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [part for sizes in zip(widths, widths[1:], strict=False) for part in (nn.Linear(*sizes), nn.ReLU())]
    net, least, wait = nn.Sequential(*layers[:-1]).to(x.device), math.inf, 0
    adam, p = torch.optim.Adam(net.parameters(), 5e-4), p / p.sum(1, keepdim=True)                 # p was float16
    while wait < patience:
        for part in kept[torch.from_numpy(rng.permutation(len(kept)))].split(128):
            adam.zero_grad()
            F.cross_entropy(net(x[part]), p[part]).backward()
            adam.step()
        with torch.no_grad():
            loss, wait = float(F.cross_entropy(net(x[held]), p[held])), wait + 1
        if loss < least - 1e-4:
            least, wait, best = loss, 0, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(best)
    return net


def scene_floors(actions, scenes, test_actions, test_scenes):
    """Share of the test scenes (m,) that is named right by the most frequent scene in training (n,), of all and of the
    true action. No network that keeps the action in its features can push a probe below the second."""
    usual = np.bincount(scenes).argmax()
    of_action = {action: np.bincount(scenes[actions == action]).argmax() for action in np.unique(actions)}
    named = np.array([of_action.get(action, usual) for action in test_actions])
    return float((test_scenes == usual).mean()), float((test_scenes == named).mean())


def measure_scenes(run, found, args):
    """Is the scene of each validation video named right by a probe of the frozen features, and by the run's own head?
    -> {"scene_probe", "adversary": (m,) bool}, names of the videos, what is said of the data set, arrays to save"""
    x, p, y, paths, device = {}, {}, {}, {}, next(run.model.parameters()).device
    for name, (videos, soft, _) in found.items():
        z, used, _ = predict(run, name, videos, {name: None}, replace(args, clips=run.args["frames"] if run.tsn else 1),
                             call=run.model.features)
        x[name], p[name] = torch.from_numpy(z[name][used].mean(1)).to(device), soft[used]              # (n, D), (n, M)
        y[name], paths[name] = np.array(videos.labels)[used], np.array(videos.paths)[used]
    train, val = standardise(x["train"], x["val"])
    probe, head = train_probe(train, p["train"].to(device), args.seed), getattr(run.model, "scene_head", None)
    with torch.inference_mode():
        z = {"scene_probe": probe(val)} | ({"adversary": head(x["val"])} if head else {})
    z, scene = {k: some.cpu().numpy() for k, some in z.items()}, {k: some.argmax(1).numpy() for k, some in p.items()}
    most, of_action = scene_floors(y["train"], scene["train"], y["val"], scene["val"])
    about = dict(lists=[name for *_, name in found.values()], videos=[len(some) for some in paths.values()],
                 unreadable=[sorted({*found[name][0].paths} - {*paths[name]}) for name in found], scenes=soft.shape[1],
                 chance=100 / soft.shape[1], most_frequent=100 * most, from_action=100 * of_action)
    return ({k: some.argmax(1) == scene["val"] for k, some in z.items()}, video_names(paths["val"]), about,
            {f"{k}/logits": some for k, some in z.items()} | {"val/paths": paths["val"], "val/scenes": scene["val"]})


# ---- Scenes in the predictions: SMAD Sec. 3 and 6.2 ----------------------------------------------------------

def equalised_odds(right, labels, scenes, least=5):
    """(n,) bool, (n,), (n,) -> spread of P(Y' = y | Y = y, S = s) over the scenes s of an action y with `least` videos
    or more: root of the mean over y of the variance less the binomials', at least 0. NaN: no y has two such s."""
    found = []
    for y in np.unique(labels):
        groups = [right[(labels == y) & (scenes == s)] for s in np.unique(scenes[labels == y])]
        groups = [group for group in groups if len(group) >= least]
        share, n = np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])
        found += [share.var(ddof=1) - (share * (1 - share) / (n - 1)).mean()] if len(groups) > 1 else []
    return max(0.0, float(np.mean(found))) ** 0.5 if found else math.nan


def fairness(labels, predicted, scenes, seed):
    """Table 4 of (n,) actions Y, predictions Y', scenes S -> {"independence", "oracle", "separation", "sufficiency" and
    these "_less_floor"; "amplified": independence less oracle; "equalised_odds" in points where defined}"""
    of = dict(independence=(predicted, scenes), oracle=(labels, scenes), separation=(predicted, scenes, labels),
              sufficiency=(labels, scenes, predicted))
    out = {k: common.nmi(*v) for k, v in of.items()}
    out |= {f"{k}_less_floor": out[k] - common.nmi_floor(*v, seed=seed) for k, v in of.items()}
    spread = equalised_odds(labels == predicted, labels, scenes)
    out |= {f"amplified{k}": out[f"independence{k}"] - out[f"oracle{k}"] for k in ("", "_less_floor")}
    return out | ({"equalised_odds": 100 * spread} if math.isfinite(spread) else {})


# ---- One checkpoint ----------------------------------------------------------------------------------------

def measure(run, args):
    """All figures of one checkpoint, as plain values; writes its .npz, names unreadable videos on stderr."""
    run.model.to("cuda" if torch.cuda.is_available() else "cpu")
    a, splits, hits, names, broken, arrays = run.args, find_splits(run, args), {}, {}, {}, {}
    (boxes, scenes, scene), about, fair = find_labels(run, args, splits["test"]), None, {}
    known, views = None, run.views(args.clips)
    for split, videos in splits.items():
        orders, scufo, masks = {split: None}, split.replace("scuba-", "scufo-"), boxes if split == "test" else None
        orders |= {"masked": None} if masks else {}
        if scufo != split:
            orders[scufo] = static_orders(videos.paths, *views, args.seed)
        for i in range(args.shuffles if split == "test" and views[1] > 1 else 0):
            orders[f"shuffled-{i}"] = shuffled_orders(videos.paths, *views, args.seed, i)
        logits, used, humans = predict(run, split, videos, orders, args, masks)
        paths, labels = np.array(videos.paths), np.array(videos.labels)
        broken[split] = paths[~used].tolist()
        arrays |= {f"{split}/paths": paths, f"{split}/labels": labels, f"{split}/used": used}
        for variant in orders:
            seen = used & (humans >= 0.5) if variant == "masked" else used          # as the clips of SDN's Eq. (6)
            if not seen.any():
                raise UserError("--humans: no test clip has a box in half of its frames, so none can be masked")
            hits[variant], names[variant] = top1(logits[variant], labels)[seen], video_names(paths[seen])
            arrays[f"{variant}/logits"] = logits[variant]
            if orders[variant] is not None:
                arrays[f"{variant}/order"] = orders[variant]
        if split == "test" and scene is not None and (seen := used & (scene >= 0)).any():
            fair = fairness(labels[seen], fuse(logits[split]).argmax(-1)[seen], scene[seen], args.seed)
            known, arrays["test/scenes"] = [int(seen.sum()), len(scene)], scene
        if masks:
            hits["masked_entropy"] = entropy(logits["masked"])[used & (humans >= 0.5)]
            names["masked_entropy"], arrays["masked/humans"] = names["masked"], humans
        if scufo != split:
            pair = split.replace("scuba-", "contrasted-")
            hits[pair] = contrasted(hits[split], hits[scufo], paths[used], paths[used])
            names[pair] = names[split]
    if scenes:
        named, keys, about, more = measure_scenes(run, scenes, args)
        hits, names, arrays = hits | named, names | dict.fromkeys(named, keys), arrays | more
    shuffled = [hits.pop(k) for k in list(hits) if k.startswith("shuffled-")]
    if shuffled:
        hits["shuffled"], names["shuffled"] = np.mean(shuffled, 0), names["test"]
    n, k = len(hits["test"]), len(run.classes)
    figures = columns({v: h.mean() for v, h in hits.items()}, n, k)
    errors = columns({v: bootstrap(h, names[v], args.seed) for v, h in hits.items()}, n, k)
    np.savez_compressed(beside(run.path, ".npz"), classes=np.array(run.classes), **arrays)
    clips = "1 centre clip" if views[0] == 1 else f"mean softmax of {views[0]} clips"
    clips = f"mean softmax of {views[1]} frames" if run.tsn else f"{clips} of {views[1]} frames x stride {a['stride']}"
    protocol = f"{clips}, short side {a['resize']}, centre crop {a['size']}"
    return dict(checkpoint=str(run.path), name=run.name, method=run.method, config=run.config, seed=a["seed"],
                epochs=[run.done[0], a["epochs"]], protocol=protocol,
                figures={v: float(x) for v, x in figures.items()} | fair,
                bootstrap={v: float(x.std(ddof=1)) for v, x in errors.items()},
                shuffles=[100 * float(h.mean()) for h in shuffled],
                videos={s: [len(v) - len(broken[s]), len(v)] for s, v in splits.items()}, broken=broken,
                fair=known, probe=about,
                masked=[len(hits["masked"]), len(splits["test"])] if boxes else None, classes=k)


def beside(path, suffix):
    """runs/albar/last.pt -> runs/albar/evaluate.json; other checkpoints: evaluate-best.json"""
    return path.with_name(("evaluate" if path.stem == "last" else f"evaluate-{path.stem}") + suffix)


# ---- The table ---------------------------------------------------------------------------------------------

HEADS = {"iid": "IID ↑", "scuba": "SCUBA ↑", "scufo": "SCUFO ↓", "off_chance": "abs(SCUFO-1/K) ↓",
         "conflfg": "Confl-FG ↑", "contrasted": "contrasted ↑", "rare": "rare ↑", "shuffled": "shuffled",
         "log_ratio": "log ratio ↑", "masked": "masked → 1/K", "masked_entropy": "masked entropy → ln K",
         "scene_probe": "scene probe ↓", "adversary": "adversary"}
FAIR = {"independence": "I(Y';S) → I(Y;S)", "oracle": "I(Y;S)", "amplified": "I(Y';S) - I(Y;S)",       # no | in tables
        "separation": "I(Y';S, given Y) ↓", "sufficiency": "I(Y;S, given Y') ↓"}
FAIR |= {f"{k}_less_floor": f"{re.sub(' [→↓].*', '', v)} less floor" for k, v in FAIR.items()}
FAIR |= {"amplified_less_floor": "their difference", "equalised_odds": "equalised odds ↓"}
DIGITS = {"log_ratio": 2, "masked_entropy": 2} | {k: 3 for k in FAIR} | {"equalised_odds": 1}    # else 1

# Student's t for a two-sided 95 % interval, 1 to 9 degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def row_name(names):
    """What the runs of a row share: albar-s0, albar-s1 -> albar. One run keeps its name."""
    shared = os.path.commonprefix(names)
    return shared if shared in names else re.sub(r"([-_.]+(seed|s)?)?[-_.]*\d*$", "", shared) or names[0]


def merge(measured):
    """What `measure` gives of each checkpoint -> rows; seeds of one configuration share a row."""
    groups, rows = [], []
    for m in measured:
        for group in groups:
            if group[0]["config"] == m["config"] and m["seed"] not in [other["seed"] for other in group]:
                group.append(m)
                break
        else:
            groups.append([m])
    for group in groups:
        first, several = group[0], len(group) > 1
        values = {k: np.array([m["figures"][k] for m in group]) for k in first["figures"]}
        spread = {k: float(v.std(ddof=1)) for k, v in values.items()} if several else first["bootstrap"]
        name = row_name([m["name"] for m in group])
        rows.append(dict(
            name=f"{name} ({first['checkpoint']})" if name in [r["name"] for r in rows] else name,
            method=first["method"], epochs=first["epochs"], protocol=first["protocol"],
            checkpoints=[m["checkpoint"] for m in group], seeds=[m["seed"] for m in group],
            videos=[sum(n) for n in zip(*first["videos"].values(), strict=True)],  # used, listed
            mean={k: float(v.mean()) for k, v in values.items()}, plus_minus=spread,
            each={k: v.tolist() for k, v in values.items()},                                # of each seed
            **{k: first.get(k) for k in ("probe", "masked", "classes", "fair")},
            plus_minus_is=("standard deviation over seeds, n - 1" if several else
                           "standard error by bootstrap over videos")))
    return rows


def cell(row, key, backgrounds):
    """One figure with its +-; for SCUBA and SCUFO also each background's."""
    if key not in row["mean"]:
        return "-"
    digits = DIGITS.get(key, 1)
    text = f"{row['mean'][key]:.{digits}f}"
    text += f" ±{row['plus_minus'][key]:.{digits}f}" if key in row["plus_minus"] else ""
    if key in ("scuba", "scufo"):
        text += f" ({' / '.join(format(row['mean'][f'{key}-{b}'], '.1f') for b in backgrounds)})"
    return text


def layout(table):
    """Rows of cells, the first the head -> lines of a Markdown table"""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table = [table[0], ["-" * width for width in widths], *table[1:]]
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]


def paired_difference(a, b):
    """(S,) figures of two configurations at the same S >= 2 seeds -> mean of a - b, half its 95 % t interval"""
    d = np.asarray(a) - np.asarray(b)
    t = T95[len(d) - 2] if len(d) - 2 < len(T95) else 1.96 + 2.5 / (len(d) - 1)             # to 0.01
    return float(d.mean()), float(t * d.std(ddof=1) / len(d) ** 0.5)


def difference(row, first, key):
    """The cell of one figure: row minus first by the seeds that both have, "-" where there are none"""
    seeds = [seed for seed in first["seeds"] if seed in row["seeds"]]
    if len(seeds) < 2 or key not in row["each"] or key not in first["each"]:
        return "-"
    mean, half = paired_difference(*([r["each"][key][r["seeds"].index(s)] for s in seeds] for r in (row, first)))
    digits = DIGITS.get(key, 1)
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def markdown(rows):
    """The Markdown table, a line for each row, under it a line that says what each is, then paired differences."""
    present = {k: None for row in rows for k in row["mean"]}
    backgrounds = [k.removeprefix("scuba-") for k in present if k.startswith("scuba-")]
    lines, tables = [], [{k: head for k, head in heads.items() if k in present} for heads in (HEADS, FAIR)]
    for heads in tables if tables[1] else tables[:1]:
        table = [[row["name"], *(cell(row, k, backgrounds) for k in heads)] for row in rows]
        lines += [*layout([["run", *heads.values()], *table]), ""]
    lines += [f"SCUBA and SCUFO: mean ({' / '.join(backgrounds)})."] * bool(backgrounds)
    for row in rows:
        (epoch, epochs), (used, listed) = row["epochs"], row["videos"]
        lines.append(f"- {row['name']}: {row['method']}.py, epoch {epoch} of {epochs}; {row['protocol']}; "
                     f"{used} of {listed} videos used; {len(row['seeds'])} seed(s): "
                     f"{', '.join(map(str, row['seeds']))}; ±: {row['plus_minus_is']}.")
    masked = dict.fromkeys((*row["masked"], row["classes"]) for row in rows if row["masked"])
    lines += [f"- masked: {used} of {listed} test clips, those with a human box in half of their frames or more; 1/K "
              f"{100 / k:.1f}, ln K {math.log(k):.2f}." for used, listed, k in masked]
    for about in {json.dumps(row["probe"]): row["probe"] for row in rows if row["probe"]}.values():
        lines.append("- scene probe, {} to {} ({} to {} videos, {scenes} scenes): chance {chance:.1f}; the most "
                     "frequent scene {most_frequent:.1f}; from the true action alone {from_action:.1f}, the least of a "
                     "network that keeps the action.".format(*about["lists"], *about["videos"], **about))
    fair = dict.fromkeys(tuple(row["fair"]) for row in rows if row["fair"])
    lines += [f"- scenes S of {known} of {listed} test videos; I: mutual information over the mean of both entropies; "
              "floor: its mean over 200 deals of the scenes at random." for known, listed in fair]
    for heads in tables if tables[1] else tables[:1]:
        against = [[row["name"], *(difference(row, rows[0], k) for k in heads)] for row in rows[1:]]
        if any(set(line[1:]) != {"-"} for line in against):
            lines += ["", *layout([[f"minus {rows[0]['name']}", *heads.values()], *against])]
    if lines[-1].startswith("|"):
        lines += ["", "Differences are paired by seed: the mean and its 95 % t interval."]
    return "\n".join(lines)


def evaluate(args):
    """Measure every checkpoint, print the table, write the JSON files. -> the rows"""
    if not args.runs:
        raise UserError("no run to evaluate: python evaluate.py runs/albar")
    runs = {}
    for path in args.runs:                # all that is wrong with the input is said before a video is read
        run = load_run(path)
        find_labels(run, args, find_splits(run, args)["test"])
        runs[run.path.resolve()] = path   # a checkpoint named twice is one
    measured = [measure(load_run(path), args) for path in runs.values()]
    rows = merge(measured)
    for m in measured:
        row = next(row for row in rows if m["checkpoint"] in row["checkpoints"])
        report = dict(row=row, checkpoint=m, table=rows, args=asdict(args))
        text = json.dumps(report, indent=1, allow_nan=False)
        beside(Path(m["checkpoint"]), ".json").write_text(text + "\n")
    print(markdown(rows))
    return rows


# ---- `bias`: scene representation bias of a data set, SDN Eq. (1) ------------------------------------------

@dataclass
class BiasArgs:
    scenes: tuple = arg((), ".npz of `sdn.py scenes`; none: the embedded benchmark's")
    train: str = arg("", "training list; none: the embedded benchmark")
    test: str = arg("", "test list; none: a seeded half of each action in --train")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists", choices=(1, 2, 3))
    data: str = arg("data", "folder of the embedded benchmark")
    data_seed: int = arg(0, "seed of the embedded benchmark", low=0)
    seed: int = arg(0, "seed of the halves and of the bootstrap", low=0)


def scene_representation_bias(accuracy, chance):
    """Eq. (1)  B_scene = ln(M(D, phi_scene) / M_rand)     accuracies in [0, 1], any shape; 0: no bias, large: much"""
    return np.log(accuracy / chance)


def linear_classifier(x, y, k, c=1.0):
    """Multinomial logistic regression, x (n, D), y (n,) labels below k -> W (k, D), b (k,): the least sum of
    cross-entropies + |W|^2 / 2c, by LBFGS until the gradient vanishes."""
    w, b = (torch.zeros(shape, dtype=x.dtype, requires_grad=True) for shape in ((k, x.shape[1]), k))
    lbfgs = torch.optim.LBFGS([w, b], max_iter=5000, tolerance_grad=1e-8, tolerance_change=0, history_size=20,
                              line_search_fn="strong_wolfe")

    def loss():
        lbfgs.zero_grad()
        value = F.cross_entropy(x @ w.T + b, y) + w.square().sum() / (2 * c * len(x))
        value.backward()
        return value
    lbfgs.step(loss)
    return w.detach(), b.detach()


def scene_features(files, videos):
    """phi_scene: the files' `features` where each holds some, else log-probabilities. -> (n, D) float64 of the
    videos that are in the files, these videos, which of the two"""
    for kind in ("features", "probabilities"):
        with suppress(UserError if kind == "features" else ()):
            parts = [common.load_arrays(file, "paths", kind) for file in files]
            break
    found = {path: row for part in parts for path, row in zip(part["paths"].tolist(), part[kind], strict=True)}
    videos = common.subset(videos, [i for i, path in enumerate(videos.paths) if path in found])
    if len({found[path].shape for path in videos.paths}) != 1:
        raise UserError(f"{', '.join(map(str, files))}: none of the list's videos, or {kind} of two networks")
    x = torch.from_numpy(np.stack([found[path] for path in videos.paths])).double()
    return x if kind == "features" else x.clamp_min(6e-8).log(), videos, kind                # float16's least number


def bias(args):
    """B_scene (SDN Eq. 1) of a data set: ln(accuracy / chance) of a linear classifier that names its actions from
    frozen features of the scenes alone (`sdn.py scenes --features`), or from their log-probabilities. 0: no bias."""
    jobs, files = [(args.train, args.test)], args.scenes
    if args.test and not args.train:
        raise UserError("--test without --train: name the list that the classifier learns from")
    if not args.train:
        world = common.toy(args.data_seed, args.data)
        jobs, files = [(world / "train.txt", world / "test.txt")], files or (world / "scenes.npz",)
        jobs += [(world / f"{name}.txt", "") for name in ("pretrain", "novel")]
    if not files:
        raise UserError("--train without --scenes: make scenes.npz with sdn.py scenes")
    table = [["data set", "phi_scene", "videos", "accuracy", "1/K", "most frequent", "B_scene"]]
    for train, test in jobs:
        videos = common.read_list(train, part="train", split=args.split)
        if test:
            others = common.read_list(test, part="test", split=args.split, classes=videos.classes)
            if both := {*videos.paths} & {*others.paths}:
                raise UserError(f"--test: {len(both)} of its videos are in --train too, first {min(both)}")
        else:                                                  # every second video of each action, in a random order
            order = np.random.default_rng([args.seed, len(videos)]).permutation(len(videos))
            order = order[np.argsort(np.array(videos.labels)[order], kind="stable")]
            videos, others = common.subset(videos, order[::2]), common.subset(videos, order[1::2])
        (x, videos, kind), (x_test, others, _) = (scene_features(files, some) for some in (videos, others))
        x, x_test = standardise(x, x_test)
        w, b = linear_classifier(x, torch.tensor(videos.labels), k := len(videos.classes))
        hits, n = (x_test @ w.T + b).argmax(1).numpy() == others.labels, len(others)
        most = np.bincount(others.labels).max() / n
        b_scene, drawn = (scene_representation_bias(np.maximum(accuracy, 0.5 / n), most)
                          for accuracy in (hits.mean(), bootstrap(hits, video_names(others.paths), args.seed)))
        table.append([f"{train} to {test or 'its other half'}", f"{'log-' * (kind != 'features')}{kind} ({x.shape[1]})",
                      f"{len(videos)} to {n}", *(f"{100 * share:.1f}" for share in (hits.mean(), 1 / k, most)),
                      f"{b_scene:.2f} ±{drawn.std(ddof=1):.2f}"])
    print(*layout(table), "", "B_scene = ln(accuracy / most frequent), 1/K on a balanced test list; ±: standard "
          "error by bootstrap over test videos.", sep="\n")
    return table


# ---- `cam`: class activation maps, SDN Sec. 4.7 -------------------------------------------------------------

CamArgs = make_dataclass("CamArgs", [
    *((f.name, f.type, f) for f in fields(Args)
      if f.name in ("runs", "test", "root", "split", "humans", "seed", "batch_size", "workers")),
    ("map", str, arg("cam", "class activation maps, or SAAR's masks: SMAD Fig. 7", choices=("cam", "actionness"))),
    ("videos", int, arg(8, "videos to draw, from the beginning of the list", low=1)),
    ("out", str, arg("cam", "folder of the pictures and of cam.json"))])


def last_maps(run, clip):
    """clip (N, 3, T, H, W), normalised -> (N, K) logits, (N, D, t, h, w) the last convolutional map. UserError where
    the logits are not the head of its mean (VGG, MViT): no class activation map is defined there."""
    found, head, tsn = [], run.model.head, getattr(run.model, "tsn", False)
    d, shape = head.weight.shape[1], (len(clip), clip.shape[2])

    def keep(module, inputs, out):                             # D channels, first or (Swin) last, of several positions
        if tsn and torch.is_tensor(out) and out.ndim > 3:                                           # of each frame
            out = out.reshape(*shape, out.shape[1], *out.shape[-2:]).transpose(1, 2)
        if torch.is_tensor(out) and out.ndim == 5 and d in (out.shape[1], out.shape[4]) and out[0].numel() > d:
            found[:] = [maps for maps in (out, out.movedim(4, 1)) if maps.shape[1] == d]
    with nn.modules.module.register_module_forward_hook(keep):
        logits = run.model(clip)
    for maps in found:
        z = F.linear(maps.mean((2, 3, 4)), head.weight.flatten(1), head.bias)
        if torch.allclose(z, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
            return logits, maps
    raise UserError(f"{run.path}: no class activation map: its logits are not the head of a last map's mean")


def class_activation_map(maps, weight, chosen, size):
    """M_c(t, h, w) = sum_k W[c, k] f_k(t, h, w), enlarged to size (T, H, W), trilinear     maps f (N, D, t, h, w),
    weight W (K, D), classes chosen (N,) -> (N, T, H, W)"""
    cam = torch.einsum("ndthw,nd->nthw", maps, weight.flatten(1)[chosen])
    return F.interpolate(cam[:, None], size, mode="trilinear", align_corners=False)[:, 0]


def saar_mask(model, clip):
    """clip (N, 3, T, H, W), normalised -> (N, K) logits, (N, T, h, w) mask of the model's SAAR, of mean 1 in a frame"""
    kept = []
    hook = model.saar.register_forward_hook(lambda module, inputs, out: kept.append(out[1]))
    try:
        z = model(clip)
    finally:
        hook.remove()
    return z, kept[0].squeeze(1).unflatten(0, (len(clip), -1))


def actionness(run, clip):
    """clip (N, 3, T, H, W), normalised -> (N, K) logits, (N, T, H, W) SAAR's mask (SMAD Sec. 5.1), enlarged"""
    if getattr(run.model, "saar", None) is None:
        raise UserError(f"{run.path}: it has no actionness masks: name a run of smad.py, or omnidebias.py --smad")
    z, mask = saar_mask(run.model, clip)
    return z, F.interpolate(mask[:, None], clip.shape[2:], mode="trilinear", align_corners=False)[:, 0]


def share_inside(cam, inside):
    """Maps (N, T, H, W), and 1 inside the human boxes, 0 outside -> (N,) share of the positive mass inside, (N,) of the
    area. Only frames that have a box count; NaN where none has, or where nothing there is positive."""
    seen = (inside.amax((2, 3)) > 0)[..., None, None].expand_as(cam)
    return [(some * inside).sum((1, 2, 3)) / some.sum((1, 2, 3)) for some in (cam.clamp_min(0) * seen, seen)]


def with_boxes(frames, path, at, boxes):
    """For Videos(change): the frames, then white boxes on black for the transform to crop alike."""
    white = torch.zeros_like(frames)
    for image, some in zip(white, boxes(path, at.ravel()), strict=True):
        for x0, y0, x1, y1 in some:
            image[max(0, math.floor(y0)):max(0, math.ceil(y1)), max(0, math.floor(x0)):max(0, math.ceil(x1))] = 255
    return torch.cat([frames, white]), np.stack([at, at]), {}


def draw(file, clip, cams):
    """FILE.png: a row of the clip's frames, (3, T, S, S) uint8, and one of them under each map, (T, S, S), blue to red.
    FILE.mp4: the same frame of all rows, side by side, in time."""
    rows, k = [clip.permute(1, 2, 3, 0).float()], math.ceil(112 / clip.shape[2])
    for cam in cams:
        heat = cam[..., None].clamp_min(0) / cam.max().clamp_min(1e-12)
        rows.append(rows[0] / 2 + 127.5 * (1.5 - (3 * heat - heat.new_tensor([2.5, 1.5, 0.5])).abs()).clamp(0, 1))
    k += k * clip.shape[2] % 2                                                                     # even, for H.264
    rows = torch.stack(rows).byte().repeat_interleave(k, 2).repeat_interleave(k, 3).cpu().numpy()  # (R, T, S, S, 3)
    strip = np.concatenate([np.concatenate(row, 1) for row in rows])
    av.VideoFrame.from_ndarray(strip, "rgb24").save(f"{file}.png")
    with av.open(f"{file}.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = len(rows) * rows.shape[3], rows.shape[2], "yuv420p"
        for frames in rows.swapaxes(0, 1):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.concatenate(frames, 1), "rgb24")))
        out.mux(stream.encode())


def cam(args):
    """Class activation maps (SDN Sec. 4.7): where each run looks for the class that it predicts; or, with --map, SAAR's
    actionness masks (SMAD Fig. 7). An image strip and an MP4 for each of the first --videos; over the whole list the
    share of the positive map that lies in human boxes."""
    runs, predicted, drawn, table = [load_run(path) for path in args.runs], [], [], []
    if len({tuple(run.args[k] for k in ("frames", "stride", "size", "resize")) + (run.tsn,) for run in runs}) != 1:
        raise UserError("name one run, or several that see the same clips: of equal frames, stride, size and resize")
    options = Args(**{k: v for k, v in asdict(args).items() if k not in ("videos", "out", "map")},
                   clips=runs[0].args["frames"] if runs and runs[0].tsn else 1)
    videos, *others = (find_splits(run, options)["test"] for run in runs)
    if {other.sha1 for other in others} - {videos.sha1}:
        raise UserError("the runs are of different embedded benchmarks: name the videos with --test")
    boxes, *_ = find_labels(runs[0], options, videos)
    videos = videos if boxes else common.subset(videos, range(len(videos))[:args.videos])
    change = partial(with_boxes, boxes=boxes or common.Boxes(()))
    for run in runs:
        run.model.to("cuda" if torch.cuda.is_available() else "cpu")
        found, first = [], []
        for clip, _, batch, _ in batches(run, "cam", videos, options, change):                # (N, 2, 1, 3, T, S, S)
            clip, inside = clip[:, 0, 0], clip[:, 1, 0, 0] / 255
            with torch.inference_mode():
                x = common.normalise(clip, run.args["mean"], run.args["std"])
                z, maps = actionness(run, x) if args.map == "actionness" else last_maps(run, x)
                heat = maps if args.map == "actionness" else class_activation_map(
                    maps, run.model.head.weight, z.argmax(1), clip.shape[2:])
            found.append(torch.stack([batch["bad"], *(x.cpu() for x in (z.argmax(1), *share_inside(heat, inside)))]))
            first += zip(clip.cpu(), heat.cpu(), strict=True) if len(first) < args.videos else ()
        bad, named, share, area = torch.cat(found, 1).double().numpy()
        predicted.append([run.classes[int(c)] for c in named])
        drawn.append(first)
        seen = np.flatnonzero((bad == 0) & np.isfinite(share))
        if boxes and not len(seen):
            raise UserError(f"{run.path}: no video has a human box, and a map that is positive where there is one")
        if boxes:
            error = bootstrap(share[seen], [videos.paths[i] for i in seen], args.seed).std(ddof=1)
            table.append(dict(name=run.name, checkpoint=str(run.path), seed=run.args["seed"], videos=len(seen),
                              inside=100 * share[seen].mean(), plus_minus=100 * error, area=100 * area[seen].mean()))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    named = {path: [videos.classes[videos.labels[i]], *(names[i] for names in predicted)]
             for i, path in enumerate(videos.paths) if not bad[i]}
    for i, path in enumerate(videos.paths[:args.videos]):
        if path in named:
            draw(Path(args.out) / f"{i:03d}-{Path(path).stem}", drawn[0][i][0], [first[i][1] for first in drawn])
            print(f"- {path}: {named[path][0]};",
                  ", ".join(f"{run.name} {name}" for run, name in zip(runs, named[path][1:], strict=True)))
    if boxes:
        cells = [[m["name"], f"{m['inside']:.1f} ±{m['plus_minus']:.1f}", f"{m['area']:.1f}", str(m["videos"])]
                 for m in table]
        print("", *layout([["run", "map inside human boxes", "area inside", "videos"], *cells]), "",
              "Percent, means over videos; ±: standard error by bootstrap over them.", sep="\n")
    text = json.dumps(dict(table=table, videos=named, args=asdict(args)), indent=1, allow_nan=False)
    (Path(args.out) / "cam.json").write_text(text + "\n")
    return table


if __name__ == "__main__":
    common.cli(Args, evaluate, steps={"bias": (BiasArgs, bias), "cam": (CamArgs, cam)})
