"""Our dataset audit beside ForgeLM's: how fast, how much memory, how right. Writes the results page.

Every figure is of one run of this script. Audits run as fresh processes in turn (ours, theirs,
ours, theirs ...), imports counted; CPU seconds are user and system time of the process and
its children. Needs the peer's environment, which ``make benchmark-audit`` sets up.

    python -m benchmarks.audit                     all of it: about half an hour
    python -m benchmarks.audit --rows 20000 --growth 20000 --repeat 1    a look, about three minutes
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results_page
from benchmarks.audited import Corpus, Found, Peer, read_found
from benchmarks.corpus import Truth, write_corpus
from benchmarks.true_duplicates import Duplicates, RepeatRecall, duplicates, groups_of_pairs, repeat_recall
from benchmarks.true_findings import Findings, Languages, findings, languages

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks" / "dataset-audit.md"
OURS, PEER = "forge_pipeline.dataset_audit", "forgelm"
_COLD_ROWS = 1_000
_WARM_UP_ROWS = 6_000  # so many that loops are compiled
_PEER_SAMPLE = 5_000  # planted texts, and clean rows, that the peer's detectors are asked about one by one
_LANGUAGE_SAMPLE = 1_000  # rows that the peer's language detector is asked about: it takes milliseconds for each

# Without byte code on disk each run would compile our sources anew, and find the peer's, which pip compiled.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Run:
    """One audit, measured."""

    who: str
    rows: int
    method: str
    workers: int
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    exit_code: int


@dataclass(frozen=True)
class Series:
    """The runs of one contestant on one corpus."""

    who: str
    rows: int
    method: str
    workers: int
    runs: tuple[Run, ...]

    def median(self, of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in self.runs)

    def spread(self, of: Callable[[Run], float]) -> tuple[float, float]:
        values = [of(run) for run in self.runs]
        return min(values), max(values)


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]
    load: tuple[float, float, float]
    date: str


@dataclass(frozen=True)
class Correctness:
    """How right the audits were: findings and duplicates of `correct_rows` rows, the peer's of the smallest corpus."""

    correct_rows: int
    duplicates: Duplicates | None
    pair_counts: dict[str, tuple[int, int]]
    peer_rows: int
    peer_duplicates: Duplicates | None
    our_duplicates_there: Duplicates | None
    repeats: list[RepeatRecall]
    findings: Findings
    languages: Languages | None
    peer_languages: Languages


@dataclass(frozen=True)
class Results:
    """All that one run of this script measured; what it has not come to yet is empty."""

    machine: Machine
    command: str
    repeat: int
    ours: int
    corpora: dict[int, tuple[int, str]]  # rows -> bytes, prose digest
    compared: list[Series] = field(default_factory=list)
    cold: list[Series] = field(default_factory=list)
    first_run: Run | None = None
    identical: list[Series] = field(default_factory=list)
    growth: list[Series] = field(default_factory=list)
    right: Correctness | None = None


class Bench:
    """Makes corpora, runs audits on them, each in a process of its own."""

    def __init__(self, scratch: Path, peer: Path, log: Callable[[str], None]) -> None:
        self._scratch, self._log = scratch, log
        self._python = {OURS: sys.executable, PEER: str(peer / "bin" / "python")}
        self._corpora: dict[tuple[int, int], Truth] = {}

    def corpus(self, rows: int, identical: int = 0) -> Truth:
        if (rows, identical) not in self._corpora:
            self._log(f"corpus of {rows:,} rows" + (f" and {identical:,} equal ones" if identical else ""))
            folder = self._scratch / f"corpus-{rows}-{identical}"
            self._corpora[rows, identical] = write_corpus(folder, rows, identical_cluster=identical)
        return self._corpora[rows, identical]

    @property
    def corpora(self) -> dict[int, tuple[int, str]]:
        return {rows: (truth.bytes, truth.prose_digest) for (rows, same), truth in self._corpora.items() if not same}

    def audit(
        self, who: str, truth: Truth, method: str, workers: int, *, environment: dict[str, str] | None = None
    ) -> Run:
        """One audit of `truth.data`, measured by `launcher`. What it wrote lies at `output(who, truth)`."""
        rows = sum(truth.rows.values())
        result, errors = self._scratch / "run.json", self._scratch / "run.stderr"
        command = [self._python[who], str(HERE / "run_audit.py"), who, str(truth.data), str(self.output(who, truth))]
        with errors.open("w") as stderr:
            subprocess.run(
                [sys.executable, "-S", "-E", str(HERE / "launcher.py"), str(result), *command, method, str(workers)],
                check=True, stdout=subprocess.DEVNULL, stderr=stderr,
                env={**_ENVIRONMENT, **(environment or {})}, cwd=HERE.parent,
            )  # fmt: skip
        measured = json.loads(result.read_text())
        run = Run(who=who, rows=rows, method=method, workers=workers, **measured)
        name = "ours" if who == OURS else "peer"
        self._log(
            f"  {name:5} {rows:>9,} {method:8} workers={workers}  {run.cpu_seconds:8.2f} CPU s"
            f"  {run.wall_seconds:8.2f} s  {run.peak_mb:7.0f} MB"
        )
        if run.exit_code:
            raise SystemExit(f"{name}: exit code {run.exit_code}\n{errors.read_text()[-4000:]}")
        return run

    def output(self, who: str, truth: Truth) -> Path:
        return truth.data.parent / f"report-{'ours' if who == OURS else 'peer'}"

    def in_turn(
        self, contestants: Sequence[tuple[str, int]], truth: Truth, method: str, repeat: int, ours: int = 1
    ) -> list[Series]:
        """A round of all contestants (who, workers), `repeat` times; in a round, all of ours `ours` times in turn."""
        runs: dict[tuple[str, int], list[Run]] = {contestant: [] for contestant in contestants}
        for _ in range(repeat):
            for turn in range(ours):
                for who, workers in contestants:
                    if who == OURS or turn == ours - 1:
                        runs[who, workers].append(self.audit(who, truth, method, workers))
        rows = sum(truth.rows.values())
        return [Series(who, rows, method, workers, tuple(own)) for (who, workers), own in runs.items()]

    def peer(self) -> Peer:
        return Peer(Path(self._python[PEER]), self._scratch)


