"""SDN: Why Can't I Dance in the Mall? Learning to Mitigate Scene Bias in Action Recognition.
J. Choi, C. Gao, J. C. E. Messou, J.-B. Huang. NeurIPS 2019. arXiv:1912.05534

Features that tell the scene are cheating, and so are predictions when the humans are painted over. A scene classifier
behind a gradient reversal fights the first, maximum entropy on human-masked clips the second. Both need labels, which
`scenes` and `humans` make once, with networks off the shelf.

Equation map                                         (grep "Eq. (4)": this row, the function, the line that uses it)
  Eq. (1)  evaluate.scene_representation_bias        how well the scene alone names a data set's actions
  Eq. (2)  cross_entropy                             name the action
  Eq. (3)  scene_adversarial                         name the scene from the action's features
  Eq. (4)  human_mask_confusion                      entropy of the action distribution on human-masked clips
  Eq. (5)  debiasing_objective                       L_CE - lambda L_Adv, by reversal; first half of an iteration
  Eq. (6)  confusion_objective                       maximise Eq. (4); second half, an optimiser step of its own

Commands
  python sdn.py                                                    embedded benchmark (drawn once); --baseline: plain
  Table 4: --baseline, --scene-labels hard --w-ent 0, --w-ent 0. Table 5: --baseline, --scene-labels none, --w-ent 0, -
  python sdn.py scenes train.txt val.txt --root videos --weights resnet50_places365.pth.tar --categories CATEGORIES
  python sdn.py humans train.txt val.txt --root videos
  torchrun --nproc-per-node 8 sdn.py --train train.txt --root videos --scenes scenes.npz --humans humans.npz

DEVIATION from the paper and its code
  D1  the result is the last epoch's weights, best.pt the best on validation, whose L_CE alone lowers the learning rate;
      the official code adds the scene head's own loss.
  D2  the official code reverses the gradient of Eq. (6) on a head of its own, so that its backbone LOWERS the entropy;
      and its SGD has dampening 0.9, a tenth of the step. Here: the shared head, no reversal, no dampening.
  D3  its shortcut of type A stops the gradient (it copies .data); ours passes it on.
SILENT in the paper
  S1  soft label: mean over 10 frames of their softmax; hard: its greatest (official code: the frames' most frequent).
  S2  lambda scales the reversed gradient only, the scene head descends at full rate, as in the official code. G(x) is
      the pooled vector that the action head sees; no batch norm in the scene head (official code: there is).
  S3  Eq. (6) sees the clips of Eq. (5) with the same crop (official code: other videos), where half of the frames or
      more have a box; a clip without humans has no part in it.
  S4  batch norm: masked clips use the running statistics and leave them alone (--masked-bn train: official code).
  S5  start: random weights (official code: an unnamed checkpoint). Crops at random, sides from a half (Hara et al.:
      corners). Their weights of 2018 and SDN's expect --mean 0.4501 0.4225 0.3901 --std 0.00392 0.00392 0.00392.
FOUND on the embedded world --data-seed 1, one change at a time (accuracy on rare scenes; plain AdamW 74, plain SGD 83):
      AdamW at 0.002, lambda 0.5: 62, with --scene-lr 10: 78, and batch norm in the scene head: 78; lambda 1: 33;
      SGD as in the paper, at 0.1, lambda 0.5: 90, 1: 94, 2: 90; no faster scene head or warm-up is needed.
"""

import math
import os
import re
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet
from tqdm import tqdm

from common import (Boxes, Interrupt, LabelArgs, Network, OfflineArgs, Order, Run, Tiny, UserError, Videos, arg,
                    autocast, broadcast, centre_clip, cli, deaf, find_humans, label_scenes, load_checkpoint,
                    load_weights, mask_humans, no_sync, normalise, random_clip, read_labels, read_lists,
                    running_statistics, seed_step, start, test_transform, total, toy, train_transform, try_clip, union)


