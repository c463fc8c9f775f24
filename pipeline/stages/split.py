"""`split`: every image into train, val or test: stratified, groups on one side, and stable while the data set grows.

What is alike (copies, near-duplicates, images of one patient or video) is one group. Every split should look like the
whole: groups of all sizes have the same chance to come to a side, by a draw that depends on the seed and on the content
alone, and single images then make the class counts exact. Images that an earlier run has split stay where they are.
"""

import hashlib
import json

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import layout
from pipeline.artifacts import LEFT_OUT, SPLITS, read_table, write_table
from pipeline.config import Params, Split
from pipeline.errors import UserError

RULES = "rules"  # in the table's attrs: what an earlier split was made by
BALANCED = 20  # classes of a mixture that are balanced at once: its most frequent ones
LISTED = 10  # groups whose combinations are all looked at
CERTAIN = 1e-9


def run(config: Params) -> list[str]:
    earlier = read_table(layout.SPLITS) if layout.SPLITS.exists() else None
    table = split(read_table(layout.MANIFEST), read_table(layout.DUPLICATES), earlier, config.split)
    write_table(layout.SPLITS, table)
    return [f"{(table['split'] == name).sum():,} {name}" for name in (*SPLITS, LEFT_OUT)]


def split(manifest: pd.DataFrame, pairs: pd.DataFrame, earlier: pd.DataFrame | None, config: Split) -> pd.DataFrame:
    """A row per row of the manifest: path, class, sha256, split, fold (-1: none), and the numbers of its group and of
    all that is `alike`, ties by images that are left out included.

    `pairs` are the duplicates that `validate` found; `earlier` is the table of an earlier run, which counts where it
    was made by the same rules. `split` is train, val, test or left_out. A split of the source's own is kept if
    `keep_source_splits`; the shares are of what is cut. Raises UserError naming a class that is too small.
    """
    classes, own = manifest["class"], manifest["source_split"].to_numpy(dtype=object)
    fixed = np.where(np.isin(own, ["val", "test"]) & config.keep_source_splits, own, "")
    # What would make another split, and what makes groups (the attrs of `pairs` are the bounds of `validate`): by
    # stricter rules old sides would leak. Which of the folds validates makes no other split
    ties = {"near_duplicates": pairs.attrs, "group_column": bool((manifest["group"] != "").any())}
    rules = json.dumps(config.model_dump(exclude={"fold"}) | ties, sort_keys=True)
    settled = np.where(fixed != "", fixed, _remembered(manifest, earlier, rules))
    alike = groups(manifest, pairs, config.group_pattern)
    shares, rest = _shares(config, set(fixed))
    order = ["test", "val", *(f"fold{number}" for number in range(config.folds)), "train"]
    side = _resolve(manifest, pairs, config.group_pattern, alike, settled, fixed, order)
    _deal(manifest, alike, side, fixed, shares, rest, config.seed)
    used = side != LEFT_OUT
    for name in (*shares, rest):
        wanted = classes if name == rest else classes[(fixed == "") & used]
        if absent := sorted(set(wanted) - set(classes[side == name])):
            fix = f"add images of it, or delete {layout.SPLITS}, so that all are dealt again"
            raise UserError(f"class {absent[0]!r} has no image left for {name}: {fix}")
    fold = pd.Series(side).str.extract(r"^fold(\d+)$", expand=False).fillna("-1").astype(int).to_numpy()
    table = manifest[["path", "class", "sha256"]].assign(
        split=np.where(fold < 0, side, np.where(fold == config.fold, "val", "train")).astype(str),
        fold=fold,
        # Without the ties by images that are left out: no group stands on two sides
        group=groups(manifest, pairs[used[pairs["first"]] & used[pairs["second"]]], config.group_pattern),
        alike=alike,
    )
    table.attrs = {RULES: rules}
    return table


def groups(manifest: pd.DataFrame, pairs: pd.DataFrame, pattern: str) -> np.ndarray:
    """The number of each image's group [N]: what is tied by pairs, by the source's group or by the pattern."""
    count, named = len(manifest), [manifest["group"]]
    if pattern:
        named.append(manifest["path"].str.extract(pattern).iloc[:, 0].fillna(""))
        if (named[1] == "").all():
            raise UserError(f"split.group_pattern {pattern!r} matches no path, e.g. not {manifest['path'].iloc[0]}")
    links = [pairs[["first", "second"]].to_numpy(dtype=np.int64)]
    for names in named:
        members = np.flatnonzero(names != "")
        firsts = pd.Series(members).groupby(names.to_numpy()[members]).transform("min")
        links.append(np.column_stack([firsts, members]).astype(np.int64))
    first, second = np.concatenate(links).T
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _shares(config: Split, fixed: set[str]) -> tuple[dict[str, float], str]:
    """The sides that are filled, with their shares of the images that are cut; and where the rest goes."""
    # The test split comes first, so that another share for validation does not move it
    shares = {} if "test" in fixed else {"test": config.test}
    if config.folds:
        fold = (1 - sum(shares.values())) / config.folds
        return shares | {f"fold{i}": fold for i in range(config.folds - 1)}, f"fold{config.folds - 1}"
    return shares if "val" in fixed else shares | {"val": config.validation}, "train"


