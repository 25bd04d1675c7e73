"""OmniDebias: Mitigating Representation Bias in Action Recognition: Algorithms and Benchmarks.
H. Duan, Y. Zhao, K. Chen, Y. Xiong, D. Lin. ECCV 2022.

The web shows actions in scenes that a data set lacks, but most of them in the usual ones. A teacher filters web images
and clips; of each action the third in the rarest scenes is kept, and trained jointly with the labelled videos, as in
OmniSource (Duan et al., ECCV 2020). SMAD, of the same paper, is in smad.py; --smad adds it here, in a few lines.

Map                                                  (grep "Eq. (5)": this row, the function, the line that uses it)
  Eq. (1)  heads_objective           L_CE + sum_i lambda_i L_adv,i (--smad); by reversal the backbone minimises Eq. (2)
  Eq. (3)  soft_cross_entropy        adversarial loss of an aspect (--smad); it has the gradient of Eq. (4)
  Eq. (5)  actionness_reweighting    features times H W softmax(score map) (--smad)
  Sec. 5.2 teacher_filter, thirds    items whose class a teacher confirms; of each action bias, mid, unbias
  Foot. 7  z_frequency               share of an action's items that show the item's scene
  Sec. 5.2 joint_objective           the labelled videos' loss plus the web items' loss

Commands
  python omnidebias.py                                             embedded benchmark: a teacher, a selection, training
  Table 9, 3D: --web none | clips-bias | clips-mid | clips-rand | clips-all | clips-unbias. 2D: --web images-..., with
      --model tsn_tiny --frames 3 --test-clips 25. Table 2: --smad --web none, -, --smad
  python omnidebias.py labels web.txt --root web --weights resnet50_places365.pth.tar --categories FILE --max-bad 1
  python omnidebias.py select web.txt --root web --labels scenes.npz --teacher runs/plain --out web-lists
  torchrun --nproc-per-node 8 omnidebias.py --train train.txt --root videos --web web-lists/unbias.txt --web-root web
      (--tsn: the 2D network. --smad --aspect scene=train-scenes.npz,scenes.npz: the combination of Table 2)

SILENT in the paper, for which there is no official code
  S1  the teacher: any checkpoint of these scripts, which sees one view of an item. Kept is what it takes for the class
      that was sought, at a probability of 0.5 (embedded: any); with --confident others too, as what it takes them for.
  S2  the scene is the greatest of the label; the kept web items alone are counted. An action's n are cut at n/3 and
      2n/3, rounded down: unbias gets the odd one, mid a second. Ties in frequency go by scene, then at random. Items
      without a label are in no list. rand has as many of each action as unbias.
  S3  a step has --web-ratio web items a labelled video (1: OmniSource's released SlowOnly; its TSN has 5.3 images) in
      one forward pass, where OmniSource steps for each source; each part's loss is a mean. An epoch is one pass of the
      labelled list, as there; the web list goes round in a new order each time. No resampling by class, no mixup.
  S4  an image is repeated over a clip's frames; of a TSN's segments the first alone is computed. A web item that cannot
      be read gives its place to the next that can.
  S5  the recipe is smad.py's; MAAT's aspects are scene and object, with 0.5 of Eq. (3) and of (4), divided by two.
FOUND on the embedded benchmark: of clips the rarest third is best on rare scenes, above all of them together, and the
      usual third does harm; images, which do not show the action there, do not help a TSN.
"""

import math
import os
import re
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import Bottleneck
from tqdm import tqdm

from common import (FrameNetwork, Interrupt, Joint, JointOrder, LabelArgs, Run, SelectArgs, Tiny, UserError, Videos,
                    arg, autocast, broadcast, cli, deaf, inflate, label_scenes, load_weights, mmaction_key, no_sync,
                    normalise, predictions, read_aspect, read_lists, read_web, resnet_backbone, samplers, seed_step,
                    start, test_transform, total, toy, train_transform, try_clip, union, web_items, write_selection)