# ---- Args ---------------------------------------------------------------------------------------------------------
@dataclass
class Args:
    train: str = arg("", "training list; none: the embedded benchmark")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(0.06, "share of the training list held out, seeded; Sec. 4.1: 4839 of 80942", low=0, high=1)
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists; Sec. 4.1: all three", choices=(1, 2, 3))
    scenes: tuple = arg((), "scene labels of the videos, .npz of `sdn.py scenes`")
    humans: tuple = arg((), "human boxes of the videos, .npz of `sdn.py humans` or text")
    data: str = arg("data", "folder of the embedded benchmark")
    data_seed: int = arg(0, "seed of the embedded benchmark", low=0)
    out: str = arg("", "folder of the run; none: runs/sdn, runs/sdn-baseline")
    resume: bool = arg(False, "go on from the last checkpoint in --out")
    overwrite: bool = arg(False, "train anew where --out holds a run")
    model: str = arg("r3d_18_hara", "Sec. 4.2; also vgg16 (--frames 1), tiny, or a name in torchvision.models.video")
    shortcut: str = arg("A", "shortcut type of r3d_18_hara; official code", choices=("A", "B"))
    weights: str = arg("none", "of the backbone: torchvision's name, a file, none, or pretrain: the embedded ones")
    init: str = arg("", "checkpoint of this script to start from, scene head and all; instead of --weights")
    num_scenes: int = arg(365, "scene categories M; Places365", low=2)
    scene_labels: str = arg("soft", "labels of Eq. (3); Table 4", choices=("none", "hard", "soft"))
    lam: float = arg(0.5, "lambda of the gradient reversal, Eq. (5); Sec. 4.2", low=0)
    w_ent: float = arg(1.0, "weight of Eq. (6), the paper has none; 0: without human-masked clips, Table 5", low=0)
    masked_bn: str = arg("eval", "batch norm of the masked clips, see S4", choices=("eval", "train"))
    frames: int = arg(16, "frames of a clip; Sec. 4.2", low=1)
    stride: int = arg(1, "step between frames; Hara et al.", low=1)
    size: int = arg(112, "pixels of a clip's side; Sec. 4.2: 112, vgg16 300", low=8)
    resize: int = arg(112, "short side at test, before the centre crop; official code", low=8)
    scale: tuple = arg((0.25, 1.0), "area of the random resized crop; Hara et al.: sides 1/2 to 1", low=0, high=1)
    flip: float = arg(0.5, "probability of the horizontal flip; Hara et al.", low=0, high=1)
    mean: tuple = arg((0.485, 0.456, 0.406), "of the channels; the paper is silent; ImageNet's")
    std: tuple = arg((0.229, 0.224, 0.225), "of the channels", low=1e-3)
    epochs: int = arg(100, "epochs; Sec. 4.2", low=1)
    head_epochs: int = arg(0, "first epochs, in which the two heads alone train; official code: 4", low=0)
    head_lr: float = arg(1e-2, "learning rate of the heads in these epochs; official code", low=0)
    batch_size: int = arg(32, "clips of an optimiser step over all processes; Sec. 4.2", low=1)
    optimizer: str = arg("sgd", "Sec. 4.2: sgd, momentum 0.9", choices=("sgd", "adamw"))
    lr: float = arg(1e-3, "learning rate; Sec. 4.2", low=0)
    scene_lr: float = arg(1.0, "learning rate of the scene head over --lr", low=0)
    weight_decay: float = arg(1e-5, "Sec. 4.2", low=0)
    schedule: str = arg("plateau", "of --lr; Sec. 4.2: plateau of validation", choices=("plateau", "cosine"))
    patience: int = arg(10, "epochs without a lower validation loss before --lr falls to a tenth; official code", low=0)
    warmup: float = arg(0.0, "epochs of linear warm-up of the cosine schedule", low=0)
    accumulate: int = arg(1, "parts in which a batch goes through the network", low=1)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))
    compile: bool = arg(False, "torch.compile")
    workers: int = arg(4, "loader processes of each training process", low=0)
    cache: bool = arg(False, "keep decoded videos in memory; for small ones")
    max_bad: float = arg(0.01, "share of missing, broken or unlabelled videos beyond which to stop", low=0, high=1)
    log_every: int = arg(10, "steps between lines of the log", low=1)
    seed: int = arg(0, "seed of the run", low=0)


