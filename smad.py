"""SMAD: Mitigating Representation Bias in Action Recognition: Algorithms and Benchmarks.
H. Duan, Y. Zhao, K. Chen, Y. Xiong, D. Lin. ECCV 2022.

A video has facets besides its action: scene, object, event. MAAT puts an adversarial classifier of each behind a
gradient reversal, so that the features forget them. SAAR learns, without any label, where in a frame the action is, and
weights the features there. OmniDebias, of the same paper, is in omnidebias.py.

Equation map                                         (grep "Eq. (3)": this row, the function, the line that uses it)
  Eq. (1)  heads_objective           L_CE + sum_i lambda_i L_adv,i, minimised by all heads
  Eq. (2)  backbone_objective        L_CE - sum_i lambda_i L_adv,i, minimised by the backbone; by reversal, in one pass
  Eq. (3)  soft_cross_entropy        adversarial loss of a soft-label aspect, half of it
  Eq. (4)  kl_divergence             the other half
  Eq. (5)  actionness_reweighting    features times H W softmax(score map)

Commands
  python smad.py                                                   embedded benchmark (drawn once); --baseline: plain
  Table 7: --baseline, --no-saar, --aspect none, -. Table 8: --aspect none | scene | object | scene object | all five
  python smad.py labels train.txt val.txt --root videos --weights resnet50_places365.pth.tar --categories CATEGORIES
  python smad.py labels train.txt val.txt --root videos --weights IMAGENET1K_V2 --out objects.npz
  python smad.py split train.txt --labels scene=scenes.npz --out k200db           (Sec. 4.1; two facets: both-split)
  torchrun --nproc-per-node 8 smad.py --train k200db/train.txt --root videos --aspect scene=scenes.npz \\
      --aspect object=objects.npz --aspect event=HVU_Train_V1.0.csv:event          (--tsn: the 2D network)

SILENT in the paper, for which there is no official code
  S1  Eqs. (3), (4) differ by the labels' entropy, so that 0.5 of each has exactly the gradient of one Eq. (3).
  S2  the recipe, dropout and pre-processing: mmaction2's of TSN and of SlowOnly from ImageNet weights.
  S3  an adversary sees the pooled features that the action head sees, after dropout (of a TSN each segment's, and its
      losses are averaged), through SDN's four layers without batch norm. lambda_i scales its own step too, as Eq. (1)
      says (SDN's does not).
  S4  which aspects Tables 2, 3, 5 to 7 use: scene and object, each divided by 2, as Sec. 6.3 does. A label is the mean
      of 10 frames' softmax. BCE is the mean over the tags. A video without labels adds nothing.
  S5  SAAR: two bottleneck blocks of width 64 with stride 1 and batch norm; the score's convolution starts at zero. It
      belongs to Theta: it gets the reversed gradients too.
  S6  TSN at test averages the softmax of its 25 frames, each the middle of a part. The split: see `split --help`.
FOUND on the embedded benchmark: four fifths of SAAR's mask lie in the actor's boxes, a sixth of the frame; it helps on
      rare scenes without MAAT too. An aspect that nearly is the action (8 objects for 8 actions) costs accuracy there,
      and so does a weight beyond the paper's.
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
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import Bottleneck
from tqdm import tqdm

from common import (FrameNetwork, Interrupt, LabelArgs, Order, Run, SplitArgs, Tiny, UserError, Videos, arg, autocast,
                    broadcast, cli, deaf, inflate, label_scenes, load_weights, mmaction_key, no_sync, normalise,
                    read_aspect, read_lists, resnet_backbone, samplers, seed_step, split_by_facet, start,
                    test_transform, total, toy, train_transform, try_clip, union)


# ---- Args ---------------------------------------------------------------------------------------------------------
@dataclass
class Args:
    train: str = arg("", "training list; none: the embedded benchmark")
    val: str = arg("", "validation list; none: --val-share of the training list")
    val_share: float = arg(0.06, "share of the training list held out, seeded; the paper is silent", low=0, high=1)
    root: str = arg("", "folder of the videos; none: the list's own")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists; Table 6: all three", choices=(1, 2, 3))
    data: str = arg("data", "folder of the embedded benchmark")
    data_seed: int = arg(0, "seed of the embedded benchmark", low=0)
    out: str = arg("", "folder of the run; none: runs/smad, runs/smad-baseline")
    resume: bool = arg(False, "go on from the last checkpoint in --out")
    overwrite: bool = arg(False, "train anew where --out holds a run")
    model: str = arg("slowonly_r18", "Sec. 6.1: slowonly_r18 or tsn_r50 (--tsn); also slowonly_r50, tiny, tsn_tiny, or "
                                     "a name in torchvision.models.video (r3d_18: Table 6)")
    weights: str = arg("IMAGENET1K_V1", "of the backbone: torchvision's name, a file (mmaction2's too), none, or "
                                        "pretrain: the embedded ones; Sec. 6.1: ImageNet")
    aspect: tuple = arg((), "an aspect of MAAT, NAME=FILE.npz of `smad.py labels`, or NAME=HVU.csv:CATEGORY; a bare "
                            "NAME: the embedded one; none: no MAAT. Repeatable. Sec. 5.1: scene, object")
    w_ce: float = arg(0.5, "weight of Eq. (3), soft labels; Sec. 6.1; divided by the number of aspects", low=0)
    w_kl: float = arg(0.5, "weight of Eq. (4), soft labels; Sec. 6.1; likewise", low=0)
    w_bce: float = arg(5.0, "weight of the binary cross-entropy, tags; Sec. 6.1; likewise", low=0)
    adversary: str = arg("mlp", "an aspect's head; the paper is silent; SDN's four layers", choices=("mlp", "linear"))
    adv_lr: float = arg(1.0, "learning rate of the adversarial heads over --lr", low=0)
    saar: bool = arg(True, "spatial-aware actionness reweighting before the last stage; Sec. 5.1")
    saar_width: int = arg(64, "bottleneck width of SAAR's stage; the paper: small", low=1)
    saar_blocks: int = arg(2, "residual blocks of SAAR's stage; the paper is silent", low=1)
    dropout: float = arg(0.5, "before the heads; mmaction2: 0.5, TSN 0.4; not of tiny; to compare with sdn.py: 0",
                         low=0, high=1)
    frames: int = arg(8, "frames of a clip; Sec. 6.1: 8, TSN 3 segments", low=1)
    stride: int = arg(8, "step between frames; Sec. 6.1", low=1)
    test_clips: int = arg(10, "clips of a video in evaluate.py; Sec. 6.1: ten, of TSN 25 frames", low=1)
    size: int = arg(224, "pixels of a clip's side; Sec. 5.1: 14 x 14 before the last stage", low=8)
    resize: int = arg(256, "short side at test, before the centre crop; mmaction2", low=8)
    scale: tuple = arg((0.08, 1.0), "area of the random resized crop; mmaction2; --tsn: 0.66 squared", low=0, high=1)
    flip: float = arg(0.5, "probability of the horizontal flip; mmaction2", low=0, high=1)
    mean: tuple = arg((0.485, 0.456, 0.406), "of the channels; ImageNet's")
    std: tuple = arg((0.229, 0.224, 0.225), "of the channels", low=1e-3)
    epochs: int = arg(150, "epochs; mmaction2's SlowOnly from ImageNet weights, as all of this recipe", low=1)
    batch_size: int = arg(64, "clips of an optimiser step over all processes; mmaction2", low=1)
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


TOY = dict(model="tiny", weights="pretrain", aspect=("scene", "object"), saar_width=4, saar_blocks=1, dropout=0.0,
           frames=8, stride=2, test_clips=1, size=32, resize=36, scale=(0.6, 1.0), flip=0.0, epochs=12, warmup=1.0,
           batch_size=32, schedule="cosine", lr=0.1, clip_grad=0.0, workers=0, cache=True)
PRETRAIN = dict(epochs=15, val_share=0.2, optimizer="adamw", lr=2e-3, weight_decay=0.01)   # the same in all scripts
STEPS = {"labels": (LabelArgs, label_scenes), "split": (SplitArgs, split_by_facet)}
SHORT = {"baseline": dict(aspect=("none",), saar=False, out="runs/smad-baseline")}
RECIPES = {"tsn": dict(model="tsn_r50", frames=3, test_clips=25, dropout=0.4, epochs=100, batch_size=256,
                       scale=(0.43, 1.0), milestones=(40, 80), warmup=0.0)}


# ---- Data ---------------------------------------------------------------------------------------------------------
def make_data(args):
    """-> training and validation Videos, their aspects {NAME: (n, D)}, NAMEs of those that are tags. Soft labels: a row
    of zeros where a video has none; tags, 0 and 1: a row of NaN."""
    train_list, val_list, world = read_lists(args)
    if not args.aspect:
        raise UserError("MAAT needs labels: --aspect NAME=FILE for each aspect (`python smad.py labels` makes them), "
                        "or --aspect none")
    aspects, tags, paths = {}, set(), train_list.paths + val_list.paths
    for spec in args.aspect if args.aspect != ("none",) else ():
        name, labels, are_tags = read_aspect(spec, paths, args.max_bad, world)
        if name in aspects:
            raise UserError(f"--aspect {spec}: a second of that name: rename it")
        aspects[name], tags = labels.split([len(train_list), len(val_list)]), tags | {name} if are_tags else tags
    samples = samplers(args)
    return (Videos(train_list, samples[0], train_transform(args.size, args.scale, args.flip), args.seed, args.cache,
                   replace=9),
            Videos(val_list, samples[1], test_transform(args.size, args.resize), args.seed, args.cache),
            *({name: parts[i] for name, parts in aspects.items()} for i in (0, 1)), tags)


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


class SMAD(FrameNetwork):
    """Network with SAAR before the last stage of its backbone, and for each aspect an adversarial head h_Z on the
    features f(x). A TSN's backbone sees single frames; their logits, and features, are averaged over the segments."""

    def __init__(self, backbone, num_classes, args, last):
        super().__init__(backbone, num_classes)
        self.tsn, self.kind, self.saar = args.model.startswith("tsn"), args.adversary, None
        self.adversaries = nn.ModuleDict()
        if args.saar:
            stage = backbone.get_submodule(last)
            channels = next(m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)).in_channels
            norm = partial(nn.GroupNorm, 1) if isinstance(backbone, Tiny) else nn.BatchNorm2d
            self.saar = SAAR(channels, args.saar_width, args.saar_blocks, norm)
            stage.register_forward_pre_hook(self.reweigh)
        self.register_load_state_dict_pre_hook(self.heads_of)

    def reweigh(self, stage, inputs):
        return self.saar(inputs[0])[0]

    def add_adversaries(self, sizes):
        """A new head for each aspect, {NAME: D}."""
        width = self.head.weight.shape[1]
        for name, size in sizes.items():
            widths = (width, 512, 512, 512, size) if self.kind == "mlp" else (width, size)
            layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
            self.adversaries[name] = nn.Sequential(*layers[:-1])

    def heads_of(self, module, state, prefix, *how):
        """A checkpoint knows its aspects: the model that loads it gets their heads."""
        sizes = {k.split(".")[1]: len(v) for k, v in state.items() if re.match(r"adversaries\.\w+\.\d+\.bias", k)}
        self.add_adversaries({name: size for name, size in sizes.items() if name not in self.adversaries})

    @property
    def scene_head(self):
        return self.adversaries["scene"] if "scene" in self.adversaries else None

    def forward(self, clip, aspects=False):
        """(N, 3, T, H, W) -> (N, K) action logits; with aspects also {NAME: (N S, D)} logits behind the reversal, of
        the S segments of a TSN, else S = 1"""
        z, g = self.parts(clip)
        if not aspects:
            return z
        g = Reverse.apply(g.flatten(0, 1), 1.0)
        return z, {name: head(g) for name, head in self.adversaries.items()}