# ---- Args ---------------------------------------------------------------------------------------------------------
@dataclass
class Args:
    train: str = arg("", "training list; none: the embedded benchmark")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(0.06, "share of the training list held out, seeded; the paper is silent", low=0, high=1)
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists; Table 6: all three", choices=(1, 2, 3))
    web: tuple = arg((), "lists of web items, as `select` writes them, or none; embedded: clips-PART or images-PART, "
                         "PART of bias, mid, unbias, rand, all. Sec. 5.2: unbias")
    web_root: str = arg("", "folder of the web items; none: the lists' own")
    web_ratio: float = arg(1.0, "web items a labelled video in a step; the paper is silent, see S3", low=0, high=100)
    data: str = arg("data", "folder of the embedded benchmark")
    data_seed: int = arg(0, "seed of the embedded benchmark", low=0)
    out: str = arg("", "folder of the run; none: runs/omnidebias, runs/omnidebias-baseline")
    resume: bool = arg(False, "go on from the last checkpoint in --out")
    overwrite: bool = arg(False, "train anew where --out holds a run")
    model: str = arg("slowonly_r18", "Sec. 6.1: slowonly_r18 or tsn_r50 (--tsn); also slowonly_r50, tiny, tsn_tiny, or "
                                     "a name in torchvision.models.video (r3d_18: Table 6)")
    weights: str = arg("IMAGENET1K_V1", "of the backbone: torchvision's name, a file (mmaction2's too), none, or "
                                        "pretrain: the embedded ones; Sec. 6.1: ImageNet")
    smad: bool = arg(False, "SMAD too: MAAT on --aspect, and SAAR; Table 2: combination")
    aspect: tuple = arg((), "with --smad: an aspect of MAAT, NAME=FILE.npz,FILE.npz of `labels` of videos and web; a "
                            "bare NAME: the embedded one; the word none: SAAR alone. Sec. 5.1: scene, object")
    saar_width: int = arg(64, "bottleneck width of SAAR's stage; the paper: small", low=1)
    saar_blocks: int = arg(2, "residual blocks of SAAR's stage; the paper is silent", low=1)
    dropout: float = arg(0.5, "before the heads; mmaction2: 0.5, TSN 0.4; not of tiny", low=0, high=1)
    frames: int = arg(8, "frames of a clip; Sec. 6.1: 8, TSN 3 segments", low=1)
    stride: int = arg(8, "step between frames; Sec. 6.1", low=1)
    test_clips: int = arg(10, "clips of a video in evaluate.py; Sec. 6.1: ten, of TSN 25 frames", low=1)
    size: int = arg(224, "pixels of a clip's side; Sec. 5.1: 14 x 14 before the last stage", low=8)
    resize: int = arg(256, "short side at test, before the centre crop; mmaction2", low=8)
    scale: tuple = arg((0.08, 1.0), "area of the random resized crop; mmaction2; --tsn: 0.66 squared", low=0, high=1)
    flip: float = arg(0.5, "probability of the horizontal flip; mmaction2", low=0, high=1)
    mean: tuple = arg((0.485, 0.456, 0.406), "of the channels; ImageNet's")
    std: tuple = arg((0.229, 0.224, 0.225), "of the channels", low=1e-3)
    epochs: int = arg(150, "passes of the training list; mmaction2's SlowOnly, as all of this recipe", low=1)
    batch_size: int = arg(64, "labelled videos of an optimiser step over all processes; mmaction2", low=1)
    optimizer: str = arg("sgd", "mmaction2: sgd, momentum 0.9", choices=("sgd", "adamw"))
    lr: float = arg(0.01, "learning rate; mmaction2", low=0)
    weight_decay: float = arg(1e-4, "mmaction2", low=0)
    clip_grad: float = arg(40.0, "greatest norm of the gradient, 0: any; mmaction2", low=0)
    schedule: str = arg("step", "of --lr: a tenth after each of --milestones, or cosine", choices=("step", "cosine"))
    milestones: tuple = arg((90, 130), "two epochs; mmaction2; TSN 40, 80", low=0)
    warmup: float = arg(10.0, "epochs of linear warm-up; mmaction2", low=0)
    accumulate: int = arg(1, "parts in which a batch goes through the network", low=1)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))
    compile: bool = arg(False, "torch.compile")
    workers: int = arg(4, "loader processes of each training process", low=0)
    cache: bool = arg(False, "keep decoded videos in memory; for small ones")
    max_bad: float = arg(0.01, "share of missing, broken or unlabelled videos beyond which to stop", low=0, high=1)
    log_every: int = arg(10, "steps between lines of the log", low=1)
    seed: int = arg(0, "seed of the run", low=0)


