"""Every table of the papers and every claim of theirs, in miniature, on the embedded data set.

    python tests/results.py                    # what there is: tables, runs done and to do, minutes
    python tests/results.py albar-3 --seeds 5  # run what a table lacks, and print it
    python tests/results.py albar-3 --write    # and put it in RESULTS.md, `main` in README too
    python tests/results.py all --jobs 2       # run everything that is missing, two at a time

A Row is a configuration, a Table is rows beside the paper's figures, a Claim is what the paper says
of rows and metrics. A run is `python SCRIPT FLAGS --seed S`, then evaluate.py, in a folder of
runs/results named by its script and flags: what is done is not done again, a row that is in several
tables is trained once, and a kill loses the run in hand alone. Each run has one thread: the same
machine gives the same bits where data/ was drawn by this script too. After a change of a script or
of the world, remove runs/results and data. --write leaves the other tables of tests/RESULTS.md as
they were written, those too that share a row with a new one, and counts the verdicts of all anew.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from hashlib import sha1
from itertools import pairwise, product
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path("runs/results")


@dataclass(frozen=True)
class Row:
    label: str
    train: str  # script and flags; {NAME} is the checkpoint of that row with the same seed
    measure: str = ""  # flags of evaluate.py
    step: str = ""  # cam: of `evaluate.py cam`; frozen: its features on the TARGETS

    def folder(self, seed):
        script = self.train.split(".py")[0]
        return RUNS / f"{script}-{short_hash(self.train)}-s{seed}"

    def figures_file(self, seed):
        name = f"{self.step or 'evaluate'}.json"
        if not self.measure:
            return self.folder(seed) / name
        return self.folder(seed) / short_hash(self.measure) / name


@dataclass(frozen=True)
class Claim:
    number: str  # C1 ... C121, of the papers' claims; a letter for another part of one
    text: str
    tests: tuple  # LEFT > RIGHT, LEFT < RIGHT or LEFT ~ RIGHT +- NUMBER, sums of ROW.METRIC
    why: str = ""  # what is known of why it does not hold


@dataclass(frozen=True)
class Table:
    title: str
    rows: str  # a line each: its name, the paper's figures
    metrics: str
    seeds: int = 3
    paper: str = ""  # what the paper's figures are
    # `C1 WORDS`; below it, indented, its tests as in Claim, or
    #     METRIC: ROW > ROW > ...        each row is above the next
    #     trend METRIC: ROW > ROW > ...  the metric falls along the rows, by least squares
    # and maybe a line `because WORDS`
    claims: str = ""
    text: str = ""
    # Endings of the rows' names: each row's ROW_ENDING stand side by side, a column each.
    endings: str = ""

    def names(self, row):
        """Of the configurations that a row of the table shows."""
        if not self.endings:
            return [row]
        return [f"{row}_{ending}" for ending in self.endings.split()]

    def paper_figures(self):
        """{row: the paper's figures}"""
        paper_of = {}
        for line in self.rows.strip().splitlines():
            name, _, paper = line.strip().partition(" ")
            paper_of[name] = paper.strip()
        return paper_of

    def read_claims(self):
        claims = []
        lines = [line.strip() for line in self.claims.splitlines()]
        for line in filter(None, lines):
            number, _, text = line.partition(" ")
            if re.fullmatch(r"C\d+[a-z]*", number):
                claims.append(Claim(number, text, ()))
            elif line.startswith("because "):
                claims[-1] = replace(claims[-1], why=line)
            else:
                tests = claims[-1].tests + spelt_out(line)
                claims[-1] = replace(claims[-1], tests=tests)
        return claims

    def all_rows(self):
        """The names of its rows, then of those that only its claims need."""
        names = []
        for row in self.paper_figures():
            names += self.names(row)
        for claim in self.read_claims():
            for test in claim.tests:
                names += [row for row, _ in terms(test)]
        return list(dict.fromkeys(names))


def spelt_out(line):
    """A line of Table.claims -> its tests as in Claim"""
    metric, colon, rows = line.partition(": ")
    if not colon:
        return (line,)
    rows = rows.split(" > ")
    if metric.startswith("trend "):
        metric = metric.removeprefix("trend ")
        levels = ", ".join(f"{row}.{metric}" for row in rows)
        return (f"slope({levels}) < 0",)
    return tuple(f"{row}.{metric} > {other}.{metric}" for row, other in pairwise(rows))


def short_hash(text):
    return sha1(text.encode()).hexdigest()[:8]


def terms(test):
    """ROW.METRIC in a test -> [(row, metric)]"""
    return re.findall(r"([a-z]\w*)\.([a-z]\w*)", test)


# ---- Rows ----------------------------------------------------------------------------------------
LABELS = "scene=data/toy0/scenes object=data/toy0/objects"
OMNI = "omnidebias.py --web data/toy0/web-clips"
COMBINED = f"omnidebias.py --smad --aspect {LABELS}"
ROWS = {
    "plain": Row("cross-entropy", "albar.py --baseline"),
    # ALBAR
    "albar": Row("ALBAR", "albar.py"),
    "adv": Row("adv", "albar.py --w-ent 0 --w-gp 0"),
    "ent": Row("ent", "albar.py --w-adv 0 --w-gp 0"),
    "gp": Row("gp", "albar.py --w-adv 0 --w-ent 0"),
    "adv_ent": Row("adv + ent", "albar.py --w-gp 0"),
    "adv_gp": Row("adv + gp", "albar.py --w-ent 0"),
    "ent_gp": Row("ent + gp", "albar.py --w-adv 0"),
    "random_frame": Row("random", "albar.py --static-frame random"),
    "first_frame": Row("first", "albar.py --static-frame first"),
    "last_frame": Row("last", "albar.py --static-frame last"),
    "mixup": Row("Mixup", "albar.py --baseline --augment mixup"),
    "videomix": Row("VideoMix", "albar.py --baseline --augment videomix"),
    "be": Row("BE", "albar.py --baseline --augment be"),
    "actorcutmix": Row(
        "ActorCutMix", "albar.py --baseline --augment actorcutmix --masks data/toy0/humans.jsonl"
    ),
    "fame": Row("FAME", "albar.py --baseline --augment fame"),
    "stillmix_bank": Row(
        "StillMix with its bank", "albar.py --baseline --augment stillmix --bank data/toy0-bank"
    ),
    "stillmix": Row("StillMix", "albar.py --baseline --augment stillmix"),
    "albar_stillmix": Row("ALBAR with StillMix", "albar.py --augment stillmix"),
    # SDN
    "sdn": Row("SDN", "sdn.py"),
    "sdn_ent": Row("L_Ent", "sdn.py --scene-labels none"),
    "sdn_adv": Row("L_Adv, soft labels", "sdn.py --w-ent 0"),
    "sdn_hard": Row("L_Adv, hard labels", "sdn.py --w-ent 0 --scene-labels hard"),
    "sdn_watch": Row("L_Adv, lambda 0: the head only watches", "sdn.py --w-ent 0 --lam 0"),
    "sdn_lam1": Row("L_Adv, lambda 1", "sdn.py --w-ent 0 --lam 1"),
    "sdn_lam2": Row("L_Adv, lambda 2", "sdn.py --w-ent 0 --lam 2"),
    # SMAD
    "smad": Row("SMAD", "smad.py"),
    "maat": Row("MAAT", "smad.py --no-saar"),
    "saar": Row("SAAR", "smad.py --aspect none"),
    # OmniDebias
    "omni": Row("OmniDebias", f"{OMNI}/unbias.txt"),
    "web_bias": Row("web: bias", f"{OMNI}/bias.txt"),
    "web_mid": Row("web: mid", f"{OMNI}/mid.txt"),
    "web_rand": Row("web: rand", f"{OMNI}/rand.txt"),
    "web_all": Row("web: all", f"{OMNI}/all.txt"),
    "combined": Row("OmniDebias with SMAD", COMBINED),
    # Across the papers
    "albar_on_maat": Row("ALBAR from MAAT's weights", "albar.py --weights {maat}"),
    "albar_on_omni": Row("ALBAR from OmniDebias' weights", "albar.py --weights {omni}"),
}


def vary(names, key, flags="", **changes):
    """Rows NAME_KEY like the rows `names`, with more flags, or measured in another way."""
    for name in names.split():
        row = ROWS[name]
        ROWS[f"{name}_{key}"] = replace(row, train=f"{row.train} {flags}".strip(), **changes)


MAIN = "plain stillmix sdn smad omni combined albar albar_stillmix albar_on_maat albar_on_omni"
vary(f"{MAIN} maat", "long", "--epochs 24")
# These start from the other method's weights of the same length.
for name in ("maat", "omni"):
    flags = f"albar.py --weights {{{name}_long}} --epochs 24"
    ROWS[f"albar_on_{name}_long"] = replace(ROWS[f"albar_on_{name}"], train=flags)

# Weights of ALBAR's losses, in shares of those of the row "albar".
W_ADV = 0.08
for share, key in ((0.5, "half"), (2, "double"), (4, "four")):
    ROWS[f"w_adv_{key}"] = Row(f"w_adv x {share}", f"albar.py --w-adv {W_ADV * share:g}")
    ROWS[f"w_ent_{key}"] = Row(f"w_ent x {share}", f"albar.py --w-ent {4 * share:g}")
    ROWS[f"w_gp_{key}"] = Row(f"w_gp x {share}", f"albar.py --w-gp {10 * share:g}")

# With SCUBA in the log of each epoch.
WATCH = " ".join(f"data/toy0/scuba-{name}.txt" for name in ("photo", "texture", "sinusoid"))
vary("albar adv_ent", "watch", f"--watch {WATCH}")

# Still images of two kinds of birds on land or water, with the places alone as static clips.
BIRDS = (
    "--toy --frames 1 --flip 0.5 --weights none --epochs 80 --train data/toy0/birds/metadata.csv "
    "--val data/toy0/birds/metadata.csv"
)
ROWS |= {
    "birds": Row("cross-entropy", f"albar.py --baseline {BIRDS}"),
    "birds_albar": Row("ALBAR", f"albar.py {BIRDS} --backgrounds data/toy0/birds/backgrounds"),
}

ROWS["w_paper"] = Row("the paper's 1, 4, 10", "albar.py --w-adv 1")
ROWS["gp_full"] = Row("--gp-norm full", "albar.py --gp-norm full")

# A 2D network, as Sec. 6.1 of SMAD's paper has it; of SDN, which has no TSN, clips of one frame.
TSN_TRAINING = "--model tsn_tiny --frames 3 --weights data/toy0/weights-tsn_tiny.pt"
TSN = f"{TSN_TRAINING} --test-clips 25"
WEB_IMAGES = "omnidebias.py --web data/toy0/web-images"
ROWS |= {
    "tsn": Row("cross-entropy", f"omnidebias.py --baseline {TSN}"),
    "tsn_smad": Row("SMAD", f"smad.py {TSN}"),
    "tsn_omni": Row("OmniDebias", f"{WEB_IMAGES}/unbias.txt {TSN}"),
    "tsn_bias": Row("web: bias", f"{WEB_IMAGES}/bias.txt {TSN}"),
    "tsn_mid": Row("web: mid", f"{WEB_IMAGES}/mid.txt {TSN}"),
    "tsn_rand": Row("web: rand", f"{WEB_IMAGES}/rand.txt {TSN}"),
    "tsn_all": Row("web: all", f"{WEB_IMAGES}/all.txt {TSN}"),
    "tsn_combined": Row(
        "OmniDebias with SMAD", f"{COMBINED} --web data/toy0/web-images/unbias.txt {TSN}"
    ),
    "frame": Row("cross-entropy, one frame", "sdn.py --baseline --frames 1"),
    "frame_sdn": Row("SDN, one frame", "sdn.py --frames 1"),
}

# Re-distributed by scene, as K200db: iid is its list of the scenes of training, rare of others.
DB = "--toy --train data/db/train.txt --val data/db/val-1.txt --root data/toy0"
DB_TEST = "--root data/toy0 --test data/db/val-1.txt --rare data/db/val-0.txt"
vary("plain sdn smad maat saar", "db", DB, measure=DB_TEST)
for key, share in (("db75", "0.75"), ("db50", "0.5"), ("db25", "0.25")):
    measure = DB_TEST.replace("val-0.txt", f"val-{share}.txt")
    vary("plain", key, DB, measure=measure, label=f"cross-entropy, {share} shared")
for part in ("bias", "mid", "rand", "all", "unbias"):
    label = "OmniDebias" if part == "unbias" else f"web: {part}"
    ROWS[f"{part}_db"] = Row(
        label, f"omnidebias.py {DB} --web data/db/web-clips/{part}.txt", DB_TEST
    )
ROWS["combined_db"] = Row(
    "OmniDebias with SMAD", f"{COMBINED} {DB} --web data/db/web-clips/unbias.txt", DB_TEST
)
TSN_DB = f"{DB} {TSN}"
ROWS |= {
    "tsn_db": Row("cross-entropy", f"omnidebias.py --baseline {TSN_DB}", DB_TEST),
    "tsn_smad_db": Row("SMAD", f"smad.py {TSN_DB}", DB_TEST),
    "tsn_combined_db": Row(
        "OmniDebias with SMAD", f"{COMBINED} {TSN_DB} --web data/db/web-images/unbias.txt", DB_TEST
    ),
}
for part in ("bias", "mid", "rand", "all", "unbias"):
    ROWS[f"tsn_{part}_db"] = Row(
        ROWS[f"{part}_db"].label,
        f"omnidebias.py {TSN_DB} --web data/db/web-images/{part}.txt",
        DB_TEST,
    )

# Re-distributed by scene and object, as the split of Table 8.
BOTH = "--toy --train data/both/train.txt --val data/both/val-1.txt --root data/toy0"
BOTH_TEST = "--root data/toy0 --test data/both/val-1.txt --rare data/both/val-0.txt"
TAGS = " ".join(f"{group}=data/toy0/tags:{group}" for group in ("event", "attribute", "context"))
for key, label, aspect in (
    ("none", "none", "none"),
    ("scene", "scene", "scene=data/toy0/scenes"),
    ("object", "object", "object=data/toy0/objects"),
    ("two", "scene, object", LABELS),
    ("five", "all five", f"{LABELS} {TAGS}"),
):
    ROWS[f"both_{key}"] = Row(label, f"smad.py --no-saar --aspect {aspect} {BOTH}", BOTH_TEST)

# Weaker bias, as the whole of Kinetics-400: pretrain.txt and train.txt together.
WEAK = "--toy --train data/weak/train.txt --root data/toy0 --val data/toy0/val.txt"
WEAK_TEST = "--test data/toy0/test.txt --rare data/toy0/rare.txt"
vary("plain smad omni combined", "weak", WEAK, measure=WEAK_TEST)

# Larger weights of MAAT, without SAAR and with it.
vary("maat", "w2", "--w-ce 2 --w-kl 2", label="MAAT, weights x 4")
vary("smad", "w2", "--w-ce 2 --w-kl 2", label="SMAD, weights x 4")

# Scene labels seen through less noise, and more.
for key in ("clear", "noisy"):
    scenes = f"data/{key}/toy0/scenes"
    ROWS[f"sdn_{key}"] = Row(f"L_Adv, {key} labels", f"sdn.py --w-ent 0 --scenes {scenes}")
    ROWS[f"maat_{key}"] = Row(f"MAAT, {key} labels", f"smad.py --no-saar --aspect scene={scenes}")
ROWS["maat_scene"] = Row("MAAT, scene", "smad.py --no-saar --aspect scene=data/toy0/scenes")

# Worlds of other biases: what the row's name ends in, the flags of toy.py. The start is the same.
BIASES = {
    "look0": "--look 0",
    "look50": "--look 0.5",
    "look95": "--look 0.95",
    "scene0": "--scene 0",
    "scene35": "--scene 0.35",
    "scene70": "--scene 0.7",
    "fine": "--scene 0 --object 0 --look 0",
}
for key, flags in BIASES.items():
    world = f"data/{key}/toy0"
    vary("plain", key, f"--toy --train {world}/train.txt --val {world}/val.txt", label=flags)

# Each seed in a world of its own, with a start of its own: toyN is world 3 + seed.
FIRST_WORLD = 3
WEB_CLIPS = "--web data/toy0/web-clips/unbias.txt --web-root data/toy0"
OWN_FILES = {
    "plain": "",
    "stillmix": "",
    "sdn": "--scenes data/toy0/scenes --humans data/toy0/humans.jsonl",
    "smad": f"--aspect {LABELS}",
    "omni": WEB_CLIPS,
    "combined": WEB_CLIPS,
    "albar": "",
}
for name, flags in OWN_FILES.items():
    lists = "--train data/toy0/train.txt --val data/toy0/val.txt"
    vary(name, "world", f"--toy {lists} --weights data/toy0/weights-tiny.pt {flags}")
    row = ROWS[f"{name}_world"]
    ROWS[f"{name}_world"] = replace(row, train=row.train.replace("toy0", "toyN"))

# Fine-tuned on data sets of novel actions, where the scene is that usual for the action in so many
# percent of the clips: in the places of Diving48, HMDB51 and UCF101, and others between. 30 epochs,
# as at 12 plain training was far from its end on world 1.
TARGETS = {0: "no scenes", 60: "60 % scenes", 90: "90 % scenes"}
FINE_TUNED = "plain sdn smad omni combined albar"

ENDINGS = {f"to_{percent}": words for percent, words in TARGETS.items()}
ENDINGS |= {"ucf9": "UCF101", "jhmdb": "J-HMDB"}


def fine_tuned(names, percents):
    """Rows NAME_to_PERCENT; SAAR goes on where the row has it."""
    for name in names.split():
        script = "albar.py --baseline"
        if name in ("smad", "combined"):
            script = "smad.py --aspect none"
        for percent in percents:
            target = f"data/toy0/target{percent}"
            ROWS[f"{name}_to_{percent}"] = Row(
                ROWS[name].label,
                f"{script} --toy --train {target}/train.txt --val {target}/val.txt "
                f"--weights {{{name}}} --epochs 30",
                "--shuffles 0",
            )


fine_tuned(FINE_TUNED, TARGETS)
fine_tuned("plain sdn", (20, 40, 80, 100))
vary(f"{FINE_TUNED} web_all", "frozen", step="frozen")

# Hara et al.: trained from random weights on a fine-grained set or on the biased one, on all of it
# or on a quarter, then fine-tuned.
SCRATCH = "albar.py --baseline --toy --weights none --epochs 24"
FINE = "--root data/fine/toy0 --val data/fine/toy0/val.txt"
ROWS |= {
    "from_fine": Row("fine-grained", f"{SCRATCH} --train data/fine/toy0/train.txt {FINE}"),
    "from_fine_400": Row(
        "fine-grained, a quarter", f"{SCRATCH} --train data/quarter-fine/train.txt {FINE}"
    ),
    "from_biased": Row("biased", SCRATCH),
    "from_biased_400": Row(
        "biased, a quarter", f"{SCRATCH} --train data/quarter-biased/train.txt --root data/toy0"
    ),
}
fine_tuned("from_fine from_fine_400 from_biased from_biased_400", (0, 90))

# Real footage: trained on nine classes of UCF101, then fine-tuned on J-HMDB.
REAL = (
    "--toy --weights {weights} --epochs 30 --frames 8 --stride 4 --size 64 --resize 72 --flip 0.5 "
    "--val '' --val-share 0.05 --train data/real/{list}.txt"
)
ON_UCF9 = "--test data/real/ucf9/test01.txt"
ON_JHMDB = "--test data/real/jhmdb/test.txt --humans data/real/humans.jsonl"
SCENES = "data/real/scenes"
METHODS = {
    "plain": "albar.py --baseline",
    "sdn": f"sdn.py --w-ent 0 --scenes {SCENES}",
    "smad": f"smad.py --aspect scene={SCENES}",
    "albar": "albar.py",
}
for name, method in METHODS.items():
    label = ROWS[name].label
    flags = REAL.format(weights="none", list="ucf9/train01")
    ROWS[f"real_{name}_ucf9"] = Row(label, f"{method} {flags}", ON_UCF9)
    plain = "albar.py --baseline"
    if name == "smad":
        plain = "smad.py --aspect none"  # it keeps SAAR
    flags = REAL.format(weights=f"{{real_{name}_ucf9}}", list="jhmdb/train")
    ROWS[f"real_{name}_jhmdb"] = Row(label, f"{plain} {flags}", ON_JHMDB)

# Real footage: SCUBA of J-HMDB, by its actors' masks and by the boxes around them. All rows start
# from the weights of the embedded data set, which have seen motion.
JHMDB = (
    "--toy --epochs 30 --frames 8 --stride 4 --size 64 --resize 72 --flip 0.5 --val '' "
    "--val-share 0.05 --train data/real/jhmdb/train.txt"
)


def scuba_of(folder):
    sets = " ".join(f"{name}={folder}/{name}.txt" for name in ("photos", "textures", "sinusoid"))
    return f"{ON_JHMDB} --scuba {sets} --conflfg {folder}/conflfg.txt"


JHMDB_SCENES = "data/real/scenes-jhmdb"
for name, flags in {
    "plain": "albar.py --baseline",
    "be": "albar.py --baseline --augment be",
    "actorcutmix": "albar.py --baseline --augment actorcutmix --masks data/real/jhmdb/masks",
    "fame": "albar.py --baseline --augment fame",
    "stillmix_bank": "albar.py --baseline --augment stillmix --bank data/real/bank",
    "sdn": f"sdn.py --scenes {JHMDB_SCENES} --humans data/real/humans.jsonl",
    "smad": f"smad.py --aspect scene={JHMDB_SCENES}",
    "albar": "albar.py",
    "albar_stillmix": "albar.py --augment stillmix",
}.items():
    row = Row(ROWS[name].label, f"{flags} {JHMDB}", scuba_of("data/real/scuba"))
    ROWS[f"{name}_jhmdb"] = row
    if name in ("plain", "stillmix_bank", "albar", "albar_stillmix"):
        ROWS[f"{name}_boxes"] = replace(row, measure=scuba_of("data/real/scuba-boxes"))
# SCUBA of the training videos, each over three backgrounds, for as many steps as the other rows.
flags = JHMDB.replace("jhmdb/train", "scuba-train/all").replace("--epochs 30", "--epochs 10")
ROWS["on_scuba_jhmdb"] = Row(
    "trained on SCUBA", f"albar.py --baseline {flags}", scuba_of("data/real/scuba")
)
ENDINGS["boxes"] = "J-HMDB by boxes"

# The other measurements.
LEAK = "--test data/toy0/test.txt --scuba leak=data/toy0/leak.txt"
vary("plain albar stillmix", "leak", measure=LEAK)
vary("plain sdn saar smad", "cam", measure="--videos 1", step="cam")
vary("plain albar", "ig", measure="--videos 1 --map ig", step="cam")
vary("smad", "mask", measure="--videos 1 --map actionness", step="cam")

# What must be made before a run whose flags name it.
TEACHER = (
    "python omnidebias.py --baseline {flags} --out {out}-teacher --overwrite && "
    "python omnidebias.py teach {items} --run {out}-teacher --out {out}-predictions && "
    "python omnidebias.py select {items} --labels data/toy0/scenes --teacher {out}-predictions "
    "--agree 0 --out {out}"
)
BANK = (
    "rm -rf {out}.part && python albar.py stillbank --run {run} --out {out}.part && "
    "mv {out}.part {out}"
)
POOL = "cat data/toy0/train.txt data/toy0/val.txt data/toy0/test.txt data/toy0/rare.txt"
SPLIT = "python smad.py split {out}.txt --root data/toy0 --classes 8 --val-size 50 --out {out}"
QUARTER = (
    "rm -rf {out}.part && mkdir {out}.part && cp {world}/classes.txt {out}.part && "
    "head -400 {world}/train.txt > {out}.part/train.txt && mv {out}.part {out}"
)
TOY_FILES = ("truth.npz", "weights-tiny.pt", "weights-tsn_tiny.pt", "web-clips", "web-images")
MAKE = {
    "data/toy0": "python tests/toy.py " + " ".join(f"data/toy0/{name}" for name in TOY_FILES),
    "data/toy0-bank": "python albar.py --baseline --frames 1 --out data/toy0-frame --overwrite && "
    + BANK.format(run="data/toy0-frame", out="data/toy0-bank"),
    "data/db": f"{POOL} > data/db.txt && {SPLIT.format(out='data/db')} --labels "
    "scene=data/toy0/scenes --train-size 200 --overlap 0 0.25 0.5 0.75 1",
    "data/db/web-clips": TEACHER.format(
        flags=DB, items="data/toy0/web-clips.txt", out="data/db/web-clips"
    ),
    "data/db/web-images": TEACHER.format(
        flags=f"{DB} {TSN_TRAINING}", items="data/toy0/web-images.txt", out="data/db/web-images"
    ),
    "data/both": f"{POOL} > data/both.txt && {SPLIT.format(out='data/both')} --labels {LABELS} "
    "--train-size 180 --overlap 0 1",
    "data/weak/train.txt": "mkdir -p data/weak && "
    "cat data/toy0/pretrain.txt data/toy0/train.txt > data/weak/part && "
    "mv data/weak/part data/weak/train.txt",
    "data/quarter-fine": QUARTER.format(world="data/fine/toy0", out="data/quarter-fine"),
    "data/quarter-biased": QUARTER.format(world="data/toy0", out="data/quarter-biased"),
    "data/clear/toy0": "python tests/toy.py data/clear/toy0/scenes --scene-noise 0.2",
    "data/noisy/toy0": "python tests/toy.py data/noisy/toy0/scenes --scene-noise 1.5",
}
MAKE["data/real/bank"] = (
    f"python albar.py --baseline {JHMDB} --frames 1 --out data/real/frame --overwrite && "
    + BANK.format(run="data/real/frame", out="data/real/bank")
)
for out, flags in {
    "scuba": "test.txt --masks data/real/jhmdb/masks --conflfg",
    "scuba-boxes": "test.txt --masks data/real/humans.jsonl --conflfg",
    "scuba-train": "train.txt --masks data/real/jhmdb/masks --seed 1",
}.items():
    part = f"data/real/{out}.part"
    MAKE[f"data/real/{out}"] = (
        f"python albar.py scuba data/real/jhmdb/{flags} --backgrounds data/real/photos "
        f"data/real/textures sinusoid --out {part} && rm -f data/real/jhmdb/benchmark.json && "
        f"cat {part}/photos.txt {part}/textures.txt {part}/sinusoid.txt > {part}/all.txt && "
        f"mv {part} data/real/{out}"
    )
MAKE["data/real"] = "python tests/real.py ${REAL:?the folder of jhmdb and ucf9: see tests/real.py}"
MAKE["data/toy0/birds"] = "python tests/toy.py data/toy0/birds"
for percent in (0, 20, 40, 60, 80, 90, 100):
    MAKE[f"data/toy0/target{percent}"] = f"python tests/toy.py data/toy0/target{percent}"
for key, flags in BIASES.items():
    MAKE[f"data/{key}/toy0"] = f"python tests/toy.py data/{key}/toy0/truth.npz {flags}"
for number in range(FIRST_WORLD, FIRST_WORLD + 5):
    weights = f"data/toy{number}/weights-tiny.pt"
    MAKE[weights] = f"python tests/toy.py {weights}"
    web_clips = f"data/toy{number}/web-clips"
    MAKE[web_clips] = f"python tests/toy.py {weights} {web_clips}"


# ---- Tables and claims ---------------------------------------------------------------------------
MAIN_CLAIMS = """
    C34 3D: IID far above rare (paper: 24.1)
        plain.iid - plain.rare > 15
    C39 SMAD: rare up, IID at a small loss
        rare: smad > plain
        smad.iid > plain.iid - 2
    C41 OmniDebias: rare, IID up, and rare more
        rare: omni > plain
        iid: omni > plain
        omni.rare - plain.rare > omni.iid - plain.iid
    C42 their combination is the best on rare
        rare: combined > omni
        rare: combined > smad
    C43 and below OmniDebias on IID
        iid: omni > combined
    C47 web data: the gain on rare is over twice that on IID
        omni.rare - plain.rare > 2 * omni.iid - 2 * plain.iid
    C50 rare: SMAD > SDN > plain
        rare: smad > sdn > plain
        because most of SDN's gain is that of its masked humans (C17), whose boxes are true here
    C101 rare: ALBAR with StillMix > ALBAR > StillMix > plain
        rare: albar_stillmix > albar > stillmix > plain
        because StillMix needs longer training: at twice the length ALBAR with StillMix leads
    C22 where the humans are masked SDN is less often right, and less sure
        masked: plain > sdn
        masked_entropy: sdn > plain
    """
ALBAR_CLAIMS = """
    C85 contrasted: ALBAR > StillMix > plain
        contrasted: albar > stillmix > plain
    C86 SCUBA: ALBAR > StillMix > plain
        scuba: albar > stillmix > plain
    C87 SCUFO: ALBAR < StillMix < plain
        scufo: plain > stillmix > albar
    C87b and nearer to chance
        off_chance: plain > stillmix > albar
    C88 Confl-FG: ALBAR > StillMix > plain
        conflfg: albar > stillmix > plain
    C89 contrasted: ALBAR is above StillMix (paper: by 12.9)
        contrasted: albar > stillmix
    C90 IID: ALBAR costs, StillMix on top restores it
        iid: plain > albar
        iid: albar_stillmix > albar
        because StillMix needs longer training: at twice the length it costs no IID beyond noise
    C91 contrasted: StillMix on top adds
        contrasted: albar_stillmix > albar
        contrasted: albar_stillmix > stillmix
        because StillMix needs longer training: at twice the length ALBAR with StillMix leads
    """


def repeated(claims, letter, suffix):
    """The same claims of the rows ROW_SUFFIX, numbered with a letter, where these rows exist."""
    lines = []
    for claim in Table("", "", "", claims=claims).read_claims():
        tests = []
        for test in claim.tests:
            for row, _ in terms(test):
                test = re.sub(rf"\b{row}\.", f"{row}_{suffix}.", test)
            tests.append(test)
        if all(row in ROWS for test in tests for row, _ in terms(test)):
            lines += [f"{claim.number}{letter} {claim.text}", *tests]
    return "\n".join(lines)


TABLES = {}
TABLES["main"] = Table(
    "All methods from one start with one recipe",
    text="Every row has the start weights, the optimiser and the steps of the first; the last two "
    "have the steps of the method that they start from before their own. MAAT is SMAD without "
    "SAAR, a stage that ALBAR has not. ALBAR's w_adv is 0.08, the paper's is 1; its w_ent 4 and "
    "w_gp 10 are the paper's. In rare's clips not the scene alone but object and look, too, follow "
    "the action less.",
    metrics="iid scuba scufo conflfg contrasted rare off_chance masked scene_probe log_ratio",
    seeds=5,
    rows="""
    plain
    stillmix
    sdn
    smad
    omni
    combined
    albar
    albar_stillmix
    albar_on_maat
    albar_on_omni
    """,
    claims=MAIN_CLAIMS,
)
TABLES["main-all"] = Table(
    "All methods, every measurement",
    metrics="iid scuba conflfg rare scufo off_chance contrasted masked masked_entropy scene_probe "
    "adversary independence independence_less_floor amplified separation separation_less_floor "
    "sufficiency sufficiency_less_floor shuffled log_ratio",
    seeds=5,
    rows=TABLES["main"].rows,
)
TABLES["main-long"] = Table(
    "All methods, twice as long (24 epochs)",
    metrics="iid scuba scufo conflfg contrasted rare off_chance masked scene_probe log_ratio",
    rows="""
    plain_long
    stillmix_long
    sdn_long
    smad_long
    omni_long
    combined_long
    albar_long
    albar_stillmix_long
    albar_on_maat_long
    albar_on_omni_long
    """,
    claims=repeated(MAIN_CLAIMS + ALBAR_CLAIMS, "l", "long"),
)
TABLES["main-worlds"] = Table(
    "All methods, each seed in a world of its own",
    text="Worlds 3 to 7, each with its own scenes, objects, looks, start weights and web lists: ± "
    "includes these, too. Nothing was chosen on them.",
    metrics="iid scuba scufo conflfg contrasted rare off_chance masked scene_probe log_ratio",
    seeds=5,
    rows="""
    plain_world
    stillmix_world
    sdn_world
    smad_world
    omni_world
    combined_world
    albar_world
    """,
    claims=repeated(MAIN_CLAIMS + ALBAR_CLAIMS, "w", "world"),
)
TABLES["albar-1"] = Table(
    "ALBAR, Table 1: augmentations, SDN and ALBAR (HMDB51)",
    text="StillMix lays a random frame of another clip over a clip, as in ALBAR's code, or one of "
    "its bank, which a network of single frames has chosen. Every augmentation has one "
    "probability, 0.5, which was chosen for StillMix (Li et al.: 0.25 to 0.75, by method and data "
    "set). Human boxes are true. ALBAR's w_adv is 0.08, the paper's 1. The paper's 27.84 of BE is "
    "its plain row's, and its Table 7 has another.",
    metrics="iid scuba scufo conflfg contrasted rare",
    seeds=5,
    paper="IID / SCUBA / SCUFO / Confl-FG / contrasted",
    rows="""
    plain           73.9 / 43.9 / 20.5 / 36.6 / 27.8
    mixup           74.6 / 43.1 / 21.2 / 36.6 / 26.1
    videomix        73.3 / 39.4 / 20.4 / 32.7 / 23.1
    sdn             74.7 / 40.0 / 20.2 / 34.9 / 22.9
    be              74.3 / 43.6 / 20.0 / 36.0 / 27.8
    actorcutmix     74.1 / 46.8 / 22.1 / 37.0 / 28.1
    fame            73.8 / 51.4 / 26.9 / 39.6 / 29.7
    stillmix_bank   74.8 / 51.8 / 13.4 / 47.4 / 40.3
    stillmix
    albar           72.8 / 53.5 / 1.5 / 48.1 / 53.2
    albar_stillmix  74.3 / 54.2 / 1.4 / 47.1 / 53.7
    """,
    claims=ALBAR_CLAIMS
    + """
    C85b contrasted: StillMix > FAME > ActorCutMix > plain > Mixup > VideoMix > SDN
        contrasted: stillmix_bank > fame > actorcutmix > plain > mixup > videomix > sdn
    C85c ALBAR above StillMix with its bank
        contrasted: albar > stillmix_bank
    C92 a new background alone: SCUBA rises, and SCUFO too
        scuba: fame > plain
        scuba: actorcutmix > plain
        scufo: fame > plain
        scufo: actorcutmix > plain
    C93 SDN does not help: SCUBA, contrasted below plain
        scuba: plain > sdn
        contrasted: plain > sdn
    C102 IID almost kept: ALBAR within 2 points
        albar.iid > plain.iid - 2
    C104 on each background contrasted is ALBAR > StillMix > plain
        contrasted_photo: albar > stillmix > plain
        contrasted_texture: albar > stillmix > plain
        contrasted_sinusoid: albar > stillmix > plain
    C97 a leak of the scene (boxes for masks) lifts plain more than ALBAR
        plain_leak.scuba - plain.scuba_sinusoid > albar_leak.scuba - albar.scuba_sinusoid
    C97b and StillMix more than ALBAR
        stillmix_leak.scuba - stillmix.scuba_sinusoid > albar_leak.scuba - albar.scuba_sinusoid
    C120 integrated gradients: plain looks at the actor as much as ALBAR, and yet errs by looks
        plain_ig.inside ~ albar_ig.inside +- 5
        conflfg: albar > plain
    """,
)
TABLES["albar-3"] = Table(
    "ALBAR, Table 3: its losses",
    text="w_adv is 0.08, the paper's is 1.",
    metrics="iid scuba scufo conflfg contrasted",
    seeds=5,
    paper="IID / SCUBA / SCUFO / Confl-FG / contrasted",
    rows="""
    plain    73.9 / 43.9 / 20.5 / 36.6 / 27.8
    adv      72.6 / 42.3 / 0.0 / 32.8 / 42.3
    ent      71.6 / 46.0 / 3.0 / 38.4 / 44.3
    gp       72.1 / 41.1 / 14.7 / 35.2 / 29.2
    adv_ent  72.2 / 46.8 / 0.5 / 41.1 / 46.7
    adv_gp   71.7 / 45.9 / 0.0 / 38.5 / 45.9
    ent_gp   73.9 / 49.1 / 9.7 / 42.9 / 41.1
    albar    72.8 / 53.5 / 1.5 / 48.1 / 53.2
    """,
    claims="""
    C105 adv alone flips labels: SCUFO below chance, SCUBA not above plain
        adv.scufo < 12.5
        adv.scuba < plain.scuba + 1
        because training by adv alone collapses here: no label is flipped
    C106 ent alone helps
        contrasted: ent > plain
    C107 gp alone changes little
        gp.contrasted ~ plain.contrasted +- 3
    C108 adv + ent above either
        contrasted: adv_ent > adv
        contrasted: adv_ent > ent
    C109 adv + gp above adv
        contrasted: adv_gp > adv
    C110 ent + gp: the best IID of the debiased; SCUFO above ent
        iid: ent_gp > adv
        iid: ent_gp > ent
        iid: ent_gp > gp
        iid: ent_gp > adv_ent
        iid: ent_gp > adv_gp
        iid: ent_gp > albar
        scufo: ent_gp > ent
    C111 all three above every other
        contrasted: albar > plain
        contrasted: albar > adv
        contrasted: albar > ent
        contrasted: albar > gp
        contrasted: albar > adv_ent
        contrasted: albar > adv_gp
        contrasted: albar > ent_gp
    """,
)
TABLES["albar-4"] = Table(
    "ALBAR, Table 4: the static frame",
    text="The row ALBAR has the middle frame, and w_adv 0.08 (the paper: 1). In a fifth of the "
    "clips the first frames show no actor, in another fifth the last.",
    metrics="iid scuba scufo conflfg contrasted",
    paper="IID / SCUBA / SCUFO / Confl-FG / contrasted",
    rows="""
    albar         72.8 / 53.5 / 1.5 / 48.1 / 53.2
    random_frame  73.2 / 53.2 / 0.4 / 49.8 / 53.0
    first_frame   72.8 / 50.9 / 0.2 / 45.6 / 50.9
    last_frame    72.7 / 49.5 / 0.4 / 42.4 / 49.4
    """,
    claims="""
    C112 contrasted: middle and random above first and last
        contrasted: albar > first_frame
        contrasted: albar > last_frame
        contrasted: random_frame > first_frame
        contrasted: random_frame > last_frame
    """,
)
TABLES["albar-10"] = Table(
    "ALBAR, Tables 10 to 12: its weights",
    text="ALBAR has 0.08, 4, 10, where the paper has 1, 4, 10. The rows ent + gp, adv + gp and adv "
    "+ ent have one weight 0; the paper gives plain training there, and has random static frames "
    "in these tables.",
    metrics="iid scuba scufo conflfg contrasted",
    paper="contrasted (its weights x 0.5, 1, 2, 4; 0 is plain)",
    rows="""
    plain         27.8
    ent_gp
    w_adv_half    46.6
    albar         53.0
    w_adv_double  44.5
    w_adv_four    27.8
    adv_gp
    w_ent_half    51.7
    w_ent_double  49.3
    w_ent_four
    adv_ent
    w_gp_half     49.8
    w_gp_double   48.8
    w_gp_four
    gp_full
    w_paper
    """,
    claims="""
    C113 w_adv: contrasted peaks at 1, IID falls with it
        contrasted: albar > w_adv_half > ent_gp
        contrasted: albar > w_adv_double > w_adv_four
        trend iid: w_adv_half > albar > w_adv_double > w_adv_four
    C114 w_ent: contrasted peaks at 4
        contrasted: albar > w_ent_half > adv_gp
        contrasted: albar > w_ent_double
    C115 w_gp: contrasted peaks at 10
        contrasted: albar > w_gp_half > adv_ent
        contrasted: albar > w_gp_double
    """,
)
TABLES["albar-fig6"] = Table(
    "ALBAR, Fig. 6: does the gradient penalty steady training?",
    text="SCUBA of the test clips is evaluated after each epoch (the paper: of validation clips), "
    "SCUFO by their middle frames. Unrest: the mean change of the contrasted accuracy from epoch "
    "to epoch, in the second half of the training, in points.",
    metrics="scuba contrasted unrest",
    seeds=5,
    rows="""
    adv_ent_watch
    albar_watch
    """,
    claims="""
    C116 the penalty steadies training: contrasted accuracy moves less from epoch to epoch
        unrest: adv_ent_watch > albar_watch
    """,
)
TABLES["albar-9"] = Table(
    "ALBAR, Table 9: images like Waterbirds",
    text="A bird's kind is its shape; in training 95 % are on their own place, at test half; both "
    "kinds are as many (really, a quarter are waterbirds). The static clip is the place without "
    "the bird. The small network, from random weights; the paper has ResNet-18 of ImageNet. ALBAR "
    "ends at 96 % of the training images, about what the place alone tells, plain at 99 %.",
    metrics="iid group_waterbird_water group_waterbird_land group_landbird_land "
    "group_landbird_water worst_group",
    seeds=5,
    paper="waterbirds on water / on land / landbirds on land / on water",
    rows="""
    birds        92.7 / 50.0 / 99.2 / 76.5
    birds_albar  93.0 / 59.5 / 98.7 / 78.0
    """,
    claims="""
    C119 both minorities and the worst group gain
        group_waterbird_land: birds_albar > birds
        group_landbird_water: birds_albar > birds
        worst_group: birds_albar > birds
        because it reads the place where it sees a bird, and is uniform where it sees none
    C119b the majorities change little
        birds_albar.group_waterbird_water ~ birds.group_waterbird_water +- 3
        birds_albar.group_landbird_land ~ birds.group_landbird_land +- 3
    """,
)
TABLES["sdn-5"] = Table(
    "SDN, Table 5: its losses",
    text="The 2D network of C20 is the same one on clips of one frame.",
    metrics="iid rare scuba contrasted masked masked_entropy scene_probe adversary",
    seeds=5,
    paper="HMDB51 after transfer",
    rows="""
    plain    53.6
    sdn_ent  55.1
    sdn_adv  56.2
    sdn      56.7
    """,
    claims="""
    C3 a fresh scene probe falls
        scene_probe: plain > sdn_adv
        scene_probe: plain > sdn
    C16 rare (paper: HMDB51 after transfer): L_Ent helps alone
        rare: sdn_ent > plain
    C17 rare (paper: after transfer): L_Adv > L_Ent > neither
        rare: sdn_adv > sdn_ent > plain
        because the boxes of the humans are true here; better scene labels do not help L_Adv
    C18 rare (paper: after transfer): both above each
        rare: sdn > sdn_adv
        rare: sdn > sdn_ent
    C20 a 3D network gains, and a 2D one
        rare: sdn > plain
        rare: frame_sdn > frame
    C21 class activation maps move to the actor
        inside: sdn_cam > plain_cam
    """,
)
TABLES["sdn-4"] = Table(
    "SDN, Table 4 and Sec. 4.2: scene labels and lambda, without L_Ent",
    text="Of the scene labels' first guesses 68 % are right, of the clear ones all, of the noisy "
    "ones 28 %.",
    metrics="iid rare scuba contrasted masked masked_entropy scene_probe adversary",
    paper="HMDB51 after transfer",
    rows="""
    plain      53.6
    sdn_hard   54.5
    sdn_adv    56.2
    sdn_watch
    sdn_lam1
    sdn_lam2
    sdn_clear
    sdn_noisy
    """,
    claims="""
    C14 rare (paper: after transfer): soft > hard > none
        rare: sdn_adv > sdn_hard > plain
    C23 an inner lambda is the best: 0.5 above 0 and 2
        rare: sdn_adv > sdn_watch
        rare: sdn_adv > sdn_lam2
    C3b the adversary's own accuracy falls, against one that only watches
        adversary: sdn_watch > sdn_adv
    """,
)
TABLES["smad-7"] = Table(
    "SMAD, Table 7: MAAT and SAAR",
    metrics="iid rare scuba contrasted masked scene_probe",
    seeds=5,
    paper="ARAS-64",
    rows="""
    plain       51.0
    saar        51.6
    maat        55.8
    smad        58.4
    """,
    claims="""
    C66 rare: both > MAAT > SAAR > neither
        rare: smad > maat > saar > plain
    C68 rare: SAAR gains more on top of MAAT
        smad.rare - maat.rare > saar.rare - plain.rare
    C75 class activation maps move to the actor, the mask is there
        inside: smad_cam > plain_cam
        inside: smad_cam > saar_cam
        smad_mask.inside > smad_mask.area
    """,
)
TABLES["smad-6"] = Table(
    "SMAD, Sec. 5.1 and 6.1: larger weights, and other scene labels",
    text="Four times the weights of 0.5, without SAAR and with it. Of the scene labels' first "
    "guesses 68 % are right, of the clear ones all, of the noisy ones 28 %.",
    metrics="iid rare scuba contrasted masked scene_probe",
    rows="""
    maat
    maat_w2
    smad
    smad_w2
    maat_scene
    maat_clear
    maat_noisy
    """,
    claims="""
    C70 with four times the weight SAAR loses less IID
        smad_w2.iid - smad.iid > maat_w2.iid - maat.iid
    C74 the labels' source matters little (paper: between three networks, by 0.3 % at most)
        maat_clear.rare ~ maat_scene.rare +- 3
        maat_noisy.rare ~ maat_scene.rare +- 3
    """,
)
TABLES["smad-4"] = Table(
    "SMAD, Table 4: independence, separation, sufficiency",
    text="Less floor: less the value after the scenes are shuffled.",
    metrics="independence amplified amplified_less_floor separation separation_less_floor "
    "sufficiency sufficiency_less_floor",
    seeds=5,
    paper="independence (amplified) / separation / sufficiency",
    rows="""
    plain     0.498 (+0.011) / 0.376 / 0.356
    smad      0.490 (+0.003) / 0.373 / 0.366
    omni      0.496 (+0.009) / 0.334 / 0.321
    combined  0.491 (+0.004) / 0.321 / 0.327
    """,
    claims="""
    C52 I(Y';S) - I(Y;S): plain > SMAD, which is nearer to 0
        amplified_less_floor: plain > smad
        abs(plain.amplified_less_floor) > abs(smad.amplified_less_floor)
        because plain training amplifies nothing here, so that SMAD has nothing to take away
    C53 separation: plain > SMAD > OmniDebias
        separation_less_floor: plain > smad > omni
    C54 sufficiency: worse by SMAD, better by web data
        sufficiency_less_floor: smad > plain > omni
    C55 OmniDebias lowers all three
        amplified_less_floor: plain > omni
        abs(plain.amplified_less_floor) > abs(omni.amplified_less_floor)
        separation_less_floor: plain > omni
        sufficiency_less_floor: plain > omni
    """,
)
TABLES["smad-3"] = Table(
    "SMAD, Tables 3 and 7: re-distributed by scene (K200db)",
    text="IID is the validation list of training's scenes, rare (the paper's K200db-val) that of "
    "scenes which training never shows with the action.",
    metrics="iid rare",
    paper="K200db-val",
    rows="""
    plain_db  51.9
    sdn_db    54.0
    saar_db   52.7
    maat_db   54.3
    smad_db   55.0
    """,
    claims="""
    C34b 3D: IID above K200db-val
        plain_db.iid > plain_db.rare
    C39b SMAD: K200db-val up
        rare: smad_db > plain_db
    C49 K200db-val: SMAD > SDN > plain
        rare: smad_db > sdn_db > plain_db
    C67 K200db-val: both > MAAT > SAAR > neither
        rare: smad_db > maat_db > saar_db > plain_db
    C68b K200db-val: SAAR gains no more on top of MAAT
        smad_db.rare - maat_db.rare ~ saar_db.rare - plain_db.rare +- 3
    """,
)
TABLES["smad-fig3"] = Table(
    "SMAD, Fig. 3: accuracy by the share of scenes that training shows with the action",
    text="Rare is that of lists of which a share has scenes of training; of the last row none has.",
    metrics="iid rare",
    rows="""
    plain_db75
    plain_db50
    plain_db25
    plain_db
    """,
    claims="""
    C35 accuracy falls with the share
        trend rare: plain_db75 > plain_db50 > plain_db25 > plain_db
    """,
)
TABLES["smad-8"] = Table(
    "SMAD, Table 8: aspects, re-distributed by scene and object",
    text="Without SAAR.",
    metrics="iid rare",
    paper="K200-both-split",
    rows="""
    both_none    51.7
    both_object  52.9
    both_scene   53.2
    both_two     53.5
    both_five    53.8
    """,
    claims="""
    C71 rare: scene and object above each, each above none
        rare: both_two > both_scene > both_none
        rare: both_two > both_object > both_none
    C72 five aspects above two
        rare: both_five > both_two
    """,
)
TABLES["omnidebias-9"] = Table(
    "OmniDebias, Table 9 (clips, 3D): which part of the web",
    metrics="iid rare scuba contrasted scene_probe",
    seeds=5,
    paper="ARAS-64 / K200db-val / K200-val",
    rows="""
    plain     51.0 / 51.9 / 75.1
    web_bias
    web_mid
    web_rand  62.3 / 56.8 / 77.4
    web_all   63.4 / 58.5 / 78.3
    omni      64.7 / 59.8 / 78.1
    """,
    claims="""
    C80 rare: unbias > all > rand > none
        rare: omni > web_all > web_rand > plain
    C82 rare: the rarest third above all of the web
        rare: omni > web_all
    C83 the gap from IID to rare shrinks
        plain.iid - plain.rare > omni.iid - omni.rare
    C84 the whole web helps on rare and on IID
        rare: web_all > plain
        iid: web_all > plain
    """,
)
TABLES["omnidebias-9-db"] = Table(
    "OmniDebias, Tables 9 and 2 (clips, 3D): re-distributed by scene",
    text="Teacher and web lists were made from the split's own training list.",
    metrics="iid rare",
    paper="K200db-val / K200-val",
    rows="""
    plain_db     51.9 / 75.1
    bias_db
    mid_db
    rand_db      56.8 / 77.4
    all_db       58.5 / 78.3
    unbias_db    59.8 / 78.1 (Table 2: 60.7 / 78.7)
    smad_db      55.0 / 74.6
    combined_db  62.7 / 78.4
    """,
    claims="""
    C41b OmniDebias: K200db-val up
        rare: unbias_db > plain_db
    C42b the combination is the best
        rare: combined_db > unbias_db
        rare: combined_db > smad_db
    C48 the combination takes a quarter or more off the drop
        0.75 * (plain_db.iid - plain_db.rare) > combined_db.iid - combined_db.rare
    C81 K200db-val: unbias > all > rand > none; IID: all above unbias
        rare: unbias_db > all_db > rand_db > plain_db
        iid: all_db > unbias_db
    C82c K200db-val: the rarest third above all of the web
        rare: unbias_db > all_db
    C83c the gap from IID shrinks
        plain_db.iid - plain_db.rare > unbias_db.iid - unbias_db.rare
    C84b the whole web helps
        rare: all_db > plain_db
    """,
)
TABLES["omnidebias-9-2d"] = Table(
    "OmniDebias and SMAD, Tables 9, 2 and 1 (images, 2D)",
    metrics="iid rare scuba scene_probe",
    seeds=5,
    paper="ARAS-64 / K200db-val / K200-val",
    rows="""
    tsn           55.8 / 53.7 / 76.2
    tsn_bias      60.0 / 53.9 / 76.0
    tsn_mid       60.5 / 55.1 / 76.3
    tsn_rand      64.1 / 57.5 / 77.2
    tsn_all       65.5 / 58.4 / 77.8
    tsn_omni      68.3 / 60.0 / 77.4
    tsn_smad      60.3 / 55.7 / 75.5
    tsn_combined  70.9 / 62.0 / 78.1
    """,
    claims="""
    C33 2D: IID far above rare (paper: 20.4)
        tsn.iid - tsn.rare > 15
    C38 SMAD: rare up, IID at a small loss
        rare: tsn_smad > tsn
        tsn_smad.iid > tsn.iid - 2
    C40 OmniDebias: rare, IID up, and rare more
        rare: tsn_omni > tsn
        iid: tsn_omni > tsn
        tsn_omni.rare - tsn.rare > tsn_omni.iid - tsn.iid
    C42c their combination is the best on rare
        rare: tsn_combined > tsn_omni
        rare: tsn_combined > tsn_smad
    C77 rare: unbias > all > rand > mid > bias > none
        rare: tsn_omni > tsn_all > tsn_rand > tsn_mid > tsn_bias > tsn
    C79 IID: all above unbias; bias below none
        iid: tsn_all > tsn_omni
        iid: tsn > tsn_bias
    C82b rare: the rarest third above all of the web
        rare: tsn_omni > tsn_all
    C83b the gap from IID to rare shrinks
        tsn.iid - tsn.rare > tsn_omni.iid - tsn_omni.rare
    """,
)
TABLES["omnidebias-9-2d-db"] = Table(
    "OmniDebias and SMAD (images, 2D): re-distributed by scene",
    metrics="iid rare",
    paper="K200db-val / K200-val",
    rows="""
    tsn_db           53.7 / 76.2
    tsn_bias_db      53.9 / 76.0
    tsn_mid_db       55.1 / 76.3
    tsn_rand_db      57.5 / 77.2
    tsn_all_db       58.4 / 77.8
    tsn_unbias_db    60.0 / 77.4
    tsn_smad_db      55.7 / 75.5
    tsn_combined_db  62.0 / 78.1
    """,
    claims="""
    C33b 2D: IID above K200db-val
        tsn_db.iid > tsn_db.rare
    C38b SMAD: K200db-val up
        rare: tsn_smad_db > tsn_db
    C40b OmniDebias: K200db-val up
        rare: tsn_unbias_db > tsn_db
    C78 K200db-val: unbias > all > rand > mid > bias > none
        rare: tsn_unbias_db > tsn_all_db > tsn_rand_db > tsn_mid_db > tsn_bias_db > tsn_db
    C42d the combination is the best
        rare: tsn_combined_db > tsn_unbias_db
        rare: tsn_combined_db > tsn_smad_db
    C48b the combination takes a quarter or more off the drop
        0.75 * (tsn_db.iid - tsn_db.rare) > tsn_combined_db.iid - tsn_combined_db.rare
    C82d K200db-val: the rarest third above all of the web
        rare: tsn_unbias_db > tsn_all_db
    C83d the gap from IID shrinks
        tsn_db.iid - tsn_db.rare > tsn_unbias_db.iid - tsn_unbias_db.rare
    """,
)
TABLES["omnidebias-2"] = Table(
    "SMAD and OmniDebias, Table 2: weaker bias (the whole of Kinetics-400)",
    text="Trained on pretrain.txt and train.txt together.",
    metrics="iid rare",
    paper="ARAS / K400-val",
    rows="""
    plain_weak     51.5 / 68.3
    smad_weak      55.0 / 68.2
    omni_weak      60.2 / 71.0
    combined_weak  61.2 / 70.8
    """,
    claims="""
    C44 SMAD: rare up, by less than with the stronger bias, IID at a small loss
        rare: smad_weak > plain_weak
        smad.rare - plain.rare > smad_weak.rare - plain_weak.rare
        smad_weak.iid > plain_weak.iid - 2
    C45 OmniDebias: rare and IID up
        rare: omni_weak > plain_weak
        iid: omni_weak > plain_weak
    C46 the combination: IID up, the best on rare
        iid: combined_weak > plain_weak
        rare: combined_weak > omni_weak
        rare: combined_weak > smad_weak
    """,
)
TABLES["worlds"] = Table(
    "Hara et al., and ALBAR Sec. 4.1: plain training in worlds of other biases",
    text="Cross-entropy alone is the world of all other tables: --scene 1 --object 0.8 --look 0.8. "
    "The clips of rare are the same in all.",
    metrics="iid rare shuffled log_ratio scufo contrasted",
    rows="""
    plain_fine
    plain_scene0
    plain_scene35
    plain_scene70
    plain
    plain_look0
    plain_look50
    plain_look95
    """,
    claims="""
    C24 the log ratio of a fine-grained set is above that of a generic one
        log_ratio: plain_fine > plain
    C25 the log ratio falls as the scene tells more
        trend log_ratio: plain_scene0 > plain_scene35 > plain_scene70 > plain
        because look and object tell the action in all four: without them it is far higher
    C27 where the scene tells, most of the accuracy survives the shuffle
        plain.shuffled > 0.7 * plain.iid
    C28 on a fine-grained set most of it is lost
        plain_fine.shuffled < 0.5 * plain_fine.iid
    C103 SCUFO grows with what the actor's look tells
        trend scufo: plain_look95 > plain > plain_look50 > plain_look0
    """,
)
GAINS = ", ".join(
    f"sdn_to_{percent}.iid / plain_to_{percent}.iid" for percent in (0, 20, 40, 60, 80, 90, 100)
)
TABLES["sdn-1"] = Table(
    "SDN, Table 1 and Fig. 4; SMAD, Table 6: fine-tuned on other data sets",
    text="Data sets of eight novel actions, 320 clips to train on, 240 to test; the scene is that "
    "usual for the action in 0, 60 or 90 % of the clips. All of the network is trained; SMAD's "
    "has SAAR, which SDN's and that of cross-entropy have not. C7 is told by the slope of the gain "
    "over the targets' order, from 0 to 100 %; `evaluate.py transfer` gives Pearson's r.",
    endings="to_0 to_60 to_90",
    metrics="iid",
    seeds=5,
    paper="Diving48 / HMDB51 / UCF101 (SDN, and SMAD Table 6)",
    rows="""
    plain     18.0 / 53.6 / 83.5
    sdn       20.5 / 56.7 / 84.5
    smad      20.9 / 57.2 / 84.7
    omni
    combined  22.6 / 61.2 / 88.2
    albar
    """,
    claims="""
    C4 SDN transfers better: HMDB51
        iid: sdn_to_60 > plain_to_60
    C5 UCF101
        iid: sdn_to_90 > plain_to_90
    C6 Diving48
        iid: sdn_to_0 > plain_to_0
    C7 the relative gain falls with the scene bias of the target
        GAINS
    C8 relative gains: Diving48 > HMDB51 > UCF101
        sdn_to_0.iid / plain_to_0.iid > sdn_to_60.iid / plain_to_60.iid
        sdn_to_60.iid / plain_to_60.iid > sdn_to_90.iid / plain_to_90.iid
    C62 SMAD > SDN
        iid: smad_to_0 > sdn_to_0
        iid: smad_to_60 > sdn_to_60
        iid: smad_to_90 > sdn_to_90
    C63 the rarest third of the web on top: better still
        iid: combined_to_0 > smad_to_0
        iid: combined_to_60 > smad_to_60
        iid: combined_to_90 > smad_to_90
    """.replace("GAINS", f"slope({GAINS}) < 0"),
)
TABLES["smad-5"] = Table(
    "SMAD, Table 5: what frozen features are worth elsewhere",
    text="The same data sets. A linear SVM on the features of 10 clips end to end; 5-way episodes "
    "on the one without scene bias.",
    metrics="shots1_0 shots5_0 svm_60 svm_90 svm_0",
    seeds=5,
    paper="FineGYM 1 shot / 5 shots / HMDB51 / UCF101 / Diving48",
    rows="""
    plain_frozen     42.2 / 52.9 / 49.9 / 84.3 / 17.3
    sdn_frozen
    smad_frozen      45.5 / 56.4 / 50.9 / 84.9 / 18.9
    web_all_frozen   46.6 / 58.4 / 54.3 / 88.4 / 19.8
    omni_frozen      47.1 / 59.5 / 55.9 / 88.8 / 20.9
    combined_frozen  51.7 / 62.1 / 57.2 / 89.9 / 22.3
    albar_frozen
    """,
    claims="""
    C56 1 shot: both > the rarest third of the web > all of it > SMAD > plain
        shots1_0: combined_frozen > omni_frozen > web_all_frozen > smad_frozen > plain_frozen
    C57 5 shots: likewise
        shots5_0: combined_frozen > omni_frozen > web_all_frozen > smad_frozen > plain_frozen
    C58 HMDB51: likewise
        svm_60: combined_frozen > omni_frozen > web_all_frozen > smad_frozen > plain_frozen
    C59 UCF101: likewise
        svm_90: combined_frozen > omni_frozen > web_all_frozen > smad_frozen > plain_frozen
    C60 Diving48: likewise
        svm_0: combined_frozen > omni_frozen > web_all_frozen > smad_frozen > plain_frozen
    C61 the rarest third above all of the web in all five
        shots1_0: omni_frozen > web_all_frozen
        shots5_0: omni_frozen > web_all_frozen
        svm_60: omni_frozen > web_all_frozen
        svm_90: omni_frozen > web_all_frozen
        svm_0: omni_frozen > web_all_frozen
    """,
)
TABLES["hara-2"] = Table(
    "Hara et al., Sec. 4.2: what to train on before fine-tuning",
    text="From random weights, 24 epochs on a set of which the scene, the object and the look tell "
    "nothing, or on the biased one, as large: in the paper the generic sets are larger. A quarter "
    "of the clips has a quarter of the steps. The fine-grained start is at or near chance on its "
    "own validation clips: from random weights the motion by itself is not learned in 24 epochs.",
    endings="to_0 to_90",
    metrics="iid",
    rows="""
    from_fine
    from_fine_400
    from_biased
    from_biased_400
    """,
    claims="""
    C29 for a fine-grained target fine-grained training is better
        iid: from_fine_to_0 > from_biased_to_0
        because the fine-grained start has learned next to nothing
    C30 for a target whose scenes tell, generic training is
        iid: from_biased_to_90 > from_fine_to_90
    C31 small sets transfer poorly
        iid: from_fine_to_0 > from_fine_400_to_0
        iid: from_fine_to_90 > from_fine_400_to_90
        iid: from_biased_to_0 > from_biased_400_to_0
        iid: from_biased_to_90 > from_biased_400_to_90
    C32 both: which set is better depends on the target
        iid: from_fine_to_0 > from_biased_to_0
        iid: from_biased_to_90 > from_fine_to_90
    """,
)
TABLES["real"] = Table(
    "Real footage: nine classes of UCF101, then fine-tuned on J-HMDB",
    text="The small network of all other tables, at 64 pixels, from random weights: no pretrained "
    "ones were at hand. Scenes are clusters of colours, human boxes those of J-HMDB's masks; SDN "
    "is without L_Ent, as UCF101's humans are not known. The log ratios are near 0: these networks "
    "ignore the order of the frames. `REAL=FOLDER` before the command says "
    "where the videos are (tests/real.py); they are not part of this repository.",
    endings="ucf9 jhmdb",
    metrics="iid shuffled log_ratio masked",
    rows="""
    real_plain
    real_sdn
    real_smad
    real_albar
    """,
    claims="""
    C4r SDN transfers better
        iid: real_sdn_jhmdb > real_plain_jhmdb
    C62r SMAD > SDN
        iid: real_smad_jhmdb > real_sdn_jhmdb
    """,
)


TABLES["real-scuba"] = Table(
    "Real footage: SCUBA of J-HMDB, ALBAR's Table 1",
    text="21 classes of HMDB51, the actors' masks of its released SCUBA (`albar.py scuba`). The "
    "photographs are frames of UCF101, in which people act, too, where the paper has places "
    "without any; the textures are drawn cells. The small network of all other tables, at 64 "
    "pixels, from the weights of the embedded data set, where the paper has 51 classes and Swin-T "
    "from Kinetics-400. SDN and SMAD have clusters of colours for scenes. The last row was trained "
    "on SCUBA of the training videos, with as many steps and the pictures of the test. Chance is "
    "4.8, and even that row is little above it: in so many steps it learns a tenth of its own "
    "clips, where plain training learns over a third of its own. The table thus ranks "
    "no methods, and what it says of C88 is no evidence; it shows that all steps run on real "
    "footage.",
    metrics="iid scuba scufo conflfg contrasted off_chance log_ratio",
    paper="HMDB51's IID / SCUBA / SCUFO / Confl-FG / contrasted",
    rows="""
    plain_jhmdb           73.9 / 43.9 / 20.5 / 36.6 / 27.8
    sdn_jhmdb             74.7 / 40.0 / 20.2 / 34.9 / 22.9
    smad_jhmdb
    be_jhmdb              74.3 / 43.6 / 20.0 / 36.0 / 27.8
    actorcutmix_jhmdb     74.1 / 46.8 / 22.1 / 37.0 / 28.1
    fame_jhmdb            73.8 / 51.4 / 26.9 / 39.6 / 29.7
    stillmix_bank_jhmdb   74.8 / 51.8 / 13.4 / 47.4 / 40.3
    albar_jhmdb           72.8 / 53.5 / 1.5 / 48.1 / 53.2
    albar_stillmix_jhmdb  74.3 / 54.2 / 1.4 / 47.1 / 53.7
    on_scuba_jhmdb
    """,
    claims="""
    C85r contrasted: ALBAR > StillMix > FAME > ActorCutMix > plain
        contrasted: albar_jhmdb > stillmix_bank_jhmdb > fame_jhmdb > actorcutmix_jhmdb > plain_jhmdb
    C86r SCUBA: ALBAR > StillMix > plain
        scuba: albar_jhmdb > stillmix_bank_jhmdb > plain_jhmdb
    C87r SCUFO: ALBAR < StillMix < plain
        scufo: plain_jhmdb > stillmix_bank_jhmdb > albar_jhmdb
    C88r Confl-FG: ALBAR > StillMix > plain
        conflfg: albar_jhmdb > stillmix_bank_jhmdb > plain_jhmdb
    C91r contrasted: StillMix on top of ALBAR adds
        contrasted: albar_stillmix_jhmdb > albar_jhmdb
    C92r a new background alone: SCUBA rises, and SCUFO too
        scuba: fame_jhmdb > plain_jhmdb
        scuba: actorcutmix_jhmdb > plain_jhmdb
        scufo: fame_jhmdb > plain_jhmdb
        scufo: actorcutmix_jhmdb > plain_jhmdb
    C93r SDN does not help: SCUBA, contrasted below plain
        scuba: plain_jhmdb > sdn_jhmdb
        contrasted: plain_jhmdb > sdn_jhmdb
    """,
)
TABLES["real-boxes"] = Table(
    "Real footage: boxes for masks, ALBAR's Table 8 against Table 2",
    text="The networks of the last table, on SCUBA by the actors' masks, and by the boxes around "
    "them, of which a share is scene. The paper compares them on UCF101.",
    endings="jhmdb boxes",
    metrics="scuba scufo contrasted",
    rows="""
    plain
    stillmix_bank
    albar
    albar_stillmix
    """,
    claims="""
    C94r masks: contrasted ALBAR with StillMix > ALBAR > StillMix > plain
        contrasted: albar_stillmix_jhmdb > albar_jhmdb > stillmix_bank_jhmdb > plain_jhmdb
    C95r masks: SCUBA in that order, SCUFO falls
        scuba: albar_stillmix_jhmdb > albar_jhmdb > stillmix_bank_jhmdb > plain_jhmdb
        scufo: plain_jhmdb > stillmix_bank_jhmdb > albar_jhmdb
    C97r boxes lift the plain network's SCUBA and SCUFO, and its SCUBA more than ALBAR's
        scuba: plain_boxes > plain_jhmdb
        scufo: plain_boxes > plain_jhmdb
        plain_boxes.scuba - plain_jhmdb.scuba > albar_boxes.scuba - albar_jhmdb.scuba
    C98r boxes: contrasted ALBAR with StillMix > StillMix > ALBAR > plain
        contrasted: albar_stillmix_boxes > stillmix_bank_boxes > albar_boxes > plain_boxes
    """,
)


# What `frozen` measures of a run on one target.
FROZEN = (
    "for part in train test; do python evaluate.py features {run} --test {target}/$part.txt "
    "--out {out}/$part || exit 1; done; python evaluate.py svm --train {out}/train/*.npz "
    "--test {out}/test/*.npz && python evaluate.py fewshot --test {out}/test/*.npz "
    "&& rm {out}/*/*.npz"
)


# ---- Running -------------------------------------------------------------------------------------
class Lab:
    """Runs what is missing. Threads may share it."""

    def __init__(self):
        self.locks = {}
        self.running = set()
        self.stopped = False
        self.failed = {}  # commands, and their last lines

    def lock(self, path):
        return self.locks.setdefault(str(path), Lock())

    def shell(self, command):
        """Run a command of this file in the repository; RuntimeError with its last line. What has
        failed is not tried again."""
        if self.stopped or command in self.failed:
            raise RuntimeError(self.failed.get(command, "stopped"))
        python = Path(sys.executable).parent
        env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{python}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.running.add(process)
        _, printed = process.communicate()
        self.running.remove(process)
        if process.returncode:
            last = (printed.strip().splitlines() or ["no message"])[-1]
            self.failed[command] = f"{command}: {last}"
            raise RuntimeError(self.failed[command])

    def stop(self):
        """End what runs, with its own processes; nothing else begins."""
        self.stopped = True
        for process in list(self.running):
            os.killpg(process.pid, signal.SIGKILL)

    def make(self, path):
        """Make a path of MAKE, once."""
        with self.lock(path):
            if not (ROOT / path).exists():
                self.make_needed(MAKE[path], path)
                self.shell(MAKE[path])

    def make_needed(self, command, target=""):
        """Make what a command names, but the target that it makes itself."""
        for path in MAKE:
            if path != target and re.search(rf"{re.escape(path)}(?![\w.-])", command):
                self.make(path)

    def train(self, row, seed):
        """Train a row, and first those that it starts from, unless that is done."""
        folder = row.folder(seed)
        flags = row.train.replace("toyN", f"toy{FIRST_WORLD + seed}")
        command = f"python {flags} --seed {seed} --out {folder} --overwrite"
        for name in re.findall(r"{(\w+)}", command):
            self.train(ROWS[name], seed)
            command = command.replace(f"{{{name}}}", f"{ROWS[name].folder(seed)}/last.pt")
        with self.lock(folder):
            if (ROOT / folder / "seconds").exists():
                return
            self.make("data/toy0")
            self.make_needed(command)
            start = time.monotonic()
            self.shell(command)
            seconds = time.monotonic() - start
            (ROOT / folder / "seconds").write_text(f"{seconds:.0f}\n")

    def measure(self, name, seed):
        """-> nothing, or why it failed"""
        row = ROWS[name]
        try:
            self.train(row, seed)
            self.make_needed(row.measure)
            out = row.figures_file(seed).parent
            if row.step == "frozen":
                self.measure_frozen(row, seed)
            else:
                self.shell(
                    f"python evaluate.py {row.step} {row.folder(seed)} {row.measure} --out {out}"
                )
        except RuntimeError as error:
            return f"{name}, seed {seed}: {error}"
        return ""

    def measure_frozen(self, row, seed):
        """frozen.json: what the run's features are worth on each of TARGETS."""
        figures_of_targets = {}
        for percent in TARGETS:
            target = f"data/toy0/target{percent}"
            out = row.folder(seed) / f"target{percent}"
            self.make_needed(target)
            self.shell(FROZEN.format(run=row.folder(seed), target=target, out=out))
            for step in ("svm", "fewshot"):
                file = ROOT / out / f"test/{row.folder(seed).name}-{step}.json"
                mean = json.loads(file.read_text())["row"]["mean"]
                for metric, value in mean.items():
                    figures_of_targets[f"{metric}_{percent}"] = value
        (ROOT / row.figures_file(seed)).write_text(json.dumps(figures_of_targets))


def run(names, seeds, jobs):
    """Run what is missing of tables, in their order; say what fails."""
    missing = []
    for name in names:
        for seed in range(seeds or TABLES[name].seeds):
            missing += [(row, seed) for row in TABLES[name].all_rows() if not figures(row, seed)]
    missing = list(dict.fromkeys(missing))
    failed = []
    lab = Lab()
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(lab.measure, *run) for run in missing]
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="run"):
                failed.append(task.result())
        finally:
            lab.stop()  # all is done, or this is interrupted
    failed = [line for line in failed if line]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return not failed


