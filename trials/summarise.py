"""Print the trials' held-out figures as tables.

    python trials/summarise.py OUT RECIPE

Weighted: sources by the baseline mixture's weights, the mistyped ones left out. Differences are from `baseline`.
"""

import json
import sys
import tomllib
from pathlib import Path

OUT, RECIPE = Path(sys.argv[1]), tomllib.loads(Path(sys.argv[2]).read_text())
WEIGHTS = RECIPE["stages"]["all"]["weights"]
REGISTERS = {name: source["register"] for name, source in RECIPE["sources"].items()}
GROUPS = ("formal", "structured", "casual", "conversational")


def figures(found: dict) -> dict[str, float]:
    """Return the columns of one measurement."""
    bits = found["bits_per_byte"]
    plain = {name: value for name, value in bits.items() if not name.startswith("typos")}

    def mean(names: list[str]) -> float:
        return sum(WEIGHTS[name] * plain[name] for name in names) / sum(WEIGHTS[name] for name in names)

    row = {"weighted": mean(list(plain)), "unweighted": sum(plain.values()) / len(plain)}
    row |= {group: mean([name for name in plain if REGISTERS[name] == group]) for group in GROUPS}
    return row | {f"end {kind}": value for kind, value in found["endings"].items()} | {
        name: bits[name] for name in ("typos", "typos_pair")
    }


def table(rows: dict[str, dict[str, float]], extra: dict[str, list[str]]) -> None:
    base = rows["baseline"]
    print("| trial | weighted | diff | " + " | ".join([*list(base)[1:]]) + " | " + " | ".join(["tokens/s", "train loss"]) + " |")
    print("|---|" + "--:|" * (len(base) + 3))
    for name, row in rows.items():
        cells = [f"{row['weighted']:.4f}", f"{row['weighted'] - base['weighted']:+.4f}"]
        cells += [f"{row[key]:.4f}" if name == "baseline" else f"{row[key] - base[key]:+.4f}" for key in list(base)[1:]]
        print(f"| {name} | " + " | ".join(cells + extra.get(name, ["", ""])) + " |")


results = {file.stem: json.loads(file.read_text()) for file in sorted(OUT.glob("*.json"), key=lambda f: f.stat().st_mtime)}
results = {name: result for name, result in results.items() if "error" not in result}
extra = {n: [f"{r['tokens_per_second']:,.0f}", f"{r['training_loss']:.4f}"] for n, r in results.items()}
table({name: figures(result) for name, result in results.items()}, extra)
for name in ("baseline", "seed_2"):
    print(f"\naverages of {name}\n")
    table({"baseline": figures(results[name])} | {n: figures(v) for n, v in results[name]["averages"].items()}, {})
print("\nsources\n")
names = list(results)
print("| source | weight | baseline | " + " | ".join(names[1:]) + " |\n|---|" + "--:|" * (len(names) + 1))
for source, value in results["baseline"]["bits_per_byte"].items():
    cells = [f"{results[name]['bits_per_byte'][source] - value:+.4f}" for name in names[1:]]
    print(f"| {source} | {WEIGHTS[source]:.3f} | {value:.4f} | " + " | ".join(cells) + " |")
for name in names:
    r = results[name]
    print(name, r["steps"], r["tokens"], r["seconds"], r["peak_gib"], r["others"], r["manifest"][:12])