PARTS = ("bias", "mid", "unbias")                                                # by falling z-frequency: Sec. 5.2
TOY = dict(web=("clips-unbias",), model="tiny", weights="pretrain", saar_width=4, saar_blocks=1,
           dropout=0.0, frames=8, stride=2, test_clips=1, size=32, resize=36, scale=(0.6, 1.0), flip=0.0,
           epochs=12, warmup=1.0, batch_size=32, schedule="cosine", lr=0.1, clip_grad=0.0, workers=0, cache=True)
PRETRAIN = dict(epochs=15, val_share=0.2, optimizer="adamw", lr=2e-3, weight_decay=0.01)   # the same in all scripts
SHORT = {"baseline": dict(web=("none",), smad=False, aspect=(), out="runs/omnidebias-baseline")}
RECIPES = {"tsn": dict(model="tsn_r50", frames=3, test_clips=25, dropout=0.4, epochs=100, batch_size=256,
                       scale=(0.43, 1.0), milestones=(40, 80), warmup=0.0)}


# ---- Data: the web items --------------------------------------------------------------------------------------------
def z_frequency(label, facet):
    """Footnote 7  f_i = #{j: y_j = y_i, z_j = z_i} / #{j: y_j = y_i}     label y, facet z: (n,) -> (n,)"""
    _, action, items = np.unique(label, return_inverse=True, return_counts=True)
    _, group, same = np.unique(action * (int(facet.max()) + 1) + facet, return_inverse=True, return_counts=True)
    return same[group] / items[action]


