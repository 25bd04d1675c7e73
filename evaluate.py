"""Evaluate: every benchmark of the papers, over any checkpoint of the method scripts, in one table.

    python evaluate.py runs/albar-baseline runs/albar             # the embedded benchmark needs no lists
    python evaluate.py runs/albar-s0 runs/albar-s1 runs/albar-s2  # seeds of one configuration: one row
    python evaluate.py runs/hmdb --test LIST --root VIDEOS --conflfg LIST --rare LIST \\
        --scuba places365=LIST vqgan-clip=LIST sinusoid=LIST      # your own lists

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

Accuracies are percent of videos; means over backgrounds are unweighted. A row's +- is the standard deviation
over its seeds (n - 1), or for one checkpoint the standard error by bootstrap over videos; the row says which.
Videos that cannot be read are left out, counted and named. Nothing here chooses a checkpoint.
SILENT  SCUFO's frame: one of the SCUBA clip's, drawn by the video's path (StillMix: at random, not seeded).
SILENT  Hara's shuffle: inside the sampled clip, never the identity, accuracy averaged over --shuffles draws.
"""

import importlib
import json
import os
import re
import sys
import zlib
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import common
from common import UserError, arg

METHODS = ("sdn", "smad", "omnidebias", "albar")  # what a checkpoint may name; nothing else is imported
TOY = ("test", "scuba-photo", "scuba-texture", "scuba-sinusoid", "conflfg", "rare")  # embedded benchmark
RESAMPLES = 1000                                  # of the bootstrap


@dataclass
class Args:
    runs: tuple = arg((), "runs to evaluate: folders (their last.pt) or checkpoint files", positional=True)
    test: str = arg("", "IID test list; a run on the embedded benchmark needs none")
    scuba: tuple = arg((), "SCUBA lists, NAME=LIST for each background")
    conflfg: str = arg("", "Confl-FG list")
    rare: str = arg("", "list of actions in rare scenes, as ARAS")
    root: str = arg("", "folder of the lists' videos; default: each list's own folder")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists; ALBAR App. A: 1", choices=(1, 2, 3))
    clips: int = arg(1, "clips of a video, spread evenly, mean softmax; ALBAR App. B: one, centred", low=1)
    shuffles: int = arg(3, "random orders of each test clip, 0 for none; Hara et al. give no number", low=0)
    seed: int = arg(0, "seed of the SCUFO frames, the shuffles and the bootstrap", low=0)
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

    @property
    def config(self):
        """Equal for seeds of one configuration at the same point of training (the step, or best.pt)."""
        stage = "best" if self.path.name == "best.pt" else self.done
        kept = {k: v for k, v in sorted(self.args.items()) if k not in NOT_CONFIG}
        return repr((self.method, stage, self.classes, self.list_sha1, kept))


def load_run(path):
    """Rebuild the model of a checkpoint file, or of a run's folder (its last.pt). UserError if it fails."""
    path = Path(path)
    path = path / "last.pt" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; name a run's folder or a checkpoint file")
    saved = common.load_checkpoint(path)
    method = saved["method"]
    if method not in METHODS:
        raise UserError(f"{path}: made by {method!r}, which is none of {', '.join(METHODS)}")
    try:
        script = importlib.import_module(method)
    except ModuleNotFoundError as e:
        if e.name != method:                           # the script is here, something that it needs is not
            raise
        raise UserError(f"{path}: {method}.py, which made it, is not beside evaluate.py") from None
    known = {f.name for f in fields(script.Args)}
    args = script.Args(**{k: v for k, v in saved["args"].items() if k in known})
    model = script.build_model(args, len(saved["classes"])).eval()
    try:
        model.load_state_dict(saved["model"])
    except (RuntimeError, TypeError) as e:
        raise UserError(f"{path}: not weights of {method}.py's model: {' '.join(str(e).split())}") from None
    done = saved["epoch"], saved["step"]
    return Run(path, method, saved["args"] | asdict(args), saved["classes"], done, saved.get("list_sha1", ""), model)


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


def clip_frames(n, rng, frames, stride, clips):
    """(V, T) frames of a video of n frames, as Videos asks for them; nothing random, so rng stays unused."""
    return common.uniform_clips(n, frames, stride, clips)