@dataclass
class HumansArgs(OfflineArgs):
    out: str = arg("humans.npz", "what to write; OUT.parts/ holds what is done until all is")
    model: str = arg("maskrcnn_resnet50_fpn", "a detector in torchvision.models.detection; Sec. 3.3: Mask R-CNN")
    weights: str = arg("COCO_V1", "torchvision's name, a file of a detector of COCO's classes, or none: random")
    score: float = arg(0.3, "least score of a box; official code", low=0, high=1)
    every: int = arg(8, "look at each n-th frame alone; its boxes are carried to those between", low=1)
    batch_size: int = arg(8, "frames of one video in a forward pass", low=1)


STEPS = {"scenes": (LabelArgs, label_scenes), "humans": (HumansArgs, find_humans)}
TOY = dict(model="tiny", weights="pretrain", frames=8, stride=2, size=32, resize=36, scale=(0.6, 1.0), flip=0.0,
           epochs=12, warmup=1.0, batch_size=32, schedule="cosine", lr=0.1, workers=0, cache=True, num_scenes=24)
PRETRAIN = dict(epochs=15, val_share=0.2, optimizer="adamw", lr=2e-3, weight_decay=0.01)   # the same in all scripts
SHORT = {"baseline": dict(scene_labels="none", w_ent=0.0, out="runs/sdn-baseline")}


# ---- Data ---------------------------------------------------------------------------------------------------------
def make_data(args):
    """-> training and validation Videos, and their scene labels (n, M), rows of zeros where a video has none."""
    train_list, val_list, world = read_lists(args)
    if args.head_epochs >= args.epochs or (args.warmup and args.schedule == "plateau"):
        raise UserError("--head-epochs must be fewer than --epochs, and --warmup is of --schedule cosine")
    labels, change = [None, None], None
    if args.scene_labels != "none":
        labels = scene_labels(args, train_list.paths + val_list.paths, world).split([len(train_list), len(val_list)])
    if args.w_ent:
        if not (files := args.humans or (() if args.train else (world / "humans.npz",))):
            raise UserError("Eq. (6) needs human boxes: --humans FILE, made by `python sdn.py humans`, or --w-ent 0")
        boxes = Boxes(files)
        gone = [path for path in train_list.paths if path not in boxes.videos]      # text names those with humans alone
        if len(gone) > len(train_list) * (args.max_bad if all(str(f).endswith(".npz") for f in files) else 0.999):
            raise UserError(f"{files[0]}: not on {len(gone)} of {len(train_list)} training videos, first {gone[0]}")
        change = partial(mask_humans, boxes=boxes)
    clip = dict(frames=args.frames, stride=args.stride)
    return (Videos(train_list, partial(random_clip, **clip), train_transform(args.size, args.scale, args.flip),
                   args.seed, args.cache, 9, change),
            Videos(val_list, partial(centre_clip, **clip), test_transform(args.size, args.resize),
                   args.seed, args.cache), *labels)


def scene_labels(args, paths, world):
    """(n, M) soft pseudo labels of videos, or with --scene-labels hard the one-hot of their greatest."""
    if not (files := args.scenes or (() if args.train else (world / "scenes.npz",))):
        raise UserError("Eq. (3) needs scene labels: --scenes FILE, made by `python sdn.py scenes`, or --scene-labels "
                        "none")
    p, names = read_labels(files, paths, args.max_bad)
    if len(names) != args.num_scenes:
        raise UserError(f"{files[0]} has {len(names)} categories, not --num-scenes {args.num_scenes}: give the same")
    if args.scene_labels == "soft":
        return p
    return torch.zeros_like(p).scatter_(1, p.argmax(1, keepdim=True), p.any(1, keepdim=True).float())


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