def _remembered(manifest: pd.DataFrame, earlier: pd.DataFrame | None, rules: str) -> np.ndarray:
    """Where an earlier run put an image of the same content, else ""."""
    if earlier is None or earlier.attrs.get(RULES) != rules:
        return np.full(len(manifest), "", dtype=object)
    side = earlier["split"].where(earlier["fold"] < 0, "fold" + earlier["fold"].astype(str))
    known = earlier.assign(side=side)[side != LEFT_OUT].drop_duplicates("sha256").set_index("sha256")["side"]
    return manifest["sha256"].map(known).fillna("").to_numpy(dtype=object)


def _resolve(
    manifest: pd.DataFrame, pairs: pd.DataFrame, pattern: str, group: np.ndarray, settled: np.ndarray,
    fixed: np.ndarray, order: list[str],
) -> np.ndarray:  # fmt: skip
    """The side of each image [N] that a settled one decides: its own, that of its group, or left out; else "".

    Of two sides that share a group the one that comes first in `order` keeps it.
    """
    side, known = settled.copy(), settled != ""
    rank = np.array([order.index(name) if name else len(order) for name in settled])
    # A new image may tie two old ones together that are not alike: it is left out then, and they stay
    firm = pairs[pairs["exact"] | (known[pairs["first"]] & known[pairs["second"]])]
    among_known = pd.Series(groups(manifest, firm, pattern))
    side[known & (rank > pd.Series(rank).groupby(among_known).transform("min").to_numpy())] = LEFT_OUT
    # The others of a group follow the settled ones, unless these disagree or the side is the source's own
    decided = pd.Series(settled).where(known).groupby(group)
    sides = decided.transform("nunique")
    free = ~pd.Series(fixed != "").groupby(group).transform("any")
    follows = np.where((sides == 1) & free, decided.transform("first"), LEFT_OUT)
    return np.where(known, side, np.where(sides > 0, follows, ""))


def _deal(
    manifest: pd.DataFrame, group: np.ndarray, side: np.ndarray, fixed: np.ndarray,
    shares: dict[str, float], rest: str, seed: int,
) -> None:  # fmt: skip
    """Fill `side` where it is empty, group by group, so that every class has its shares of the images that are cut."""
    classes, class_of = np.unique(manifest["class"], return_inverse=True)
    cut = (fixed == "") & (side != LEFT_OUT)
    total = np.bincount(class_of[cut], minlength=len(classes))
    distinct = pd.Series(group[cut]).groupby(class_of[cut]).nunique()
    for number in distinct.index[distinct <= len(shares)].tolist():
        few = f"class {str(classes[number])!r} has {distinct[number]} distinct images or groups, too few for "
        fix = "add images that are no copies, ask for fewer folds, or raise validate.min_similarity"
        raise UserError(f"{few}{' + '.join([*shares, rest])}: {fix}")
    free = np.flatnonzero(side == "")
    if not len(free):
        return
    hashes = [hashlib.sha256(f"{seed}:{content}".encode()).hexdigest() for content in manifest["sha256"].iloc[free]]
    # Units (groups, single images) by their hashes: an order that is random but for seed and content
    first, unit_of = np.unique(pd.Series(hashes).groupby(group[free]).transform("min"), return_inverse=True)
    draw = np.random.default_rng(int(first[0], 16))
    sizes = np.zeros((len(first), len(classes)), dtype=np.int64)
    np.add.at(sizes, (unit_of, class_of[free]), 1)
    taken = np.full(len(first), rest, dtype=object)
    there = {name: np.bincount(class_of[cut & (side == name)], minlength=len(classes)) for name in (*shares, rest)}
    pool, left_share = total, 1.0  # of the sides that are not dealt yet
    for place, (name, share) in enumerate(shares.items()):
        # What one fold has too many or too few the others share
        wanted = total * share if rest == "train" else pool * share / left_share
        target = np.where(total > 0, np.maximum(wanted, 1), 0)
        left = np.flatnonzero(taken == rest)
        owed = np.sum([(total > 0) & (there[later] == 0) for later in [*shares, rest][place + 1 :]], axis=0)
        chosen = left[_sample(sizes[left], np.maximum(target - there[name], 0), owed, draw)]
        taken[chosen] = name
        pool, left_share = pool - there[name] - sizes[chosen].sum(axis=0), left_share - share
    side[free] = taken[unit_of]