def predict(run, name, videos, orders, args):
    """One pass over a split. -> {variant: (n, V, K) logits}, (n,) bool: could the video be read

    orders: {variant: (n, V, T) for `reorder`, or None for the clip as it is}; one is named as the split.
    """
    a, device, right = run.args, next(run.model.parameters()).device, 0
    sample = partial(clip_frames, frames=a["frames"], stride=a["stride"], clips=args.clips)
    data = common.Videos(videos, sample, common.test_transform(a["size"], a["resize"]))
    loader = DataLoader(data, args.batch_size, num_workers=args.workers, pin_memory=device.type == "cuda")
    logits = {v: np.zeros((len(videos), args.clips, len(run.classes)), np.float32) for v in orders}
    used, labels = np.zeros(len(videos), bool), np.array(videos.labels)
    bar = tqdm(total=len(videos), desc=f"{run.name} {name}", unit="video", leave=False, disable=None)
    for batch in loader:
        clip, index = batch["clip"].to(device), batch["index"].numpy()  # (N, V, 3, T, H, W) uint8, (N,)
        used[index] = batch["bad"].numpy() == 0
        for variant, order in orders.items():
            moved = clip if order is None else reorder(clip, torch.from_numpy(order[index]).to(device))
            with torch.inference_mode(), common.autocast(device, args.amp):
                out = torch.cat([run.model(common.normalise(part, a["mean"], a["std"])).float().cpu()
                                 for part in moved.flatten(0, 1).split(args.batch_size)])
            if not out.isfinite().all():
                raise UserError(f"{run.path}: its logits on {name} are not finite, the training diverged")
            logits[variant][index] = out.unflatten(0, (len(index), -1)).numpy()
        right += (top1(logits[name][index], labels[index]) & used[index]).sum()
        bar.update(len(index))
        bar.set_postfix(top1=f"{100 * right / max(used.sum(), 1):.1f}")
    bar.close()
    if not used.any():
        raise UserError(f"{name}: none of {len(videos)} videos can be read, first {videos.full(0)}; --root?")
    return logits, used


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


def columns(mean, n_test, num_classes):
    """The table's figures from shares of videos in [0, 1]: scalars, or (R,) for the bootstrap.

    mean: {"test", "scuba-NAME", "scufo-NAME", "contrasted-NAME", "conflfg", "rare", "shuffled"}, or fewer.
    """
    out = {"iid": 100 * mean["test"]}
    for kind in ("scuba", "scufo", "contrasted"):
        each = {k: 100 * v for k, v in mean.items() if k.startswith(f"{kind}-")}
        out |= each | ({kind: sum(each.values()) / len(each)} if each else {})
    if "scufo" in out:
        out["off_chance"] = abs(out["scufo"] - 100 / num_classes)
    out |= {k: 100 * mean[k] for k in ("conflfg", "rare", "shuffled") if k in mean}
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


# ---- One checkpoint ----------------------------------------------------------------------------------------

def measure(run, args):
    """All figures of one checkpoint, as plain values; writes its .npz, names unreadable videos on stderr."""
    run.model.to("cuda" if torch.cuda.is_available() else "cpu")
    a, splits, hits, names, broken, arrays = run.args, find_splits(run, args), {}, {}, {}, {}
    for split, videos in splits.items():
        orders, scufo = {split: None}, split.replace("scuba-", "scufo-")
        if scufo != split:
            orders[scufo] = static_orders(videos.paths, args.clips, a["frames"], args.seed)
        for i in range(args.shuffles if split == "test" and a["frames"] > 1 else 0):
            orders[f"shuffled-{i}"] = shuffled_orders(videos.paths, args.clips, a["frames"], args.seed, i)
        logits, used = predict(run, split, videos, orders, args)
        paths, labels = np.array(videos.paths), np.array(videos.labels)
        broken[split] = paths[~used].tolist()
        if broken[split]:
            print(f"{run.name} {split}: cannot be read: {', '.join(broken[split])}", file=sys.stderr)
        arrays |= {f"{split}/paths": paths, f"{split}/labels": labels, f"{split}/used": used}
        for variant in orders:
            hits[variant], names[variant] = top1(logits[variant], labels)[used], video_names(paths[used])
            arrays[f"{variant}/logits"] = logits[variant]
            if orders[variant] is not None:
                arrays[f"{variant}/order"] = orders[variant]
        if scufo != split:
            pair = split.replace("scuba-", "contrasted-")
            hits[pair] = contrasted(hits[split], hits[scufo], paths[used], paths[used])
            names[pair] = names[split]
    shuffled = [hits.pop(k) for k in list(hits) if k.startswith("shuffled-")]
    if shuffled:
        hits["shuffled"], names["shuffled"] = np.mean(shuffled, 0), names["test"]
    n, k = len(hits["test"]), len(run.classes)
    figures = columns({v: h.mean() for v, h in hits.items()}, n, k)
    errors = columns({v: bootstrap(h, names[v], args.seed) for v, h in hits.items()}, n, k)
    np.savez_compressed(beside(run.path, ".npz"), classes=np.array(run.classes), **arrays)
    clips = "1 centre clip" if args.clips == 1 else f"mean softmax of {args.clips} clips"
    protocol = (f"{clips} of {a['frames']} frames x stride {a['stride']}, short side {a['resize']}, "
                f"centre crop {a['size']}")
    return dict(checkpoint=str(run.path), name=run.name, method=run.method, config=run.config, seed=a["seed"],
                epochs=[run.done[0], a["epochs"]], protocol=protocol,
                figures={v: float(x) for v, x in figures.items()},
                bootstrap={v: float(x.std(ddof=1)) for v, x in errors.items()},
                shuffles=[100 * float(h.mean()) for h in shuffled],
                videos={s: [len(v) - len(broken[s]), len(v)] for s, v in splits.items()}, broken=broken)