def measure(
    arguments: argparse.Namespace, bench: Bench, log: Callable[[str], None], keep: Callable[[Results], None]
) -> Results:
    """Run everything, the small and the comparison first; `keep` is given what there is after each part."""
    results = Results(machine_facts(arguments.peer), _command(arguments), arguments.repeat, arguments.ours, {})

    def add(**parts: Any) -> None:
        nonlocal results
        results = replace(results, corpora=bench.corpora, **parts)
        keep(results)

    log("warming up: compiled kernels and byte code come to lie on disk")
    for who in (OURS, PEER):
        bench.audit(who, bench.corpus(_WARM_UP_ROWS), "minhash", 1)

    log("a small file")
    contestants = [(OURS, 1), (PEER, 1)]
    add(cold=bench.in_turn(contestants, bench.corpus(_COLD_ROWS), "minhash", max(arguments.repeat, 3)))

    log("side by side")
    for rows, method in itertools.product(arguments.rows, arguments.methods):
        contestants = [(OURS, workers) for workers in arguments.workers]
        if not (method == "simhash" and rows > arguments.peer_simhash_rows):
            contestants += [(PEER, workers) for workers in arguments.peer_workers]
        series = bench.in_turn(contestants, bench.corpus(rows), method, arguments.repeat, arguments.ours)
        add(compared=[*results.compared, *series])

    log("correctness")
    add(right=measure_correctness(bench, arguments, log))

    log("growth")
    for rows in arguments.growth:
        series = bench.in_turn([(OURS, 1)], bench.corpus(rows), "minhash", arguments.repeat)
        add(growth=[*results.growth, *series])

    if arguments.identical:
        log("many equal rows")
        truth = bench.corpus(min(arguments.rows), arguments.identical)
        add(identical=bench.in_turn(((OURS, 1), (PEER, 1)), truth, "minhash", 1))

    with tempfile.TemporaryDirectory(dir=arguments.scratch) as empty:
        log("first run after installation")
        anew = {"NUMBA_CACHE_DIR": empty}
        add(first_run=bench.audit(OURS, bench.corpus(min(arguments.rows)), "minhash", 1, environment=anew))
    return results


def measure_correctness(bench: Bench, arguments: argparse.Namespace, log: Callable[[str], None]) -> Correctness:
    """Findings and duplicates on the corpus that is asked for; the peer's pairs on the smallest."""
    largest, smallest = arguments.correct_rows, min(arguments.rows)
    corpus, found = _audited(bench, largest)
    log("  near-duplicates, by an exact join")
    ours = _our_duplicates(corpus, found)
    log("  findings, span by span")
    spans = findings(corpus, found, bench.peer(), _PEER_SAMPLE)
    log("  languages")
    named = _our_languages(corpus)
    peer_named = languages(corpus, lambda texts: bench.peer().ask("languages", _texts(texts)), _LANGUAGE_SAMPLE)

    log("  the peer's pairs")
    if smallest != largest:
        corpus, found = _audited(bench, smallest)
    peer_groups = groups_of_pairs(corpus.places, map(tuple, bench.peer().ask("pairs", _texts(corpus.texts))))
    peer_report = json.loads((bench.output(PEER, corpus.truth) / "data_audit_report.json").read_bytes())
    return Correctness(
        correct_rows=largest,
        duplicates=ours,
        pair_counts=_pair_counts(found.report, peer_report),
        peer_rows=smallest,
        peer_duplicates=duplicates(corpus, peer_groups, _leaks(peer_report)),
        our_duplicates_there=_our_duplicates(corpus, found),
        repeats=repeat_recall(corpus.truth.repeats, [found.clusters, peer_groups]),
        findings=spans,
        languages=named,
        peer_languages=peer_named,
    )