def build_model(args, num_classes):
    """-> SMAD of args.model, from random weights; .saar is None with --no-saar, .adversaries is still empty."""
    backbone, last = resnet_backbone(args.model, num_classes, args.dropout)
    return SMAD(backbone, num_classes, args, last)


# ---- Losses: z (N, K) action logits, s (N, D) logits of an aspect; each is the mean over the batch -------------------
def cross_entropy(z, label):
    """L_ce,Y of Sec. 5.1     label: (N,)"""
    return F.cross_entropy(z, label)


def soft_cross_entropy(s, p):
    """Eq. (3)  L_adv = -sum_k z_k log h(f(x))_k     p: (N, D) soft labels z; a row of zeros adds nothing"""
    return -(p * s.log_softmax(1)).sum(1).mean()


def kl_divergence(s, p):
    """Eq. (4)  L_adv = sum_k z_k log(z_k / h(f(x))_k)     p: (N, D) soft labels z. It is Eq. (3) less the entropy of z,
    so that both have one gradient, and 0.5 of each is one Eq. (3)"""
    return (torch.xlogy(p, p) - p * s.log_softmax(1)).sum(1).mean()


def binary_cross_entropy(s, tags):
    """BCE of Sec. 5.1, the mean over videos and tags     tags: (N, D) of 0 and 1; a row of NaN adds nothing"""
    return F.binary_cross_entropy_with_logits(s, tags.nan_to_num(), tags.isfinite().float())