def _sample(sizes: np.ndarray, missing: np.ndarray, owed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Which units [units] come to a side that lacks `missing` images of each class; `sizes` is [units, classes].

    `missing` need not be whole. Each group has the same chance, as large as the share that is missing, whatever its
    size, as far as single images can then make the count of every class right to an image. `owed` units of each class
    stay for other sides, which have none of it yet.
    """
    count = sizes.sum(axis=1)
    chosen = np.zeros(len(sizes), dtype=bool)
    singles = np.flatnonzero(count == 1)
    label = sizes[singles].argmax(axis=1)
    alone = np.bincount(label, minlength=len(missing))
    filled = np.zeros(len(missing), dtype=np.int64)
    # Neighbours are weighed against one another: alike in size, and the smallest, which fit best, at last
    tied = np.flatnonzero(count > 1)
    tied = tied[np.argsort(-count[tied], kind="stable")]
    # Classes that no group ties together have nothing to do with one another
    main = sizes[tied].argmax(axis=1)
    unit, beside = sizes[tied].nonzero()
    ties = coo_array((np.ones(len(unit)), (main[unit], beside)), shape=(len(missing),) * 2)
    parts, part_of = connected_components(ties, directed=False)
    for part in range(parts):
        units, here = tied[part_of[main] == part], np.flatnonzero(part_of == part)
        chosen[units], filled[here] = _of_part(sizes[np.ix_(units, here)], alone[here], missing[here], owed[here], draw)
    chosen[singles] = pd.Series(label).groupby(label).cumcount().to_numpy() < filled[label]
    return chosen


def _of_part(
    sizes: np.ndarray, alone: np.ndarray, missing: np.ndarray, owed: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The chosen groups, and how many of the `alone` single images of each class fill the rest."""
    present, total = sizes > 0, sizes.sum(axis=0) + alone
    forbidden = sizes.sum() + missing.sum() + 1

    def fill(images: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Single images [..., classes] to add to so many images and groups of each class, and what is wrong then."""
        spare = present.sum(axis=0) + alone - owed - groups
        filled = np.clip(np.floor(missing - images + 0.5).astype(np.int64), 0, np.clip(spare, 0, alone))
        bad = ((missing > 0) & (groups + filled == 0)) | (spare < 0)
        beyond = np.maximum(np.abs(missing - images - filled) - 1, 0)
        return filled, (beyond + forbidden * bad).sum(axis=-1)

    chance = sizes @ np.minimum(missing / np.maximum(total, 1), 1) / np.maximum(sizes.sum(axis=1), 1)
    chance[np.maximum(sizes - missing - 1, 0).sum(axis=1) > sizes.sum(axis=1) / 2] = 0  # mostly too much
    chance = _flight(sizes[:, np.argsort(-total, kind="stable")[:BALANCED]].T, chance, draw)
    chosen, unsure = chance == 1, np.flatnonzero((chance > 0) & (chance < 1))
    added = (np.arange(2 ** len(unsure))[:, None] >> np.arange(len(unsure)) & 1).astype(bool)
    images, groups = sizes[chosen].sum(axis=0), present[chosen].sum(axis=0)
    wrong = fill(images + added @ sizes[unsure], groups + added @ present[unsure])[1]
    likely = np.where(added, chance[unsure], 1 - chance[unsure]).prod(axis=1) * (wrong <= wrong.min() + CERTAIN)
    chosen[unsure] = added[draw.choice(len(added), p=likely / likely.sum())]
    while len(sizes):  # where that does not suffice, one group more or less
        sign = np.where(chosen, -1, 1)[:, None]
        images, groups = sizes[chosen].sum(axis=0), present[chosen].sum(axis=0)
        then = fill(images + sign * sizes, groups + sign * present)[1]
        if then.min() >= fill(images, groups)[1] - CERTAIN:
            break
        chosen[then.argmin()] ^= True
    return chosen, fill(sizes[chosen].sum(axis=0), present[chosen].sum(axis=0))[0]


def _flight(balanced: np.ndarray, chance: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The chances [units] moved to 0 or 1 at random, but for a few: each keeps its mean, and the sums that `balanced`
    [rows, units] makes of them stay what they are (the cube method: Deville and Tille 2004, Biometrika 91)."""
    chance = chance.copy()
    while True:
        unsure = np.flatnonzero((chance > 0) & (chance < 1))
        if len(unsure) <= min(len(balanced), LISTED):
            return chance
        some = unsure[: len(balanced) + 1]
        way = np.linalg.svd(balanced[: len(some) - 1, some])[2][-1]  # along which no sum changes
        now = chance[some]
        with np.errstate(divide="ignore"):
            ahead = np.where(way > CERTAIN, (1 - now) / way, np.where(way < -CERTAIN, -now / way, np.inf)).min()
            back = np.where(way > CERTAIN, now / way, np.where(way < -CERTAIN, (now - 1) / way, np.inf)).min()
        now = now + way * (ahead if draw.random() < back / (ahead + back) else -back)
        chance[some] = np.where(np.abs(now - now.round()) < CERTAIN, now.round(), now)