# ---- Figures -------------------------------------------------------------------------------------
def figures(name, seed):
    """{metric: figure} of a row's run, with _ for - in the names; {} where it is not done."""
    file = ROOT / ROWS[name].figures_file(seed)
    if not file.exists():
        return {}
    content = json.loads(file.read_text())
    if file.name == "cam.json":
        return content["table"][0]
    if file.name == "frozen.json":
        return content
    mean = content["row"]["mean"]
    values = {metric.replace("-", "_"): value for metric, value in mean.items()}
    if "--watch" in ROWS[name].train:
        values["unrest"] = unrest(ROOT / ROWS[name].folder(seed) / "log.jsonl")
    return values


def unrest(log):
    """Mean change from epoch to epoch of the contrasted accuracy on the watched lists, in the
    second half, in points"""
    contrasted = []  # of each epoch
    for line in log.read_text().splitlines():
        record = json.loads(line)
        watched = [key for key in record if re.fullmatch("watch/.*/contrasted", key)]
        if watched:
            contrasted.append(np.mean([record[key] for key in watched]))
    later = contrasted[len(contrasted) // 2 :]
    return float(100 * np.abs(np.diff(later)).mean())


def seeds_of(names, most=100):
    """The seeds that all these rows have, 0, 1, ..."""
    seeds = []
    for seed in range(most):
        if not all(figures(name, seed) for name in names):
            break
        seeds.append(seed)
    return seeds


def slope(*levels):
    """Of levels in order, (S,) each: for each seed the least-squares slope over their ranks"""
    places = np.arange(len(levels)) - (len(levels) - 1) / 2
    return np.tensordot(places, np.stack(levels), 1) / (places**2).sum()


@dataclass
class Outcome:
    test: str
    mean: float  # of left - right over seeds, paired
    half: float  # half of its 95 % t interval
    verdict: str  # holds, does not hold, within noise
    chance: float  # of a difference as far in the claimed direction, where there is none


def judge(test):
    """-> Outcome of one test; None where fewer than two seeds are done"""
    from evaluate import paired_difference

    rows = {row for row, _ in terms(test)}
    seeds = seeds_of(sorted(rows))
    if len(seeds) < 2:
        return None
    names = {"slope": slope}
    for row in rows:
        each = [figures(row, seed) for seed in seeds]
        columns = {}
        for metric in each[0]:
            values = [run[metric] for run in each]
            if all(isinstance(value, int | float) for value in values):
                columns[metric] = np.array(values)
        names[row] = SimpleNamespace(**columns)
    if not all(hasattr(names[row], metric) for row, metric in terms(test)):
        return None
    left, sign, right = re.split(r" ([<>~]) ", test)
    right, _, margin = right.partition(" +- ")
    # The tests are this file's own.
    left = np.broadcast_to(eval(left, names), len(seeds))
    right = np.broadcast_to(eval(right, names), len(seeds))
    mean, half = paired_difference(left, right)
    # By how much the claim is met.
    if sign == "~":
        met = float(margin) - abs(mean)
    elif sign == ">":
        met = mean
    else:
        met = -mean
    verdict = "within noise"
    if met > half:
        verdict = "holds"
    if met < -half:
        verdict = "does not hold"
    return Outcome(test, mean, half, verdict, chance_of(met, half, len(seeds)))


def chance_of(met, half, seeds):
    """Of a mean as far above 0 as `met`, by Student's t; half is half of its 95 % interval."""
    from evaluate import t95, t_share

    freedom = seeds - 1
    beyond = (1 - t_share(abs(met) / max(half, 1e-12) * t95(freedom), freedom)) / 2
    if met > 0:
        return beyond
    return 1 - beyond


def verdict_of(verdicts):
    """A claim holds where all of its tests hold, and does not where one does not."""
    if "does not hold" in verdicts:
        return "does not hold"
    if set(verdicts) == {"holds"}:
        return "holds"
    return "within noise"


def holm(outcomes, others=0):
    """The tests that hold after Holm's correction at 2.5 % on one side, for these and `others`
    more, as if none of the others held."""
    chances = {outcome.test: outcome.chance for outcome in outcomes}
    certain = set()
    for test in sorted(chances, key=chances.get):
        if chances[test] > 0.025 / (len(chances) + others - len(certain)):
            break
        certain.add(test)
    return certain


# ---- Printing ------------------------------------------------------------------------------------
def metrics_by_key():
    """{key: evaluate.Metric}"""
    from evaluate import GROUPS, Metric

    metrics = [metric for group in GROUPS.values() for metric in group]
    metrics.append(Metric("unrest", "unrest ↓"))
    metrics.append(Metric("worst_group", "worst group ↑"))
    for bird, place in product(("waterbird", "landbird"), ("water", "land")):
        metrics.append(Metric(f"group_{bird}_{place}", f"{bird}s on {place} ↑"))
    for percent, words in TARGETS.items():
        metrics.append(Metric(f"svm_{percent}", f"SVM, {words}"))
        for shots in (1, 5):
            metrics.append(Metric(f"shots{shots}_{percent}", f"shots: {shots}, {words}"))
    return {metric.key: metric for metric in metrics}


def on_gpu(name):
    """Was a run of a row trained on a GPU?"""
    for seed in seeds_of([name]):
        log = (ROOT / ROWS[name].folder(seed) / "log.jsonl").read_text()
        if json.loads(log.splitlines()[0])["device"] != "cpu":
            return True
    return False


def cell(name, metric, seeds):
    values = [figures(name, seed).get(metric) for seed in seeds]
    if not values or None in values:
        return "-"
    digits = metrics_by_key()[metric].digits
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ±{np.std(values, ddof=1):.{digits}f}"
    return text


def table_lines(name, metrics=""):
    """The Markdown table of what is done, of the table's own metrics if none are named; none where
    nothing is done."""
    table = TABLES[name]
    metrics = (metrics or table.metrics).split()
    headings = ["", "seeds"]
    for ending in table.endings.split() or [""]:
        for metric in metrics:
            words = metrics_by_key()[metric].label
            if ending:
                words = f"{ENDINGS[ending]}, {words}"
            headings.append(words)
    if table.paper:
        headings.append(f"paper: {table.paper}")
    lines = []
    for row, paper in table.paper_figures().items():
        names = table.names(row)
        seeds = seeds_of(names)
        if seeds:
            cells = [cell(name, metric, seeds) for name in names for metric in metrics]
            lines.append([ROWS[names[0]].label, str(len(seeds)), *cells])
            if table.paper:
                lines[-1].append(paper)
    if not lines:
        return []
    lines.insert(0, headings)
    if len(metrics) > 12:  # a row a metric
        lines = [list(column) for column in zip(*lines, strict=True)]
    return markdown(lines)


def markdown(lines):
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    rows.insert(1, "|---" * len(lines[0]) + "|")
    return rows


def judged(names):
    """{claim: its Outcomes} of those claims of tables of which every test can be told."""
    claims = {}
    for name in names:
        for claim in TABLES[name].read_claims():
            outcomes = [judge(test) for test in claim.tests]
            if all(outcomes):
                claims[claim] = outcomes
    return claims


def claim_lines(claims, certain):
    """A row a claim, and below it one for each of its comparisons."""
    lines = [["", "the paper's claim", "left - right, 95 % interval", ""]]
    for claim, outcomes in claims.items():
        verdict = verdict_of([outcome.verdict for outcome in outcomes])
        lines.append([claim.number, claim.text, "", f"**{verdict}**"])
        for outcome in outcomes:
            mark = " *" if outcome.test in certain else ""
            low = outcome.mean - outcome.half
            high = outcome.mean + outcome.half
            digits = 1 if max(abs(low), abs(high)) >= 1 else 3
            interval = f"{outcome.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            lines.append(["", f"`{outcome.test}`", interval, outcome.verdict + mark])
        if claim.why and verdict != "holds":
            lines.append(["", claim.why, "", ""])
    return markdown(lines)


AGAIN = {
    "w": "again in five other worlds",
    "l": "again at twice the length",
    "r": "on real footage",
}

# The numbers of each paper's claims.
PAPERS = {
    "SDN": range(1, 24),
    "Hara et al.": range(24, 33),
    "SMAD and OmniDebias": range(33, 85),
    "ALBAR": range(85, 122),
}


def read_verdicts(lines):
    """Of what claim_lines made: {claim's number: verdict}, {test: verdict}, the tests marked *"""
    claims = {}
    tests = {}
    certain = set()
    for line in lines:
        claim = re.fullmatch(r"\| (C\w+) \| .* \| \*\*(.+)\*\* \|", line)
        if claim:
            number, verdict = claim.groups()
            claims[number] = verdict
        comparison = re.fullmatch(r"\|  \| `(.+)` \| .* \| ([a-z ]+?)( \*)? \|", line)
        if comparison:
            test, verdict, mark = comparison.groups()
            tests[test] = verdict
            if mark:
                certain.add(test)
    return claims, tests, certain


def verdicts_of(claims):
    """{number: verdict} of {C1b: verdict}, the parts of one claim together"""
    parts = {}
    for name, verdict in claims.items():
        number = int(re.match(r"C(\d+)", name)[1])
        parts.setdefault(number, []).append(verdict)
    return {number: verdict_of(verdicts) for number, verdicts in parts.items()}


def count(claims):
    """`X hold, Y do not, Z are within noise` of {C1b: verdict}"""
    verdicts = list(verdicts_of(claims).values())
    return (
        f"{len(verdicts)} claims: {verdicts.count('holds')} hold, "
        f"{verdicts.count('does not hold')} do not, {verdicts.count('within noise')} are within "
        "noise"
    )


def count_lines(lines):
    """How many claims of the sections `lines` hold, and how many of their tests would by chance."""
    claims, tests, certain = read_verdicts(lines)
    first = {name: claims[name] for name in claims if name[-1] not in AGAIN}
    counts = [f"- {count(first)}."]
    for letter, where in AGAIN.items():
        again = {name: claims[name] for name in claims if name[-1] == letter}
        if again:
            counts.append(f"- Tested {where}, {count(again)}.")
    held = list(tests.values()).count("holds")
    failed = list(tests.values()).count("does not hold")
    counts.append(
        f"- They are made of {len(tests)} comparisons: {held} hold, {failed} do not. If all "
        f"differences were none, or\n  on the bound that is claimed, about "
        f"{0.025 * len(tests):.1f} would hold by chance. {len(certain)} hold after Holm's "
        "correction\n  for all that was done when their table was written (marked *)."
    )
    return counts


def paper_lines(lines):
    """The count of each paper, and the claims that have tests here and no runs yet."""
    claims, _, _ = read_verdicts(lines)
    first = {name: claims[name] for name in claims if name[-1] not in AGAIN}
    verdicts = verdicts_of(first)
    table = [["", "claims tested", "hold", "do not hold", "within noise"]]
    for paper, numbers in PAPERS.items():
        of_paper = [verdicts[number] for number in numbers if number in verdicts]
        cells = [of_paper.count(kind) for kind in ("holds", "does not hold", "within noise")]
        table.append([paper, *map(str, [len(of_paper), *cells])])
    waiting = []
    for name in TABLES:
        numbers = [claim.number for claim in TABLES[name].read_claims()]
        waiting += [number for number in numbers if number not in claims]
    if not waiting:
        return markdown(table)
    return [*markdown(table), "", f"Not run in full yet: {', '.join(waiting)}."]


def content_lines(titles):
    """A link to each section."""
    lines = []
    for title in titles:
        # As GitHub names a heading's place.
        place = re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-")
        lines.append(f"- [{title}](#{place})")
    return lines


def section(name, claims, certain):
    table = TABLES[name]
    lines = []
    if table.text:
        lines += [table.text, ""]
    lines += [f"`python tests/results.py {name}`", "", *table_lines(name), ""]
    names = {row: table.names(row) for row in table.paper_figures()}
    labels = {row: ROWS[names[row][0]].label for row in names}
    elsewhere = [labels[row] for row in names if any(map(on_gpu, names[row]))]
    if elsewhere:
        lines += [f"Trained on a GPU: {', '.join(elsewhere)}.", ""]
    missing = [labels[row] for row in names if not seeds_of(names[row])]
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    own = {claim: claims[claim] for claim in table.read_claims() if claim in claims}
    if own:
        lines += [*claim_lines(own, certain), ""]
    return lines


def written_sections():
    """{name: lines} of the tables that RESULTS.md has"""
    file = ROOT / "tests/RESULTS.md"
    if not file.exists():
        return {}
    sections = {}
    for part in file.read_text().split("\n## ")[1:]:
        command = re.search(r"^`python tests/results.py (\S+)`$", part, re.MULTILINE)
        if command:  # else it is a chapter of words
            _title, _empty, *lines = part.split("\n")
            sections[command[1]] = lines
    return sections


def sections_of(names):
    """{name: lines}, in the order of TABLES: of the tables in `names` what is done here, of the
    others what RESULTS.md has."""
    written = written_sections()
    done = [name for name in names if table_lines(name)]
    claims = judged(done)
    outcomes = [outcome for outcomes in claims.values() for outcome in outcomes]
    kept_lines = []
    for name in set(written) - set(done):
        kept_lines += written[name]
    _, kept_tests, _ = read_verdicts(kept_lines)
    others = set(kept_tests) - {outcome.test for outcome in outcomes}
    certain = holm(outcomes, len(others))
    sections = {}
    for name in TABLES:
        if name in done:
            sections[name] = section(name, claims, certain)
        elif name in written:
            sections[name] = written[name]
    return sections


def show(names, sections):
    shown = [name for name in sections if name in names and table_lines(name)]
    for name in shown:
        print("\n".join([f"## {TABLES[name].title}", "", *sections[name]]))
    print("\n".join(count_lines(sum([sections[name] for name in shown], []))))


HEAD = """\
# Results

What the papers claim, tested in miniature. `python tests/results.py NAME --write` wrote each table;
what is not here was not run. C1 to C121 number the papers' claims, and each is put in words below.
"""
HOW_TO_READ = """\
## How to read it

All but the tables of real footage were measured on the embedded data set, seed 0 (`data/toy0`, or
as a row says), by the last epoch's weights: mean ± standard deviation (n - 1) over seeds,
accuracies in percent. `evaluate.py`'s docstring says what each metric is; `→ 1/K`: the nearer to
chance the better. The column `paper` has the paper's own figures, from other data and networks:
compare the order, not the level.

A claim is one comparison or several. It **holds** if of each of them the whole 95 % interval (of
differences paired by seed, by Student's t) lies on the claimed side, **does not hold** if that of
one lies on the other side, and is **within noise** otherwise. The letters b, c, d are further parts
of a claim; w, l and r say that it is tested again in other worlds, at twice the length, on real
footage.

Seeds share one world and one start, so ± does not include the variance of these, nor of the web's
teacher. The table "each seed in a world of its own" does: there ± is three times as wide.

SCUFO's frame is any of its clip: where the actor is absent it shows the background alone, for all
methods alike. The backgrounds of SCUBA and Confl-FG are still, as in the released sets. The plain
row is one network, the same bits from `--baseline` of any of the four scripts.

**The world** (`tests/toy.py`): an actor moves over a drifting scene beside an object; in two fifths
of the clips it comes in late or leaves early. The action is the motion alone, and no single frame
tells it. In `train`, `val` and `test` the scenes come from the most frequent third of the action's
own order of 24 shared ones, and object and look follow the action in 80 % of the clips. `rare` has
the other two thirds of the scenes, and object and look follow in 30 and 50 %; `pretrain`, on which
the start weights were trained, is weakly biased. SCUBA, Confl-FG and `leak` show the actors of
`test`. The web has clips and images from all 24 scenes, but more unequally; object and look follow
in half of them, and 15 % of its labels are wrong. Scene and object labels are right in 68 and 78 %
of their first guesses; human boxes and tags are true.
"""
CHOICES = """\
## How the recipe was chosen

What the recipe of the embedded data set has besides the papers' values (`TOY` in each script) was
chosen on worlds of other seeds, 1 and 2, but not blindly:

- StillMix's probability (0.5, officially 0.75) was chosen on world 1, one seed each, after a run
  with 0.75 had been seen on this world (IID 71.2, rare 45.2, contrasted 22.5), and for one frame of
  one partner a step, before each sample had its own. No other row was given such a second choice;
  FAME, ActorCutMix and BE have the same probability.
- ALBAR's w_adv is 0.08; with the paper's 1 training collapses (its Tables 10 to 12, last row). 0.15
  had more contrasted accuracy than 0.08 on world 1 (61.9, 59.9) and was passed over for its SCUFO
  (7.3, 9.5; chance 12.5).
- ALBAR from SMAD's weights, without SAAR's part of them, was dropped for MAAT's after one seed on
  this world (IID 44.8, rare 26.0).
- SMAD's weights and SAAR's size were tried anew on worlds 1 and 2, two seeds each, after its row
  here had been seen: what the row has was the best on rare of the eight tried (58.8; plain 44.7),
  and stayed.
- When a seed or two of the main table had been run, the tests of C22, C39, C52 to C55, C71, C75,
  C85, C87, C89, C97, C105, C110 and C112 to C115 were changed to say what the papers say, some to
  milder ones, some to stricter ones; those of C52, C55 and C110 became stricter again when all
  their runs were done.
- A cue of the actor's own in each frame, true everywhere, was tried on world 1, so that a network
  of single frames has something to learn on rare scenes. A limb that points was not learned (rare
  33 % with it, 34 % without); a coloured disc was (42 %), and taught the 3D network to see the
  motion, too (rare 79, IID 95 %), which leaves no room. Neither is kept.
"""
# What of the main table README shows.
README_METRICS = "iid rare scuba scufo conflfg contrasted scene_probe"
MARKS = ("<!-- python tests/results.py main --write -->", "<!-- end -->")


def write(names, sections):
    """RESULTS.md, and README's table if `main` is in names."""
    everything = sum(sections.values(), [])
    lines = [HEAD, *count_lines(everything), "", *paper_lines(everything), ""]
    lines += [*content_lines([TABLES[name].title for name in sections]), "", HOW_TO_READ]
    for name, section_lines in sections.items():
        lines += [f"## {TABLES[name].title}", "", *section_lines]
    lines.append(CHOICES)
    (ROOT / "tests/RESULTS.md").write_text("\n".join(lines).rstrip() + "\n")
    if "main" not in names:
        return
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    table = "\n".join(table_lines("main", README_METRICS))
    readme.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


def overview(seeds):
    """What there is: each table with its claims, runs done and to do, and the minutes of these."""
    times = [int(file.read_text()) for file in (ROOT / RUNS).glob("*/seconds")]
    minutes = (np.mean(times) / 60 if times else 1.0) + 0.3
    counted = set()
    print(f"{'table':<20} {'claims':>6} {'done':>5} {'to do':>6} {'minutes':>8}")
    for name, table in TABLES.items():
        runs = [(row, seed) for row in table.all_rows() for seed in range(seeds or table.seeds)]
        done = sum(bool(figures(*run)) for run in runs)
        missing = {run for run in runs if not figures(*run)} - counted
        counted |= missing
        print(
            f"{name:<20} {len(table.read_claims()):>6} {done:>5} {len(missing):>6} "
            f"{len(missing) * minutes:>8.0f}  {table.title}"
        )
    print(f"\n{len(counted)} runs to do, {len(counted) * minutes:.0f} minutes of one process")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of tables, or all")
    parser.add_argument(
        "--seeds",
        type=int,
        default=0,
        help="how many to run, if not the table's own number; shown is all that is done",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time [%(default)s]")
    parser.add_argument("--write", action="store_true", help="put these tables in RESULTS.md")
    args = parser.parse_args(argv)
    unknown = set(args.tables) - {*TABLES, "all"}
    if unknown:
        parser.error(f"no such table: {', '.join(sorted(unknown))}; without a name, a list of them")
    if not args.tables:
        if args.write:
            parser.error("--write: name the tables")
        overview(args.seeds)
        return
    names = args.tables
    if "all" in names:
        names = list(TABLES)
        if "REAL" not in os.environ and not (ROOT / "data/real").exists():
            names = [name for name in names if not name.startswith("real")]
    done = run(names, args.seeds, args.jobs)
    sections = sections_of(names)
    show(names, sections)
    if not done:
        raise SystemExit(1)  # what lacks the runs that failed would replace a whole table
    if args.write:
        write(names, sections)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.path.insert(0, str(ROOT))
    main()