def heads_objective(l_ce, l_adv, lam):
    """Eq. (1)  L_ce + sum_i lambda_i L_adv,i     l_adv, lam: lists of M; minimised by the M + 1 heads"""
    return l_ce + sum(a * b for a, b in zip(lam, l_adv, strict=True))


def backbone_objective(l_ce, l_adv, lam):
    """Eq. (2)  L_ce - sum_i lambda_i L_adv,i     minimised by the backbone, SAAR among it"""
    return l_ce - sum(a * b for a, b in zip(lam, l_adv, strict=True))


# ---- Training -----------------------------------------------------------------------------------------------------
def adversaries_right(s, p, tags):
    """(N, D) logits of an aspect, its labels -> how many of the known ones are named right, how many are known"""
    right, known = ((s > 0) == (p > 0.5), p.isfinite()) if tags else (s.argmax(1) == p.argmax(1), p.any(1))
    return (right & known).sum(), known.sum()


def training_step(model, batch, args):
    """One batch {"clip": (N, 3, T, H, W) float, "label": (N,), "aspects": {NAME: (N, D)}, "tags": names of those that
    are tags} -> loss, dict of what is logged. The loss is Eq. (1); in the backbone, below the reversal layer, its
    gradient is that of Eq. (2).
    """
    clip, label, aspects = batch["clip"], batch["label"], batch["aspects"]
    with autocast(clip.device, args.amp):
        z, s = model(clip, aspects=True) if aspects else (model(clip), {})
    l_ce, l_adv = cross_entropy(z.float(), label), []
    logs = {"ce": l_ce, "accuracy": (z.argmax(1) == label).float().mean()}
    for name, p in aspects.items():
        s_i, p, tags = s[name].float(), p.repeat_interleave(len(s[name]) // len(p), 0), name in batch["tags"]
        l_adv.append(args.w_bce * binary_cross_entropy(s_i, p) if tags else
                     args.w_ce * soft_cross_entropy(s_i, p) +                                           # Eq. (3)
                     args.w_kl * kl_divergence(s_i, p))                                                 # Eq. (4)
        right, known = adversaries_right(s_i, p, tags)
        logs |= {f"{name}_adv": l_adv[-1], f"{name}_accuracy": right / known.clamp(1)}
    lam = [1 / max(1, len(l_adv))] * len(l_adv)                                                         # Sec. 6.3
    loss = heads_objective(l_ce, l_adv, lam)                                                            # Eq. (1)
    logs |= {"backbone": backbone_objective(l_ce, l_adv, lam)} if aspects else {}                       # Eq. (2)
    return loss, {"loss": loss} | logs


@torch.inference_mode()
def validate(model, loader, labels, tags, args, device):
    """-> {"val/...": figure} of the validation list. val/loss is L_ce alone."""
    broadcast(model)                                       # batch norm's statistics: the first process's count
    model.eval()
    sums, k, bad = [0.0] * (3 + 2 * len(labels)), model.head.weight.shape[0], []
    for batch in loader:
        keep = batch["bad"] == 0
        bad += batch["index"][~keep].tolist()
        clip, label = (batch[name][keep].to(device) for name in ("clip", "label"))
        aspects = {name: p[batch["video"][keep]].to(device) for name, p in labels.items()}
        clip = normalise(clip, args.mean, args.std)
        with autocast(device, args.amp):
            z, s = model(clip, aspects=True)
        values = [len(label), F.cross_entropy(z.float(), label, reduction="sum"), (z.argmax(1) == label).sum()]
        for name, p in aspects.items():
            p = p.repeat_interleave(len(s[name]) // max(1, len(p)), 0)
            values += adversaries_right(s[name].float(), p, name in tags)
        sums = [a + float(b) for a, b in zip(sums, values, strict=True)]
    model.train()
    n, loss, right, *rest = total(*sums)
    if not n:
        raise UserError("no validation video can be read: check --val and --root")
    figures = {"val/loss": loss / n, "val/accuracy": right / n, "val/chance": 1 / k, "val/videos": int(n),
               "val/unreadable": [loader.dataset.dataset.videos.paths[i] for i in union(bad)]}
    return figures | {f"val/{name}_accuracy": hits / known for name, hits, known in
                      zip(labels, rest[::2], rest[1::2], strict=True) if known}    # adversaries, which may only lag


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
    train_set, val_set, labels, val_labels, tags = make_data(args)
    order = Order(len(train_set), args.batch_size, args.seed, rank, world, args.accumulate)
    how = dict(num_workers=args.workers, pin_memory=device.type == "cuda", worker_init_fn=deaf)
    loader = DataLoader(train_set, batch_sampler=order, persistent_workers=args.workers > 0, **how)
    val_loader = DataLoader(Subset(val_set, range(rank, len(val_set), world)), args.batch_size, **how)
    net = try_clip(build_model(args, len(train_set.videos.classes)), args)
    net.add_adversaries({name: p.shape[1] for name, p in labels.items()})
    run = Run("smad", args, train_set, val_set, "runs/smad")
    note = run.note or load_weights(net, pretrain(args) if args.weights == "pretrain" else args.weights,
                                    re.sub(r"^(slowonly|tsn)_r", "resnet", args.model), net.head_name, mmaction_key,
                                    r"data_preprocessor\.", inflate)
    model = DistributedDataParallel(net.to(device)) if world > 1 else net.to(device)
    model = torch.compile(model) if args.compile else model
    heads = list(net.adversaries.parameters())                                                          # theta_Z
    rest = [p for name, p in net.named_parameters() if not name.startswith("adversaries.")]    # Theta, SAAR; theta_Y
    groups = [dict(params=p, lr=lr) for p, lr in ((rest, args.lr), (heads, args.lr * args.adv_lr)) if p]
    optimizer = (torch.optim.SGD(groups, args.lr, 0.9, weight_decay=args.weight_decay) if args.optimizer == "sgd" else
                 torch.optim.AdamW(groups, args.lr, (0.9, 0.999), weight_decay=args.weight_decay))
    steps = len(train_set) // args.batch_size                                              # of an epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, epoch=steps, args=args))
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    state = dict(model=net, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    step, best, figures = run.begin(note, state, device)

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
                with no_sync(model, not last):                   # of a batch in parts, the last exchanges gradients
                    loss, logs = training_step(model, dict(clip=clip, label=label, aspects=aspects, tags=tags), args)
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
                    run.check(step, [r["loss"] for r in recent], bad)
                if logged:
                    logs, rate = run.means(recent), len(recent) * len(label) * world / (time.time() - since)
                    run.log(step=step, epoch=step / steps, lr=scheduler.get_last_lr()[0], clips_per_second=rate, **logs)
                    bar.set_postfix(loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.2f}")
                    recent, since = [], time.time()
                if stopped:
                    break
            bar.close()
            if step == (epoch + 1) * steps:
                figures = validate(net, val_loader, val_labels, tags, args, device)
                run.check(step, [torch.tensor(figures["val/loss"])], bad)
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
    cli(Args, train, TOY, SHORT, steps=STEPS, recipes=RECIPES)