def beside(path, suffix):
    """runs/albar/last.pt -> runs/albar/evaluate.json; other checkpoints: evaluate-best.json"""
    return path.with_name(("evaluate" if path.stem == "last" else f"evaluate-{path.stem}") + suffix)


# ---- The table ---------------------------------------------------------------------------------------------

HEADS = {"iid": "IID ↑", "scuba": "SCUBA ↑", "scufo": "SCUFO ↓", "off_chance": "abs(SCUFO-1/K) ↓",
         "conflfg": "Confl-FG ↑", "contrasted": "contrasted ↑", "rare": "rare ↑", "shuffled": "shuffled",
         "log_ratio": "log ratio ↑"}


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
            plus_minus_is=("standard deviation over seeds, n - 1" if several else
                           "standard error by bootstrap over videos")))
    return rows


def cell(row, key, backgrounds):
    """One figure with its +-; for SCUBA and SCUFO also each background's."""
    if key not in row["mean"]:
        return "-"
    digits = 2 if key == "log_ratio" else 1
    text = f"{row['mean'][key]:.{digits}f} ±{row['plus_minus'][key]:.{digits}f}"
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
    digits = 2 if key == "log_ratio" else 1
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def markdown(rows):
    """The Markdown table, a line for each row, under it a line that says what each is, then paired differences."""
    present = {k: None for row in rows for k in row["mean"]}
    backgrounds = [k.removeprefix("scuba-") for k in present if k.startswith("scuba-")]
    keys = [k for k in HEADS if k in present]
    table = [["run", *(HEADS[k] for k in keys)]]
    table += [[row["name"], *(cell(row, k, backgrounds) for k in keys)] for row in rows]
    lines = layout(table) + [""]
    lines += [f"SCUBA and SCUFO: mean ({' / '.join(backgrounds)})."] * bool(backgrounds)
    for row in rows:
        (epoch, epochs), (used, listed) = row["epochs"], row["videos"]
        lines.append(f"- {row['name']}: {row['method']}.py, epoch {epoch} of {epochs}; {row['protocol']}; "
                     f"{used} of {listed} videos used; {len(row['seeds'])} seed(s): "
                     f"{', '.join(map(str, row['seeds']))}; ±: {row['plus_minus_is']}.")
    against = [[row["name"], *(difference(row, rows[0], k) for k in keys)] for row in rows[1:]]
    if any(set(line[1:]) != {"-"} for line in against):
        lines += ["", *layout([[f"minus {rows[0]['name']}", *(HEADS[k] for k in keys)], *against]), "",
                  "Differences are paired by seed: the mean and its 95 % t interval."]
    return "\n".join(lines)


def evaluate(args):
    """Measure every checkpoint, print the table, write the JSON files. -> the rows"""
    if not args.runs:
        raise UserError("no run to evaluate: python evaluate.py runs/albar")
    runs = {}
    for path in args.runs:                # all that is wrong with the input is said before a video is read
        run = load_run(path)
        find_splits(run, args)
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


if __name__ == "__main__":
    common.cli(Args, evaluate)