def thirds(label, facet, seed):
    """Sec. 5.2  the items of each action by falling z-frequency, in three equal parts (see S2)     label, facet: (n,)
    -> (n,) place in PARTS; (n,) bool: a random third"""
    ties, dealt = np.random.default_rng([seed, len(label)]).random((2, len(label)))
    _, action, items = np.unique(label, return_inverse=True, return_counts=True)
    first, places = np.cumsum(items) - items, []
    for order in (np.lexsort((ties, facet, -z_frequency(label, facet), action)), np.lexsort((dealt, action))):
        places.append(np.empty(len(label), int))
        places[-1][order] = np.arange(len(label)) - first[action[order]]                        # within the action
    n = items[action]
    return (places[0] >= n // 3).astype(int) + (places[0] >= 2 * n // 3), places[1] < n - 2 * n // 3


def teacher_filter(query, predicted, probability, agree, confident):
    """Sec. 5.2  the class as which an item is kept, or -1: the query where the teacher predicts it with probability >=
    agree, else the predicted class where its probability > confident.     (n,) each, predicted -1: unreadable"""
    kept = np.where((predicted == query) & (probability >= agree), query, -1)
    return np.where((kept < 0) & (predicted >= 0) & (probability > confident), predicted, kept)


def select(args):
    """Select web items for joint training (Sec. 5.2): a teacher's filter, then thirds of each action by z-frequency.

    python omnidebias.py select web.txt --root web --labels scenes.npz --teacher runs/plain --out web-lists

    Writes OUT/bias.txt, mid.txt, unbias.txt (the rarest scenes: what OmniDebias trains on), rand.txt (a random third),
    all.txt; and OUT-teacher.npz, what the teacher said. After a kill the same command goes on; under torchrun the
    processes share the teacher's work. Items that cannot be read, or have no label, are left out and counted.
    """
    items, facet = web_items(args)
    query = predicted = kept = np.array(items.labels)
    if args.teacher:
        predicted, probability = predictions(args, items)
        kept = teacher_filter(query, predicted, probability, args.agree, args.confident)                    # Sec. 5.2
    use = np.flatnonzero((kept >= 0) & (facet >= 0))
    if not len(use):
        raise UserError(f"--teacher {args.teacher}: keeps none of {len(items)} items: lower --agree {args.agree}")
    third, drawn = thirds(kept[use], facet[use], args.seed)                                                 # Sec. 5.2
    chosen = {part: use[third == i] for i, part in enumerate(PARTS)} | {"rand": use[drawn], "all": use}
    write_selection(args, items, facet, predicted, kept, chosen)


STEPS = {"labels": (LabelArgs, label_scenes), "select": (SelectArgs, select)}


def embedded_web(args, name):
    """The embedded benchmark's web list NAME, such as clips-unbias: selected once, by a teacher trained on its labelled
    videos, a 2D network for images, a 3D one for clips (OmniSource)."""
    if not re.fullmatch(f"(clips|images)-({'|'.join(PARTS)}|rand|all)", name):
        raise UserError(f"--web {name}: no such list, nor clips- or images-{', '.join(PARTS)}, rand or all")
    world, (media, part), first = toy(args.data_seed, args.data), name.split("-"), start(0)[0] == 0
    done = world / f"web-{media}"
    if not total(first and done.exists())[0]:
        mine = world / f"web-{media}.part{total(os.getpid() * first)[0]:.0f}"
        look = dict(model="tsn_tiny", frames=3) if media == "images" else {}
        teacher = train(Args(**TOY | SHORT["baseline"] | look | dict(data=args.data, data_seed=args.data_seed,
                                                                     out=f"{mine}/teacher")))
        select(SelectArgs((world / f"web-{media}.txt",), (world / "scenes.npz",), teacher["checkpoint"], 0.0, workers=0,
                          truth=world / "web-truth.txt", out=f"{mine}/lists"))
        if first and not done.exists():                                        # another run may have made it meanwhile
            Path(f"{mine}/lists").rename(done)
        shutil.rmtree(mine, ignore_errors=True)
    total(0)                                                                                  # the others wait
    return done / f"{part}.txt"


def make_data(args):
    """-> training and validation Videos, the web items' Videos or None, and of all training and then web items the
    aspects {NAME: (n, D)}, rows of zeros where one has none."""
    train_list, val_list, world = read_lists(args)
    if not args.web or ("none" in args.web and len(args.web) > 1):
        raise UserError("--web: name lists of web items (`python omnidebias.py select` makes them), or none, not both")
    if web := () if args.web == ("none",) else args.web:
        web = [embedded_web(args, name) if world and not os.path.exists(name) else name for name in web]
        train_list, web = read_web(web, args.web_root or world or "", args.split, train_list, val_list)
    given = args.aspect or (("scene", "object") if args.smad and world else ())
    if args.smad != bool(given):
        raise UserError("--smad and --aspect go together: --aspect NAME=FILE of `python omnidebias.py labels`, or none")
    aspects = {}
    for spec in given if given != ("none",) else ():
        name, labels, are_tags = read_aspect(spec, train_list.paths, args.max_bad, world)
        if name in aspects or are_tags:
            raise UserError(f"--aspect {spec}: a second of that name (give FILE,FILE), or tags, which are for smad.py")
        of_web = read_aspect(spec, web.paths, 1 - 1e-9, world)[1] if web else labels[:0]     # all but one may have none
        aspects[name] = torch.cat([labels, of_web])
    samples = samplers(args)
    how = samples[0], train_transform(args.size, args.scale, args.flip)
    return (Videos(train_list, *how, args.seed, args.cache, replace=9),
            Videos(val_list, samples[1], test_transform(args.size, args.resize), args.seed, args.cache),
            Videos(web, *how, (args.seed, 1), args.cache, replace=max(1, min(len(web), 100))) if web else None, aspects)


# ---- Model --------------------------------------------------------------------------------------------------------
# [same in all scripts: reversal]
class Reverse(torch.autograd.Function):
    """Gradient reversal layer (Ganin and Lempitsky 2015): identity, whose gradient is multiplied by -lam."""

    @staticmethod
    def forward(ctx, x, lam):
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.lam * gradient, None
# [end]


def actionness_reweighting(f, a):
    """Eq. (5)  F'(c,t,h,w) = (H W) F(c,t,h,w) A'(t,h,w), A' = softmax of A over h, w

    f (N, C, H, W), a (N, 1, H, W), frames t among the N -> F', and the mask H W A' (N, 1, H, W), of mean 1 in a frame
    """
    mask = a.shape[2] * a.shape[3] * a.float().flatten(2).softmax(2).view_as(a)
    return f * mask.to(f.dtype), mask


class SAAR(nn.Module):
    """Spatial-Aware Actionness Reweighting (Fig. 5): a 2D residual stage of small bottleneck width, then a 3 x 3
    convolution to one channel, whose zero start makes the module the identity at first."""

    def __init__(self, channels, width, blocks, norm):
        super().__init__()
        self.stage = nn.Sequential(*[Bottleneck(channels, channels // 4, base_width=256 * width / channels,
                                                norm_layer=norm) for _ in range(blocks)])
        self.score = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, f):
        """(N, C, T, H, W), or frames (N T, C, H, W) -> reweighted features of that shape, mask (N T, 1, H, W)"""
        frames = f.transpose(1, 2).flatten(0, 1) if f.ndim == 5 else f
        out, mask = actionness_reweighting(frames, self.score(self.stage(frames)))                      # Eq. (5)
        return out.unflatten(0, (len(f), f.shape[2])).transpose(1, 2) if f.ndim == 5 else out, mask