class SDN(Network):
    """Network with the scene classifier theta_S on the features G(x) that the action classifier theta_A sees."""

    def __init__(self, backbone, num_classes, num_scenes, lam):
        super().__init__(backbone, num_classes)
        widths, self.lam, self.scene_head = (self.head.weight.shape[1], 512, 512, 512, num_scenes), lam, None
        if num_scenes:                                                    # Sec. 4.2: four layers, 512 hidden units
            layers = [m for i in range(4) for m in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())]
            self.scene_head = nn.Sequential(*layers[:-1])

    def forward(self, clip, scenes=False):
        """(N, 3, T, H, W) -> (N, K) action logits; with scenes also (N, M) scene logits behind the reversal layer"""
        if not scenes:
            return self.backbone(clip)
        z, g = self.both(clip)
        return z, self.scene_head(Reverse.apply(g, self.lam))


class Stem(nn.Sequential):
    """conv1 and bn1 of Hara et al. 2018: 7 x 7 x 7, stride 1 in time, then a max pool."""

    def __init__(self):
        super().__init__(nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False), nn.BatchNorm3d(64), nn.ReLU(inplace=True),
                         nn.MaxPool3d(3, 2, 1))


class ShortcutA(nn.Module):
    """Shortcut without parameters: each second position, new channels 0. (N, C, T, H, W) -> (N, 2C, T/2, H/2, W/2)"""

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2, ::2], (0, 0, 0, 0, 0, 0, 0, x.shape[1]))


def build_model(args, num_classes):
    """-> SDN of args.model, from random weights; its .scene_head is None with --scene-labels none."""
    names = torchvision.models.list_models(torchvision.models.video)
    if args.model == "tiny":
        backbone = Tiny(num_classes)
    elif args.model == "vgg16":                       # of clips of one frame; G(x), the input of the head, is fc7
        backbone = torchvision.models.vgg16()
        backbone.register_forward_pre_hook(lambda module, clip: clip[0].squeeze(2))
    elif args.model == "r3d_18_hara":
        backbone = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], Stem)
        for block in (backbone.layer2[0], backbone.layer3[0], backbone.layer4[0]) if args.shortcut == "A" else ():
            block.downsample = ShortcutA()
    elif args.model in names:
        backbone = torchvision.models.get_model(args.model, weights=None)
    else:
        raise UserError(f"--model {args.model}: not one of tiny, vgg16, r3d_18_hara, {', '.join(names)}")
    return SDN(backbone, num_classes, 0 if args.scene_labels == "none" else args.num_scenes, args.lam)


def torchvision_key(key):
    """A key of Hara et al.'s checkpoints, or of the official SDN's, in torchvision's names."""
    key = re.sub(r"^(conv|bn)1\.", lambda m: f"stem.{int(m[1] == 'bn')}.", key)
    return re.sub(r"\.(conv|bn)([12])\.(?!\d)", lambda m: f".conv{m[2]}.{int(m[1] == 'bn')}.", key)


# ---- Losses: z (N, K) action logits, s (N, M) scene logits; each is the mean over the batch -------------------------
def cross_entropy(z, label):
    """Eq. (2)  L_CE = -sum_k y_k log f_A(G(x))_k     label: (N,)"""
    return F.cross_entropy(z, label)


def scene_adversarial(s, p):
    """Eq. (3)  L_Adv = -sum_m p_m log f_S(G(x))_m     p: (N, M) soft or hard labels; a row of zeros adds nothing"""
    return F.cross_entropy(s, p)


def human_mask_confusion(z_masked, weight):
    """Eq. (4)  L_Ent = -sum_k f_A(G(x_hm))_k log f_A(G(x_hm))_k     weight (N,): 0 for clips without humans, mean 1"""
    log_p = F.log_softmax(z_masked, 1)
    return -(weight * (log_p.exp() * log_p).sum(1)).mean()