def _audited(bench: Bench, rows: int) -> tuple[Corpus, Found]:
    """The corpus, and what our MinHash audit of it writes (the last compared run may have been SimHash)."""
    truth = bench.corpus(rows)
    bench.audit(OURS, truth, "minhash", 1)
    return Corpus(truth), read_found(bench.output(OURS, truth))


def _texts(texts: Iterable[str]) -> Iterable[dict[str, str]]:
    return ({"text": text} for text in texts)


def _our_duplicates(corpus: Corpus, found: Found) -> Duplicates | None:
    if found.clusters is None:  # a version that writes none
        return None
    return duplicates(corpus, found.clusters, _leaks(found.report))


def _leaks(report: dict[str, Any]) -> dict[str, int]:
    pairs = report["cross_split_overlap"]["pairs"]
    return {
        split: pairs.get(f"train__{split}", {}).get(f"leaked_rows_in_{split}", 0) for split in ("validation", "test")
    }


def _pair_counts(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Near-duplicate pairs that the two reports count in each split."""
    counts = [report["near_duplicate_summary"]["pairs_per_split"] for report in (ours, theirs)]
    return {split: (counts[0][split], counts[1].get(split, 0)) for split in counts[0]}


def _our_languages(corpus: Corpus) -> Languages | None:
    try:
        from forge_pipeline.dataset_audit.language import CODES, identify
    except ImportError:  # a version without a language model
        return None
    import pyarrow as pa

    def named(texts: list[str]) -> list[str]:
        return [CODES[code] for code in identify(pa.array(texts, pa.string())).tolist()]

    return languages(corpus, named)


# --- the machine --------------------------------------------------------------------------------------------------


def machine_facts(peer: Path) -> Machine:
    """Where and when this runs. The load is that of before the first run."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: _version(name) for name in ("forge-pipeline", "numpy", "pyarrow", "numba")}
    asked = (
        "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('forgelm', 'datasketch')}))"
    )
    answer = subprocess.run([str(peer / "bin" / "python"), "-c", asked], check=True, capture_output=True, text=True)
    return Machine(
        cpu, os.cpu_count() or 0, memory, f"{platform.system()} {platform.release().split('-')[0]}",
        platform.python_version(), {**versions, **json.loads(answer.stdout), "source": _revision()},
        os.getloadavg(), datetime.now(UTC).date().isoformat(),
    )  # fmt: skip


def _command(arguments: argparse.Namespace) -> str:
    """The command with what it measured; where things lie does not matter to a reader."""
    told = {"rows": arguments.rows, "methods": arguments.methods, "workers": arguments.workers,
            "peer-workers": arguments.peer_workers, "growth": arguments.growth}  # fmt: skip
    lists = [f"--{name} {' '.join(map(str, values))}" for name, values in told.items()]
    return " ".join(["python -m benchmarks.audit", *lists, f"--repeat {arguments.repeat} --ours {arguments.ours}"])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _revision() -> str:
    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], capture_output=True, text=True, cwd=HERE, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=all", "--", "../forge_pipeline")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


# --- command line -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the dataset audit beside ForgeLM's.")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], help="corpora to compare on")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contestant")
    parser.add_argument(
        "--ours",
        type=int,
        default=3,
        help="runs of ours for each of theirs, side by side: seconds vary more than minutes",
    )
    parser.add_argument("--peer", type=Path, default=Path(".venv-forgelm"), help="the peer's environment")
    parser.add_argument("--methods", nargs="+", default=["minhash"], choices=["minhash", "simhash"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="ours")
    parser.add_argument("--peer-workers", type=int, nargs="+", default=[1])
    parser.add_argument("--peer-simhash-rows", type=int, default=50_000, help="its memory grows as rows squared")
    parser.add_argument("--growth", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--identical", type=int, default=4_000, help="equal rows in one more corpus; 0: none")
    parser.add_argument("--correct-rows", type=int, default=20_000, help="corpus whose truth is compared with findings")
    parser.add_argument("--quick", action="store_true", help="small corpora, once: does the script work?")
    parser.add_argument("--scratch", type=Path, default=Path("build/benchmark"))
    parser.add_argument("--page", type=Path, default=PAGE, help="where the results are written")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.growth, arguments.repeat, arguments.identical = [4_000], [4_000, 8_000], 1, 400
        arguments.correct_rows = 4_000
    if not (arguments.peer / "bin" / "python").is_file():
        parser.error(f"{arguments.peer}: no environment with ForgeLM; `make benchmark-audit` makes it")
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    log: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    bench = Bench(arguments.scratch.absolute(), arguments.peer.absolute(), log)
    results = measure(arguments, bench, log, lambda so_far: write_results(arguments, so_far))
    print(results_page.render(results))


def write_results(arguments: argparse.Namespace, results: Results) -> None:
    """Write the results and the page, which says what has not been measured: a run that is ended leaves what it had."""
    (arguments.scratch / "results.json").write_text(json.dumps(asdict(results), default=str, indent=1))
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(results_page.render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