class OmniDebias(FrameNetwork):
    """The network of Sec. 6.1; with --smad SAAR before its last stage, and for each aspect an adversarial head on the
    features: of a TSN on those of each frame."""

    def __init__(self, backbone, num_classes, args, last):
        super().__init__(backbone, num_classes)
        self.tsn, self.saar, self.adversaries = args.model.startswith("tsn"), None, nn.ModuleDict()
        if args.smad:
            stage = backbone.get_submodule(last)
            channels = next(m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)).in_channels
            norm = partial(nn.GroupNorm, 1) if isinstance(backbone, Tiny) else nn.BatchNorm2d
            self.saar = SAAR(channels, args.saar_width, args.saar_blocks, norm)
            stage.register_forward_pre_hook(self.reweigh)
        self.register_load_state_dict_pre_hook(self.heads_of)

    def reweigh(self, stage, inputs):
        return self.saar(inputs[0])[0]

    def add_adversaries(self, sizes):
        """A new head for each aspect, {NAME: D}: SDN's four layers."""
        for name, size in sizes.items():
            widths = (self.head.weight.shape[1], 512, 512, 512, size)
            layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
            self.adversaries[name] = nn.Sequential(*layers[:-1])

    def heads_of(self, module, state, prefix, *how):
        """A checkpoint knows its aspects: the model that loads it gets their heads."""
        sizes = {k.split(".")[1]: len(v) for k, v in state.items() if re.match(r"adversaries\.\w+\.6\.bias", k)}
        self.add_adversaries({name: size for name, size in sizes.items() if name not in self.adversaries})

    def forward(self, clip, still=None, aspects=False):
        """(N, 3, T, H, W), still (N,) bool: images -> (N, K) action logits; with aspects also {NAME: (N, S, D)} logits
        behind the reversal, of the S frames of a TSN, else S = 1"""
        z, g = self.parts(clip, still)
        if not aspects:
            return z
        shape, g = g.shape[:2], Reverse.apply(g.flatten(0, 1), 1.0)
        return z, {name: head(g).unflatten(0, shape) for name, head in self.adversaries.items()}


def build_model(args, num_classes):
    """-> OmniDebias of args.model, from random weights; .saar is None without --smad, .adversaries is still empty."""
    backbone, last = resnet_backbone(args.model, num_classes, args.dropout)
    return OmniDebias(backbone, num_classes, args, last)


# ---- Losses: z (N, K) action logits, s (N, ..., D) logits of an aspect; each is the mean over the batch --------------
def cross_entropy(z, label):
    """L_ce,Y of Sec. 5.1     label: (N,)"""
    return F.cross_entropy(z, label)


def soft_cross_entropy(s, p):
    """Eq. (3)  L_adv = -sum_k z_k log h(f(x))_k     p: (N, ..., D) soft labels z; zeros add nothing. Eq. (4) is it
    less the entropy of z, so that 0.5 of each, Sec. 6.1, has the gradient of one Eq. (3)"""
    return -(p * s.log_softmax(-1)).sum(-1).mean()


def heads_objective(l_ce, l_adv):
    """Eq. (1)  L_ce + sum_i lambda_i L_adv,i     l_adv: list of M; lambda_i = 1 / M: Sec. 6.3"""
    return l_ce + sum(l_adv) / max(1, len(l_adv))


def joint_objective(videos, web=0.0):
    """Sec. 5.2  loss of the labelled videos + loss of the web items"""
    return videos + web