def debiasing_objective(l_ce, l_adv):
    """Eq. (5)  L = L_CE - lambda L_Adv, minimised by theta_f, theta_A and maximised by theta_S, as ONE minimisation:

    L_CE + L_Adv. The scene head descends L_Adv at full rate; the reversal layer below it has multiplied the gradient by
    -lambda before it reaches theta_f, and theta_A has no part in L_Adv."""
    return l_ce + l_adv


def confusion_objective(l_ent, w_ent):
    """Eq. (6)  theta_f, theta_A maximise L_Ent: the loss is -w_ent L_Ent     w_ent is 1 in the paper"""
    return -w_ent * l_ent


# ---- Training -----------------------------------------------------------------------------------------------------
def training_step(model, batch, args, masked=False):
    """Half an iteration (Sec. 3.4) -> loss, dict of what is logged. Each half has an optimiser step of its own.

    masked False, Eq. (5): batch {"clip": (N, 3, T, H, W) float, "label": (N,), "scene": (N, M) or None}
    masked True, Eq. (6): {"clip": the human-masked clips, "label", "weight": (N,)}; the scene head has no part in it.
    """
    clip, label, scenes = batch["clip"], batch["label"], args.scene_labels != "none"
    if masked:
        keep = batch["weight"] > 0
        keep[0] |= not keep.any()                           # DistributedDataParallel waits for all: one of weight 0
        weight = batch["weight"][keep] * keep.sum() / len(keep)              # the mean over N of all is that over kept
        with running_statistics(model, args.masked_bn == "eval"), autocast(clip.device, args.amp):
            z, *s = model(clip[keep], scenes=True) if scenes else (model(clip[keep]),)
        l_ent = human_mask_confusion(z.float(), weight)                                                 # Eq. (4)
        logs = {"ent": l_ent, "masked_accuracy": (weight * (z.argmax(1) == label[keep])).mean(),
                "masked_share": (batch["weight"] > 0).float().mean()}
        loss = confusion_objective(l_ent, args.w_ent)                                                   # Eq. (6)
        return loss + sum(0 * t.float().sum() for t in s), logs       # the scene head has no part, but DDP waits for it
    with autocast(clip.device, args.amp):
        z, *s = model(clip, scenes=True) if scenes else (model(clip),)
    l_ce, l_adv = cross_entropy(z.float(), label), 0.0                                                  # Eq. (2)
    logs = {"ce": l_ce, "accuracy": (z.argmax(1) == label).float().mean()}
    if scenes:
        l_adv = scene_adversarial(s[0].float(), p := batch["scene"])                                    # Eq. (3)
        right = (s[0].argmax(1) == p.argmax(1)) & p.any(1)
        logs |= {"adv": l_adv, "scene_accuracy": right.sum() / p.any(1).sum().clamp(1)}
    loss = debiasing_objective(l_ce, l_adv)                                                             # Eq. (5)
    return loss, {"loss": loss} | logs


@torch.inference_mode()
def validate(model, loader, labels, args, device):
    """-> {"val/...": figure} of the validation list. val/loss is L_CE alone: the adversary's must not steer --lr."""
    broadcast(model)                                       # batch norm's statistics: the first process's count
    model.eval()
    sums, k, bad = [0.0] * 5, model.head.weight.shape[0], []
    for batch in loader:
        keep = batch["bad"] == 0
        bad += batch["index"][~keep].tolist()
        clip, label = (batch[name][keep].to(device) for name in ("clip", "label"))
        p = (torch.zeros(len(label), 1) if labels is None else labels[batch["video"][keep]]).to(device)
        clip = normalise(clip, args.mean, args.std)
        with autocast(device, args.amp):
            z, s = (model(clip), p) if labels is None else model(clip, scenes=True)
        values = (len(label), F.cross_entropy(z.float(), label, reduction="sum"), (z.argmax(1) == label).sum(),
                  p.any(1).sum(), ((s.argmax(1) == p.argmax(1)) & p.any(1)).sum())
        sums = [a + float(b) for a, b in zip(sums, values, strict=True)]
    model.train()
    n, loss, right, labelled, scene_right = total(*sums)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    figures = {"val/loss": loss / n, "val/accuracy": right / n, "val/chance": 1 / k, "val/videos": int(n),
               "val/unreadable": [loader.dataset.dataset.videos.paths[i] for i in union(bad)]}
    if labelled:
        figures["val/scene_accuracy"] = scene_right / labelled                 # of the adversary, which may only lag
    return figures