# ---- Training -----------------------------------------------------------------------------------------------------
def training_step(model, batch, args):
    """One batch {"clip": (N, 3, T, H, W) float, labelled videos, then web items; "label": (N,), "videos": number of the
    former; "still": (N,) bool, an image; "aspects": {NAME: (N, D)}} -> loss, dict of what is logged. The loss is the
    sum of Eq. (1) of either; in the backbone, below the reversal layer, its gradient is that of Eq. (2).
    """
    clip, label, videos, aspects = batch["clip"], batch["label"], batch["videos"], batch["aspects"]
    with autocast(clip.device, args.amp):
        z, s = model(clip, batch["still"], aspects=True) if aspects else (model(clip, batch["still"]), {})
    losses, logs = [], {}
    for part, of in (("", slice(videos)), ("web_", slice(videos, None)))[:1 + (videos < len(clip))]:
        l_ce, l_adv = cross_entropy(z[of].float(), label[of]), []
        logs |= {f"{part}ce": l_ce, f"{part}accuracy": (z[of].argmax(1) == label[of]).float().mean()}
        for name, p in aspects.items():
            s_i = s[name][of].float()                                                                   # (n, S, D)
            l_adv.append(soft_cross_entropy(s_i, p[of][:, None]))                                       # Eq. (3)
            logs[f"{part}{name}_adv"] = l_adv[-1]
        losses.append(heads_objective(l_ce, l_adv))                                                     # Eq. (1)
    loss = joint_objective(*losses)                                                                     # Sec. 5.2
    return loss, {"loss": loss} | logs


@torch.inference_mode()
def validate(model, loader, args, device):
    """-> {"val/...": figure} of the validation list."""
    broadcast(model)                                       # batch norm's statistics: the first process's count
    model.eval()
    sums, k, bad = [0.0] * 3, model.head.weight.shape[0], []
    for batch in loader:
        keep = batch["bad"] == 0
        bad += batch["index"][~keep].tolist()
        clip, label = (batch[name][keep].to(device) for name in ("clip", "label"))
        with autocast(device, args.amp):
            z = model(normalise(clip, args.mean, args.std))
        values = [len(label), F.cross_entropy(z.float(), label, reduction="sum"), (z.argmax(1) == label).sum()]
        sums = [a + float(b) for a, b in zip(sums, values, strict=True)]
    model.train()
    n, loss, right = total(*sums)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    return {"val/loss": loss / n, "val/accuracy": right / n, "val/chance": 1 / k, "val/videos": int(n),
            "val/unreadable": [loader.dataset.dataset.videos.paths[i] for i in union(bad)]}


# [same in all scripts: pretrain]
def pretrain(args):
    """The embedded benchmark's stand-in for Kinetics weights: plain training on its weakly biased split, done once."""
    world, first = toy(args.data_seed, args.data), start(0)[0] == 0
    done = world / f"weights-{args.model}.pt"
    if not total(first and done.exists())[0]:
        out = world / f"weights-{args.model}.part{total(os.getpid() * first)[0]:.0f}"     # two first runs may meet
        result = train(Args(**TOY | SHORT["baseline"] | PRETRAIN | dict(
            model=args.model, weights="none", train=str(world / "pretrain.txt"), out=str(out))))
        if first:
            Path(result["checkpoint"]).replace(done)
            shutil.rmtree(out)
    total(0)                                                                              # the others wait
    return done
# [end]