def first_weights(net, args, classes):
    """Load what --init or --weights name. -> what was done, in words"""
    if args.init:
        saved = load_checkpoint(args.init, "sdn")
        if saved["classes"] != classes or args.weights not in ("none", TOY["weights"]):
            raise UserError(f"--init {args.init}: of other classes, or --weights beside it: give one of the two")
        try:
            net.load_state_dict(saved["model"])
        except RuntimeError as error:
            raise UserError(f"--init {args.init}: another model, {' '.join(str(error).split())[:200]}") from None
        return f"all of {args.init}, epoch {saved['epoch']}"
    return load_weights(net, pretrain(args) if args.weights == "pretrain" else args.weights, args.model, net.head_name,
                        torchvision_key if args.model == "r3d_18_hara" else None, drop="place_mlp|hm_mlp")


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


def learning_rate(step, steps, warmup):
    """Factor of the learning rate: linear warm-up, then cosine to 0 (the paper: plateau), in optimiser steps."""
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(args):
    """Train, log and save in args.out. -> figures of the last epoch on validation, with "checkpoint", its file."""
    rank, world, device = start(args.seed)
    train_set, val_set, labels, val_labels = make_data(args)
    order = Order(len(train_set), args.batch_size, args.seed, rank, world, args.accumulate)
    how = dict(num_workers=args.workers, pin_memory=device.type == "cuda", worker_init_fn=deaf)
    loader = DataLoader(train_set, batch_sampler=order, persistent_workers=args.workers > 0, **how)
    val_loader = DataLoader(Subset(val_set, range(rank, len(val_set), world)), args.batch_size, **how)
    net = try_clip(build_model(args, len(train_set.videos.classes)), args)
    run = Run("sdn", args, train_set, val_set, "runs/sdn")
    note = run.note or first_weights(net, args, train_set.videos.classes)
    model = DistributedDataParallel(net.to(device)) if world > 1 else net.to(device)
    model = torch.compile(model) if args.compile else model
    scene = list(net.scene_head.parameters()) if net.scene_head else []                                # theta_S
    body = [p for name, p in net.backbone.named_parameters() if not name.startswith(f"{net.head_name}.")]      # theta_f
    groups = ((body + list(net.head.parameters()), args.lr), (scene, args.lr * args.scene_lr))
    groups = [dict(params=p, lr=lr, base=lr) for p, lr in groups if p]
    optimizer = (torch.optim.SGD(groups, args.lr, 0.9, weight_decay=args.weight_decay) if args.optimizer == "sgd" else
                 torch.optim.AdamW(groups, args.lr, (0.9, 0.999), weight_decay=args.weight_decay))
    steps = len(train_set) // args.batch_size                                              # of an epoch
    factor = partial(learning_rate, steps=(args.epochs - args.head_epochs) * steps, warmup=args.warmup * steps)
    scheduler = (torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=args.patience)
                 if args.schedule == "plateau" else torch.optim.lr_scheduler.LambdaLR(optimizer, factor))
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    state = dict(model=net, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    step, best, figures = run.begin(note, state, device)

    def half(batch, masked, humans):                              # what half an iteration sees of (a part of) a batch
        clip = batch["clip"][:, int(masked)] if args.w_ent else batch["clip"]
        clip = normalise(clip.to(device, non_blocking=True), args.mean, args.std).contiguous()
        more = dict(label=batch["label"]) | (dict(scene=labels[batch["video"]]) if labels is not None else {})
        more |= dict(weight=(batch["humans"] >= 0.5) * args.batch_size / humans) if masked else {}
        return dict(clip=clip) | {name: value.to(device, non_blocking=True) for name, value in more.items()}

    with Interrupt() as stop:
        for epoch in range(step // steps, args.epochs):
            order.epoch, order.skip, recent, bad, since = epoch, step - epoch * steps, [], set(), time.time()
            bar = tqdm(desc=f"epoch {epoch + 1}/{args.epochs}", total=steps, initial=order.skip, unit="step",
                       leave=False, disable=None if rank == 0 else True)
            batches, warm, masks = iter(loader), epoch < args.head_epochs, 0
            changes = args.head_epochs and epoch in (0, args.head_epochs) and not order.skip
            for group in optimizer.param_groups if changes else ():
                group["lr"] = args.head_lr if warm else group["base"] * (factor(0) if args.schedule == "cosine" else 1)
            for _ in range(order.skip, steps):
                parts = [next(batches) for _ in range(args.accumulate)]
                bad |= {i for batch in parts for i in batch["index"][batch["bad"] > 0].tolist()}
                humans = sum((batch["humans"] >= 0.5).sum() for batch in parts) if args.w_ent and not warm else 0
                humans, stopped = total(humans, stop.signal)
                masks += humans
                for masked in (False, True) if humans else (False,):            # Sec. 3.4: alternate Eq. (5), Eq. (6)
                    for part, batch in enumerate(parts):
                        seed_step(args.seed, 2 * (step * args.accumulate + part) + masked, rank)
                        with no_sync(model, part + 1 < len(parts)):  # of a batch in parts, the last exchanges gradients
                            loss, logs = training_step(model, half(batch, masked, humans), args, masked)
                            scaler.scale(loss / args.accumulate).backward()
                        recent.append({k: v.detach() for k, v in logs.items()})
                    for p in scene if masked else body if warm else ():
                        p.grad = None                                # not its half: neither decay nor momentum move it
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                if args.schedule == "cosine" and not warm:
                    scheduler.step()
                step += 1
                bar.update()
                logged = step % args.log_every == 0 or step % steps == 0
                if logged or stopped:
                    run.check(step, [r[k] for r in recent for k in ("loss", "ent") if k in r], bad)
                if logged:
                    rate = sum("ce" in r for r in recent) * args.batch_size / args.accumulate / (time.time() - since)
                    logs, lr = run.means(recent), optimizer.param_groups[0]["lr"]
                    run.log(step=step, epoch=step / steps, lr=lr, clips_per_second=rate, **logs)
                    bar.set_postfix(loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.2f}")
                    recent, since = [], time.time()
                if stopped:
                    break
            bar.close()
            if step == (epoch + 1) * steps:
                if args.w_ent and not (warm or masks or order.skip):
                    raise UserError("--humans: no clip of an epoch has boxes in half of its frames, so Eq. (6) has "
                                    "none; boxes from text hold on their own frames alone")
                figures = validate(net, val_loader, val_labels, args, device)
                run.check(step, [torch.tensor(figures["val/loss"])], bad)
                if args.schedule == "plateau" and not warm:
                    scheduler.step(figures["val/loss"])
                unreadable = [train_set.videos.paths[i] for i in union(bad)]
                run.log(step=step, epoch=epoch + 1, unreadable=unreadable, **figures)
                run.print(f"epoch {epoch + 1}/{args.epochs}: loss {logs['loss']:.3f}, validation accuracy "
                          f"{figures['val/accuracy']:.1%} (chance {figures['val/chance']:.1%})")
                if figures["val/accuracy"] > best["val/accuracy"]:                       # IID validation alone
                    best = {"epoch": epoch + 1} | figures
                    run.save("best.pt", step, epoch + 1, best, figures)
            run.save("last.pt", step, step // steps, best, figures)
            if stopped:
                run.print(f"stopped at step {step}: {run.out / 'last.pt'} is written; --resume goes on from it")
                raise SystemExit(128 + (stop.signal or 15))
    return figures | {"checkpoint": str(run.out / "last.pt")}


if __name__ == "__main__":
    cli(Args, train, TOY, SHORT, steps=STEPS)