def learning_rate(step, epoch, args):
    """Factor of the learning rate at a step, `epoch` of them each: linear warm-up, then cosine to 0, or a tenth after
    each milestone (mmaction2)."""
    warmup, steps = args.warmup * epoch, args.epochs * epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if args.schedule == "step":
        return 0.1 ** sum(step >= epoch * m for m in args.milestones)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(args):
    """Train, log and save in args.out. -> figures of the last epoch on validation, with "checkpoint", its file."""
    rank, world, device = start(args.seed)
    train_set, val_set, web, labels = make_data(args)
    start(args.seed)                                          # the same network whether the web lists were there or not
    n, both = len(train_set), Joint(train_set, web)
    order = JointOrder(n, args.batch_size, both.web, args.web_ratio, args.seed, rank, world, args.accumulate)
    how = dict(num_workers=args.workers, pin_memory=device.type == "cuda", worker_init_fn=deaf)
    loader = DataLoader(both, batch_sampler=order, persistent_workers=args.workers > 0, **how)
    val_loader = DataLoader(Subset(val_set, range(rank, len(val_set), world)), args.batch_size, **how)
    net = try_clip(build_model(args, len(train_set.videos.classes)), args)
    net.add_adversaries({name: p.shape[1] for name, p in labels.items()})
    run = Run("omnidebias", args, train_set, val_set, "runs/omnidebias")
    note = run.note or load_weights(net, pretrain(args) if args.weights == "pretrain" else args.weights,
                                    re.sub(r"^(slowonly|tsn)_r", "resnet", args.model), net.head_name, mmaction_key,
                                    r"data_preprocessor\.", inflate)
    model = DistributedDataParallel(net.to(device)) if world > 1 else net.to(device)
    model = torch.compile(model) if args.compile else model
    optimizer = (torch.optim.SGD(net.parameters(), args.lr, 0.9, weight_decay=args.weight_decay)
                 if args.optimizer == "sgd" else
                 torch.optim.AdamW(net.parameters(), args.lr, (0.9, 0.999), weight_decay=args.weight_decay))
    steps = n // args.batch_size                                               # of an epoch, whatever the web's length
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, epoch=steps, args=args))
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    state = dict(model=net, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    note = f"{note}; {both.web} web items, {len(both.missing)} more missing"
    step, best, figures = run.begin(note, state, device, web_missing=both.missing)

    with Interrupt() as stop:
        for epoch in range(step // steps, args.epochs):
            order.epoch, order.skip, recent, bad, since = epoch, step - epoch * steps, [], set(), time.time()
            bar = tqdm(desc=f"epoch {epoch + 1}/{args.epochs}", total=steps, initial=order.skip, unit="step",
                       leave=False, disable=None if rank == 0 else True)
            for part, batch in enumerate(loader, 1):
                last = part % args.accumulate == 0
                seed_step(args.seed, step * args.accumulate + part % args.accumulate, rank)
                bad |= set(batch["index"][batch["bad"] > 0].tolist())
                clip = normalise(batch["clip"].to(device, non_blocking=True), args.mean, args.std).contiguous()
                label = batch["label"].to(device, non_blocking=True)
                aspects = {name: p[batch["video"]].to(device, non_blocking=True) for name, p in labels.items()}
                parts = dict(videos=int((batch["index"] < n).sum()), still=batch["still"].to(device))
                with no_sync(model, not last):                   # of a batch in parts, the last exchanges gradients
                    loss, logs = training_step(model, dict(clip=clip, label=label, aspects=aspects) | parts, args)
                    scaler.scale(loss / args.accumulate).backward()
                recent.append({k: v.detach() for k, v in logs.items()})
                if not last:
                    continue
                if args.clip_grad:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(net.parameters(), args.clip_grad)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                scheduler.step()
                step += 1
                bar.update()
                logged, stopped = step % args.log_every == 0 or step % steps == 0, total(stop.signal)[0]
                if logged or stopped:
                    run.check(step, [r["loss"] for r in recent], {i for i in bad if i < n})
                if logged:
                    logs, rate = run.means(recent), len(recent) * len(label) * world / (time.time() - since)
                    run.log(step=step, epoch=step / steps, lr=scheduler.get_last_lr()[0], clips_per_second=rate, **logs)
                    bar.set_postfix(loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.2f}")
                    recent, since = [], time.time()
                if stopped:
                    break
            bar.close()
            if step == (epoch + 1) * steps:
                figures = validate(net, val_loader, args, device)
                run.check(step, [torch.tensor(figures["val/loss"])], {i for i in bad if i < n})
                unreadable = [both.paths[i] for i in union(bad)]
                run.log(step=step, epoch=epoch + 1, unreadable=unreadable, **figures)
                run.print(f"epoch {epoch + 1}/{args.epochs}: loss {logs['loss']:.3f}, validation accuracy "
                          f"{figures['val/accuracy']:.1%} (chance {figures['val/chance']:.1%})"
                          + f", {len(unreadable)} unreadable" * bool(unreadable))
                if figures["val/accuracy"] > best["val/accuracy"]:                       # IID validation alone
                    best = {"epoch": epoch + 1} | figures
                    run.save("best.pt", step, epoch + 1, best, figures)
            run.save("last.pt", step, step // steps, best, figures)
            if stopped:
                run.print(f"stopped at step {step}: {run.out / 'last.pt'} is written; --resume goes on from it")
                raise SystemExit(128 + (stop.signal or 15))
    return figures | {"checkpoint": str(run.out / "last.pt")}


if __name__ == "__main__":
    cli(Args, train, TOY, SHORT, steps=STEPS, recipes=RECIPES)
